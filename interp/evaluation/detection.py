"""Detection at firing: what does it say of a token that a feature fires on it?

A feature's firing is a prediction of a label, with hits (it fires and the label is there), precision = hits / fires, recall
= hits / positives, and F1 = 2 hits / (fires + positives). The feature of a concept, and the concept of a feature, are those
with the highest F1 on select; they are measured on test, and intervals resample test's documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from interp.evaluation.firing_codes import FiringCodes
from interp.evaluation.judged_rows import JudgedRows
from interp.evaluation.resampling import Resamples
from interp.metrics import f1_of_counts


@dataclass(frozen=True)
class Detections:
    """Pairs of a candidate and a label, with what happens on each document of test."""

    candidate: Int[np.ndarray, " n_pairs"]
    label: Int[np.ndarray, " n_pairs"]
    """Column of the labels; -1 where a candidate never fires on select, so that no label was chosen."""
    hits: Float[np.ndarray, "n_pairs n_documents"]
    """Tokens of each document on which the candidate fires and the label is there; 0 in documents of select."""
    fires: Float[np.ndarray, "n_pairs n_documents"]
    positives: Float[np.ndarray, "n_pairs n_documents"]

    @cached_property
    def f1(self) -> Float[np.ndarray, " n_pairs"]:
        """F1 over all of test; 0 for a candidate that does not fire there."""
        return f1_of_counts(self.hits.sum(1), self.fires.sum(1), self.positives.sum(1))

    @cached_property
    def precision(self) -> Float[np.ndarray, " n_pairs"]:
        """0 for a candidate that does not fire."""
        return self.hits.sum(1) / np.maximum(self.fires.sum(1), 1)

    @cached_property
    def recall(self) -> Float[np.ndarray, " n_pairs"]:
        return self.hits.sum(1) / np.maximum(self.positives.sum(1), 1)

    @cached_property
    def n_documents(self) -> Int[np.ndarray, " n_pairs"]:
        """Documents of test with a hit."""
        return (self.hits > 0).sum(1)

    def resampled_f1(self, resamples: Resamples) -> Float[np.ndarray, "n_pairs n_draws"]:
        """F1 of each resample of the documents."""
        return f1_of_counts(*(resamples.sums(counts) for counts in (self.hits, self.fires, self.positives)))


@dataclass(frozen=True)
class Association:
    """F1 of every candidate for every label that is judged, on select."""

    f1: Float[np.ndarray, "n_candidates n_columns"]
    columns: Int[np.ndarray, " n_columns"]

    def of_labels(self, codes: FiringCodes, rows: JudgedRows) -> Detections:
        """The best candidate of each label, on test."""
        return detections(codes, rows, candidate=self.f1.argmax(0), label=self.columns)

    def of_candidates(self, codes: FiringCodes, rows: JudgedRows) -> Detections:
        """The best label of each candidate, on test."""
        label = np.full(codes.n_candidates, -1)
        if len(self.columns):
            label = np.where(self.f1.max(1) > 0, self.columns[self.f1.argmax(1)], -1)
        return detections(codes, rows, candidate=np.arange(codes.n_candidates), label=label)


def association(codes: FiringCodes, rows: JudgedRows, columns: Int[np.ndarray, " n_columns"]) -> Association:
    """F1 on select of every candidate for each of the labels ``columns``."""
    labels = (rows.labels[:, columns] != 0) & rows.is_select[:, None]
    hits = codes.fires.T @ labels.astype(np.float32)
    n_fire = codes.n_fire_select(rows)
    return Association(f1_of_counts(hits, n_fire[:, None], labels.sum(0)[None]), columns)


def detections(
    codes: FiringCodes, rows: JudgedRows, *, candidate: Int[np.ndarray, " n_pairs"], label: Int[np.ndarray, " n_pairs"]
) -> Detections:
    """Count pairs document by document, on test."""
    n_documents = rows.n_documents
    firing = sparse.coo_array(codes.fires[:, candidate])
    row, pair = firing.coords
    in_test = rows.is_test[row]
    row, pair = row[in_test], pair[in_test]
    at = pair.astype(np.int64) * n_documents + rows.document[row]
    is_hit = (rows.labels[row, label[pair]] != 0) & (label[pair] >= 0)
    size = len(candidate) * n_documents
    shape = (len(candidate), n_documents)
    of_label = np.zeros((rows.labels.shape[1] + 1, n_documents))  # the last stands for no label
    np.add.at(of_label[:-1].T, rows.document[rows.is_test], rows.labels[rows.is_test] != 0)
    return Detections(
        candidate=candidate,
        label=label,
        hits=np.bincount(at[is_hit], minlength=size).reshape(shape).astype(np.float64),
        fires=np.bincount(at, minlength=size).reshape(shape).astype(np.float64),
        positives=of_label[label],
    )


def normalised_mutual_information(found: Detections, n_rows: int) -> Float[np.ndarray, " n_pairs"]:
    """Mutual information of firing and label over the ``n_rows`` rows of test, over the mean of their two entropies; 0 to 1.

    0 where either is constant. This is ``sklearn.metrics.normalized_mutual_info_score``.
    """
    both, fires, positives = found.hits.sum(1), found.fires.sum(1), found.positives.sum(1)
    cells = np.stack([both, fires - both, positives - both, n_rows - fires - positives + both]) / n_rows
    firing, labelled = np.stack([fires, n_rows - fires]) / n_rows, np.stack([positives, n_rows - positives]) / n_rows
    entropies = _entropy(firing) + _entropy(labelled)
    shared = entropies - _entropy(cells)
    constant = np.minimum(firing.min(0), labelled.min(0)) == 0
    return np.where(constant, 0.0, 2 * shared / np.maximum(entropies, 1e-300))


def _entropy(shares: Float[np.ndarray, "k n"]) -> Float[np.ndarray, " n"]:
    return -np.sum(shares * np.log(np.where(shares > 0, shares, 1)), axis=0)
