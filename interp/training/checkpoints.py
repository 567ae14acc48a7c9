"""Checkpoints of a training: one safetensors file, replaced in one step, that the next step can go on from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from interp.errors import InputError
from interp.files import whole
from interp.training.config import DecomposerConfig
from interp.training.protocol import CHECKPOINT


def save_checkpoint(
    tensors: Mapping[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    config: DecomposerConfig,
    folder: Path | None,
) -> None:
    """Write everything the next step depends on; nothing where there is no folder."""
    if folder is None:
        return
    everything = {name: tensor.contiguous() for name, tensor in {**tensors, **pack_optimizers(optimizers)}.items()}
    with whole(folder / CHECKPOINT) as partial:
        save_file(everything, partial, metadata={"config": json.dumps(asdict(config))})


def load_checkpoint(
    tensors: Mapping[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    config: DecomposerConfig,
    folder: Path | None,
) -> None:
    """Put the last checkpoint back into ``tensors`` and ``optimizers``, in place; nothing where there is none.

    Raises InputError when the checkpoint belongs to other options, or is damaged.
    """
    if folder is None or not (folder / CHECKPOINT).exists():
        return
    try:
        with safe_open(folder / CHECKPOINT, framework="pt") as file:
            header = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"'{folder / CHECKPOINT}' is damaged ({error}); delete it to train from the start") from None
    fits = all(name in found and found[name].shape == tensor.shape for name, tensor in tensors.items())
    if header.get("config") != json.dumps(asdict(config)) or not fits:
        raise InputError(f"'{folder}' holds a checkpoint of other options; choose another --name or delete that folder")
    for name, tensor in tensors.items():
        tensor.copy_(found[name])
    unpack_optimizers(optimizers, found)


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
