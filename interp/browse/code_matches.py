"""Which features of two runs fire together: counterparts by the correlation of their codes on the same tokens.

Codes are those of the two indexes, of one store: the positive side, and of a feature that fires on most tokens its largest. The
correlation is Pearson's over ``N_TOKENS`` tokens drawn at random. Each feature takes the feature of the other run whose codes
are correlated with its own most; one may be taken by several. The best of many correlations is above 0 by chance, so beside it
stands the same choice with the other run's codes shifted along the text, a mean over ``N_DRAWS`` shifts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from interp.errors import InputError
from interp.index.reader import FeatureIndex

N_TOKENS = 20_000
N_DRAWS = 5
MATCHED_AT = 0.5
"""Correlation from which on two features are called counterparts: a quarter of the variance of one is that of the other."""
_BLOCK = 1024
"""Features whose correlations with all others are formed at a time."""

Greatest = tuple[Int[np.ndarray, " _"], Float[np.ndarray, " _"]]


@dataclass(frozen=True)
class CodeMatches:
    """The counterpart in another run of each feature of a run."""

    features: Int[np.ndarray, " n_features"]
    """Its feature; -1 where there is none, since the feature fires on none of the tokens."""
    correlations: Float[np.ndarray, " n_features"]
    """0 where there is none."""
    chance: Float[np.ndarray, " n_features"]
    """The greatest correlation with the other run's shifted codes."""
    n_tokens: int
    """Tokens that they are over."""

    @property
    def is_matched(self) -> Bool[np.ndarray, " n_features"]:
        """Whether the correlation is at least ``MATCHED_AT``, and above chance."""
        return (self.correlations >= MATCHED_AT) & (self.correlations > self.chance)


def match_codes(index: FeatureIndex, other: FeatureIndex, *, seed: int = 0) -> tuple[CodeMatches, CodeMatches]:
    """The counterparts in ``other`` of the features of ``index``, and the other way round.

    Raises InputError for indexes of different stores, whose codes are not of the same tokens.
    """
    if index.record.store_identity != other.record.store_identity:
        raise InputError(
            f"features of '{index.record.run}' and '{other.record.run}' cannot be matched: their indexes are of different text "
            f"('{index.record.store}' and '{other.record.store}'); train both on one store"
        )
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(index.n_tokens, min(N_TOKENS, index.n_tokens), replace=False))
    n = len(rows)
    first, second = index.codes_on(rows), other.codes_on(rows)
    found = greatest_correlations(first, second)
    chance = [np.zeros(index.n_features), np.zeros(other.n_features)]
    for shift in rng.integers(n // 4, n - n // 4, N_DRAWS):
        for total, (_, values) in zip(
            chance, greatest_correlations(first, second[(np.arange(n) + shift) % n]), strict=True
        ):
            total += values / N_DRAWS
    left, right = (CodeMatches(*each, by_chance, n) for each, by_chance in zip(found, chance, strict=True))
    return left, right


def greatest_correlations(first: sparse.csr_array, second: sparse.csr_array) -> tuple[Greatest, Greatest]:
    """(column of ``second``, Pearson correlation) of the most correlated one for each column of ``first``, and the other way
    round; (-1, 0) for a constant column. Both are [n_tokens, columns]."""
    n, (mean, sd), (mean_, sd_) = first.shape[0], _moments(first), _moments(second)
    by_column, second = first.tocsc(), second.tocsc()
    left = np.full(first.shape[1], -1), np.full(first.shape[1], -np.inf)
    right = np.full(second.shape[1], -1), np.full(second.shape[1], -np.inf)
    for start in range(0, first.shape[1], _BLOCK):
        part = slice(start, start + _BLOCK)
        products = (by_column[:, part].T @ second).toarray() / n - np.outer(mean[part], mean_)
        scale = np.outer(sd[part], sd_)
        r = np.divide(products, scale, out=np.full(products.shape, -np.inf), where=scale > 0)
        left[0][part], left[1][part] = r.argmax(1), r.max(1)
        best, values = r.argmax(0), r.max(0)
        is_better = values > right[1]
        right[0][is_better], right[1][is_better] = start + best[is_better], values[is_better]
    return _without_constant(*left), _without_constant(*right)


def _moments(codes: sparse.csr_array) -> tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]:
    """Mean and standard deviation of each column."""
    n = codes.shape[0]
    mean, square = (np.asarray(each.sum(0)).ravel() / n for each in (codes, codes.multiply(codes)))
    # Rounding leaves a constant column a little variance.
    variance = square - mean**2
    return mean, np.sqrt(np.where(variance > 1e-12 * square, variance, 0.0))


def _without_constant(features: Int[np.ndarray, " _"], values: Float[np.ndarray, " _"]) -> Greatest:
    is_known = np.isfinite(values)
    return np.where(is_known, features, -1), np.where(is_known, values, 0.0)
