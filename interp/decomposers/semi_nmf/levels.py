"""The levels of a hierarchy above the features of semi-NMF, each a semi-NMF of the features below it as rows."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from interp.decomposers.hierarchy import Hierarchy
from interp.decomposers.semi_nmf.config import SemiNMFConfig
from interp.decomposers.semi_nmf.non_negative import debiased, non_negative_codes
from interp.decomposers.semi_nmf.solver import fit_features
from interp.store.source import ArraySource
from interp.training.protocol import Silent


def grow_levels(features: Float[Tensor, "K d_in"], config: SemiNMFConfig) -> Hierarchy:
    """The levels of ``config.levels``, each fitted on the one below with the options of the features themselves."""
    levels, weights = [features], []
    for rank in config.levels:
        below = levels[-1]
        one_level = replace(config, n_features=rank, levels=(), online_epochs=0, l1=config.l1_weight, target_l0=None)
        above, l1 = fit_features(ArraySource(below), one_level, Silent())
        products, gram = below @ above.T, above @ above.T
        weights.append(debiased(products, gram, non_negative_codes(products - l1, gram)))
        levels.append(above)
    return Hierarchy(tuple(levels), tuple(weights))
