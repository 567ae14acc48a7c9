"""Features: the table of a run's features, and the card of one of them."""

from __future__ import annotations

import streamlit as st

from app.card import feature_card
from app.indexing import require_index
from app.state import go_to, pick_run, restore, view, write_address
from app.workspace import find_run, index_version, open_labels, run_name
from interp.browse.features import KINDS_SHOWN, ORDERS, TableFilter, counts_text, percent, select_features
from interp.errors import InputError
from interp.runs.record import Run

PAGE = "features"
DENSITIES = (0.0, 1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Ends of the density range, as shares of tokens: densities spread over five powers of ten."""


def show() -> None:
    """Lay out the page."""
    run = _controls()
    index = require_index(run)
    said = open_labels(run).all()
    wanted = TableFilter(
        order=st.session_state[view("sort")],
        query=st.session_state[view("q")],
        density=st.session_state[view("density")],
        shown=tuple(st.session_state[view("show")]),
        labels={feature: one.label for feature, one in said.items() if one.label},
        bookmarks=frozenset(feature for feature, one in said.items() if one.bookmarked),
    )
    try:
        order = select_features(index, wanted)
    except InputError:
        # The card asks for the same number and gets the same answer: "no feature 99999; this run has 0-2047".
        order = []
        st.session_state[view("f")] = wanted.query.strip()
    st.caption(counts_text(index, len(order)))
    _card(run, wanted, order)


def _controls() -> Run:
    """The row of filters, each bound to the address; the run chosen in it."""
    parsers = {
        "sort": _order,
        "q": lambda text: text or "",
        "show": _kinds,
        "density": _density,
        "f": lambda text: text,
    }
    restore(PAGE, parsers, with_default=("density",))
    columns = st.columns([2.9, 2.4, 1.6, 1.9, 2.6], gap="medium")
    with columns[0]:
        run = pick_run()
    with columns[1]:
        st.segmented_control("Order", ORDERS, key=view("sort"), required=True)
    with columns[2]:
        # A range slider is one by its default value alone; without it, the ends from the address would become one point.
        ends = (DENSITIES[0], DENSITIES[-1])
        st.select_slider("Density", DENSITIES, ends, key=view("density"), format_func=percent)
    with columns[3]:
        st.text_input("Search", key=view("q"), placeholder="812, a label, or tok: def", on_change=_forget_feature)
    with columns[4]:
        st.pills("Only", KINDS_SHOWN, key=view("show"), selection_mode="multi")
    return run


def _card(run: Run, wanted: TableFilter, order: list[int]) -> None:
    """The component, and the address that brings a reader back to the same view."""
    feature = st.session_state.get(view("f")) or str(order[0] if order else 0)
    address = {
        "run": run_name(run),
        "f": feature,
        "sort": "" if wanted.order == ORDERS[0] else wanted.order,
        "q": wanted.query,
        "show": ",".join(wanted.shown),
        "density": "" if wanted.density == (0.0, 1.0) else "..".join(f"{share:g}" for share in wanted.density),
    }
    write_address(
        PAGE, address, {name: st.session_state.get(view(name)) for name in ("sort", "q", "show", "density", "f")}
    )
    result = feature_card()(
        key="card",
        data={
            "api": f"/api/runs/{run_name(run)}/features",
            "version": run_name(run) + index_version(run),
            "feature": int(feature) if feature.isdigit() else feature,
            "order": order,
            "labels": [[number, text] for number, text in wanted.labels.items()],
            "bookmarks": sorted(wanted.bookmarks),
            "link": {name: value for name, value in address.items() if value and name != "f"},
            "steer_path": "/steer",
        },
        on_feature_change=_step,
        on_label_change=_label,
        on_bookmark_change=_bookmark,
        on_steer_change=lambda: None,
    )
    if result.steer is not None:
        go_to("steer", run=run_name(run), f=str(int(result.steer)))


def _step() -> None:
    """The card moved on; the address follows."""
    st.session_state[view("f")] = str(int(st.session_state["card"].feature))


def _label() -> None:
    feature, text = st.session_state["card"].label
    open_labels(find_run(st.session_state["run"])).set(int(feature), label=str(text))


def _bookmark() -> None:
    feature, is_on = st.session_state["card"].bookmark
    open_labels(find_run(st.session_state["run"])).set(int(feature), bookmarked=bool(is_on))


def _forget_feature() -> None:
    """A new search shows its first result."""
    st.session_state[view("f")] = None


def _order(text: str | None) -> str:
    return text if text in ORDERS else ORDERS[0]


def _kinds(text: str | None) -> list[str]:
    return [kind for kind in (text or "").split(",") if kind in KINDS_SHOWN]


def _density(text: str | None) -> tuple[float, float]:
    """The range "LOW..HIGH" of the address, if both ends are on the slider."""
    by_text = {f"{share:g}": share for share in DENSITIES}
    low, _, high = (text or "").partition("..")
    return (by_text[low], by_text[high]) if low in by_text and high in by_text else (DENSITIES[0], DENSITIES[-1])
