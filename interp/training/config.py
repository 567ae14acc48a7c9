"""Options of every fit, and those of fits by gradient descent."""

from __future__ import annotations

from dataclasses import dataclass, field

from interp.errors import InputError
from interp.records import check_options


@dataclass(frozen=True)
class DecomposerConfig:
    """Options all decomposers share."""

    n_features: int = 1024
    """Number of features to learn."""
    seed: int = 0
    """Seed of the initial values and of the order of the rows."""

    def __post_init__(self) -> None:
        check_options(self)
        if self.n_features < 1:
            raise InputError(f"the number of features is {self.n_features}; it must be 1 or more")
        if self.seed < 0:
            raise InputError(f"the seed is {self.seed}; it must be 0 or more")


@dataclass(frozen=True)
class Schedule:
    """How a training by gradient descent proceeds."""

    warmup: float = 0.02
    """Share of the steps over which the learning rate rises from zero."""
    cooldown: float = 0.3
    """Share of the steps, at the end, over which it falls linearly to zero."""
    clip: float = 1.0
    """Norm that the gradient of all parameters together is cut to; 0 leaves it as it is."""
    held_out: int = 2048
    """Rows that are not trained on, at most a tenth of the source, in blocks of at most 128 spread evenly over it, so that
    they come from many documents (the rest of these is trained on). The logged figures are measured on them. To measure
    2048 rows 50 times takes a sixth of the time that training on 200 000 tokens does."""
    patience: int = 0
    """Go over to the cool-down once the held-out FVU has not fallen by a thousandth of itself in this many records (of at
    most 50 a training); 0 trains to the end."""

    def __post_init__(self) -> None:
        check_options(self)
        if min(self.warmup, self.cooldown) < 0 or self.warmup + self.cooldown > 1:
            raise InputError("warmup and cooldown must be shares that are together at most 1")
        if min(self.clip, self.held_out, self.patience) < 0:
            raise InputError("clip, held-out and patience must not be negative; 0 turns each off")


@dataclass(frozen=True)
class GradientConfig(DecomposerConfig):
    """Options of every decomposer trained by gradient descent."""

    tokens: int = 2_000_000
    """Tokens to train on, counted with repetition: a store of 120 000 tokens is read about 17 times."""
    batch: int = 1024
    """Tokens per step, over all processes."""
    lr: float = 1e-3
    """Learning rate at its height, for activations scaled to a mean norm of sqrt(d_in)."""
    schedule: Schedule = field(default_factory=Schedule)
    """How the training proceeds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch < 1 or self.tokens < self.batch:
            raise InputError(f"{self.tokens} tokens in batches of {self.batch} make no step; give more tokens")
        if self.lr <= 0:
            raise InputError(f"the learning rate must be above 0, but --lr is {self.lr:g}")

    @property
    def steps(self) -> int:
        return self.tokens // self.batch
