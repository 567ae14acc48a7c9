"""The one gradient loop: every decomposer that learns by gradient descent goes through ``train``.

A method hands over its parameters and a loss; the loop owns batches, the learning rate, checkpoints and the record of
the training. A training that was killed goes on from its last checkpoint and ends with the same bits as one that was not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from interp.errors import InputError
from interp.fitting import CHECKPOINT, DecomposerConfig, Recorder
from interp.progress import progress
from interp.store import ActivationSource


@dataclass(frozen=True)
class GradientConfig(DecomposerConfig):
    """Options of every decomposer trained by gradient descent."""

    tokens: int = 2_000_000
    """Tokens to train on, counted with repetition: a store of 120 000 tokens is read about 17 times."""
    batch: int = 1024
    """Tokens per step."""
    lr: float = 1e-3
    """Adam's learning rate at its height, for activations scaled to a mean norm of sqrt(d_in)."""
    warmup: float = 0.02
    """Share of the steps over which the learning rate rises from zero."""
    cooldown: float = 0.3
    """Share of the steps, at the end, over which it falls linearly to zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch < 1 or self.tokens < self.batch:
            raise InputError(f"{self.tokens} tokens in batches of {self.batch} make no step; give more tokens")
        if self.lr <= 0 or min(self.warmup, self.cooldown) < 0 or self.warmup + self.cooldown > 1:
            raise InputError(
                "the learning rate must be above 0, warmup and cooldown shares that are together at most 1"
            )

    @property
    def steps(self) -> int:
        return self.tokens // self.batch

    def lr_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, constant, linear to zero."""
        rise = (step + 1) / max(1.0, self.steps * self.warmup)
        fall = (self.steps - step) / max(1.0, self.steps * self.cooldown)
        return self.lr * min(1.0, rise, fall)


@runtime_checkable
class Trainee(Protocol):
    """What the loop trains."""

    parameters: dict[str, Tensor]
    """Leaf tensors that require gradients, by name."""
    state: dict[str, Tensor]
    """Other tensors that training changes in place, such as counters; saved with checkpoints."""

    def loss(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, ""]:
        """Mean loss over the rows of a batch."""
        ...

    def before_step(self) -> None:
        """Change the gradients before the optimiser uses them."""
        ...

    def after_step(self) -> None:
        """Put the parameters back where they must be, such as rows on the unit sphere."""
        ...

    def measure(self, x: Float[Tensor, "batch d_in"]) -> dict[str, float]:
        """What to log beside the loss, such as fvu, l0 and dead."""
        ...


N_RECORDS = 50
"""Records and checkpoints per training, at most."""


def train(trainee: Trainee, source: ActivationSource, config: GradientConfig, recorder: Recorder) -> None:
    """Run ``config.steps`` steps of Adam, in place.

    Raises InputError when the loss stops being a finite number; the last checkpoint is kept.
    """
    optimizer = torch.optim.Adam(trainee.parameters.values(), lr=config.lr, betas=(0.9, 0.999), fused=True)
    first = load_checkpoint(trainee, optimizer, config, recorder.checkpoints)
    batches = source.batches(config.batch, seed=config.seed, start=first)
    every = max(1, config.steps // N_RECORDS)
    bar = progress(
        range(first, config.steps),
        total=(config.steps - first) * config.batch,
        what="train",
        unit="tok",
        amount=config.batch,
    )
    for step, x in zip(bar, batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = config.lr_at(step)
        loss = trainee.loss(x)
        loss.backward()
        trainee.before_step()
        torch.nn.utils.clip_grad_norm_(trainee.parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            trainee.after_step()
        if (step + 1) % every == 0 or step + 1 == config.steps:
            value = float(loss.detach())
            if not math.isfinite(value):
                raise InputError(
                    f"the loss is {value} at step {step + 1}; train again with a smaller --lr than {config.lr:g}"
                )
            with torch.no_grad():
                measured = trainee.measure(x)
            recorder.log({"step": step + 1, "tokens": (step + 1) * config.batch, "loss": value, **measured})
            save_checkpoint(trainee, optimizer, config, step + 1, recorder.checkpoints)


def pack_optimizers(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of optimisers as named tensors, for a file without pickle."""
    return {
        f"optimizer.{n}.{i}.{key}": value
        for n, optimizer in enumerate(optimizers)
        for i, parameter in enumerate(optimizer.param_groups[0]["params"])
        for key, value in optimizer.state[parameter].items()
    }


def unpack_optimizers(optimizers: Sequence[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """Put back what ``pack_optimizers`` took; other names in ``tensors`` are ignored."""
    for name, value in tensors.items():
        kind, *rest = name.split(".", 3)
        if kind == "optimizer":
            optimizer = optimizers[int(rest[0])]
            parameter = optimizer.param_groups[0]["params"][int(rest[1])]
            if value.shape == parameter.shape:  # the fused kernel walks memory, so strides must be the parameter's
                value = torch.empty_like(parameter, requires_grad=False).copy_(value)
            optimizer.state[parameter][rest[2]] = value


def save_checkpoint(
    trainee: Trainee, optimizer: torch.optim.Optimizer, config: GradientConfig, step: int, folder: Path | None
) -> None:
    """Write everything the next step depends on; one file, replaced in one step."""
    if folder is None:
        return
    tensors = {f"parameter.{name}": tensor.detach() for name, tensor in trainee.parameters.items()}
    tensors |= {f"state.{name}": tensor for name, tensor in trainee.state.items()}
    tensors |= pack_optimizers([optimizer])
    partial = folder / (CHECKPOINT + ".partial")
    save_file(
        {k: v.contiguous() for k, v in tensors.items()},
        partial,
        metadata={"step": str(step), "config": json.dumps(asdict(config))},
    )
    partial.replace(folder / CHECKPOINT)


def load_checkpoint(
    trainee: Trainee, optimizer: torch.optim.Optimizer, config: GradientConfig, folder: Path | None
) -> int:
    """Put the last checkpoint back; the step to go on from, 0 where there is none.

    Raises InputError when the checkpoint belongs to other options, or is damaged.
    """
    if folder is None or not (folder / CHECKPOINT).exists():
        return 0
    try:
        with safe_open(folder / CHECKPOINT, framework="pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"'{folder / CHECKPOINT}' is damaged ({error}); delete it to train from the start") from None
    if header["config"] != json.dumps(asdict(config)):
        raise InputError(f"'{folder}' holds a checkpoint of other options; choose another --name or delete that folder")
    with torch.no_grad():
        for name, tensor in trainee.parameters.items():
            tensor.copy_(tensors[f"parameter.{name}"])
        for name, tensor in trainee.state.items():
            tensor.copy_(tensors[f"state.{name}"])
    unpack_optimizers([optimizer], tensors)
    return int(header["step"])
