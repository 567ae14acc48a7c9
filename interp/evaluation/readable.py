"""What do a feature's strongest tokens have in common: a label, the token itself, or the token before?

Of the ``N_STRONGEST`` tokens of select on which a feature is strongest, the share that has a label, corrected for how common
the label is, (share - base rate) / (1 - base rate), is the label's purity. A label, a token or a token before that is pure
to ``PURE`` on select, and on the strongest tokens of test too, makes the feature *readable*: a person who sees its top
tokens finds that they have one thing in common, and finds it again in other documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.evaluation.firing_codes import FiringCodes
from interp.evaluation.judged_rows import JudgedRows

N_STRONGEST = 50
PURE = 0.9
LEAST_TOKENS = 10
"""Tokens of either half that a feature must fire on to be read."""
LEAST_DOCUMENTS = 5
"""Documents of test that its strongest tokens must come from."""
NO_ROW = -2
"""In a table of tokens: there is no row. -1 is a row that has no such token."""

NOTHING, LABEL, TOKEN, TOKEN_BEFORE = range(4)
"""What the strongest tokens have in common."""


@dataclass(frozen=True)
class Readings:
    """Of every candidate: what its strongest tokens of select have in common, and how pure that is on either half."""

    kind: Int[np.ndarray, " n_candidates"]
    """NOTHING (too few tokens), LABEL, TOKEN or TOKEN_BEFORE."""
    value: Int[np.ndarray, " n_candidates"]
    """Column of the label, or token id."""
    purity_select: Float[np.ndarray, " n_candidates"]
    purity_test: Float[np.ndarray, " n_candidates"]
    n_documents: Int[np.ndarray, " n_candidates"]
    """Documents that the strongest tokens of test come from."""
    strongest: Int[np.ndarray, "n_candidates n_strongest"]
    """Rows of select, strongest first, -1 where there are no more."""

    @cached_property
    def is_readable(self) -> Bool[np.ndarray, " n_candidates"]:
        is_pure = (self.purity_select >= PURE) & (self.purity_test >= PURE)
        return is_pure & (self.kind != NOTHING) & (self.n_documents >= LEAST_DOCUMENTS)


def read(codes: FiringCodes, rows: JudgedRows, columns: Int[np.ndarray, " n_columns"]) -> Readings:
    """Read every candidate by the labels ``columns`` and by tokens. A label is preferred to a token where both are pure."""
    select, test = (strongest_rows(codes, half) for half in (rows.is_select, rows.is_test))
    purities = [
        label_purity(found, rows, half, columns) for found, half in ((select, rows.is_select), (test, rows.is_test))
    ]
    n = codes.n_candidates
    best = purities[0].argmax(1) if len(columns) else np.zeros(n, np.int64)
    every = np.arange(n)
    kind, value = np.full(n, LABEL), columns[best] if len(columns) else np.zeros(n, np.int64)
    pure_select, pure_test = (p[every, best] if len(columns) else np.full(n, -np.inf) for p in purities)
    for back, name in ((0, TOKEN), (1, TOKEN_BEFORE)):
        if back >= rows.windows.shape[1]:
            continue
        token, share = most_common(_tokens(select, rows, back))
        found = _tokens(test, rows, back)
        again = np.sum((found == token[:, None]) & (found >= 0), axis=1) / np.maximum((test >= 0).sum(1), 1)
        is_better = (pure_select < PURE) & (share > pure_select)
        kind[is_better], value[is_better] = name, token[is_better]
        pure_select, pure_test = np.where(is_better, share, pure_select), np.where(is_better, again, pure_test)
    few = np.minimum((select >= 0).sum(1), (test >= 0).sum(1)) < LEAST_TOKENS
    kind[few] = NOTHING
    return Readings(
        kind=kind,
        value=value,
        purity_select=np.where(few, 0, pure_select),
        purity_test=np.where(few, 0, pure_test),
        n_documents=_distinct(np.where(test >= 0, rows.document[test], -1)),
        strongest=select,
    )


def strongest_rows(codes: FiringCodes, is_in: Bool[np.ndarray, " n"]) -> Int[np.ndarray, "n_candidates n_strongest"]:
    """The rows among those marked on which each candidate is strongest, strongest first; -1 where it fires on fewer."""
    table = codes.codes
    candidate = np.repeat(np.arange(table.shape[1]), np.diff(table.indptr))
    kept = is_in[table.indices]
    candidate, row, value = candidate[kept], table.indices[kept], table.data[kept].astype(np.float64)
    # One key for candidate and value takes a third of the time of two.
    order = np.argsort(candidate - value / (value.max(initial=0.0) + 1.0), kind="stable")
    candidate, row = candidate[order], row[order]
    place = np.arange(len(row)) - np.searchsorted(candidate, candidate)
    first = place < N_STRONGEST
    found = np.full((table.shape[1], N_STRONGEST), -1)
    found[candidate[first], place[first]] = row[first]
    return found


def label_purity(
    strongest: Int[np.ndarray, "n k"],
    rows: JudgedRows,
    half: Bool[np.ndarray, " n_rows"],
    columns: Int[np.ndarray, " c"],
) -> Float[np.ndarray, "n c"]:
    """(share - base rate) / (1 - base rate) of each label among the strongest tokens; minus infinity where there are none."""
    has = rows.labels[:, columns] != 0
    base = has[half].mean(0)
    is_there = np.asarray(strongest >= 0)
    shares = np.empty((len(strongest), len(columns)))
    for c in range(len(columns)):
        shares[:, c] = np.sum(has[strongest, c] & is_there, axis=1) / np.maximum(is_there.sum(1), 1)
    purity = (shares - base) / np.maximum(1 - base, 1e-12)
    return np.where((is_there.sum(1) > 0)[:, None], purity, -np.inf)


def most_common(tokens: Int[np.ndarray, "n k"]) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """(the most frequent token of each row, its share); tokens below 0 are none and are counted in no share."""
    ordered = np.sort(tokens, axis=1)
    starts = np.diff(ordered, axis=1, prepend=-2) != 0
    place = np.arange(ordered.shape[1])
    run_start = np.maximum.accumulate(np.where(starts, place, 0), axis=1)
    length = np.where(ordered >= 0, place - run_start + 1, 0)
    at = length.argmax(1)
    every = np.arange(len(tokens))
    return ordered[every, at], length[every, at] / np.maximum((tokens > NO_ROW).sum(1), 1)


def _tokens(strongest: Int[np.ndarray, "n k"], rows: JudgedRows, back: int) -> Int[np.ndarray, "n k"]:
    return np.where(strongest >= 0, rows.windows[strongest, back], NO_ROW)


def _distinct(numbers: Int[np.ndarray, "n k"]) -> Int[np.ndarray, " n"]:
    """How many different numbers of 0 or more each row has."""
    ordered = np.sort(numbers, axis=1)
    is_new = np.diff(ordered, axis=1, prepend=-1) != 0
    return np.sum(is_new & (ordered >= 0), axis=1)
