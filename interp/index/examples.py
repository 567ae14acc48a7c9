"""Example tokens of every feature, and the distribution of its activations.

If a feature has a cut (see ``codes``), its activations below the cut are known on the sampled tokens only. These are
weighted by the number of tokens each represents, so that histogram and quantiles cover all firing tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from interp.index.layout import KINDS_OF_EXAMPLES, N_BINS, N_INTERVALS

if TYPE_CHECKING:
    from interp.index.codes import SiteCodes


@dataclass(frozen=True)
class FeatureActivations:
    """One feature's known positive activations, ascending; each represents ``weights`` tokens."""

    rows: Int[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]
    weights: Float[np.ndarray, " n"]


def describe_features(
    codes: SiteCodes, sequences: Int[np.ndarray, " n_tokens"], *, n_top: int, n_each: int, seed: int
) -> dict[str, np.ndarray]:
    """The histogram, quantiles and examples of every feature, under their names in the index.

    ``sequences`` is the sequence of each token. There are ``n_top`` examples of kind "top", and ``n_each`` of every other
    kind and of every interval.
    """
    n_features = len(codes.n_fire)
    arrays: dict[str, np.ndarray] = {
        "p50": np.zeros(n_features, np.float32),
        "p99": np.zeros(n_features, np.float32),
        "hist": np.zeros((n_features, N_BINS), np.int64),
    }
    for kind in KINDS_OF_EXAMPLES:
        shape = (n_top,) if kind == "top" else (N_INTERVALS, n_each) if kind == "intervals" else (n_each,)
        arrays[f"{kind}_row"] = np.full((n_features, *shape), -1, np.int32)
        arrays[f"{kind}_value"] = np.zeros((n_features, *shape), np.float32)
    for f in range(n_features):
        rng = np.random.default_rng((seed, f))
        not_firing = _draw(codes.sample_rows[codes.sample_codes[f] <= 0], n_each, rng)
        arrays["not-firing_row"][f, : len(not_firing)] = not_firing
        if codes.n_fire[f] == 0:
            continue
        firing = known_activations(codes, f)
        arrays["hist"][f], arrays["p50"][f], arrays["p99"][f] = spread(firing)
        for kind, part, places in _choose(firing, sequences, n_top, n_each, rng):
            arrays[f"{kind}_row"][f][part][: len(places)] = firing.rows[places]
            arrays[f"{kind}_value"][f][part][: len(places)] = firing.values[places]
    return arrays


def known_activations(codes: SiteCodes, f: int) -> FeatureActivations:
    """The feature's kept activations and, below its cut, those on the sampled tokens."""
    part = slice(codes.acts.indptr[f], codes.acts.indptr[f + 1])
    rows, values = codes.acts.indices[part], codes.acts.data[part]
    weights = np.ones(len(values))
    if codes.cut[f] > 0:
        sampled = codes.sample_codes[f]
        low = (sampled > 0) & (sampled <= codes.cut[f])
        weight = (codes.n_fire[f] - len(values)) / max(np.count_nonzero(low), 1)
        rows, values = np.concatenate([rows, codes.sample_rows[low]]), np.concatenate([values, sampled[low]])
        weights = np.concatenate([weights, np.full(np.count_nonzero(low), weight)])
    order = np.argsort(values, kind="stable")
    return FeatureActivations(rows[order], values[order], weights[order])


def spread(firing: FeatureActivations) -> tuple[Int[np.ndarray, " n_bins"], float, float]:
    """Tokens in linear bins from 0 to the maximum, and the median and 99th percentile over firing tokens.

    Quantiles are the smallest activation that at least that share of the firing tokens does not exceed.
    """
    bins = np.minimum((firing.values * (N_BINS / firing.values[-1])).astype(np.int64), N_BINS - 1)
    counts = np.rint(np.bincount(bins, firing.weights, N_BINS)).astype(np.int64)
    below = np.cumsum(firing.weights)
    p50, p99 = firing.values[np.minimum(np.searchsorted(below, below[-1] * np.array([0.5, 0.99])), len(below) - 1)]
    return counts, float(p50), float(p99)


def _choose(
    firing: FeatureActivations,
    sequences: Int[np.ndarray, " n_tokens"],
    n_top: int,
    n_each: int,
    rng: np.random.Generator,
) -> list[tuple[str, tuple[int, ...], Int[np.ndarray, " _"]]]:
    """(kind, interval if any, places in ``firing``) of the chosen tokens."""
    n = len(firing.values)
    chosen: list[tuple[str, tuple[int, ...], np.ndarray]] = [
        ("top", (), top_one_a_sequence(sequences[firing.rows], n_top)),
        ("near-threshold", (), np.arange(min(n, n_each))),
        ("random", (), _draw_weighted(firing.weights, n_each, rng)),
    ]
    fifths = firing.values[-1] * np.arange(1, N_INTERVALS) / N_INTERVALS
    bounds = [0, *np.searchsorted(firing.values, fifths, side="right"), n]
    for i in range(N_INTERVALS):
        places = _draw(np.arange(bounds[i], bounds[i + 1]), n_each, rng)
        chosen.append(("intervals", (i,), np.sort(places)[::-1]))
    return chosen


def top_one_a_sequence(sequences: Int[np.ndarray, " n_firing"], n: int) -> Int[np.ndarray, " n_chosen"]:
    """Places of the ``n`` largest activations of different sequences, largest first.

    ``sequences`` is in ascending order of activation.
    """
    downwards = sequences[::-1]
    for reach in (20 * n, len(downwards)):  # 20 n are nearly always enough, and sorting all takes longer
        _, first = np.unique(downwards[:reach], return_index=True)
        if len(first) >= n:
            break
    return len(downwards) - 1 - np.sort(first)[:n]


def _draw(items: Int[np.ndarray, " n_items"], n: int, rng: np.random.Generator) -> Int[np.ndarray, " n_drawn"]:
    """``n`` different items drawn evenly; all of them, shuffled, if there are no more."""
    return rng.choice(items, min(n, len(items)), replace=False)


def _draw_weighted(
    weights: Float[np.ndarray, " n_items"], n: int, rng: np.random.Generator
) -> Int[np.ndarray, " n_drawn"]:
    """``n`` different places drawn in proportion to ``weights``: those with the smallest exponential(weight) variables."""
    times = rng.standard_exponential(len(weights)) / np.maximum(weights, 1e-12)
    n = min(n, len(weights))
    return np.argpartition(times, n - 1)[:n]
