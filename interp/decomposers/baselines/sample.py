"""The rows that a baseline learns from where it cannot, or need not, see all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.base import LinearDecomposer, check_enough_rows, checked_moments
from interp.errors import InputError
from interp.store.source import ActivationSource
from interp.training.config import DecomposerConfig
from interp.training.protocol import Recorder


@dataclass(frozen=True)
class SampledConfig(DecomposerConfig):
    """Options of methods that learn from a sample of the rows."""

    rows: int = 20_000
    """Rows to learn from, drawn at random by the seed; all of them where the store has no more."""
    # 20 000 rows of width 1024 take 160 MB in float64, which independent components are computed in.

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows < 1:
            raise InputError(f"rows is {self.rows}; it must be 1 or more")


def sampled_rows(source: ActivationSource, config: SampledConfig) -> Float[Tensor, "n d_in"]:
    """``config.rows`` rows in random order.

    Raises InputError for fewer rows than features, for rows that are all the same, and for values that are not finite.
    """
    checked_moments(source)
    check_enough_rows(source, config.n_features)
    if config.rows < config.n_features:
        raise InputError(f"{config.n_features} features cannot be learned from {config.rows} rows; give more --rows")
    drawn = np.random.default_rng(config.seed).choice(len(source), min(len(source), config.rows), replace=False)
    return source.rows(drawn)


def log_reconstruction(
    recorder: Recorder | None, decomposer: LinearDecomposer, rows: Float[Tensor, "n d_in"], n_seen: int
) -> None:
    """The one record of a fit on ``n_seen`` rows: FVU and squared error a row (summed over d_in), both of ``rows``."""
    if recorder:
        fvu = decomposer.fvu(rows)
        variance = float((rows - rows.mean(0)).double().square().sum()) / len(rows)
        recorder.log({"step": 1, "tokens": n_seen, "loss": fvu * variance, "fvu": fvu})
