"""The feature table and the feature card: which features pass a filter, in which order, and what JSON says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import pandas as pd

from interp.errors import unknown_feature, unknown_name
from interp.index.reader import Example, FeatureIndex, FeaturePage

Order = Literal["importance", "density", "max", "label"]
ORDERS: tuple[Order, ...] = get_args(Order)

Which = Literal["top", "intervals", "near-threshold", "random", "not-firing"]
EXAMPLE_KINDS: tuple[Which, ...] = get_args(Which)

CONTEXTS: dict[str, int | None] = {"8": 8, "24": 24, "whole": None}
"""Tokens shown on each side of the example's token; None is the whole sequence."""

KINDS_SHOWN = ("alive", "dead", "bookmarked", "labelled")
"""The table's filters; several together mean all of them."""


@dataclass(frozen=True)
class TableFilter:
    """Which features the table shows, and in which order."""

    order: Order = "importance"
    """Largest first for numbers; alphabetical for labels, unlabelled ones last."""

    query: str = ""
    """A feature number, ``tok: TEXT`` for features that fire on this token, or a part of a label."""

    density: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest share of tokens on which a feature fires, both included."""

    shown: tuple[str, ...] = ()
    """Names from KINDS_SHOWN."""

    labels: Mapping[int, str] = field(default_factory=dict)
    """Label of each labelled feature."""

    bookmarks: frozenset[int] = frozenset()
    """Bookmarked features."""


def select_features(index: FeatureIndex, wanted: TableFilter) -> list[int]:
    """Feature numbers that pass the filter, in the table's order.

    A ``tok:`` search keeps the order of the search, best first: the person asked for the token, not for the ranking.
    """
    rows = index.summary.set_index("id", drop=False)
    low, high = wanted.density
    rows = rows[(rows["density"] >= low) & (rows["density"] <= high)]
    for kind in wanted.shown:
        rows = rows[_is_kind(rows, kind, wanted)]
    query = wanted.query.strip()
    if query.lower().startswith("tok:"):
        text = query[4:].removeprefix(" ")
        passing = set(rows["id"])
        return [feature for feature in index.search_tokens(text) if feature in passing] if text else []
    if query.isdigit():
        rows = rows[rows["id"] == check_feature(index, query)]
    elif query:
        found = {feature for feature, label in wanted.labels.items() if query.lower() in label.lower()}
        rows = rows[rows["id"].isin(found)]
    return _ordered(rows, wanted)


def table_payload(index: FeatureIndex) -> dict[str, list[float] | list[bool]]:
    """The table's columns over all features, by feature number: share of tokens, largest activation, dead or not."""
    rows = index.summary.sort_values("id")
    return {
        "density": [_rounded(value) for value in rows["density"]],
        "max": [_rounded(value) for value in rows["max"]],
        "dead": [bool(value) for value in rows["dead"]],
    }


def feature_payload(index: FeatureIndex, feature: str) -> FeaturePage:
    """All about one feature except its examples. Raises InputError for a number the run does not have."""
    return index.feature(check_feature(index, feature))


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


def counts_text(index: FeatureIndex, n_shown: int) -> str:
    """The line above a table of ``n_shown`` of the run's features."""
    n_dead = int(index.summary["dead"].sum())
    shown = f"{n_shown:,} of " if n_shown < index.n_features else ""
    return f"{shown}{index.n_features:,} features · {n_dead:,} dead · {index.n_tokens:,} tokens · L0 {index.l0:.1f}"


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


def _ordered(rows: pd.DataFrame, wanted: TableFilter) -> list[int]:
    """Ties, such as all dead features, are in order of number, so that the table never shuffles."""
    if wanted.order == "label":
        labels = wanted.labels
        return sorted((int(f) for f in rows["id"]), key=lambda f: (f not in labels, labels.get(f, "").lower(), f))
    rows = rows.reset_index(drop=True).sort_values([wanted.order, "id"], ascending=[False, True])
    return [int(feature) for feature in rows["id"]]


def _rounded(value: float) -> float:
    """Four significant digits: more cannot be seen, and they triple the answer's size."""
    return float(f"{float(value):.4g}")
