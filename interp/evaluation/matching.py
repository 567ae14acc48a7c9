"""Which features of other runs are a feature's counterparts: does it come back from other seeds, do other methods find it?

Features are compared by their read directions. Where a method has no sign of its own (its codes are signed, or its latents
are quadratic), opposite directions are the same. For the question whether a feature comes back, features are paired one to
one, so that the pairs' cosines have the largest sum (Hungarian method); for the question whether another method has it at
all, each feature takes the greatest cosine.

High cosines come by chance where the dictionary is large and the activations lie in few dimensions. So each stands beside
the same matching against as many random directions that have the activations' covariance, a mean over ``N_DRAWS`` draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from interp.errors import InputError
from interp.evaluation.firing_codes import random_directions
from interp.runs.record import Run
from interp.store.moments import Moments

N_DRAWS = 5
"""Draws of random directions that the chance cosines are a mean over."""
Pairing = Literal["one-to-one", "greatest"]


@dataclass(frozen=True)
class Matches:
    """The counterpart in another run of each feature of a run."""

    run: Run
    """The other run."""
    features: Int[np.ndarray, " n_features"]
    """Its feature; -1 where there is none: the feature is dead, or the other run has fewer features to pair."""
    cosines: Float[np.ndarray, " n_features"]
    """Cosine of the read directions, its absolute value where signs mean nothing; 0 where there is none."""
    chance: Float[np.ndarray, " n_features"]
    """The cosine that matching with as many random directions gives; 0 for a dead feature."""


def best_matches(run: Run, others: Sequence[Run], *, pairing: Pairing, seed: int = 0) -> list[Matches]:
    """The counterparts of each feature of ``run`` in every one of ``others``.

    Random directions have the covariance of the activations in the store of ``run``. Raises InputError for a run that reads
    another hook point, or that was trained on another model.
    """
    for other in others:
        differs = [n for n in ("d_in", "model_fingerprint") if getattr(run.record, n) != getattr(other.record, n)]
        if run.site.read != other.site.read or differs:
            raise InputError(
                f"'{other.name}' reads {other.site.read} of '{other.model_id}', but '{run.name}' {run.site.read} of "
                f"'{run.model_id}'; features can be matched only between runs that read the same hook point of one model"
            )
    directions, moments = run.decomposer().read_directions().numpy(), run.store().site(run.site.read).moments()
    by_chance: dict[tuple[int, bool], Float[np.ndarray, " n_features"]] = {}
    found = []
    for other in others:
        candidates = other.decomposer().read_directions().numpy()
        signless = _is_signless(run) or _is_signless(other)
        key = (int(candidates.any(1).sum()), signless)
        if key not in by_chance:
            by_chance[key] = chance_cosines(directions, key[0], moments, signless=signless, pairing=pairing, seed=seed)
        features, cosines = match(directions, candidates, signless=signless, pairing=pairing)
        found.append(Matches(other, features, cosines, by_chance[key]))
    return found


def match(
    directions: Float[np.ndarray, "n d_in"],
    candidates: Float[np.ndarray, "m d_in"],
    *,
    signless: bool,
    pairing: Pairing,
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """(candidate, cosine) of every direction; (-1, 0) for one without a candidate. Rows have unit length or are zero.

    Rows of zeros are dead features and have no part in it.
    """
    features, cosines = np.full(len(directions), -1), np.zeros(len(directions))
    left, right = np.flatnonzero(directions.any(1)), np.flatnonzero(candidates.any(1))
    if not len(left) or not len(right):
        return features, cosines
    products = directions[left] @ candidates[right].T
    if signless:
        np.abs(products, out=products)
    if pairing == "greatest":
        rows, columns = np.arange(len(left)), products.argmax(1)
    else:
        rows, columns = linear_sum_assignment(products, maximize=True)
    features[left[rows]] = right[columns]
    cosines[left[rows]] = products[rows, columns]
    return features, cosines


def chance_cosines(
    directions: Float[np.ndarray, "n d_in"],
    n: int,
    moments: Moments,
    *,
    signless: bool,
    pairing: Pairing,
    seed: int,
) -> Float[np.ndarray, " n"]:
    """The cosine each direction is matched with among ``n`` random ones, mean over ``N_DRAWS`` draws."""
    total = np.zeros(len(directions))
    for draw in range(N_DRAWS):
        drawn = random_directions(n, moments, seed * N_DRAWS + draw, shaped=True).numpy()
        total += match(directions, drawn, signless=signless, pairing=pairing)[1]
    return total / N_DRAWS


def _is_signless(run: Run) -> bool:
    """Whether a direction of the run and its opposite mean the same feature."""
    return run.can("forms") or run.decomposer().signed_codes
