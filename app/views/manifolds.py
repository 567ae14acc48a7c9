"""Manifolds: the quadratic latents of a run by the shape of their tokens, and one of them in two and three dimensions."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import streamlit as st

from app.card import row_list
from app.indexing import require_manifolds
from app.state import pick_run, restore, view, write_address
from app.workspace import labels_of, run_name
from interp.browse.definitions import tooltip
from interp.browse.features import plain_number
from interp.browse.manifolds import latent_text, ranking_cells, ranking_rows, tokens_to_read
from interp.figures import VALUE, colourings, eigenvalue_bars, manifold_plane, manifold_space
from interp.index.token_text import show_blanks
from interp.manifolds.layout import SHAPES
from interp.manifolds.reader import ManifoldIndex, ManifoldView
from interp.runs.record import Run

PAGE = "manifolds"
_PLAIN = {"displayModeBar": False}


def show() -> None:
    """Lay out the page."""
    restore(PAGE, {"rank": lambda text: text or "", "colour": lambda text: text or "", "f": lambda text: text})
    with st.container(key="filters"):
        columns = st.columns([2.9, 1.5, 1.5, 1.1, 2], gap="medium")
    with columns[0]:
        run = pick_run()
    index = require_manifolds(run)
    by = _choice(columns[1], "Rank by", "rank", index.rankings, on_change=_forget_colour)
    rows = ranking_rows(index, by)
    feature = _feature(rows[0]["latent"], index)
    latent = index.view(feature)
    # A ranking by a label is looked at with that label's colours, unless the person chose others.
    colour = _choice(columns[2], "Colour", "colour", colourings(latent), by if by in latent.ordinals else VALUE)
    columns[3].number_input(
        "Latent", 0, index.n_features - 1, key=_number_of(feature), on_change=_jump, help=tooltip(PAGE, "latent")
    )
    # Before the pictures: a row may be clicked while they are drawn, and the address must not look like news then.
    address = {"run": run_name(run), "rank": by, "colour": colour, "f": str(feature)}
    write_address(PAGE, address, {"rank": by, "colour": st.session_state[view("colour")], "f": str(feature)})
    with st.container(key="latents"):
        left, right = st.columns([1, 3.1], gap="large")
    with left:
        _ranking(rows, by, feature)
    with right:
        _latent(run, latent, colour)


def _choice(
    column: st.delta_generator.DeltaGenerator,
    label: str,
    name: str,
    options: list[str],
    default: str = "",
    on_change: Callable[[], None] | None = None,
) -> str:
    """A select box bound to the address; what is not on offer in this run becomes the default."""
    if st.session_state.get(view(name)) not in options:
        st.session_state[view(name)] = default or options[0]
    return str(column.selectbox(label, options, key=view(name), on_change=on_change))


def _forget_colour() -> None:
    """Another ranking brings the colours of its label, or of the value if it has none."""
    st.session_state[view("colour")] = ""


def _feature(first: int, index: ManifoldIndex) -> int:
    """The latent on view: the one asked for, else the ``first`` of the ranking."""
    number = plain_number(st.session_state.get(view("f")) or "")
    if number is not None and number >= index.n_features:
        st.error(f"no feature {number}; this run has 0-{index.n_features - 1}")
        number = None
    return first if number is None else number


def _number_of(feature: int) -> str:
    st.session_state["latent_number"] = feature
    return "latent_number"


def _jump() -> None:
    st.session_state[view("f")] = str(st.session_state["latent_number"])


def _ranking(rows: list[dict[str, Any]], by: str, feature: int) -> None:
    """The list of latents; a click on a row, or an arrow, opens its latent."""
    ids = [row["latent"] for row in rows]
    columns = [
        {"name": name, "help": tooltip(PAGE, name), "width": "minmax(0, 1fr)", "is_number": True} for name in rows[0]
    ]
    data = {"name": "Latents", "columns": columns, "rows": ranking_cells(rows), "chosen": ids.index(feature)}
    chosen = row_list()(key=f"ranking_{by}", data=data | {"height": 560}, on_chosen_change=lambda: None).chosen
    if chosen is not None and ids[int(chosen)] != feature:
        st.session_state[view("f")] = str(ids[int(chosen)])
        st.rerun()
    st.caption(_score_explained(by))


def _score_explained(by: str) -> str:
    if by in SHAPES:
        return (
            f"**{by}**: {SHAPES[by]}. No label is used, and nothing is cut off: look at the picture and its contexts."
        )
    return (
        f"**R²** of {by}, read off along the curve drawn in the latent's plane, on its strongest tenth of tokens. The curve is "
        "fitted on every other document. Latents are ranked by its R² there; what you see is its R² on the rest. Beside it "
        "stand PCA's plane on the same tokens, and the random plane that has the same rank among as many random planes as "
        "latents, each on its own strongest tokens. Below 0 is worse than the mean. A latent on whose tokens the label hardly "
        "varies has none."
    )


def _latent(run: Run, latent: ManifoldView, colour: str) -> None:
    title = f"Latent {latent.feature}"
    label = labels_of(run).get(latent.feature)
    st.subheader(title)
    if label:
        st.text(label.marked)  # plain text, never markdown: a label is a stranger's
    st.caption(latent_text(latent), help=tooltip(PAGE, "scores", "n_far"))
    plane, space = st.columns(2, gap="small")
    plane.plotly_chart(manifold_plane(latent, colour), config=_PLAIN, key="plane")
    space.plotly_chart(manifold_space(latent, colour), config=_PLAIN, key="space")
    bars, contexts = st.columns([1, 2.4], gap="medium")
    with bars:
        st.caption("Eigenvalues", help=tooltip(PAGE, "eigenvalues"))
        st.plotly_chart(eigenvalue_bars(latent.eigenvalues), config=_PLAIN, key="eigenvalues")
    with contexts:
        _contexts(latent, colour)


def _contexts(latent: ManifoldView, colour: str) -> None:
    """Tokens to read one after the other, along the label's curve or around the centre."""
    if not latent.text:
        st.caption("This was built without the model, so tokens have no text.")
        return
    is_along = colour in latent.curves
    title = f"Tokens along the curve of {colour}" if is_along else "Tokens around the centre, anticlockwise"
    st.caption(title, help=tooltip(PAGE, "value"))
    st.html("".join(_context_line(*one) for one in tokens_to_read(latent, colour)))


def _context_line(value: float, *context: str) -> str:
    before, token, after = (html.escape(show_blanks(text)) for text in context)
    says = html.escape(tooltip(PAGE, "value"))
    figure = f'<span title="{says}">{value:.3g}</span>'
    return f'<p class="along">{figure}<i class="before">{before}</i><b>{token}</b><i>{after}</i></p>'
