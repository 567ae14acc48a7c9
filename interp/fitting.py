"""What every fit is given and reports to: the shared options, and the recorder of a training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from interp.errors import InputError

CHECKPOINT = "checkpoint.safetensors"
"""What an interrupted training goes on from; lies in the run folder until the training has finished."""


@dataclass(frozen=True)
class DecomposerConfig:
    """Options all decomposers share."""

    n_features: int = 1024
    """Number of features to learn."""
    seed: int = 0
    """Seed of the initial values and of the order of the rows."""

    def __post_init__(self) -> None:
        if self.n_features < 1:
            raise InputError(f"the number of features is {self.n_features}; it must be 1 or more")
        if self.seed < 0:
            raise InputError(f"the seed is {self.seed}; it must be 0 or more")


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
