"""Metrics: pure functions of arrays, and one streaming accumulator.

Rows are samples. Greater scores mean that the concept is present. A metric that is undefined for its input (the AUROC of a
concept that never occurs, the variance explained of constant data) is NaN; invalid input (shapes that do not fit, NaN among
the scores) raises InputError.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from interp.errors import InputError

# -------------------------------------------------------------------------------------------- scores against concepts

_BLOCK_VALUES = 4_000_000
"""Ranks in memory at once, 8 bytes each: 32 MB. Blocks of 8 and of 128 MB take the same time."""


def auroc(scores: Num[np.ndarray, "n k"], positive: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " k"]:
    """The area under the ROC curve of each column: the chance that a positive row scores higher than a negative one.

    Ties count one half. NaN if every row is positive or none is. See ``auroc_matrix``.
    """
    return auroc_matrix(scores, np.asarray(positive)[:, None])[0]


def auroc_matrix(scores: Num[np.ndarray, "n k"], labels: Bool[np.ndarray, "n c"]) -> Float[np.ndarray, "c k"]:
    """The area under the ROC curve of each column of ``scores`` for each column of ``labels``.

    With R the ranks of a column (ties share the mean of their ranks), n+ the positive rows and n- the others,

        AUROC = (sum of R over the positive rows - n+ (n+ + 1) / 2) / (n+ n-),

    the Mann-Whitney statistic (Hanley and McNeil 1982, Radiology 143:29). Each column is ranked once for all
    concepts, and only its nonzero values are sorted: with R0 the common rank of its zeros, the sum of R is n+ R0 plus
    the sum of R - R0, which is 0 on all zeros. All sums are multiples of 1/2 far below 2^52, hence exact.
    """
    scores, labels = _checked(scores, labels)
    n, k = scores.shape
    concepts = labels.T.astype(np.float64)
    n_positive = concepts.sum(1)
    rank_sums = np.empty((len(concepts), k))
    width = max(1, _BLOCK_VALUES // max(n, 1))
    for first in range(0, k, width):
        columns = _transposed(scores[:, first : first + width])
        ranks = np.zeros(columns.shape)
        zero_ranks = np.array([_rank(values, out) for values, out in zip(columns, ranks, strict=True)])
        rank_sums[:, first : first + width] = concepts @ ranks.T + n_positive[:, None] * zero_ranks
    n_pairs = n_positive * (n - n_positive)
    above = rank_sums - (n_positive * (n_positive + 1) / 2)[:, None]
    return np.divide(above, n_pairs[:, None], out=np.full_like(above, np.nan), where=n_pairs[:, None] > 0)


def average_precision(scores: Num[np.ndarray, "n k"], positive: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " k"]:
    """The average precision of each column: sum over thresholds t of (recall(t) - recall(before t)) * precision(t).

    Every distinct score is a threshold, so tied rows enter together. NaN if no row is positive. This is
    ``sklearn.metrics.average_precision_score``, without interpolation.
    """
    scores, labels = _checked(scores, np.asarray(positive)[:, None])
    n_positive = int(labels.sum())
    if not n_positive:
        return np.full(scores.shape[1], np.nan)
    result = np.empty(scores.shape[1])
    for column in range(scores.shape[1]):
        _, n_hits, n_predicted = _cumulative_hits(scores[:, column], labels[:, 0])
        result[column] = np.sum(np.diff(n_hits, prepend=0) * (n_hits / n_predicted)) / n_positive
    return result


def f1_at(
    scores: Num[np.ndarray, "n k"], positive: Bool[np.ndarray, " n"], threshold: float | Num[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """F1 = 2 hits / (predicted + positive) of the prediction ``score >= threshold``, for each column.

    0 where rows are positive or predicted but none is both, NaN where no row is positive or predicted.
    """
    scores, labels = _checked(scores, np.asarray(positive)[:, None])
    is_predicted = scores >= np.asarray(threshold)
    n_either = is_predicted.sum(0) + labels.sum()
    hits = (is_predicted & labels).sum(0)
    return np.divide(2 * hits, n_either, out=np.full(len(hits), np.nan), where=n_either > 0)


def f1_of_counts(
    hits: Num[np.ndarray, "*#shape"], predicted: Num[np.ndarray, "*#shape"], positive: Num[np.ndarray, "*#shape"]
) -> Float[np.ndarray, ...]:
    """F1 = 2 hits / (predicted + positive) of counts; 0 where nothing is predicted or positive."""
    either = np.asarray(predicted + positive, np.float64)
    return np.divide(
        2 * hits, either, out=np.zeros(np.broadcast_shapes(np.shape(hits), either.shape)), where=either > 0
    )


def best_threshold_f1(
    scores: Num[np.ndarray, "n k"], positive: Bool[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """(threshold, F1) of each column: the score at which ``score >= threshold`` has the highest F1, and that F1.

    The threshold is one of the scores; the highest of them if several do equally well. It is chosen on these very
    rows: report the F1 that ``f1_at`` gives for it on others. (NaN, NaN) if there are no rows.
    """
    scores, labels = _checked(scores, np.asarray(positive)[:, None])
    thresholds, best = np.full((2, scores.shape[1]), np.nan)
    for column in range(scores.shape[1] if len(scores) else 0):
        values, n_hits, n_predicted = _cumulative_hits(scores[:, column], labels[:, 0])
        f1 = 2 * n_hits / (n_predicted + labels.sum())
        thresholds[column], best[column] = values[f1.argmax()], f1.max()
    return thresholds, best


# ------------------------------------------------------------------------------------------------------ reconstruction


def fvu(x: Float[Tensor, "n d_in"], x_hat: Float[Tensor, "n d_in"]) -> float:
    """The fraction of variance unexplained: sum |x - x_hat|^2 / sum |x - mean of x|^2, sums over rows and dimensions.

    0 is perfect, 1 is what the mean alone achieves, and worse is possible. One ratio of sums, not a mean of ratios per
    dimension. NaN if the rows do not vary. Computed in float64.
    """
    stats = ReconstructionStats()
    stats.add(x, x_hat, x.new_zeros(len(x), 0))
    return stats.fvu


class ReconstructionStats:
    """Reconstruction quality and sparsity over many rows, added a chunk at a time and accumulated in float64.

    How the rows are divided into chunks changes the numbers only by rounding.
    """

    def __init__(self) -> None:
        self.n_rows = 0
        self._n_fire: Tensor | None = None

    def add(self, x: Float[Tensor, "n d_in"], x_hat: Float[Tensor, "n d_in"], z: Float[Tensor, "n n_features"]) -> None:
        """Adds rows ``x``, their reconstructions and their codes (a feature fires where its code is not 0).

        Raises InputError for shapes that do not fit each other or the chunks before, and for non-finite values.
        """
        if x.shape != x_hat.shape or x.ndim != 2 or z.ndim != 2 or len(z) != len(x):
            raise InputError(
                f"rows {tuple(x.shape)}, reconstructions {tuple(x_hat.shape)} and codes {tuple(z.shape)} do not fit: "
                "expected [n, d_in] twice and [n, n_features]"
            )
        if not len(x):
            return
        x, x_hat = x.detach().double(), x_hat.detach().double()
        if self._n_fire is None:
            # Deviations from a first estimate of the mean: with a large mean, sums of squares of raw rows would cancel.
            self._origin = x.mean(0)
            self._sum = torch.zeros_like(self._origin)
            self._squares = self._errors = self._shrinkages = 0.0
            self._n_shrinkages = 0
            self._n_fire = torch.zeros(z.shape[1], dtype=torch.int64, device=z.device)
        if x.shape[1] != len(self._origin) or z.shape[1] != len(self._n_fire):
            raise InputError(
                f"a chunk of width {x.shape[1]} with {z.shape[1]} features follows chunks of width "
                f"{len(self._origin)} with {len(self._n_fire)} features"
            )
        errors = float(torch.linalg.vector_norm(x - x_hat).square())
        if not np.isfinite(errors):
            raise InputError("the rows or their reconstructions hold NaN or infinite values")
        self.n_rows += len(x)
        deviations = x - self._origin
        self._sum += deviations.sum(0)
        self._squares += float(torch.linalg.vector_norm(deviations).square())
        self._errors += errors
        norms = x.norm(dim=1)
        self._shrinkages += float((x_hat.norm(dim=1) / norms)[norms > 0].sum())
        self._n_shrinkages += int((norms > 0).sum())
        self._n_fire += (z.detach() != 0).sum(0)

    @property
    def fvu(self) -> float:
        """The fraction of variance unexplained, pooled over all rows: see the function ``fvu``. NaN without variance."""
        self._need_rows()
        variance = self._squares - float(self._sum.square().sum()) / self.n_rows
        # Rounding leaves a few units in the last place of rows that do not vary at all.
        return (
            self._errors / variance if variance > 1e-24 * float(self._origin.square().sum()) * self.n_rows else np.nan
        )

    @property
    def l0(self) -> float:
        """How many features fire, a mean per row."""
        return float(self._fire_counts().sum()) / self.n_rows

    @property
    def density(self) -> Float[Tensor, " n_features"]:
        """The share of rows on which each feature fires, in float64."""
        return self._fire_counts().double() / self.n_rows

    @property
    def n_dead(self) -> int:
        """How many features fire on none of the ``n_rows`` rows."""
        return int((self._fire_counts() == 0).sum())

    @property
    def shrinkage(self) -> float:
        """The mean of |x_hat| / |x| over the rows that are not 0; below 1 where reconstructions are too short."""
        self._need_rows()
        return self._shrinkages / self._n_shrinkages if self._n_shrinkages else np.nan

    def _fire_counts(self) -> Int[Tensor, " n_features"]:
        self._need_rows()
        assert self._n_fire is not None
        return self._n_fire

    def _need_rows(self) -> None:
        if not self.n_rows:
            raise InputError("there are no rows to judge a reconstruction by")


def ce_recovered(ce_clean: float, ce_ablated: float, ce_spliced: float) -> float:
    """The share of a site's work that a reconstruction keeps: (ablated - spliced) / (ablated - clean).

    All three are cross-entropies in one unit (or the KL to the clean model, with ``ce_clean`` 0): of the unchanged model,
    with the site ablated, and with the site reconstructed. 1 is a perfect reconstruction, 0 no better than ablation, below
    0 worse. NaN if ablation changes the loss by less than 1e-6, which is rounding in float32 logits, and for losses that
    are not finite.
    """
    losses = (ce_clean, ce_ablated, ce_spliced)
    if not np.isfinite(losses).all() or abs(ce_ablated - ce_clean) < 1e-6:
        return float("nan")
    return (ce_ablated - ce_spliced) / (ce_ablated - ce_clean)


# --------------------------------------------------------------------------------------------------- what models write


def kl_divergence(logits_p: Float[Tensor, "*batch d_vocab"], logits_q: Float[Tensor, "*batch d_vocab"]) -> Tensor:
    """KL(p || q) = sum of p (log p - log q) over the last axis, in nats, for each leading index.

    Half-precision logits are taken to float32 first. Tokens that p excludes (logit minus infinity) add 0.
    """
    dtype = torch.promote_types(torch.promote_types(logits_p.dtype, logits_q.dtype), torch.float32)
    return kl_of_log_probabilities(logits_p.to(dtype).log_softmax(-1), logits_q.to(dtype).log_softmax(-1))


def kl_of_log_probabilities(log_p: Float[Tensor, "*p d_vocab"], log_q: Float[Tensor, "*q d_vocab"]) -> Tensor:
    """``kl_divergence`` of what are log-probabilities already; leading axes broadcast."""
    terms = log_p.exp() * (log_p - log_q)
    return terms.masked_fill_(log_p == -torch.inf, 0).sum(-1)


def distinct_n(tokens: Sequence[int] | Int[np.ndarray, " n_tokens"], *, n: int = 2) -> float:
    """Different n-grams / all n-grams of a text: 1 if none repeats, near 0 for a loop (Li et al. 2016, 1510.03055).

    NaN for fewer than ``n`` tokens. Raises InputError for ``n`` below 1.
    """
    if n < 1:
        raise InputError(f"n-grams need n of at least 1, got {n}")
    tokens = [int(token) for token in tokens]
    grams = list(zip(*(tokens[start:] for start in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else float("nan")


# ----------------------------------------------------------------------------------------------------------- directions


def mean_max_cosine(
    directions: Float[np.ndarray, "n d"], others: Float[np.ndarray, "m d"] | None = None, *, absolute: bool = False
) -> float:
    """The mean over ``directions`` of the greatest cosine to any of ``others``; rows need not be unit vectors.

    Without ``others``, to any other row of ``directions``: the redundancy of a dictionary (0 orthogonal, 1 copies).
    With ``absolute``, opposite directions count as the same. Rows of zeros (dead features) are left out on both
    sides; NaN if that leaves nothing to compare.
    """
    left = _unit_rows(directions)
    right = left if others is None else _unit_rows(others)
    _check_widths(left, right)
    if not len(left) or len(right) < (2 if others is None else 1):
        return float("nan")
    greatest = np.empty(len(left))
    for first in range(0, len(left), 1024):  # a block of cosines: 1024 x m values
        cosines = left[first : first + 1024] @ right.T
        cosines = np.abs(cosines) if absolute else cosines
        if others is None:
            block = np.arange(len(cosines))
            cosines[block, first + block] = -np.inf
        greatest[first : first + 1024] = cosines.max(1)
    return float(greatest.mean())


def matched_cosine(
    found: Float[np.ndarray, "n d"], true: Float[np.ndarray, "m d"]
) -> tuple[float, Int[np.ndarray, "n_pairs 2"]]:
    """(mean |cosine|, pairs) under the one-to-one matching of rows that maximises it (MCC).

    ``pairs`` holds (row of found, row of true), min(n, m) of them, in the order of ``found``. The mean is over the m
    rows of ``true``; rows without a partner count as 0. For n >= m this is the usual mean over pairs. Signs do not matter;
    rows of zeros have cosine 0 with everything. Raises InputError for different widths and for no true rows.
    """
    left, right = _unit_rows(found, keep_zeros=True), _unit_rows(true, keep_zeros=True)
    _check_widths(left, right)
    if not len(right):
        raise InputError("there are no true directions to match with")
    cosines = np.abs(left @ right.T)
    pairs = np.stack(linear_sum_assignment(cosines, maximize=True), 1)
    return float(cosines[pairs[:, 0], pairs[:, 1]].sum() / len(right)), pairs


# ------------------------------------------------------------------------------------------------------------ intervals


def bootstrap_interval(
    values: Sequence[float] | Num[np.ndarray, " m"], *, seed: int, n: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """(low, high): the interval that holds ``level`` of the means of ``n`` resamples (the percentile bootstrap).

    ``values`` are independent units (concepts, not the samples within a concept). Efron 1979, Ann. Statist. 7:1. Raises
    InputError for no values or values that are not finite.
    """
    array = np.asarray(values, np.float64)
    if not array.size or array.ndim != 1 or not np.isfinite(array).all():
        raise InputError("an interval needs a list of at least one finite value; leave out or replace undefined ones")
    if not 0 < level < 1:
        raise InputError(f"level is a share between 0 and 1, got {level}")
    random = np.random.default_rng(seed)
    means = [array[random.integers(0, len(array), len(array))].mean() for _ in range(n)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# --------------------------------------------------------------------------------------------------------------- private


def _checked(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.ndim != 2 or len(scores) != len(labels):
        raise InputError(f"scores {scores.shape} and labels {labels.shape} must be tables with the same number of rows")
    if labels.dtype != bool:
        raise InputError(f"labels must be True or False, got {labels.dtype}; compare with 0 first")
    # The largest value is NaN if any value is, and finding it makes no copy.
    if scores.size and np.isnan(scores.max()):
        raise InputError(f"scores of column {int(np.isnan(scores.max(0)).argmax())} hold NaN")
    return scores, labels


def _transposed(table: np.ndarray) -> np.ndarray:
    """A contiguous copy of the transpose, made in tiles that fit the cache: six times as fast as in one go."""
    columns = np.empty(table.shape[::-1], table.dtype)
    for row in range(0, len(table), 256):
        columns[:, row : row + 256] = table[row : row + 256].T
    return columns


def _rank(values: np.ndarray, out: np.ndarray) -> float:
    """Writes the mean rank (from 1) of each nonzero value, minus that of the zeros, to ``out``; returns that of the zeros."""
    rows = np.flatnonzero(values != 0)
    order = np.argsort(values[rows])
    rows = rows[order]
    ordered = values[rows]
    n_zero = len(values) - len(ordered)
    n_below = int(np.searchsorted(ordered, 0))
    ranks = np.arange(1.0, len(ordered) + 1)
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(ordered) else rows
    if len(starts) < len(ordered):  # ties
        sizes = np.diff(starts, append=len(ordered))
        ranks = np.repeat(starts + (sizes + 1) / 2, sizes)
    ranks[n_below:] += n_zero
    zero_rank = n_below + (n_zero + 1) / 2
    out[rows] = ranks - zero_rank
    return zero_rank


def _cumulative_hits(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each distinct score, descending: the score, and the positive rows and all rows at or above it."""
    order = np.argsort(scores)[::-1]
    ordered = scores[order]
    is_last = np.append(ordered[1:] != ordered[:-1], True) if len(ordered) else np.zeros(0, bool)
    last = np.flatnonzero(is_last)
    return ordered[last], np.cumsum(positive[order])[last], last + 1


def _unit_rows(rows: np.ndarray, *, keep_zeros: bool = False) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim != 2:
        raise InputError(f"directions must be a table [n, d], got shape {rows.shape}")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all():
        raise InputError("directions hold NaN or infinite values")
    unit = rows / np.where(norms > 0, norms, 1)
    return unit if keep_zeros else unit[norms[:, 0] > 0]


def _check_widths(left: np.ndarray, right: np.ndarray) -> None:
    if left.shape[1] != right.shape[1]:
        raise InputError(f"directions of widths {left.shape[1]} and {right.shape[1]} cannot be compared")
