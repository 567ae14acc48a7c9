"""What the Compare page shows: one text in several runs, the features that fire on each token, and their counterparts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict, TypeVar

import numpy as np
from jaxtyping import Float
from scipy import sparse

from interp.browse.code_matches import MATCHED_AT, N_DRAWS, CodeMatches
from interp.browse.definitions import COMPARE
from interp.browse.evidence import ShownLabel
from interp.browse.features import SIGNED
from interp.errors import InputError
from interp.evaluation.number_text import short
from interp.index.reader import FeatureIndex
from interp.runs.record import Run

T = TypeVar("T")

N_ON_TOKEN = 15
"""Features listed of a token; more run off the screen."""
N_ALONE = 10
"""Features listed that another run lacks."""


class TextCodes(NamedTuple):
    """A text's tokens and a run's codes on them."""

    tokens: tuple[str, ...]
    codes: sparse.csr_array
    """[n_tokens, n_features]"""
    note: str = ""
    """What a reader must know of these codes."""


@dataclass(frozen=True)
class RunOnText:
    """A run and its codes on the text."""

    run: str
    """STORE/RUN."""
    kind: str
    site: str
    text: TextCodes
    labels: Mapping[int, ShownLabel] = field(default_factory=dict)
    maxima: Float[np.ndarray, " n_features"] | None = None
    """Largest code of each feature on the run's store; None without an index."""


class MatchPart(TypedDict):
    """A feature's counterpart in another run."""

    run: str
    feature: int
    text: str
    is_matched: bool


class FeatureOnText(TypedDict):
    """A feature that fires on the text."""

    feature: int
    label: str
    is_automatic: bool
    largest: float
    """Of largest absolute value on the text, with its sign."""
    codes: list[tuple[int, float]]
    """(token, code) where it is not 0."""
    matches: list[MatchPart]


class Alone(TypedDict):
    """Features that fire on the text and have no counterpart in another run."""

    run: str
    n: int
    of: int
    """Features that fire on the text."""
    features: list[int]
    """The strongest ones."""


class ComparedColumn(TypedDict):
    """One run's column."""

    run: str
    title: str
    note: str
    tokens: list[str]
    strongest: list[list[int]]
    """Features on each token, the largest absolute code first."""
    n_on: list[int]
    """How many there are on each token."""
    features: dict[str, FeatureOnText]
    """By number, all that are listed anywhere."""
    alone: list[Alone]


class Compared(TypedDict):
    """All columns, and what is to be known of them together."""

    columns: list[ComparedColumn]
    notes: list[str]
    token: int


Matches = Mapping[tuple[str, str], CodeMatches]
"""By (run, other run)."""


def indexed_text(index: FeatureIndex, document: int, passage: int) -> TextCodes:
    """A passage of a document of the index's store: its tokens in one sequence. Passages count from 1.

    Raises InputError for a document or a passage that there is not.
    """
    rows = chosen_passage(index.passages(document), document, passage)
    notes = [SIGNED] if index.record.positive_side_only else []
    if index.record.n_cut:
        notes.append(
            f"of {index.record.n_cut:,} features that fire on many tokens, only the largest codes are in the index"
        )
    tokens = index.tokens_of(rows)
    return TextCodes(tuple(tokens), index.codes_on(rows), "; ".join(notes))


def chosen_passage(found: Sequence[T], document: int, passage: int) -> T:
    """The passage, counted from 1. Raises InputError naming how many there are."""
    if not 1 <= passage <= len(found):
        raise InputError(
            f"there is no passage {passage} of document {document}: it has {len(found)}; choose another document or passage"
        )
    return found[passage - 1]


def run_on_text(
    name: str, run: Run, text: TextCodes, labels: Mapping[int, ShownLabel], index: FeatureIndex | None
) -> RunOnText:
    """A run's column; ``index`` says how large the codes of each feature get."""
    maxima = None if index is None else index.summary["max"].to_numpy()
    return RunOnText(name, run.kind, str(run.site), text, labels, maxima)


def partner(name: str, runs: Mapping[str, Run]) -> str | None:
    """The run to stand beside ``name`` until a person chooses one: of its store and site if there is one, else of its store,
    else any."""
    run = runs[name]

    def is_far(other: str) -> tuple[bool, bool]:
        return runs[other].store_path != run.store_path, runs[other].site != run.site

    return min((other for other in runs if other != name), key=is_far, default=None)


def compared(columns: Sequence[RunOnText], matches: Matches, token: int, unmatched: Sequence[str] = ()) -> Compared:
    """The columns for JSON, with ``token`` chosen, or the nearest that there is; ``unmatched`` are sentences on runs whose
    features were not matched."""
    return Compared(
        columns=[
            _column(column, [other.run for other in columns if other is not column], matches) for column in columns
        ],
        notes=[*_notes(columns, matches), *unmatched],
        token=max(0, min(token, *(len(column.text.tokens) - 1 for column in columns))),
    )


def _column(column: RunOnText, others: Sequence[str], matches: Matches) -> ComparedColumn:
    codes = sparse.csr_array(column.text.codes)
    codes.eliminate_zeros()
    strongest, n_on = [], []
    for first, stop in zip(codes.indptr[:-1], codes.indptr[1:], strict=True):
        order = np.argsort(-np.abs(codes.data[first:stop]), kind="stable")
        strongest.append(codes.indices[first:stop][order[:N_ON_TOKEN]].tolist())
        n_on.append(int(stop - first))
    by_feature = codes.tocsc()
    firing = np.flatnonzero(np.diff(by_feature.indptr))
    largest = np.zeros(codes.shape[1])
    for f in firing:
        values = by_feature.data[by_feature.indptr[f] : by_feature.indptr[f + 1]]
        largest[f] = values[np.abs(values).argmax()]
    # Codes of different features are told apart by what each reaches at most, where that is known.
    strength = np.abs(largest) if column.maxima is None else np.abs(largest) / np.maximum(column.maxima, 1e-12)
    ranked = firing[np.argsort(-strength[firing], kind="stable")]
    alone = []
    for other in others:
        if (column.run, other) in matches:
            lacking = [int(f) for f in ranked if not matches[column.run, other].is_matched[f]]
            alone.append(Alone(run=other, n=len(lacking), of=len(firing), features=lacking[:N_ALONE]))
    listed = {f for features in strongest for f in features} | {f for each in alone for f in each["features"]}
    return ComparedColumn(
        run=column.run,
        title=f"{column.kind} · {column.site}",
        note=column.text.note,
        tokens=list(column.text.tokens),
        strongest=strongest,
        n_on=n_on,
        features={str(f): _feature(column, by_feature, f, float(largest[f]), others, matches) for f in sorted(listed)},
        alone=alone,
    )


def _feature(
    column: RunOnText, codes: sparse.csc_array, f: int, largest: float, others: Sequence[str], matches: Matches
) -> FeatureOnText:
    label = column.labels.get(f, ShownLabel("", False))
    part = slice(codes.indptr[f], codes.indptr[f + 1])
    return FeatureOnText(
        feature=f,
        label=label.text,
        is_automatic=label.is_automatic,
        largest=_rounded(largest),
        codes=[
            (i, _rounded(value))
            for i, value in zip(codes.indices[part].tolist(), codes.data[part].tolist(), strict=True)
        ],
        matches=[_match(other, matches[column.run, other], f) for other in others if (column.run, other) in matches],
    )


def _match(other: str, found: CodeMatches, f: int) -> MatchPart:
    feature, r, chance = int(found.features[f]), float(found.correlations[f]), float(found.chance[f])
    text = f"r {short(r)}, by chance {short(chance)}" if feature >= 0 else "fires on none of the tokens compared"
    return MatchPart(run=other, feature=feature, text=text, is_matched=bool(found.is_matched[f]))


def _notes(columns: Sequence[RunOnText], matches: Matches) -> list[str]:
    """What is to be known of the columns together."""
    notes = []
    if len({column.site for column in columns}) > 1:
        notes.append(
            "These runs are of different sites: they see the text at other places of the model, so what one finds and the "
            "other does not may be a matter of the site and not of the method."
        )
    if len({column.text.tokens for column in columns}) > 1:
        notes.append("The runs cut this text into different tokens, so tokens of the same number are not the same.")
    if matches:
        n_tokens = next(iter(matches.values())).n_tokens
        notes.append(
            f"Counterparts: from r {short(MATCHED_AT)} on, and above chance (mean of {N_DRAWS} draws), two features are called "
            f"matched; over {n_tokens:,} tokens. {COMPARE['correlation'].says}"
        )
    return notes


def _rounded(value: float) -> float:
    """Three significant digits: more cannot be seen."""
    return float(f"{value:.3g}")
