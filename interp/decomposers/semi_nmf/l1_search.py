"""The l1 with which codes have the mean number of positive entries that was asked for, by fits to a sample of the rows."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.semi_nmf.config import DEFAULT_L1, SemiNMFConfig
from interp.decomposers.semi_nmf.non_negative import debiased, non_negative_codes
from interp.decomposers.semi_nmf.solver import Solver
from interp.errors import InputError
from interp.progress import progress
from interp.store.source import ActivationSource, ArraySource
from interp.training.loop import held_out_rows
from interp.training.protocol import Silent

N_LEARN, N_HELD_OUT = 12_288, 2048
"""Rows fitted to, and rows on which codes are counted; of small sources at most nine tenths and a tenth."""
PASSES = 15
MOST_FITS = 6
CLOSE = 0.02
"""A share of the target that is near enough."""
BISECTIONS = 12
LEAST_L1 = 1e-4
"""Below this l1 hardly changes the codes."""


def searched_l1(source: ActivationSource, config: SemiNMFConfig) -> float:
    """l1 in units of the mean norm of a row, so that codes of held-out rows have the mean L0 ``config.target_l0``.

    L0 falls nearly as a power of l1, so each guess is where the line through the logarithms of the two nearest meets it.
    Raises InputError when no l1 gives so large an L0.
    """
    assert config.target_l0 is not None
    learn, test = _sample(source, config.seed)
    options = replace(config, passes=min(config.passes, PASSES), target_l0=None, levels=(), online_epochs=0)
    target, guess, tried = math.log(config.target_l0), DEFAULT_L1, dict[float, float]()
    for _ in progress(range(MOST_FITS), total=MOST_FITS, what="l1 for the target L0", unit="fit"):
        with closing(Solver(ArraySource(learn), replace(options, l1=guess))) as solver:
            solver.run(Silent())
        l0 = _mean_l0(test, solver.features, solver.l1, debias=config.debias)
        tried[math.log(guess)] = math.log(max(l0, 1e-3))
        if abs(l0 / config.target_l0 - 1) <= CLOSE:
            break
        if guess == LEAST_L1 and l0 < config.target_l0:
            raise InputError(
                f"--target-l0 {config.target_l0:g} cannot be reached: without l1 a row has {l0:.0f} features on average; "
                "ask for fewer, or for more --n-features"
            )
        guess = max(LEAST_L1, _next(tried, target))
    return math.exp(min(tried, key=lambda l1: abs(tried[l1] - target)))


def l1_of_features(source: ActivationSource, features: Float[Tensor, "K d_in"], config: SemiNMFConfig) -> float:
    """l1 in units of activation, so that codes of given features have the mean L0 ``config.target_l0``, or as near to it as
    they can come; by bisection on held-out rows."""
    assert config.target_l0 is not None
    _, x = _sample(source, config.seed)
    low, high = 0.0, float((x @ features.T).max())
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _mean_l0(x, features, middle, debias=config.debias) > config.target_l0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _sample(source: ActivationSource, seed: int) -> tuple[Float[Tensor, "n d_in"], Float[Tensor, "m d_in"]]:
    """(rows to fit to, rows to count codes on)."""
    held_out = held_out_rows(len(source), N_HELD_OUT)
    others = np.setdiff1d(np.arange(len(source)), held_out)
    drawn = np.random.default_rng(seed).choice(others, min(len(others), N_LEARN), replace=False)
    return source.rows(np.sort(drawn)), source.rows(held_out if len(held_out) else drawn)


def _mean_l0(x: Float[Tensor, "n d_in"], features: Float[Tensor, "K d_in"], l1: float, *, debias: bool) -> float:
    gram, products = features @ features.T, x @ features.T
    codes = non_negative_codes(products - l1, gram)
    if debias:
        codes = debiased(products, gram, codes)
    return float((codes > 0).sum()) / len(x)


def _next(tried: dict[float, float], target: float) -> float:
    """Where the line through the two guesses nearest to the target meets it; L0 halves with three times the l1 until there are
    two. A step is at most eightfold."""
    near = sorted(tried, key=lambda l1: abs(tried[l1] - target))[:2]
    slope = -0.6
    if len(near) == 2:
        slope = min(-0.2, (tried[near[1]] - tried[near[0]]) / (near[1] - near[0]))
    step = (target - tried[near[0]]) / slope
    return math.exp(near[0] + max(-math.log(8), min(math.log(8), step)))
