"""Choosing one feature per label on some documents, to be measured on others.

Codes of all features on all rows may not fit in memory, so features are scored in blocks and only the best one's scores kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Num, UInt8
from scipy.stats import rankdata
from torch import Tensor

from interp.errors import InputError
from interp.metrics import auroc_matrix
from interp.store.source import ActivationSource

SELECT, TEST, RESERVED = range(3)
SHARES = (0.4, 0.4, 0.2)
"""Share of tokens wanted in select, test and reserved."""
_CHUNK = 4096
_VALUES_HELD = 2**27  # codes of one block of features: 0.5 GB in float32
_COLUMNS_RANKED = 256  # ranking takes several times the memory of what is ranked


def split_documents(documents: Int[np.ndarray, " n"], shares: Sequence[float] = SHARES) -> Int[np.ndarray, " n"]:
    """Part of each token, so that no document is in two parts and token counts are near ``shares``.

    Greedy and deterministic: from the longest document to the shortest, each goes where the most tokens are missing.
    Raises InputError when there are fewer documents than parts.
    """
    numbers, inverse, counts = np.unique(documents, return_inverse=True, return_counts=True)
    if len(numbers) < len(shares):
        raise InputError(
            f"there are {len(numbers)} documents for {len(shares)} parts; evaluate on a store with more documents"
        )
    missing = np.asarray(shares) * len(documents)
    part = np.empty(len(numbers), dtype=np.int64)
    for document in np.argsort(-counts, kind="stable"):
        part[document] = int(np.argmax(missing))
        missing[part[document]] -= counts[document]
    return part[inverse]


@dataclass(frozen=True)
class Candidates:
    """Features to choose from: rows [n, d_in] to scores [n, n_features]."""

    score: Callable[[Tensor], Tensor]
    n_features: int
    signed: bool
    """Whether low scores may mean a label as well as high ones."""


@dataclass(frozen=True)
class ChosenFeatures:
    """The chosen candidate of each label, with its scores (sign applied) on select and test, [n_labels, n]."""

    features: Int[np.ndarray, " n_labels"]
    signs: Int[np.ndarray, " n_labels"]
    select: Float[np.ndarray, "n_labels n_select"]
    test: Float[np.ndarray, "n_labels n_test"]
    association: Float[np.ndarray, "n_labels n_features"]
    """Of every candidate, on select."""


@dataclass(frozen=True)
class LabelledRows:
    """The sampled rows, their labels and which part each belongs to."""

    source: ActivationSource
    rows: Int[np.ndarray, " n"]
    labels: UInt8[np.ndarray, "n n_labels"]
    part: Int[np.ndarray, " n"]
    """SELECT, TEST or RESERVED."""
    n_documents: dict[str, int]

    @classmethod
    def draw(
        cls, source: ActivationSource, labels: np.ndarray, documents: np.ndarray, *, max_rows: int, seed: int
    ) -> LabelledRows:
        """At most ``max_rows`` rows at random (a fixed choice for a seed), split by document."""
        rows = np.arange(len(source))
        if len(rows) > max_rows:
            rows = np.sort(np.random.default_rng(seed).choice(rows, max_rows, replace=False))
        part = split_documents(documents[rows])
        counts = {
            name: len(np.unique(documents[rows][part == i])) for i, name in enumerate(("select", "test", "reserved"))
        }
        return cls(source, rows, labels[rows], part, counts)

    def sizes(self) -> dict[str, int]:
        """Rows in each part."""
        return {name: int((self.part == i).sum()) for i, name in enumerate(("select", "test", "reserved"))}

    def of(self, part: int, columns: Sequence[int]) -> UInt8[np.ndarray, "n_part k"]:
        """Some columns of the labels of one part."""
        return self.labels[self.part == part][:, columns]

    def unusable(self, column: int, is_depth: bool, least: int) -> str | None:
        """Why a label cannot be measured, or None."""
        for part, name in ((SELECT, "select"), (TEST, "test")):
            values = self.of(part, [column])[:, 0]
            if is_depth and len(np.unique(values)) < 2:
                return f"has one value in {name}"
            n_positive = int((values != 0).sum())
            if not is_depth and n_positive < least:
                return f"{n_positive} positive tokens in {name}, fewer than {least}"
            if not is_depth and len(values) - n_positive < least:
                return f"{len(values) - n_positive} negative tokens in {name}, fewer than {least}"
        return None

    def chunks(self, part: int) -> Iterator[Float[Tensor, "_ d_in"]]:
        """Activations of one part, in order."""
        rows = self.rows[self.part == part]
        for first in range(0, len(rows), _CHUNK):
            yield self.source.rows(rows[first : first + _CHUNK])

    def scores(self, part: int, candidates: Candidates, features: np.ndarray) -> Float[np.ndarray, "n k"]:
        """Scores of some candidates on one part."""
        out = np.empty((int((self.part == part).sum()), len(features)), dtype=np.float32)
        index, at = torch.as_tensor(features), 0
        for chunk in self.chunks(part):
            out[at : at + len(chunk)] = candidates.score(chunk)[:, index].numpy()
            at += len(chunk)
        return out


Association = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(scores [n, k], labels [n, c]) to an association [c, k] in [-1, 1], 0 for none."""


def choose(data: LabelledRows, candidates: Candidates, columns: list[int], association: Association) -> ChosenFeatures:
    """For each label the candidate most associated with it on select, with its scores."""
    labels = data.of(SELECT, columns)
    n_select = len(labels)
    best = np.full(len(columns), -np.inf)
    features, signs = np.zeros(len(columns), dtype=np.int64), np.ones(len(columns), dtype=np.int64)
    kept = np.zeros((len(columns), n_select), dtype=np.float32)
    association_of = np.zeros((len(columns), candidates.n_features), dtype=np.float32)
    per_block = max(1, _VALUES_HELD // max(1, n_select))
    for first in range(0, candidates.n_features, per_block):
        block = np.arange(first, min(first + per_block, candidates.n_features))
        scores = data.scores(SELECT, candidates, block)
        for at in range(0, len(block), _COLUMNS_RANKED):
            found = association(scores[:, at : at + _COLUMNS_RANKED], labels)
            association_of[:, block[at : at + _COLUMNS_RANKED]] = found
            strength = np.abs(found) if candidates.signed else found
            top = strength.argmax(1)
            for c in np.flatnonzero(strength.max(1) > best):
                best[c], features[c] = strength[c, top[c]], block[at + top[c]]
                signs[c] = -1 if found[c, top[c]] < 0 and candidates.signed else 1
                kept[c] = signs[c] * scores[:, at + top[c]]
    test = data.scores(TEST, candidates, features).T * signs[:, None] if columns else np.zeros((0, 0))
    return ChosenFeatures(features, signs, kept, test, association_of)


def auroc_about_half(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """2 AUROC - 1, so that 0 is no association (as an ``Association``)."""
    return 2 * auroc_matrix(scores, labels != 0) - 1


def spearman_matrix(scores: Num[np.ndarray, "n k"], labels: Num[np.ndarray, "n c"]) -> Float[np.ndarray, "c k"]:
    """Spearman's rank correlation (ties share their mean rank) of every label with every column; 0 for a constant."""
    return _standard_ranks(labels).T @ _standard_ranks(scores) / len(scores)


def _standard_ranks(values: Num[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Ranks in each column, brought to mean 0 and deviation 1; all 0 for a constant column."""
    ranks = rankdata(values, axis=0)
    ranks -= ranks.mean(0)
    spread = ranks.std(0)
    return ranks / np.where(spread > 0, spread, 1.0)


def random_candidates(d_in: int, n: int, seed: int) -> Candidates:
    """``n`` random unit directions read by their projections: they show what choosing the best achieves by chance."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(n, d_in, generator=generator), dim=1)
    return Candidates(lambda x: x @ directions.T, n, signed=True)


def difference_in_means(data: LabelledRows, columns: list[int]) -> Float[np.ndarray, "n_test k"]:
    """Projections of test rows on mean(with) - mean(without) of each label, means taken on select."""
    has = torch.from_numpy((data.of(SELECT, columns) != 0).astype(np.float32))
    sums, total, at = torch.zeros(len(columns), data.source.d_in), torch.zeros(data.source.d_in), 0
    for chunk in data.chunks(SELECT):
        sums += has[at : at + len(chunk)].T @ chunk
        total += chunk.sum(0)
        at += len(chunk)
    n_with = has.sum(0)[:, None]
    directions = sums / n_with - (total - sums) / (len(has) - n_with)
    return torch.cat([chunk @ directions.T for chunk in data.chunks(TEST)]).numpy()
