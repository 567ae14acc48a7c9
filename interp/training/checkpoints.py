"""Checkpoints of a training: one safetensors file, replaced in one step, that the next step can go on from.

Beside tensors a file may hold tables, larger than what should be in memory twice, which are written and read a slice of rows
at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from interp.errors import InputError
from interp.files import whole
from interp.training.config import DecomposerConfig
from interp.training.protocol import CHECKPOINT

ROWS = 4096
"""Rows of a table that are written or read at a time."""


@runtime_checkable
class Table(Protocol):
    """A float32 matrix of which slices of rows are read and written."""

    shape: tuple[int, int]

    def __getitem__(self, rows: slice) -> Float[Tensor, "n k"]: ...

    def __setitem__(self, rows: slice, values: Float[Tensor, "n k"]) -> None: ...


def save_checkpoint(
    tensors: Mapping[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    config: DecomposerConfig,
    folder: Path | None,
    *,
    tables: Mapping[str, Table] = {},
) -> None:
    """Write everything the next step depends on; nothing where there is no folder."""
    if folder is None:
        return
    everything = {name: tensor.contiguous() for name, tensor in {**tensors, **pack_optimizers(optimizers)}.items()}
    header = {"config": json.dumps(asdict(config))}
    with whole(folder / CHECKPOINT) as partial:
        if tables:
            with partial.open("wb") as file:
                _write(file, save(everything, metadata=header), tables)
        else:
            save_file(everything, partial, metadata=header)


def load_checkpoint(
    tensors: Mapping[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    config: DecomposerConfig,
    folder: Path | None,
    *,
    tables: Mapping[str, Table] = {},
) -> bool:
    """Put the last checkpoint back into ``tensors``, ``optimizers`` and ``tables``, in place; False where there is none.

    Raises InputError when the checkpoint belongs to other options, or is damaged.
    """
    if folder is None or not (folder / CHECKPOINT).exists():
        return False
    try:
        with safe_open(folder / CHECKPOINT, framework="pt") as file:
            header = file.metadata() or {}
            names = set(file.keys())
            found = {name: file.get_tensor(name) for name in names - set(tables)}
            slices = {name: file.get_slice(name) for name in names & set(tables)}
            fits = all(name in found and found[name].shape == tensor.shape for name, tensor in tensors.items())
            fits &= all(
                name in slices and tuple(slices[name].get_shape()) == table.shape for name, table in tables.items()
            )
            if header.get("config") != json.dumps(asdict(config)) or not fits:
                raise InputError(
                    f"'{folder}' holds a checkpoint of other options; choose another --name or delete that folder"
                )
            for name, table in tables.items():
                for rows in _slices(table):
                    table[rows] = slices[name][rows]
    except SafetensorError as error:
        raise InputError(f"'{folder / CHECKPOINT}' is damaged ({error}); delete it to train from the start") from None
    for name, tensor in tensors.items():
        tensor.copy_(found[name])
    unpack_optimizers(optimizers, found)
    return True


def names_in_checkpoint(folder: Path | None) -> set[str]:
    """The names of the tensors and tables of the last checkpoint; none where there is none. Raises InputError when it is
    damaged."""
    if folder is None or not (folder / CHECKPOINT).exists():
        return set()
    try:
        with safe_open(folder / CHECKPOINT, framework="pt") as file:
            return set(file.keys())
    except SafetensorError as error:
        raise InputError(f"'{folder / CHECKPOINT}' is damaged ({error}); delete it to train from the start") from None


def _write(file: BinaryIO, small: bytes, tables: Mapping[str, Table]) -> None:
    """A safetensors file whose first tensors are those of the file ``small``; the tables follow."""
    n_header = int.from_bytes(small[:8], "little")
    header: dict[str, Any] = json.loads(small[8 : 8 + n_header])
    end = len(small) - 8 - n_header
    for name, table in tables.items():
        begin, end = end, end + 4 * table.shape[0] * table.shape[1]
        header[name] = {"dtype": "F32", "shape": list(table.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write(len(encoded).to_bytes(8, "little") + encoded)
    file.write(memoryview(small)[8 + n_header :])
    for table in tables.values():
        for rows in _slices(table):
            file.write(table[rows].contiguous().numpy().data)


def _slices(table: Table) -> list[slice]:
    n = table.shape[0]
    return [slice(first, min(first + ROWS, n)) for first in range(0, n, ROWS)]


def pack_optimizers(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of optimisers as named tensors, for a file without pickle."""
    return {
        f"optimizer.{n}.{i}.{key}": value
        for n, optimizer in enumerate(optimizers)
        for i, parameter in enumerate(_parameters(optimizer))
        for key, value in optimizer.state[parameter].items()
    }


def unpack_optimizers(optimizers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``pack_optimizers`` took; other names in ``tensors`` are ignored."""
    for name, value in tensors.items():
        kind, *rest = name.split(".", 3)
        if kind == "optimizer":
            optimizer = optimizers[int(rest[0])]
            parameter = _parameters(optimizer)[int(rest[1])]
            if value.shape == parameter.shape:  # the fused kernel walks memory, so strides must be the parameter's
                value = torch.empty_like(parameter, requires_grad=False).copy_(value)
            optimizer.state[parameter][rest[2]] = value.to(parameter.device)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
