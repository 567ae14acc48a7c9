"""Absorption: does a feature of a class fall silent where a feature of a class within it fires?

A sparse decomposer saves a feature by letting that of the inner class (import keyword) carry the direction of the outer
one (import statement) too, so that the outer feature has holes. Chanin et al. 2024 (2409.14507) found this; the fraction is
that of SAEBench (Karvonen et al. 2025, 2503.09532, "feature absorption").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csc_array, csr_array

from interp.errors import InputError

MIN_COSINE = 0.1
"""Of an absorbing feature's write direction to the probe's: SAEBench's."""
MAX_ABSORBING = 3
"""Features that may absorb together: SAEBench's."""
MIN_SHARE = 0.4
"""Of the activation's projection on the probe that they must carry: SAEBench's."""
_ROWS = 1024


@dataclass(frozen=True)
class Absorption:
    """The mean absorbed fraction on tokens of an inner label, and beside it on the other tokens of the outer one.

    Only tokens of test on which the outer label's probe is right count; means over none are NaN.
    """

    inner: int
    outer: int
    fraction: float
    n_tokens: int
    rest_fraction: float
    """The null: if the outer label's features miss its other tokens as often, the inner label is nothing special."""
    n_rest: int


def nested_pairs(
    labels: Bool[np.ndarray, "n n_labels"], is_test: Bool[np.ndarray, " n"], *, min_tokens: int = 10
) -> list[tuple[int, int]]:
    """(inner, outer) columns of labels that nest, in order: at least .99 of the inner label's tokens have the outer one.

    And the outer label has at least twice as many tokens. Both must hold on select and on test, and the inner label have
    ``min_tokens`` on each.
    """
    nests = np.ones((labels.shape[1],) * 2, dtype=bool)
    for part in (labels[~is_test], labels[is_test]):
        n_tokens = part.sum(0)
        n_both = part.T.astype(np.float64) @ part
        nests &= (n_both >= 0.99 * n_tokens[:, None]) & (n_tokens >= 2 * n_tokens[:, None])
        nests &= n_tokens[:, None] >= max(min_tokens, 1)
    return [(int(inner), int(outer)) for inner, outer in np.argwhere(nests)]


def absorption(
    pairs: list[tuple[int, int]],
    *,
    x: Float[np.ndarray, "n_test d"],
    codes: csc_array,
    labels: Bool[np.ndarray, "n_test n_labels"],
    predicted: Bool[np.ndarray, "n_labels n_test"],
    directions: Float[np.ndarray, "n_labels d"],
    features: Int[np.ndarray, "n_labels k"],
    write: Float[np.ndarray, "n_features d"],
) -> list[Absorption]:
    """The absorption of each pair of ``nested_pairs``, all on rows of test.

    ``predicted`` and ``directions`` are those of the probe on whole activations, ``features`` those of the k-sparse probe.
    For ``x``, ``codes`` and ``write`` see ``absorbed_fractions``.
    """
    by_row = csr_array(codes)
    result = []
    for inner, outer in pairs:
        is_right = labels[:, outer] & predicted[outer]
        means, counts = [], []
        for is_counted in (is_right & labels[:, inner], is_right & ~labels[:, inner]):
            rows = np.flatnonzero(is_counted)
            fractions = absorbed_fractions(x[rows], by_row[rows], write, directions[outer], features[outer])
            means.append(float(fractions.mean()) if len(rows) else float("nan"))
            counts.append(len(rows))
        result.append(Absorption(inner, outer, means[0], counts[0], means[1], counts[1]))
    return result


def absorbed_fractions(
    x: Float[np.ndarray, "n d"],
    codes: csr_array,
    write: Float[np.ndarray, "n_features d"],
    direction: Float[np.ndarray, " d"],
    features: Int[np.ndarray, " k"],
) -> Float[np.ndarray, " n"]:
    """The share of each activation's part along ``direction``, a class's, that other features than its own carry.

    With w = direction / |direction|, c_i the cosine of w and the write direction of feature i, p_i = z_i (write_i · w) what
    feature i adds along w, p = x · w, P the sum of p_i over ``features``, the class's own, and A the sum of the 3 greatest
    positive p_i of other features with c_i >= .1, the fraction is

        0 if P >= p or A < .4 p, else 1 if P <= 0, else a / (a + P) with a = min(A, p - P).

    SAEBench has p_i = z_i c_i, which is the same for unit write directions, and x as it is. Give x less the decoder's bias
    instead: the bias is no feature's, and the p_i then add up to p as far as the reconstruction is exact. An activation with
    p <= 0 has nothing to absorb: 0. Raises InputError for a direction of zeros.
    """
    length = np.linalg.norm(direction)
    if not length > 0:
        raise InputError("the probe's direction is all zeros, so nothing lies along it")
    along = write @ (direction / length)
    norms = np.linalg.norm(write, axis=1)
    may_absorb = along >= MIN_COSINE * np.where(norms > 0, norms, np.inf)
    may_absorb[features] = False
    whole = x @ (direction / length)
    own, others = np.zeros(len(x)), np.zeros(len(x))
    for first in range(0, len(x), _ROWS):
        parts = codes[first : first + _ROWS].toarray() * along
        own[first : first + _ROWS] = parts[:, np.unique(features)].sum(1)
        absorbing = np.sort(np.maximum(parts[:, may_absorb], 0), axis=1)[:, -MAX_ABSORBING:]
        others[first : first + _ROWS] = absorbing.sum(1)
    absorbed = np.minimum(others, whole - own)
    has_any = (whole > 0) & (own < whole) & (others >= MIN_SHARE * whole)
    share = np.divide(absorbed, absorbed + own, out=np.ones(len(x)), where=has_any & (own > 0))
    return np.where(has_any, share, 0.0)
