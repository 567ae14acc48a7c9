"""Semi-non-negative matrix factorisation (Ding, Li and Jordan 2010; for MLP activations arXiv 2506.10920).

    minimise |X - G F|^2 + 2 l1 sum(G)     over G >= 0 [n, K] and F [K, d], each row of F with at most s non-zeros
                                            and unit norm

X [n, d] are activations of any sign. The papers have no l1; everything else is theirs. ``solver`` says how it is
solved, ``multiplicative`` how the paper solves it, ``hierarchy`` what the levels above the features are.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.base import LinearDecomposer, check_enough_rows, register
from interp.decomposers.hierarchy import Hierarchy
from interp.decomposers.semi_nmf.config import SemiNMFConfig
from interp.decomposers.semi_nmf.multiplicative import fit_multiplicative
from interp.decomposers.semi_nmf.non_negative import non_negative_codes
from interp.decomposers.semi_nmf.solver import Solver
from interp.decomposers.semi_nmf.start import random_features, share_of, totals_of
from interp.distributed import world
from interp.store.source import ActivationSource, ArraySource
from interp.training.protocol import Recorder, Silent

__all__ = ["SemiNMF", "SemiNMFConfig"]


@register
class SemiNMF(LinearDecomposer):
    """Fitted semi-NMF; tensors ``features`` [K, d] (unit rows), ``l1`` (scalar, in activation units) and, with a hierarchy,
    ``levelN.features`` and ``levelN.weights``."""

    kind = "semi-nmf"
    config_type = SemiNMFConfig

    @property
    def W_dec(self) -> Float[Tensor, "n_features d_in"]:
        return self.tensors["features"]

    @property
    def b_dec(self) -> Float[Tensor, " d_in"]:
        return torch.zeros(self.W_dec.shape[1])

    @property
    def hierarchy(self) -> Hierarchy | None:
        """The levels of ``config.levels`` above the features."""
        levels = Hierarchy.from_tensors(self.W_dec, self.tensors)
        return levels if levels.weights else None

    @classmethod
    def fit(cls, source: ActivationSource, config: SemiNMFConfig, recorder: Recorder | None = None) -> SemiNMF:
        """Fit features. The recorded loss is the objective over n: squared error per row, summed over d, plus the l1 term.

        Under ``torchrun`` every process learns from its share of the rows, and all end with the same features.
        Raises InputError when the source has fewer rows than features, rows that are all the same or not finite, and when
        l1 is so large that every code is zero.
        """
        recorder = recorder or Silent()
        if config.solver == "multiplicative":
            features, l1 = fit_multiplicative(source, config, recorder), 0.0
        else:
            with closing(Solver(source, config, recorder.checkpoints)) as solver:
                solver.run(recorder)
            features, l1 = solver.features, solver.l1
        tensors = {"features": features, "l1": torch.tensor(l1)}
        return cls(config, tensors | grow_levels(features, config).to_tensors())

    @classmethod
    def untrained(cls, source: ActivationSource, config: SemiNMFConfig) -> SemiNMF:
        """Random features with as many entries as learned ones may have, and the same l1, without levels. The features that a
        fit begins with will not do: they are centres of clusters of the rows."""
        check_enough_rows(source, config.n_features)
        processes = world()
        totals = totals_of(source, share_of(len(source), processes), processes)
        s = config.n_non_zero(source.d_in)
        features = random_features(config.n_features, source.d_in, s, seed=config.seed)
        tensors = {"features": features, "l1": torch.tensor(config.l1 * totals.mean_norm)}
        return cls(replace(config, levels=()), tensors)

    def encode(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_features"]:
        """The codes of the objective with the features fixed, to about 1e-4 of the norm of a row's codes."""
        return non_negative_codes(x @ self.W_dec.T - self.tensors["l1"], self.W_dec @ self.W_dec.T)

    def at_level(self, level: int) -> SemiNMF:
        """The features of a level of the hierarchy as a decomposer of their own, with the levels above them."""
        hierarchy = Hierarchy.from_tensors(self.W_dec, self.tensors)
        features = hierarchy.features[level]
        above = Hierarchy(hierarchy.features[level:], hierarchy.weights[level:])
        assert isinstance(self.config, SemiNMFConfig)
        config = replace(self.config, n_features=len(features), levels=above.ranks[1:])
        return SemiNMF(config, {"features": features, "l1": self.tensors["l1"]} | above.to_tensors())


def grow_levels(features: Float[Tensor, "K d_in"], config: SemiNMFConfig) -> Hierarchy:
    """The levels of ``config.levels``, each fitted on the one below with the options of the features themselves."""
    levels, weights = [features], []
    for rank in config.levels:
        below = levels[-1]
        one_level = replace(config, n_features=rank, levels=(), online_epochs=0)
        level = SemiNMF.fit(ArraySource(below), one_level)
        weights.append(level.encode(below))
        levels.append(level.W_dec)
    return Hierarchy(tuple(levels), tuple(weights))
