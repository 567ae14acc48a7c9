"""The rows that a run is judged on: drawn from a store, and split into two halves that share no document.

Everything that is chosen (the feature of a concept, the concept of a feature, a threshold, a probe) is chosen on *select*
and measured on *test*. Tokens of one document resemble each other, so halves are made of whole documents, and a concept is
judged only where it occurs in several documents of each half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from interp.errors import InputError
from interp.evaluation.results import ConceptConfig
from interp.store.moments import Moments
from interp.store.reader import ActivationStore
from interp.store.source import ActivationSource

WINDOW = 8
"""Tokens of context kept with each row, the row's own token first."""
_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class JudgedRows:
    """Rows with their labels, documents and tokens; rows are in the order of the store."""

    x: Float[Tensor, "n d_in"]
    """Activations, float32."""
    numbers: Int[np.ndarray, " n"]
    """The rows' numbers in the source, ascending."""
    labels: UInt8[np.ndarray, "n n_labels"]
    names: tuple[str, ...]
    document: Int[np.ndarray, " n"]
    """Number of each row's document, counted from 0 without gaps."""
    document_numbers: Int[np.ndarray, " n_documents"]
    """The numbers that the store gives them."""
    is_test: Bool[np.ndarray, " n"]
    windows: Int[np.ndarray, "n w"]
    """Token ids: column j is the token j before the row's own in its document, -1 where there is none."""
    moments: Moments
    """Of the whole source."""

    @classmethod
    def draw(
        cls,
        source: ActivationSource,
        *,
        labels: UInt8[np.ndarray, "n_rows n_labels"],
        names: Sequence[str],
        documents: Int[np.ndarray, " n_rows"],
        windows: Int[np.ndarray, "n_rows w"] | None = None,
        max_rows: int,
        seed: int,
    ) -> JudgedRows:
        """At most ``max_rows`` rows of ``source``, drawn evenly at random; the same for the same seed.

        Without ``windows`` no token is known. Memory: ``max_rows`` activations in float32. Raises InputError when the counts
        of rows and names do not fit, and for fewer than two documents.
        """
        if not len(source) == len(labels) == len(documents) or labels.shape[1] != len(names):
            raise InputError(
                f"{len(source)} rows, labels {labels.shape} with {len(names)} names and {len(documents)} document numbers "
                "do not fit together; give one label row and one document number per activation row"
            )
        rows = np.arange(len(source))
        if len(rows) > max_rows:
            rows = np.sort(np.random.default_rng(seed).choice(rows, max_rows, replace=False))
        chosen = labels[rows]
        numbers, document = np.unique(documents[rows], return_inverse=True)
        return cls(
            x=torch.cat([source.rows(rows[first : first + _CHUNK]) for first in range(0, len(rows), _CHUNK)]),
            numbers=rows,
            labels=chosen,
            names=tuple(names),
            document=document,
            document_numbers=numbers,
            is_test=split_documents(document, chosen != 0, seed=seed),
            windows=np.full((len(rows), 1), -1) if windows is None else windows[rows],
            moments=source.moments(),
        )

    @property
    def n_documents(self) -> int:
        return len(self.document_numbers)

    @property
    def test_documents(self) -> Int[np.ndarray, " n"]:
        """The store's numbers of the documents of test."""
        return self.document_numbers[np.unique(self.document[self.is_test])]

    @property
    def is_select(self) -> Bool[np.ndarray, " n"]:
        return ~self.is_test

    @cached_property
    def x_select(self) -> Float[Tensor, "n_select d_in"]:
        """Activations of select."""
        return self.x[torch.from_numpy(self.is_select)]

    def is_depth(self, column: int) -> bool:
        """Whether a label is a whole number, to be correlated, rather than present or absent."""
        return self.names[column].endswith("_depth")

    def why_unusable(self, column: int, *, min_positives: int, min_documents: int) -> str | None:
        """Why a label cannot be measured, or None."""
        for half, name in ((self.is_select, "select"), (self.is_test, "test")):
            values, documents = self.labels[half, column], self.document[half]
            if self.is_depth(column):
                if len(np.unique(values)) < 2:
                    return f"has one value in {name}"
                continue
            n_positive = int((values != 0).sum())
            if n_positive < min_positives:
                return f"{n_positive} positive tokens in {name}, fewer than {min_positives}"
            if len(values) - n_positive < min_positives:
                return f"{len(values) - n_positive} negative tokens in {name}, fewer than {min_positives}"
            if (n := len(np.unique(documents[values != 0]))) < min_documents:
                return f"occurs in {n} documents of {name}, fewer than {min_documents}"
        return None


def split_documents(
    documents: Int[np.ndarray, " n"], labels: Bool[np.ndarray, "n n_labels"], *, seed: int
) -> Bool[np.ndarray, " n"]:
    """Which rows are test: whole documents, so that each label occurs in as many documents of either half, and rows are even.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011): the label with the fewest documents left is dealt out
    first, the longest of its documents first, each to the half that lacks most of that label, then most of the rows. The
    seed decides what is left even. Raises InputError for fewer than two documents.
    """
    numbers, inverse, sizes = np.unique(documents, return_inverse=True, return_counts=True)
    if len(numbers) < 2:
        raise InputError("one document cannot be split into select and test; evaluate on a store with more documents")
    has = np.zeros((len(numbers), labels.shape[1]), dtype=bool)
    for column in range(labels.shape[1]):
        has[inverse[labels[:, column]], column] = True
    order = np.random.default_rng(seed).permutation(len(numbers))
    order = order[np.argsort(-sizes[order], kind="stable")]
    labels_lacking = np.repeat(has.sum(0)[None] / 2, 2, axis=0)
    rows_lacking = np.full(2, len(documents) / 2)
    half = np.full(len(numbers), -1)
    while len(left := order[half[order] < 0]):
        n_left = has[left].sum(0)
        if n_left.any():
            column = int(np.where(n_left > 0, n_left, len(numbers) + 1).argmin())
            dealt = left[has[left, column]]
        else:
            column, dealt = -1, left
        for document in dealt:
            lacking = labels_lacking[:, column] if column >= 0 else np.zeros(2)
            chosen = max((0, 1), key=lambda part: (lacking[part], rows_lacking[part]))
            half[document] = chosen
            labels_lacking[chosen] -= has[document]
            rows_lacking[chosen] -= sizes[document]
    return (half == 1)[inverse]


def token_windows(
    tokens: Int[np.ndarray, "n_seq n_ctx"],
    positions: Int[np.ndarray, "n_rows 2"],
    document: Int[np.ndarray, "n_seq n_ctx"],
    *,
    bos_id: int,
    width: int = WINDOW,
) -> Int[np.ndarray, "n_rows width"]:
    """The token of each row and those before it, nearest first; -1 beyond the sequence's beginning, a separator or its
    document."""
    sequence, position = positions.T
    windows = np.full((len(positions), width), -1, dtype=np.int32)
    is_in = np.ones(len(positions), dtype=bool)
    for back in range(width):
        at = np.maximum(position - back, 0)
        token = tokens[sequence, at]
        is_in &= (position - back >= 1) & (token != bos_id) & (document[sequence, at] == document[sequence, position])
        windows[is_in, back] = token[is_in]
    return windows


def judged_rows(store: ActivationStore, site: str, config: ConceptConfig) -> JudgedRows:
    """The rows that runs at ``site`` are judged on; those asked for last stay in memory.

    Raises InputError for a store without labels or with fewer than two documents.
    """
    return _judged_rows(store.path.resolve(), store.identity, site, store.label_set(config.label_set), config)


@lru_cache(maxsize=1)
def _judged_rows(path: Path, identity: str, site: str, label_set: str, config: ConceptConfig) -> JudgedRows:
    store = ActivationStore(path)
    positions, (_, document) = store.positions(), store.documents()
    return JudgedRows.draw(
        store.site(site),
        labels=store.labels(label_set),
        names=store.label_sets[label_set],
        documents=store.row_documents(),
        windows=token_windows(store.tokens(), positions, document, bos_id=store.manifest.bos_id),
        max_rows=config.max_rows,
        seed=config.seed,
    )
