"""The options of semi-NMF."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from interp.errors import InputError
from interp.training.config import DecomposerConfig

DEFAULT_L1 = 0.02
WIDER = 2
"""So many times as many entries a feature may have as those of the level below."""


@dataclass(frozen=True)
class SemiNMFConfig(DecomposerConfig):
    """Options of semi-NMF."""

    n_features: int = 200
    """Number of features (the rank K)."""
    sparsity: float = 0.05
    """Largest share of a feature's entries that may be non-zero; the paper uses 0.05 for GPT-2 and 0.01 for Llama."""
    l1: float | None = None
    """Weight on the sum of the codes, in units of the mean norm of a row: fewer features per token for some error. 0.02 unless
    given here or found for target_l0."""
    # Measured at blocks.2.mlp.hook_post of the bundled model (20 000 tokens, K 100, 20 passes; the best feature of each of
    # 32 Python concepts chosen on one half of the tokens, scored on the other):
    #
    #                                FVU   L0   features on > 50 % of tokens   AUROC   average precision   F1
    #     l1 0                      .367   72   88 %                            .845    .387                .379
    #     l1 0.02                   .411   27    0 %                            .842    .393                .407
    #     l1 0.05                   .446   17    0 %                            .812    .395                .405
    #     mean removed, l1 0        .377   91  100 %                            .850    .369                .381
    #     mean removed, l1 0.02     .445   30   11 %                            .825    .374                .386
    #     learned offset, l1 0      .336   92  100 %                            .836
    #     learned offset, l1 0.02   .387   34    0 %                            .831    .384                .377
    #
    # Most features fire on most tokens without l1, and not because they carry the mean: taking the mean off, or learning an
    # offset, makes it worse (probably because codes around an offset are hardly bound by being non-negative).
    target_l0: float | None = None
    """Mean number of features per token: instead of given, l1 is searched by two to six fits to 12 288 rows, and counted on
    others."""
    debias: bool = False
    """Take back how far l1 shrinks codes: it chooses which features a token has, whose codes are least squares without it."""
    # Off, since from an L0 of 16 on it gains FVU and loses what the model makes of the reconstruction (CE recovered). 200
    # features at blocks.2.mlp.hook_post of the bundled model, held-out text, codes as they are : debiased:
    #     L0  8    FVU .590 : .553    CE .648 : .701
    #     L0 16        .537 : .520       .735 : .709
    #     L0 32        .500 : .492       .761 : .732
    #     L0 64        .478 : .475       .771 : .754
    passes: int = 60
    """Passes over the data, at most."""
    tolerance: float = 1e-5
    """Stop when the loss falls by less than this share of itself in three passes running."""
    online_epochs: int = 0
    """Epochs in shuffled batches before the exact passes, which keep no codes: for millions of rows."""
    levels: tuple[int, ...] = ()
    """Ranks of a hierarchy above the features, each smaller than the one before, such as 100 25. A level's features may have
    twice as many entries as those of the level below."""
    pull: float = 0.0
    """How strongly features are drawn to what level 1 makes of them: the weight of that distance against the error, which
    rises by it. 0 learns the features first, then the levels."""
    solver: Literal["accelerated", "multiplicative"] = "accelerated"
    """accelerated, or the paper's multiplicative updates: slow, in memory, without l1; a reference to compare with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sparsity <= 1:
            raise InputError(f"the sparsity is {self.sparsity:g}, but it is a share: above 0 and at most 1")
        if self.passes < 1 or self.tolerance < 0 or (self.l1 or 0) < 0:
            raise InputError("passes must be 1 or more, tolerance and l1 must not be negative")
        if self.target_l0 is not None and self.l1 is not None:
            raise InputError(
                f"--target-l0 {self.target_l0:g} searches for l1, but --l1 {self.l1:g} gives it; give one of them"
            )
        if self.target_l0 is not None and not 0 < self.target_l0 < self.n_features:
            raise InputError(
                f"--target-l0 is {self.target_l0:g}; it must be above 0 and below --n-features {self.n_features}"
            )
        if self.online_epochs < 0:
            raise InputError("online epochs must not be negative")
        ranks = (self.n_features, *self.levels)
        if any(above >= below for below, above in pairwise(ranks)) or ranks[-1] < 1:
            shown = " ".join(map(str, self.levels))
            raise InputError(f"the levels {shown} must fall from below --n-features {self.n_features}, to 1 or more")
        if self.pull < 0 or (self.pull and not self.levels):
            raise InputError(f"--pull is {self.pull:g}; it must not be negative, and needs --levels")
        if self.solver == "multiplicative" and self.pull:
            raise InputError("the multiplicative updates cannot draw features to a hierarchy; leave out --pull")
        if self.solver == "multiplicative" and (self.l1 != 0 or self.online_epochs):
            raise InputError("the multiplicative updates have neither l1 nor online epochs; add --l1 0")

    @property
    def l1_weight(self) -> float:
        """l1 where it is not searched."""
        return DEFAULT_L1 if self.l1 is None else self.l1

    def at_level(self, level: int) -> SemiNMFConfig:
        """The options that a level of the hierarchy is fitted with, to the features below it."""
        return replace(
            self,
            n_features=self.levels[level - 1],
            sparsity=min(1.0, self.sparsity * WIDER**level),
            l1=self.l1_weight,
            target_l0=None,
            online_epochs=0,
            levels=(),
            pull=0.0,
        )

    def n_non_zero(self, d_in: int) -> int:
        """Entries of a feature that may be non-zero, s."""
        return max(1, math.ceil(self.sparsity * d_in))
