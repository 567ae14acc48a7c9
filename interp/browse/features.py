"""The feature table and the feature card: which features pass a filter, in which order, and what JSON says of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypedDict, get_args

import pandas as pd

from interp.browse.evidence import (
    BEST_FIRST,
    MEASURES,
    EvidenceCard,
    EvidenceColumns,
    RunEvidence,
    counts_of_grades,
    evidence_card,
    evidence_columns,
    shown_labels,
)
from interp.browse.family import Family, family_of
from interp.errors import unknown_feature, unknown_name
from interp.evaluation.evidence import Grade
from interp.index.reader import Example, FeatureIndex, FeaturePage
from interp.runs.record import Run

Order = Literal[
    "best", "importance", "density", "max", "label", "tokens", "number",
    "f1", "excess", "concept", "output", "simulability", "stability",
]  # fmt: skip
ORDERS: tuple[Order, ...] = get_args(Order)
ORDERS_OF_EVIDENCE: tuple[Order, ...] = ("f1", "excess", "concept", "output", "simulability", "stability")
"""Orders of runs that have evidence."""
ORDER_NAMES: dict[str, str] = {"best": "best first", "f1": "F1", "output": "output effect", **MEASURES}
"""What an order is called, where that is not its name."""

DENSE = 0.1
"""Share of tokens above which a feature is dense: what fires on so much stands for little, however much variance it holds."""

N_TOKENS = 8
"""Strongest tokens that the table has, and that a search reads."""

Which = Literal["top", "intervals", "near-threshold", "random", "not-firing", "lowest"]
EXAMPLE_KINDS: tuple[Which, ...] = get_args(Which)

CONTEXTS: dict[str, int | None] = {"8": 8, "24": 24, "whole": None}
"""Tokens shown on each side of the example's token; None is the whole sequence."""

KINDS_SHOWN = ("alive", "dead", "bookmarked", "labelled")
"""The table's filters; several together mean all of them."""

SIGNED = "codes have both signs: density and max are of the positive side"
"""What a page says of a run with such codes."""


@dataclass(frozen=True)
class TableFilter:
    """Which features the table shows, and in which order."""

    order: Order = "best"
    """"best" is the best grade first, within a grade those that are not dense, then the largest excess; without evidence
    those that are not dense, then the largest importance. Largest first for numbers, those not measured last; alphabetical for
    tokens, concepts and labels, a person's labels before automatic ones, those without last; within a concept the largest
    excess."""

    is_reversed: bool = False
    """The other way round, but for what was not measured, which stays last."""

    query: str = ""
    """A feature number, ``tok: TEXT`` for features that fire on this token, or a part of the label shown, of the note, of the
    concept that it detects or is estimated to make the model write, or of one of its strongest tokens."""

    density: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest share of tokens on which a feature fires, both included."""

    shown: tuple[str, ...] = ()
    """Names from KINDS_SHOWN."""

    labels: Mapping[int, str] = field(default_factory=dict)
    """A person's label of each labelled feature."""

    notes: Mapping[int, str] = field(default_factory=dict)
    """A person's note on each feature that has one."""

    bookmarks: frozenset[int] = frozenset()
    """Bookmarked features."""

    evidence: RunEvidence = field(default_factory=RunEvidence)
    """What was measured of the features; the rest is about it."""

    grades: tuple[Grade, ...] = ()
    """Grades shown; none given means all."""

    concept: str = ""
    """The concept that a feature must detect, if one is given."""

    writes: str = ""
    """The concept that a feature must be estimated to make the model write, if one is given."""

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Lowest and highest value of some of MEASURES, both included; features of which it was not measured do not pass."""


class FeatureTable(TypedDict):
    """The table's columns over all features, by feature number."""

    density: list[float]
    """Share of tokens on which it fires."""
    max: list[float]
    """Largest activation."""
    importance: list[float]
    """Share of the variance."""
    dead: list[bool]
    words: list[str]
    """The tokens that ``tokens`` has, each once."""
    tokens: list[list[int]]
    """Strongest tokens, as places in ``words``."""
    evidence: EvidenceColumns | None


class FeatureCard(FeaturePage):
    """All about one feature except its examples."""

    positive_side_only: bool
    """Whether codes have both signs; then density, maximum and all examples but the lowest are of the positive side."""
    evidence: EvidenceCard
    family: Family | None
    """Its parent in the hierarchy of its run, and the parent's other children; None where there is none."""


def select_features(index: FeatureIndex, wanted: TableFilter) -> list[int]:
    """Feature numbers that pass the filter, in the table's order.

    A ``tok:`` search keeps the order of the search, best first: the person asked for the token, not for the ranking.
    """
    rows = index.summary.set_index("id", drop=False).join(wanted.evidence.columns)
    low, high = wanted.density
    rows = rows[(rows["density"] >= low) & (rows["density"] <= high)]
    for kind in wanted.shown:
        rows = rows[_is_kind(rows, kind, wanted)]
    if wanted.grades:
        rows = rows[rows["grade"].isin(wanted.grades)]
    for column, concept in (("concept", wanted.concept), ("output_concept", wanted.writes)):
        if concept:
            rows = rows[rows[column] == concept]
    for measure, ends in wanted.ranges.items():
        rows = rows[rows[measure].between(*ends)]
    query = wanted.query.strip()
    if query.lower().startswith("tok:"):
        text = query[4:].removeprefix(" ")
        passing = set(rows["id"])
        return [feature for feature in index.search_tokens(text) if feature in passing] if text else []
    if query.isdigit():
        rows = rows[rows["id"] == check_feature(index, query)]
    elif query:
        rows = rows[rows["id"].isin(_features_saying(query, index, wanted))]
    return _ordered(rows, index, wanted)


def _features_saying(query: str, index: FeatureIndex, wanted: TableFilter) -> set[int]:
    """Features of which a text that a person can see contains ``query``, in any case."""
    sought = query.casefold()
    columns = wanted.evidence.columns
    of_evidence = [columns[name].items() for name in ("concept", "output_concept")]
    labels = shown_labels(wanted.labels, wanted.evidence)
    labelled = ((feature, label.text) for feature, label in labels.items())
    found = {
        int(f) for texts in (labelled, wanted.notes.items(), *of_evidence) for f, t in texts if sought in t.casefold()
    }
    for feature, tokens in enumerate(_strongest_tokens(index, wanted.evidence, N_TOKENS)):
        if any(sought in token.casefold() for token in tokens):
            found.add(feature)
    return found


def _strongest_tokens(index: FeatureIndex, evidence: RunEvidence, n: int) -> list[list[str]]:
    """The first ``n`` strongest tokens of each feature: those of the evidence, which knows the sign it is about, else those of
    the top examples."""
    tokens = [of_feature[:n] for of_feature in index.strongest_tokens]
    for one in evidence.features[: len(tokens)]:
        if one.tokens:
            tokens[one.feature] = list(one.tokens[:n])
    return tokens


def table_payload(index: FeatureIndex, evidence: RunEvidence) -> FeatureTable:
    """The table's columns over all features."""
    rows = index.summary.sort_values("id")
    tokens = _strongest_tokens(index, evidence, N_TOKENS)
    places: dict[str, int] = {}
    return FeatureTable(
        density=[_rounded(value) for value in rows["density"]],
        max=[_rounded(value) for value in rows["max"]],
        importance=[_rounded(value) for value in rows["importance"]],
        dead=[bool(value) for value in rows["dead"]],
        tokens=[[places.setdefault(token, len(places)) for token in of_feature] for of_feature in tokens],
        words=list(places),
        evidence=evidence_columns(evidence),
    )


def feature_payload(index: FeatureIndex, feature: str, run: Run, evidence: RunEvidence) -> FeatureCard:
    """All about one feature except its examples. Raises InputError for a number the run does not have."""
    number = check_feature(index, feature)
    return FeatureCard(
        **index.feature(number),
        positive_side_only=index.record.positive_side_only,
        evidence=evidence_card(run, evidence, number),
        family=family_of(run, number),
    )


def example_payload(index: FeatureIndex, feature: str, which: str, context: str) -> list[Example]:
    """Where a feature fires (or does not): examples of one kind, with ``context`` tokens on each side.

    Raises InputError for an unknown feature, kind or context.
    """
    number = check_feature(index, feature)
    if which not in EXAMPLE_KINDS:
        raise unknown_name("kind of examples", which, EXAMPLE_KINDS, "a feature card")
    if context not in CONTEXTS:
        raise unknown_name("context", context, CONTEXTS, "a feature card")
    examples = index.examples(number, which, CONTEXTS[context])
    return [{**example, "activations": [_rounded(a) for a in example["activations"]]} for example in examples]


def firing_figures(index: FeatureIndex) -> dict[str, str]:
    """Dead features and L0 over all tokens of the store, by the names that every page gives them.

    Empty for codes of both signs: nearly all of them are not zero, and which of them are positive is no matter of firing.
    """
    if index.record.positive_side_only:
        return {}
    return {"dead": f"{int(index.summary['dead'].sum()):,}", "L0": f"{index.l0:.1f}"}


def counts_text(index: FeatureIndex, n_shown: int, evidence: RunEvidence) -> str:
    """The line above a table of ``n_shown`` of the run's features."""
    shown = f"{n_shown:,} of " if n_shown < index.n_features else ""
    firing = firing_figures(index)
    counts = [
        f"{shown}{index.n_features:,} features",
        f"{firing['dead']} dead" if firing else "",
        f"{index.n_tokens:,} tokens",
        f"L0 {firing['L0']}" if firing else SIGNED,
        counts_of_grades(evidence),
    ]
    return " · ".join(filter(None, counts))


def filters_in_words(wanted: TableFilter) -> list[str]:
    """What hides features, one text a filter; empty where nothing does."""
    low, high = wanted.density
    return [
        *([f"search “{wanted.query.strip()}”"] if wanted.query.strip() else []),
        *([f"fires on {percent(low)} to {percent(high)} of tokens"] if wanted.density != (0.0, 1.0) else []),
        *(f"only {kind}" for kind in wanted.shown),
        *([" or ".join(wanted.grades)] if wanted.grades else []),
        *([f"detects {wanted.concept}"] if wanted.concept else []),
        *([f"writes {wanted.writes}"] if wanted.writes else []),
        *(f"{MEASURES[name]} {low:g} to {high:g}" for name, (low, high) in wanted.ranges.items()),
    ]


def escaped(text: str) -> str:
    """A stranger's text for where Markdown is read: every sign of punctuation stands for itself."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def percent(share: float) -> str:
    """A share in per cent, without trailing zeros."""
    return f"{100 * share:g} %"


def check_feature(index: FeatureIndex, feature: str) -> int:
    """The feature's number. Raises InputError for a text that is no number, or a feature that the run does not have."""
    number = plain_number(feature)
    if number is None or number >= index.n_features:
        raise unknown_feature(feature, index.n_features)
    return number


def plain_number(text: str) -> int | None:
    """The number, if the text is plain digits; else None."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _is_kind(rows: pd.DataFrame, kind: str, wanted: TableFilter) -> pd.Series:
    if kind == "dead":
        return rows["dead"].astype(bool)
    if kind == "alive":
        return ~rows["dead"].astype(bool)
    if kind == "bookmarked":
        return rows["id"].isin(wanted.bookmarks)
    if kind == "labelled":
        return rows["id"].isin(wanted.labels.keys())
    raise unknown_name("filter", kind, KINDS_SHOWN, "the feature table")


def _ordered(rows: pd.DataFrame, index: FeatureIndex, wanted: TableFilter) -> list[int]:
    """Ties, such as all dead features, are in order of number, so that the table never shuffles."""
    keys: dict[str, pd.Series]
    largest_first = [False]
    if wanted.order == "best":
        is_dense = rows["density"] > DENSE
        keys, largest_first = {"is_dense": is_dense, "importance": rows["importance"]}, [False, True]
        if wanted.evidence.features:
            best = {grade: place for place, grade in enumerate(BEST_FIRST)}
            keys = {"grade": rows["grade"].map(best), "is_dense": is_dense, "excess": rows["excess"]}
            largest_first = [False, False, True]
    elif wanted.order == "label":
        labels = shown_labels(wanted.labels, wanted.evidence)
        ordered = {feature: f"{label.is_automatic:d}{label.text.lower()}" for feature, label in labels.items()}
        keys = {"label": rows["id"].map(ordered)}
    elif wanted.order == "tokens":
        strongest = _strongest_tokens(index, wanted.evidence, 1)
        first = {feature: tokens[0].strip().lower() for feature, tokens in enumerate(strongest) if tokens}
        keys = {"tokens": rows["id"].map(first)}
    elif wanted.order == "concept":
        keys = {"concept": rows["concept"].replace("", None), "excess": rows["excess"]}
        largest_first = [False, True]
    else:
        column = {"number": "id", "output": "lift"}.get(wanted.order, wanted.order)
        keys, largest_first = {"value": rows[column]}, [wanted.order != "number"]
    table = pd.DataFrame({**keys, "id": rows["id"]}).reset_index(drop=True)
    ascending = [is_largest == wanted.is_reversed for is_largest in largest_first]
    return [int(f) for f in table.sort_values(list(table), ascending=[*ascending, True])["id"]]


def _rounded(value: float) -> float:
    """Four significant digits: more cannot be seen, and they triple the answer's size."""
    return float(f"{float(value):.4g}")
