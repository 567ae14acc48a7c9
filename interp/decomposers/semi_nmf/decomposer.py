"""Semi-non-negative matrix factorisation (Ding, Li and Jordan 2010; for MLP activations arXiv 2506.10920).

    minimise |X - G F|^2 + 2 l1 sum(G)     over G >= 0 [n, K] and F [K, d], each row of F with at most s non-zeros
                                            and unit norm

X [n, d] are activations of any sign, less the means of those columns that hardly vary (``steady_offset``). The papers have
neither l1 nor offset; everything else is theirs. ``solver`` says how it is
solved, ``multiplicative`` how the paper solves it, ``hierarchy`` what the levels above the features are.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.base import LinearDecomposer, check_enough_rows, register
from interp.decomposers.hierarchy import Hierarchy
from interp.decomposers.semi_nmf.config import SemiNMFConfig
from interp.decomposers.semi_nmf.l1_search import l1_of_features, searched_l1
from interp.decomposers.semi_nmf.levels import grow_levels, made_by_parents, refitted_null
from interp.decomposers.semi_nmf.non_negative import debiased, non_negative_codes
from interp.decomposers.semi_nmf.solver import fit_features
from interp.decomposers.semi_nmf.start import Shifted, random_features, share_of, steady_offset, totals_of
from interp.distributed import world
from interp.store.source import ActivationSource
from interp.training.protocol import Recorder, Silent

__all__ = ["SemiNMF", "SemiNMFConfig"]


@register
class SemiNMF(LinearDecomposer):
    """Semi-non-negative matrix factorisation: rows as sums of features, none of them subtracted (arXiv 2506.10920).

    Tensors ``features`` [K, d] (unit rows), ``b_dec`` [d] (means of steady columns or 0), ``l1`` (scalar, in activation
    units) and, with a hierarchy, ``levelN.features`` and ``levelN.weights``.
    """

    kind = "semi-nmf"
    config_type = SemiNMFConfig

    @property
    def W_dec(self) -> Float[Tensor, "n_features d_in"]:
        return self.tensors["features"]

    @property
    def hierarchy(self) -> Hierarchy | None:
        """The levels of ``config.levels`` above the features."""
        levels = Hierarchy.from_tensors(self.W_dec, self.tensors)
        return levels if levels.weights else None

    @classmethod
    def _fit(cls, source: ActivationSource, config: SemiNMFConfig, recorder: Recorder | None) -> SemiNMF:
        """Fit features. The recorded loss is the objective over n: squared error per row, summed over d, plus the l1 term.

        Under ``torchrun`` every process learns from its share of the rows, and all end with the same features.
        Raises InputError when the source has fewer rows than features, rows that are all the same or not finite, and when
        l1 is so large that every code is zero, and when no l1 gives as large an L0 as is asked for.
        """
        offset = steady_offset(source)
        rows = Shifted(source, offset) if offset.any() else source
        options = config
        if config.target_l0 is not None:
            options = replace(config, l1=searched_l1(rows, config), target_l0=None)
        toward = (lambda each: made_by_parents(each, config)) if config.pull else None
        features, l1 = fit_features(rows, options, recorder or Silent(), toward=toward)
        hierarchy, notes = grow_levels(features, config)
        if config.pull:
            notes |= refitted_null(rows, features, l1, options)
        tensors = {"features": features, "b_dec": offset, "l1": torch.tensor(l1)}
        return cls(config, tensors | hierarchy.to_tensors(), notes)

    @classmethod
    def untrained(cls, source: ActivationSource, config: SemiNMFConfig) -> SemiNMF:
        """Random features with as many entries as learned ones may have, and the same l1 or target L0, without levels. The
        features that a fit begins with will not do: they are centres of clusters of the rows."""
        check_enough_rows(source, config.n_features)
        processes, offset = world(), steady_offset(source)
        rows, s = Shifted(source, offset), config.n_non_zero(source.d_in)
        totals = totals_of(rows, share_of(len(source), processes), processes)
        features = random_features(config.n_features, source.d_in, s, seed=config.seed)
        l1 = config.l1_weight * totals.mean_norm if config.target_l0 is None else l1_of_features(rows, features, config)
        tensors = {"features": features, "b_dec": offset, "l1": torch.tensor(l1)}
        return cls(replace(config, levels=(), pull=0.0), tensors)

    def _encode(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_features"]:
        """The codes of the objective with the features fixed, to about 1e-4 of the norm of a row's codes; debiased on their
        support if the config says so."""
        assert isinstance(self.config, SemiNMFConfig)
        products, gram = (x - self.b_dec) @ self.W_dec.T, self.W_dec @ self.W_dec.T
        codes = non_negative_codes(products - self.tensors["l1"], gram)
        return debiased(products, gram, codes) if self.config.debias and self.tensors["l1"] else codes

    def at_level(self, level: int) -> SemiNMF:
        """The features of a level of the hierarchy as a decomposer of their own, with the levels above them."""
        hierarchy = Hierarchy.from_tensors(self.W_dec, self.tensors)
        features = hierarchy.features[level]
        above = Hierarchy(hierarchy.features[level:], hierarchy.weights[level:])
        assert isinstance(self.config, SemiNMFConfig)
        config = replace(self.config, n_features=len(features), levels=above.ranks[1:], target_l0=None, pull=0.0)
        own = {"features": features, "b_dec": self.b_dec, "l1": self.tensors["l1"]}
        return SemiNMF(config, own | above.to_tensors())
