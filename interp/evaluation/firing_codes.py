"""When each feature fires, on the rows that a run is judged on, in one form for every method and every null.

A sparse code is a firing code as it is: the feature fires where it is above 0. Where codes are hardly ever 0 (principal
components, raw coordinates) a feature has no firing of its own: each of its signs is a candidate, cut so that it fires on a
given share of select. Random directions are cut to fire on as many rows of select as the features that they stand beside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from interp.decomposers.sae.initialisation import random_directions
from interp.evaluation.judged_rows import JudgedRows

_CHUNK = 4096
_VALUES_HELD = 2**26  # scores of one block of candidates: 256 MB in float32
_DENSE = 0.5  # codes that are not 0 on more than this share of rows have no firing of their own


@dataclass(frozen=True)
class FiringCodes:
    """Non-negative codes of candidates on the judged rows; a candidate is a feature, of a cut method one of its signs."""

    codes: sparse.csc_array
    """[n, n_candidates] float32; what is not stored is 0."""
    feature: Int[np.ndarray, " n_candidates"]
    sign: Int[np.ndarray, " n_candidates"]
    """1, or -1 where the candidate fires on low values of its feature."""
    threshold: Float[np.ndarray, " n_candidates"]
    """A candidate fires where sign * code is greater; 0 where codes were taken as they are."""
    cut: float | None = None
    """Share of select that every candidate was cut to fire on; None where codes were taken as they are."""

    def of(self, candidates: Int[np.ndarray, " k"]) -> FiringCodes:
        """Some of the candidates."""
        return FiringCodes(
            codes=self.codes[:, candidates],
            feature=self.feature[candidates],
            sign=self.sign[candidates],
            threshold=self.threshold[candidates],
            cut=self.cut,
        )

    @property
    def n_candidates(self) -> int:
        return int(self.codes.shape[1])

    @cached_property
    def fires(self) -> sparse.csc_array:
        """1 where a candidate fires, float32."""
        codes = self.codes
        return sparse.csc_array((np.ones_like(codes.data), codes.indices, codes.indptr), shape=codes.shape)

    def n_fire_select(self, rows: JudgedRows) -> Int[np.ndarray, " n_candidates"]:
        """On how many rows of select each candidate fires."""
        return np.asarray(rows.is_select.astype(np.float32) @ self.fires).round().astype(np.int64)


def firing_codes(
    score: Callable[[Tensor], Tensor], n_features: int, rows: JudgedRows, *, signed: bool, dense_rate: float
) -> FiringCodes:
    """The firing codes of a method: ``score`` takes rows [n, d_in] to codes [n, n_features].

    Signed codes, and codes that are not 0 on more than half of the rows, are cut: every sign of a feature fires on the share
    ``dense_rate`` of select. Codes that are never negative are cut on their high side alone.
    """
    sample = rows.x_select[torch.linspace(0, len(rows.x_select) - 1, 512).long()]
    if not signed and float((score(sample) != 0).float().mean()) <= _DENSE:
        nothing = torch.zeros(n_features)
        parts = [_sparse(score(part), nothing) for part in rows.x.split(_CHUNK)]
        codes = sparse.csc_array(sparse.vstack(parts, format="csc"))
        return FiringCodes(codes, np.arange(n_features), np.ones(n_features, np.int64), np.zeros(n_features))
    signs = (1, -1) if signed else (1,)
    n_fire = np.full(n_features, max(1, round(dense_rate * len(rows.x_select))))
    columns: dict[int, list[tuple[sparse.csc_array, np.ndarray]]] = {sign: [] for sign in signs}
    width = max(1, _VALUES_HELD // len(rows.x))
    for first in range(0, n_features, width):
        block = torch.cat([score(part)[:, first : first + width] for part in rows.x.split(_CHUNK)])
        for sign in signs:
            columns[sign].append(cut(sign * block, n_fire[first : first + width], rows))
    blocks, thresholds = zip(*(part for sign in signs for part in columns[sign]), strict=True)
    return FiringCodes(
        codes=sparse.csc_array(sparse.hstack(blocks, format="csc")),
        feature=np.tile(np.arange(n_features), len(signs)),
        sign=np.repeat(signs, n_features),
        threshold=np.concatenate(thresholds),
        cut=dense_rate,
    )


def cut(
    scores: Float[Tensor, "n k"], n_fire: Int[np.ndarray, " k"], rows: JudgedRows
) -> tuple[sparse.csc_array, Float[np.ndarray, " k"]]:
    """(max(score - t, 0), t), with t the score above which candidate j fires on ``n_fire[j]`` rows of select (fewer where
    scores tie)."""
    select = scores[torch.from_numpy(rows.is_select)].T.contiguous().numpy()
    place = -1 - np.minimum(n_fire, select.shape[1] - 1)  # from the highest; a partition is faster than topk
    found = [np.partition(values, at)[at] if at < -1 else np.inf for values, at in zip(select, place, strict=True)]
    threshold = torch.tensor(found, dtype=scores.dtype)
    return sparse.csc_array(_sparse(scores, threshold)), threshold.numpy()


def random_codes(own: FiringCodes, rows: JudgedRows, seed: int, *, shaped: bool) -> FiringCodes:
    """As many random directions as ``own`` has candidates, each cut to fire on as many rows of select as its candidate does."""
    n_fire = own.n_fire_select(rows)
    directions = random_directions(own.n_candidates, rows.moments, seed, shaped=shaped)
    # Alike rates together: a block costs as much as its most frequent candidate.
    order = np.argsort(n_fire, kind="stable")
    parts = []
    width = max(1, _VALUES_HELD // 4 // len(rows.x))
    for first in range(0, len(order), width):
        block = order[first : first + width]
        parts.append(cut(rows.x @ directions[torch.from_numpy(block)].T, n_fire[block], rows))
    blocks, thresholds = zip(*parts, strict=True)
    back = np.argsort(order)
    return FiringCodes(
        codes=sparse.csc_array(sparse.hstack(blocks, format="csc"))[:, back],
        feature=np.arange(own.n_candidates),
        sign=np.ones(own.n_candidates, np.int64),
        threshold=np.concatenate(thresholds)[back],
        cut=own.cut,
    )


def _sparse(scores: Float[Tensor, "n k"], threshold: Float[Tensor, " k"]) -> sparse.csr_array:
    """max(score - threshold, 0) of a dense block as a sparse array."""
    fires = np.flatnonzero((scores > threshold).cpu().numpy())
    row, column = np.divmod(fires, scores.shape[1])
    values = scores.cpu().numpy().reshape(-1)[fires] - threshold.cpu().numpy()[column]
    starts = np.append(0, np.cumsum(np.bincount(row, minlength=len(scores))))
    return sparse.csr_array((values, column.astype(np.int32), starts), shape=tuple(scores.shape))
