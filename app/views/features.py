"""Features: the table of a run's features, and the card of one of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app.card import feature_card
from app.indexing import require_index
from app.state import go_to, pick_run, restore, view, write_address
from app.workspace import evidence_version, find_run, index_version, open_evidence, open_labels, run_name
from interp.browse.definitions import tooltip
from interp.browse.evidence import BEST_FIRST, MEASURES, RunEvidence
from interp.browse.feature_list import list_json
from interp.browse.features import (
    KINDS_SHOWN,
    ORDER_NAMES,
    ORDERS,
    ORDERS_OF_EVIDENCE,
    TableFilter,
    counts_text,
    escaped,
    filters_in_words,
    percent,
    select_features,
)
from interp.browse.shared_card import file_name
from interp.errors import InputError
from interp.index.reader import FeatureIndex
from interp.runs.label_file import labels_json, take_labels
from interp.runs.record import Run

PAGE = "features"
DENSITIES = (0.0, 1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Ends of the density range, as shares of tokens: densities spread over five powers of ten."""
ENDS = {"excess": (-1.0, 1.0), "simulability": (0.0, 1.0), "stability": (-1.0, 1.0)}
"""Lowest and highest value of each measure of the evidence."""
STEP = 0.05
NO_FILTER: dict[str, Any] = {
    "q": "", "show": [], "density": (DENSITIES[0], DENSITIES[-1]), "grade": [], "concept": "", "writes": "", **ENDS
}  # fmt: skip
"""What each filter is where it hides nothing."""


def show() -> None:
    """Lay out the page."""
    run, listed = _controls()
    index = require_index(run)
    evidence = open_evidence(run)
    said = open_labels(run).all()
    wanted = TableFilter(
        order=st.session_state[view("sort")],
        query=st.session_state[view("q")],
        density=st.session_state[view("density")],
        shown=tuple(st.session_state[view("show")]),
        labels={feature: one.label for feature, one in said.items() if one.label},
        notes={feature: one.note for feature, one in said.items() if one.note},
        bookmarks=frozenset(feature for feature, one in said.items() if one.bookmarked),
        is_reversed=st.session_state[view("reversed")],
        **_evidence_wanted(evidence),
    )
    unknown = ""
    try:
        order = select_features(index, wanted)
    except InputError:
        # The card asks for the same number and gets the same answer: "no feature 99999; this run has 0-2047".
        order, unknown = [], wanted.query.strip()
    _list_file(listed, run, index, wanted, order)
    st.caption(counts_text(index, len(order), evidence), help=tooltip(PAGE, "dead", "n_tokens", "l0", "grades"))
    _card(run, wanted, order, unknown)


def _controls() -> tuple[Run, DeltaGenerator]:
    """The row of filters, each bound to the address; the run chosen in it, and the place for the list as a file."""
    parsers: dict[str, Callable[[str | None], Any]] = {
        "sort": _order,
        "q": lambda text: text or "",
        "show": _kinds,
        "density": _density,
        "f": lambda text: text,
        "grade": _grades,
        "concept": lambda text: text or "",
        "writes": lambda text: text or "",
        "reversed": bool,
        "mine": lambda text: text or "",
    }
    parsers |= {name: partial(_range, ends) for name, ends in ENDS.items()}
    restore(PAGE, parsers, with_default=("density", *ENDS))
    with st.container(key="filters"):
        columns = st.columns([3.5, 1.4, 1.8, 2.8, 1.15, 1.05], gap="small")
    with columns[0]:
        run = pick_run()
    evidence = open_evidence(run)
    with columns[1]:
        orders = ORDERS if evidence.features else [order for order in ORDERS if order not in ORDERS_OF_EVIDENCE]
        st.selectbox("Order", orders, key=view("sort"), format_func=_order_name, on_change=_forwards)
    with columns[2]:
        st.text_input(
            "Search",
            key=view("q"),
            placeholder="812, raise, tok: def",
            on_change=_forget_feature,
            help="A number; or a part of a label, a note, a concept or one of the strongest tokens; or tok: and a token of the "
            "top examples.",
        )
    with columns[3]:
        st.pills("Only", KINDS_SHOWN, key=view("show"), selection_mode="multi")
    with (
        columns[4],
        st.container(height="stretch", vertical_alignment="bottom"),
        st.popover("Filters", width="stretch"),
    ):
        # A range slider is one by its default value alone; without it, the ends from the address would become one point.
        ends = (DENSITIES[0], DENSITIES[-1])
        says = tooltip(PAGE, "density")
        st.select_slider(
            "Fires on, share of tokens", DENSITIES, ends, key=view("density"), format_func=percent, help=says
        )
        _evidence_controls(evidence)
    with (
        columns[5],
        st.container(height="stretch", vertical_alignment="bottom"),
        st.popover("Files", width="stretch", help="The list as a file; labels, notes and bookmarks out and in"),
    ):
        listed = st.container()
        _label_files(run)
    return run, listed


def _label_files(run: Run) -> None:
    """Labels, notes and bookmarks: out as a file, and in from one."""
    name = file_name(run, "labels.json")
    st.download_button(
        "Labels, notes and bookmarks", partial(labels_json, run), name, on_click="ignore", width="stretch"
    )
    given = st.file_uploader("Take in labels from a file", type="json", key="label_file")
    replace = st.toggle("Replace mine where they differ", key="replace_labels")
    if given is None or not st.button("Take in", width="stretch"):
        return
    try:
        n_different = take_labels(run, given.getvalue(), given.name, replace=replace)
    except InputError as error:
        st.error(escaped(f"Nothing was taken in: {error}"))
        return
    kept = "the file's were taken" if replace else "yours were left as they are"
    st.success("Taken in." + (f" {n_different} had another label or note here; {kept}." if n_different else ""))


def _list_file(place: DeltaGenerator, run: Run, index: FeatureIndex, wanted: TableFilter, order: list[int]) -> None:
    """What the filters leave, as a file."""
    place.download_button(
        f"List of {len(order):,} feature{'' if len(order) == 1 else 's'}",
        partial(list_json, run, index, wanted, order),
        file_name(run, "features.json"),
        on_click="ignore",
        disabled=not order,
        width="stretch",
        help="What the filters leave, in this order, as JSON. For the bookmarks alone, choose “bookmarked” first.",
    )


def _evidence_controls(evidence: RunEvidence) -> None:
    """The filters by evidence; where there is none, why."""
    if evidence.missing:
        st.info(escaped(evidence.missing))
    off = not evidence.features
    st.pills("Grade", BEST_FIRST, key=view("grade"), selection_mode="multi", disabled=off)
    for name, heading, concepts in (
        ("concept", "Detects", evidence.concepts),
        ("writes", "Makes the model write, by an estimate", evidence.written),
    ):
        st.selectbox(
            heading, ["", *concepts], key=view(name), format_func=lambda concept: concept or "any concept", disabled=off
        )
    for name, ends in ENDS.items():
        says = tooltip(PAGE, name)
        st.slider(MEASURES[name], *ends, ends, STEP, key=view(name), format="%.2f", disabled=off, help=says)


def _evidence_wanted(evidence: RunEvidence) -> dict[str, Any]:
    """The fields of the filter that are about evidence. A range that is left at its ends lets also those through that were not
    measured."""
    ranges = {name: st.session_state[view(name)] for name in ENDS}
    return (
        {
            "evidence": evidence,
            "grades": tuple(st.session_state[view("grade")]),
            "concept": st.session_state[view("concept")],
            "writes": st.session_state[view("writes")],
            "ranges": {name: chosen for name, chosen in ranges.items() if chosen != ENDS[name]},
        }
        if evidence.features
        else {}
    )


def _card(run: Run, wanted: TableFilter, order: list[int], unknown: str) -> None:
    """The component, and the address that brings a reader back to the same view.

    Where every feature is hidden there is no card, but the answer to an ``unknown`` number.
    """
    feature = unknown or st.session_state.get(view("f")) or (str(order[0]) if order else "")
    address = {
        "run": run_name(run),
        "f": feature,
        "sort": "" if wanted.order == ORDERS[0] else wanted.order,
        "q": wanted.query,
        "show": ",".join(wanted.shown),
        "density": "" if wanted.density == (0.0, 1.0) else _range_text(wanted.density),
        "grade": ",".join(wanted.grades),
        "concept": wanted.concept,
        "writes": wanted.writes,
        "reversed": "1" if wanted.is_reversed else "",
        "mine": st.session_state[view("mine")],
        **{name: _range_text(ends) for name, ends in wanted.ranges.items()},
    }
    kept = ("sort", "reversed", "f", "mine", *NO_FILTER)
    write_address(PAGE, address, {name: st.session_state.get(view(name)) for name in kept})
    result = feature_card()(
        key="card",
        data={
            "api": f"/api/runs/{run_name(run)}/features",
            "version": run_name(run) + index_version(run) + evidence_version(run),
            "feature": _shown(feature if order or unknown else ""),
            "order": order,
            "sort": wanted.order,
            "reversed": wanted.is_reversed,
            "query": wanted.query,
            "filters": filters_in_words(wanted),
            "mine": address["mine"],
            "labels": [[number, text] for number, text in wanted.labels.items()],
            "notes": [[number, text] for number, text in wanted.notes.items()],
            "bookmarks": sorted(wanted.bookmarks),
            "link": {name: value for name, value in address.items() if value and name != "f"},
            "steer_path": "/steer",
            "tree_path": "/tree",
        },
        on_feature_change=_step,
        on_label_change=_label,
        on_note_change=_note,
        on_bookmark_change=_bookmark,
        on_sort_change=_sort,
        on_clear_change=_clear,
        on_mine_change=_mine,
        on_steer_change=lambda: None,
        on_tree_change=lambda: None,
        on_other_change=lambda: None,
    )
    if result.other is not None:
        go_to("features", run=str(result.other[0]), f=str(int(result.other[1])))
    if result.tree is not None:
        go_to("tree", run=run_name(run), node=str(result.tree))
    if result.steer is not None:
        go_to("steer", run=run_name(run), f=str(int(result.steer)))


def _step() -> None:
    """The card moved on; the address follows."""
    st.session_state[view("f")] = str(int(st.session_state["card"].feature))


def _label() -> None:
    feature, text = st.session_state["card"].label
    _set(feature, label=str(text))


def _note() -> None:
    feature, text = st.session_state["card"].note
    _set(feature, note=str(text))


def _sort() -> None:
    """A heading of the table was pressed: order by it; pressed again, the other way round."""
    chosen = _order(str(st.session_state["card"].sort))
    is_again = chosen == st.session_state[view("sort")]
    st.session_state[view("reversed")] = is_again and not st.session_state[view("reversed")]
    st.session_state[view("sort")] = chosen


def _forwards() -> None:
    """Another order begins with its first end."""
    st.session_state[view("reversed")] = False


def _clear() -> None:
    """Nothing is hidden any more."""
    for name, value in NO_FILTER.items():
        st.session_state[view(name)] = value


def _mine() -> None:
    """The text that was typed into the card; the address follows."""
    st.session_state[view("mine")] = str(st.session_state["card"].mine or "")


def _bookmark() -> None:
    feature, is_on = st.session_state["card"].bookmark
    _set(feature, bookmarked=bool(is_on))


def _set(feature: Any, **said: Any) -> None:
    with suppress(InputError):  # the run is gone, which the picker is about to say
        open_labels(find_run(st.session_state["run"])).set(int(feature), **said)


def _forget_feature() -> None:
    """A new search shows its first result."""
    st.session_state[view("f")] = None


def _shown(feature: str) -> int | str | None:
    """The feature as the card asks for it: a number, what was given in its place, or none."""
    return int(feature) if feature.isdigit() else feature or None


def _order(text: str | None) -> str:
    return text if text in ORDERS else ORDERS[0]


def _order_name(order: str) -> str:
    return ORDER_NAMES.get(order, order)


def _kinds(text: str | None) -> list[str]:
    return [kind for kind in (text or "").split(",") if kind in KINDS_SHOWN]


def _grades(text: str | None) -> list[str]:
    return [grade for grade in (text or "").split(",") if grade in BEST_FIRST]


def _range(ends: tuple[float, float], text: str | None) -> tuple[float, float]:
    """The range "LOW..HIGH" of the address, if it is one within ``ends``."""
    try:
        low, high = map(float, (text or "").split(".."))
    except ValueError:
        return ends
    return (low, high) if ends[0] <= low <= high <= ends[1] else ends


def _range_text(ends: tuple[float, float]) -> str:
    return "..".join(f"{end:g}" for end in ends)


def _density(text: str | None) -> tuple[float, float]:
    """The range "LOW..HIGH" of the address, if both ends are on the slider."""
    by_text = {f"{share:g}": share for share in DENSITIES}
    low, _, high = (text or "").partition("..")
    return (by_text[low], by_text[high]) if low in by_text and high in by_text else (DENSITIES[0], DENSITIES[-1])
