"""Which features of other runs are a feature's counterparts: does it come back from other seeds, do other methods find it?

Features are compared by their read directions; where a method has no sign of its own (its codes are signed), opposite
directions are the same. Quadratic latents are compared by their forms, |<Q, Q'>| / (|Q| |Q'|): a latent has no one direction,
and two of the same plane may have other eigenvectors in it. Beside a quadratic latent a direction w is the form w w^T. For the
question whether a feature comes back, features are paired one to
one, so that the pairs' cosines have the largest sum (Hungarian method); for the question whether another method has it at
all, each feature takes the greatest cosine.

High cosines come by chance where the dictionary is large and the activations lie in few dimensions. So each stands beside
the same matching against as many random directions that have the activations' covariance, a mean over ``N_DRAWS`` draws; for
forms, against those of the other run turned to such directions (``random_forms``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from interp.decomposers import Decomposer
from interp.decomposers.base import QuadraticDecomposer
from interp.decomposers.forms import Forms, unit_rows
from interp.decomposers.sae.initialisation import random_directions
from interp.errors import InputError
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
    """Cosine of the read directions or forms, its absolute value where signs mean nothing; 0 where there is none."""
    chance: Float[np.ndarray, " n_features"]
    """The cosine that matching with as many random directions or forms gives; 0 for a dead feature."""


def best_matches(run: Run, others: Sequence[Run], *, pairing: Pairing, seed: int = 0) -> list[Matches]:
    """The counterparts of each feature of ``run`` in every one of ``others``.

    What is random has the covariance of the activations in the store of ``run``. Raises InputError for a run that reads
    another hook point, or that was trained on another model.
    """
    for other in others:
        differs = [n for n in ("d_in", "model_fingerprint") if getattr(run.record, n) != getattr(other.record, n)]
        if run.site.read != other.site.read or differs:
            raise InputError(
                f"'{other.name}' reads {other.site.read} of '{other.model_id}', but '{run.name}' {run.site.read} of "
                f"'{run.model_id}'; features can be matched only between runs that read the same hook point of one model"
            )
    decomposer, moments = run.decomposer(), run.store().site(run.site.read).moments()
    by_chance: dict[tuple[int, bool], Float[np.ndarray, " n_features"]] = {}
    found = []
    for other in others:
        as_forms = run.can("forms") or other.can("forms")
        features, candidates = (features_of(one, as_forms=as_forms) for one in (decomposer, other.decomposer()))
        signless = _is_signless(run) or _is_signless(other)
        live = candidates[np.flatnonzero(is_live(candidates))]
        key = (len(live), signless)
        if as_forms or key not in by_chance:
            by_chance[key] = chance_cosines(features, live, moments, signless=signless, pairing=pairing, seed=seed)
        matched, cosines = match(features, candidates, signless=signless, pairing=pairing)
        found.append(Matches(other, matched, cosines, by_chance[key]))
    return found


Features = Float[np.ndarray, "_ d_in"] | Forms
"""What features are compared by: directions, as unit rows, a dead feature's of zeros, or forms."""


def features_of(decomposer: Decomposer, *, as_forms: bool) -> Features:
    """The read directions of a decomposer, or its forms, w w^T where it has directions."""
    if as_forms and isinstance(decomposer, QuadraticDecomposer):
        return decomposer.forms
    directions = decomposer.read_directions()
    return Forms.of_directions(directions) if as_forms else directions.numpy()


def is_live(features: Features) -> Bool[np.ndarray, " _"]:
    """Which features are not zero."""
    return (features.norms.numpy() if isinstance(features, Forms) else np.linalg.norm(features, axis=1)) > 0


def cosines_between(features: Features, candidates: Features, *, signless: bool) -> Float[np.ndarray, "_ _"]:
    """Cosines of features with candidates of the same sort, their absolute values with ``signless``."""
    if isinstance(features, Forms) and isinstance(candidates, Forms):
        cosines = features.cosines(candidates).numpy()
    else:
        assert isinstance(features, np.ndarray)
        assert isinstance(candidates, np.ndarray)
        cosines = features @ candidates.T
    return np.abs(cosines) if signless else cosines


def match(
    features: Features, candidates: Features, *, signless: bool, pairing: Pairing
) -> tuple[Int[np.ndarray, " _"], Float[np.ndarray, " _"]]:
    """(candidate, cosine) of every feature; (-1, 0) for one without a candidate. Dead features have no part in it."""
    matched, cosines = np.full(len(features), -1), np.zeros(len(features))
    left, right = np.flatnonzero(is_live(features)), np.flatnonzero(is_live(candidates))
    if not len(left) or not len(right):
        return matched, cosines
    products = cosines_between(features[left], candidates[right], signless=signless)
    if pairing == "greatest":
        rows, columns = np.arange(len(left)), products.argmax(1)
    else:
        rows, columns = linear_sum_assignment(products, maximize=True)
    matched[left[rows]] = right[columns]
    cosines[left[rows]] = products[rows, columns]
    return matched, cosines


def chance_cosines(
    features: Features, candidates: Features, moments: Moments, *, signless: bool, pairing: Pairing, seed: int
) -> Float[np.ndarray, " _"]:
    """The cosine each feature is matched with among random ones like ``candidates``, mean over ``N_DRAWS`` draws.

    They are as many random directions, or ``random_forms``.
    """
    total = np.zeros(len(features))
    for draw in range(N_DRAWS):
        number = seed * N_DRAWS + draw
        if isinstance(candidates, Forms):
            drawn: Features = random_forms(candidates, moments, number)
        else:
            drawn = random_directions(len(candidates), moments, number, shaped=True).numpy()
        total += match(features, drawn, signless=signless, pairing=pairing)[1]
    return total / N_DRAWS


def random_forms(forms: Forms, moments: Moments, seed: int) -> Forms:
    """The forms with every atom turned: its l looks along a random direction of the activations' covariance, and so does r
    beside it. What an atom reads of the 1 of a bias, the lengths of l and r, their angle and all weights are kept."""
    n, bias = len(forms.L), forms.L.shape[1] - len(moments.mean)
    first, second = random_directions(2 * n, moments, seed, shaped=True).chunk(2)
    across = unit_rows(second - (second * first).sum(1, keepdim=True) * first)
    left, right = forms.L[:, bias:], forms.R[:, bias:]
    cosine = (unit_rows(left) * unit_rows(right)).sum(1, keepdim=True)
    turned = cosine * first + (1 - cosine.square()).clamp_min(0).sqrt() * across
    L = torch.cat([forms.L[:, :bias], left.norm(dim=1, keepdim=True) * first], 1)
    R = torch.cat([forms.R[:, :bias], right.norm(dim=1, keepdim=True) * turned], 1)
    return replace(forms, L=L, R=R)


def _is_signless(run: Run) -> bool:
    """Whether a direction of the run and its opposite mean the same feature."""
    return run.can("forms") or run.decomposer().signed_codes
