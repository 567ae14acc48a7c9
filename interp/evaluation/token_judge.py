"""A judge that learns from labelled text: logistic regression on how often each token occurs.

The text of some documents of a store is cut into windows; a window has a label if at least half of its tokens have it. Each
label has a regression of its own (L2, ``interp.evaluation.logistic``) on the counts of the model's tokens, brought to the
length of a window. It is fitted on half of these documents and measured on the other half; what it gives of a text is a
probability.

A judge must not see the text on which features were chosen. ``judge_documents`` are half of the documents of any store, by a
hash of their names, the same half in every store: choose features on the others, or on another store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from interp.errors import InputError
from interp.evaluation.judged_rows import split_documents
from interp.evaluation.logistic import fit_logistic_outputs

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel
    from interp.store.reader import ActivationStore

WIDTH = 32
"""Tokens of a window: the length of a short continuation."""
_MIN_WINDOWS, _MIN_DOCUMENTS = 5, 2


@dataclass(frozen=True)
class JudgeAccuracy:
    """How well a label is told from the tokens, on windows of documents that the judge was not fitted on."""

    balanced_accuracy: float
    """Mean of the shares of windows with and without the label that are judged right at probability 1/2; chance is 1/2."""
    base_rate: float
    """Share of these windows that have the label."""
    n_windows: int


@dataclass(frozen=True)
class TokenJudge:
    """A ``TextJudge`` whose figure of a label is the probability that a text has it, by its tokens alone."""

    encode: Callable[[str], Sequence[int]]
    """The model's tokens of a text."""
    weights: Float[np.ndarray, "d_vocab n_labels"]
    intercepts: Float[np.ndarray, " n_labels"]
    accuracy: dict[str, JudgeAccuracy]
    """Of each label, in the order of the columns."""
    left_out: dict[str, str]
    """Labels that cannot be judged, and why."""
    n_documents: int
    """Documents that it was fitted on."""

    def __call__(self, text: str, *, start: int) -> dict[str, float]:
        """The probability of each label for ``text`` from ``start`` on; what is before is not looked at."""
        ids = np.asarray(self.encode(text[start:]), dtype=np.int64)
        z = self.intercepts + (self.weights[ids].sum(0) * WIDTH / len(ids) if len(ids) else 0)
        return dict(zip(self.accuracy, _sigmoid(z).tolist(), strict=True))

    @classmethod
    def train(
        cls,
        store: ActivationStore,
        model: LanguageModel,
        *,
        label_set: str | None = None,
        documents: Int[np.ndarray, " n"] | None = None,
        seed: int = 0,
    ) -> TokenJudge:
        """A judge of a label set's labels (by default the store's first), from the text of ``documents``.

        ``documents`` are numbers as the store gives them, by default ``judge_documents(store)``. Labels that are whole numbers
        and labels with fewer than 5 windows with or without them, or windows of fewer than 2 documents, in either half are left
        out. Raises InputError for a store of another tokenizer, for fewer than two documents, and where no label is left.
        """
        if store.manifest.tokenizer_fingerprint != model.tokenizer_fingerprint:
            raise InputError(f"the store '{store.path}' was captured with another tokenizer than that of '{model.id}'")
        name = store.label_set(label_set)
        used = judge_documents(store) if documents is None else documents
        counts, labels, document = _windows(store, name, used, model.d_vocab)
        is_test = split_documents(document, labels, seed=seed)
        left_out = {}
        for column, label in enumerate(store.label_sets[name]):
            if reason := _why_unusable(label, labels[:, column], document, is_test):
                left_out[label] = reason
        columns = [i for i, label in enumerate(store.label_sets[name]) if label not in left_out]
        if not columns:
            first, reason = next(iter(left_out.items()))
            raise InputError(
                f"no label of '{name}' can be judged from {len(np.unique(document))} documents of '{store.path}' ('{first}': "
                f"{reason}); capture more labelled text"
            )
        labels = labels[:, columns]
        weights, intercepts = fit_logistic_outputs(counts[~is_test], labels[~is_test])
        judged = _sigmoid(counts[is_test] @ weights + intercepts) >= 0.5
        names = [store.label_sets[name][i] for i in columns]
        found = map(_accuracy, labels[is_test].T, judged.T)
        return cls(
            encode=lambda text: model.encode(text)[1:].tolist(),
            weights=weights,
            intercepts=intercepts,
            accuracy=dict(zip(names, found, strict=True)),
            left_out=left_out,
            n_documents=len(np.unique(document[~is_test])),
        )


def judge_documents(store: ActivationStore) -> Int[np.ndarray, " n"]:
    """Numbers of the documents of a store that are for judges: half of all names, whatever the store."""
    names, _ = store.documents()
    return np.asarray([i for i, name in enumerate(names) if hashlib.sha256(name.encode()).digest()[0] % 2], np.int64)


def _windows(
    store: ActivationStore, label_set: str, documents: Int[np.ndarray, " n"], d_vocab: int
) -> tuple[csr_array, Bool[np.ndarray, "n_windows n_labels"], Int[np.ndarray, " n_windows"]]:
    """(counts of tokens brought to ``WIDTH`` tokens, labels, document) of each window of consecutive tokens of a document.

    The rest of a document is a window if it is half as long as others, or all there is of the document.
    """
    sequence, position = store.positions().T
    of_row, tokens = store.row_documents(), store.tokens()[sequence, position]
    firsts = np.flatnonzero(np.diff(of_row, prepend=-1))
    lengths = np.diff(firsts, append=len(of_row))
    place, length = np.arange(len(of_row)) - np.repeat(firsts, lengths), np.repeat(lengths, lengths)
    size = np.minimum(WIDTH, length - place // WIDTH * WIDTH)
    rows = np.flatnonzero(np.isin(of_row, documents) & ((2 * size >= WIDTH) | (size == length)))
    starts = np.flatnonzero(place[rows] % WIDTH == 0)
    window = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(rows)))
    sizes = size[rows[starts]]
    values = (WIDTH / size[rows]).astype(np.float32)
    counts = csr_array((values, (window, tokens[rows])), shape=(len(starts), d_vocab))
    has_label = store.labels(label_set)[rows] != 0
    labels = np.add.reduceat(has_label.astype(np.int64), starts) if len(starts) else has_label.astype(np.int64)
    return counts, 2 * labels >= sizes[:, None], of_row[rows[starts]].astype(np.int64)


def _why_unusable(
    label: str, has: Bool[np.ndarray, " n"], document: Int[np.ndarray, " n"], is_test: Bool[np.ndarray, " n"]
) -> str | None:
    if label.endswith("_depth"):
        return "is a whole number"
    for half, name in ((~is_test, "fitted on"), (is_test, "measured on")):
        n, n_documents = int(has[half].sum()), len(np.unique(document[half & has]))
        if min(n, int(half.sum()) - n) < _MIN_WINDOWS or n_documents < _MIN_DOCUMENTS:
            return f"{n} of {int(half.sum())} windows that it is {name} have it, in {n_documents} documents"
    return None


def _accuracy(has: Bool[np.ndarray, " n"], judged: Bool[np.ndarray, " n"]) -> JudgeAccuracy:
    right = has == judged
    return JudgeAccuracy(float((right[has].mean() + right[~has].mean()) / 2), float(has.mean()), len(has))


def _sigmoid(z: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    return 1 / (1 + np.exp(-np.clip(z, -500, 500)))
