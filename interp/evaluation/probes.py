"""Probes: how well logistic regression reads a label from a few features, and from the whole activation.

A k-sparse probe sees the k features that differ most between tokens with a label and tokens without it (Gurnee et al. 2023,
2305.01610; Karvonen et al. 2025, SAEBench, 2503.09532). All is chosen on the rows of select: features, weights and
the threshold at which the F1 is highest. Only then are the rows of test predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from scipy.sparse import csc_array

from interp.evaluation.logistic import fit_logistic, fit_logistic_outputs
from interp.metrics import best_threshold_f1

KS = (1, 2, 5, 16)
"""1, 2 and 5 as in SAEBench; 16 is half the features that fire on a token of the demo."""
FULL_PROBE_L2 = 100.0
"""On 7 500 tokens of five documents, judged on five others, both ways round: mean F1 of 30 labels at l2 1, 10, 30, 100, 300,
1000 is .76, .79, .79, .78, .77, .75 for a residual stream of width 256 and .68, .71, .73, .75, .75, .73 for an MLP of width
1 024. At scikit-learn's 1 the probe on the whole activation learns its documents by heart and is no ceiling."""


@dataclass(frozen=True)
class SparseProbes:
    """What the k-sparse probes of each label predict on test."""

    ks: tuple[int, ...]
    features: Int[np.ndarray, "n_labels k"]
    """The greatest k of them, best first: a probe of fewer sees the first."""
    predicted: Bool[np.ndarray, "n_labels n_ks n_test"]


@dataclass(frozen=True)
class FullProbe:
    """The probe on the whole activation: label j is predicted where x @ directions[j] >= thresholds[j]."""

    directions: Float[np.ndarray, "n_labels d"]
    """In the space of the activations: logits per unit of activation, not unit vectors."""
    thresholds: Float[np.ndarray, " n_labels"]
    predicted: Bool[np.ndarray, "n_labels n_test"]


def sparse_probes(
    columns: csc_array | Num[np.ndarray, "n n_features"],
    labels: Bool[np.ndarray, "n n_labels"],
    is_test: Bool[np.ndarray, " n"],
    *,
    ks: Sequence[int] = KS,
    l2: float = 1.0,
) -> SparseProbes:
    """The k-sparse probes of every label on ``columns``: codes of features, coordinates of the activation, projections.

    Features are ranked by |mean with the label - mean without it| / standard deviation, all on select; equals by number.
    SAEBench does not divide. Here the scale of a feature is no evidence: methods scale their codes differently (and a code can
    be doubled by halving its direction), so a column is divided by its deviation before it is ranked and before the
    regression, whose penalty (``l2``; 1 is scikit-learn's) would see the scale too. Constant columns come last.
    Probes of more features than there are see all. Raises InputError for a label without both classes on select.
    """
    scale, order = _ranking(columns[~is_test], labels[~is_test], max(ks))
    # [n_labels, n, k]. Not centred, which the intercept would only undo: the 0 of a code stays exactly 0.
    chosen = np.stack([_dense(columns[:, features]) / scale[features] for features in order])
    predicted = []
    for k in ks:
        weights, intercepts = fit_logistic(chosen[:, ~is_test, :k], labels[~is_test].T, l2=l2)
        logits = (chosen[..., :k] @ weights[..., None])[..., 0] + intercepts[:, None]
        predicted.append(_above_best_threshold(logits.T, labels, is_test)[0].T)
    return SparseProbes(tuple(ks), order, np.stack(predicted, 1))


def full_probe(
    x: Float[np.ndarray, "n d"],
    labels: Bool[np.ndarray, "n n_labels"],
    is_test: Bool[np.ndarray, " n"],
    *,
    l2: float = FULL_PROBE_L2,
) -> FullProbe:
    """The logistic regression of every label on whole activations, brought to mean 0 and deviation 1 on select.

    What can be read linearly at all: the ceiling of probes on features. Held at once: three copies of select and
    some 100 bytes for each label and coordinate. Raises InputError for a label without both classes on select.
    """
    select = np.asarray(x[~is_test], np.float32)
    mean, deviation = select.mean(0, dtype=np.float64), select.std(0, dtype=np.float64)
    deviation = np.where(deviation > 1e-6 * np.abs(mean), deviation, np.inf)  # a constant adds nothing
    standard = ((select - mean) / deviation).astype(np.float32)
    weights, _ = fit_logistic_outputs(standard, labels[~is_test], l2=l2)
    directions = (weights / deviation[:, None]).T.astype(np.float64)
    predicted, thresholds = _above_best_threshold(x @ directions.T, labels, is_test)
    return FullProbe(directions, thresholds, predicted.T)


# --------------------------------------------------------------------------------------------------------------- private


def _ranking(
    columns: csc_array | np.ndarray, labels: np.ndarray, k: int
) -> tuple[Float[np.ndarray, " n_features"], Int[np.ndarray, "n_labels k"]]:
    """The deviation of each column (1 if it is constant), and the k columns that differ most with each label."""
    values = columns.astype(np.float64)
    mean, square = values.sum(0) / len(labels), (values * values).sum(0) / len(labels)
    variance = square - mean**2
    is_constant = variance <= 1e-12 * square  # no more than rounding
    deviation = np.sqrt(np.where(is_constant, 1, variance))
    n_with = labels.sum(0)[:, None]
    sums = (values.T @ labels.astype(np.float64)).T
    difference = sums / np.maximum(n_with, 1) - (mean * len(labels) - sums) / np.maximum(len(labels) - n_with, 1)
    strength = np.where(is_constant, -1, np.abs(difference) / deviation)
    return deviation, np.argsort(-strength, axis=1, kind="stable")[:, :k]


def _dense(columns: csc_array | np.ndarray) -> Float[np.ndarray, "n k"]:
    return (columns if isinstance(columns, np.ndarray) else columns.toarray()).astype(np.float64)


def _above_best_threshold(
    scores: Float[np.ndarray, "n n_labels"], labels: np.ndarray, is_test: np.ndarray
) -> tuple[Bool[np.ndarray, "n_test n_labels"], Float[np.ndarray, " n_labels"]]:
    """Which rows of test score at least the threshold with the best F1 on select, and the thresholds."""
    select = [best_threshold_f1(scores[~is_test][:, [j]], labels[~is_test, j])[0][0] for j in range(labels.shape[1])]
    thresholds = np.array(select, np.float64)
    return scores[is_test] >= thresholds, thresholds
