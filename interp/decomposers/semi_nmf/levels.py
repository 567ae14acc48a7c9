"""The levels of a hierarchy above the features of semi-NMF, each a semi-NMF of the features below it as rows.

What a level leaves unexplained, |F - W P|^2 / |F|^2, stands beside what chance leaves: the same fit to the same features with
the neurons of each shuffled, which have as many entries of the same sizes and nothing in common. Where features were drawn to
their parents while they were learned (``pull``), they have more in common than they had, so the whole fit is done again on
rows in which shuffled features stand for the learned ones. And it stands above a bound: no matrix of as low a rank leaves
less than the smaller singular values of F.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.hierarchy import Hierarchy
from interp.decomposers.semi_nmf.config import SemiNMFConfig
from interp.decomposers.semi_nmf.features import cold_codes
from interp.decomposers.semi_nmf.non_negative import debiased, non_negative_codes
from interp.decomposers.semi_nmf.solver import fit_features
from interp.records import Notes
from interp.store.source import ActivationSource, ArraySource
from interp.training.protocol import Silent

N_DRAWS = 5
"""Draws of each null."""
NULL_ROWS = 8192
"""Rows that are made anew for the null of features that were drawn to their parents."""


def level_above(
    below: Float[Tensor, "K d_in"], config: SemiNMFConfig, level: int
) -> tuple[Float[Tensor, "rank d_in"], Float[Tensor, "K rank"]]:
    """(features of a level, weights of them in the features ``below``)."""
    above, l1 = fit_features(ArraySource(below), config.at_level(level), Silent())
    products, gram = below @ above.T, above @ above.T
    return above, debiased(products, gram, non_negative_codes(products - l1, gram))


def made_by_parents(features: Float[Tensor, "K d_in"], config: SemiNMFConfig) -> Float[Tensor, "K d_in"]:
    """What level 1, fitted to the features as they are, makes of each."""
    above, weights = level_above(features, config, 1)
    return weights @ above


def grow_levels(features: Float[Tensor, "K d_in"], config: SemiNMFConfig) -> tuple[Hierarchy, Notes]:
    """The levels of ``config.levels``, each fitted on the one below; and, for the notes of a run, what each leaves."""
    levels, weights, notes = [features], list[Tensor](), Notes()
    for level in range(1, len(config.levels) + 1):
        below = levels[-1]
        above, own = level_above(below, config, level)
        levels.append(above)
        weights.append(own)
        notes[f"level{level}_unexplained"] = unexplained(below, own @ above)
        notes |= _summary(
            f"level{level}_null", [_shuffled_error(below, config, level, draw) for draw in range(N_DRAWS)]
        )
        notes[f"level{level}_bound"] = rank_bound(below, len(above))
    return Hierarchy(tuple(levels), tuple(weights)), notes


def unexplained(features: Float[Tensor, "K d_in"], made: Float[Tensor, "K d_in"]) -> float:
    """|F - made|^2 / |F|^2."""
    return float((features - made).square().sum() / features.square().sum())


def rank_bound(features: Float[Tensor, "K d_in"], rank: int) -> float:
    """What the best matrix of a rank leaves of the features: the least that any level of as many features can."""
    squares = torch.linalg.svdvals(features.double()).square()
    return float(squares[rank:].sum() / squares.sum())


def shuffled(features: Float[Tensor, "K d_in"], draw: int) -> Float[Tensor, "K d_in"]:
    """The features with the entries of each in an order of its own."""
    generator = torch.Generator().manual_seed(draw)
    order = torch.rand(features.shape, generator=generator).argsort(1)
    return features.gather(1, order)


def refitted_null(
    source: ActivationSource, features: Float[Tensor, "K d_in"], l1: float, config: SemiNMFConfig
) -> Notes:
    """What level 1 leaves of features that are learned, and drawn to their parents, by the same options from rows of ``source``
    in which shuffled features stand for ``features``."""
    drawn = np.random.default_rng(config.seed).choice(len(source), min(len(source), NULL_ROWS), replace=False)
    x = source.rows(np.sort(drawn))
    codes = cold_codes(x, features, l1=l1)
    left = x - codes @ features
    options = replace(config, l1=config.l1_weight, target_l0=None, online_epochs=0)
    errors = []
    for draw in range(N_DRAWS):
        rows = ArraySource(left + codes @ shuffled(features, draw))
        found, _ = fit_features(rows, options, Silent(), toward=lambda each: made_by_parents(each, options))
        errors.append(unexplained(found, made_by_parents(found, options)))
    return _summary("level1_refitted_null", errors)


def _shuffled_error(below: Float[Tensor, "K d_in"], config: SemiNMFConfig, level: int, draw: int) -> float:
    rows = shuffled(below, draw)
    above, weights = level_above(rows, config, level)
    return unexplained(rows, weights @ above)


def _summary(name: str, errors: Sequence[float]) -> Notes:
    return {name: float(np.mean(errors)), f"{name}_least": min(errors), f"{name}_most": max(errors)}
