"""What every fit is given and reports to: the shared options, and the recorder of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

CHECKPOINT = "checkpoint.safetensors"
"""What an interrupted training goes on from; lies in the run folder until the training has finished."""


@runtime_checkable
class Recorder(Protocol):
    """Where a fit reports to: one record per logged step, and a folder for checkpoints where there is one."""

    checkpoints: Path | None

    def log(self, record: dict[str, float]) -> None:
        """Append a record such as {"step", "tokens", "loss", "fvu", "l0", "dead"}."""
        ...


class Silent:
    """A Recorder that keeps nothing."""

    checkpoints: Path | None = None

    def log(self, record: dict[str, float]) -> None:
        """Drop the record."""


@runtime_checkable
class Trainable(Protocol):
    """What the loop trains.

    ``loss`` is a pure function of the parameters, the state and the batch; what it saw goes to ``after_step``, which alone
    changes the state. With several processes ``loss`` sees this process's share of a batch; the state must nevertheless end
    up the same in every process (``interp.distributed.world`` adds things up).
    """

    parameters: dict[str, Tensor]
    """Leaf tensors by name; they require gradients, but for those that are to stay as they are."""
    state: dict[str, Tensor]
    """Other tensors that training changes in place, such as counters; saved with checkpoints."""

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Fresh optimisers, each parameter that requires a gradient in one of them; the loop multiplies their rates by the
        schedule's factor."""
        ...

    def loss(self, x: Float[Tensor, "batch d_in"]) -> tuple[Float[Tensor, ""], Any]:
        """Mean loss over the rows of a batch, and what ``after_step`` is to know of the batch."""
        ...

    def before_step(self) -> None:
        """Change the gradients before they are clipped and used."""
        ...

    def after_step(self, seen: Any) -> None:
        """Put the parameters back where they must be, such as rows on the unit sphere, and update the state."""
        ...

    def measure(self, x: Float[Tensor, "n d_in"]) -> dict[str, float]:
        """What to log beside the loss, such as fvu, l0 and dead; ``x`` are held-out rows where any are held out."""
        ...
