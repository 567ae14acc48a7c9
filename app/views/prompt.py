"""Prompt: where a run's features fire on a text that the person types."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app.card import prompt_tokens
from app.models import require_model
from app.state import go_to, pick_run, restore, view, write_address
from app.workspace import index_version, run_name, weights_version
from interp.browse.features import plain_number
from interp.browse.prompt import RANKINGS
from interp.runs.record import Run

PAGE = "prompt"
EXAMPLE = "def load(path):\n    with open(path) as file:\n        return json.load(file)\n"


def show() -> None:
    """Lay out the page."""
    restore(PAGE, {"text": lambda text: text or EXAMPLE, "by": _ranking, "at": _tokens, "dense": _density})
    columns = st.columns([2.6, 5], gap="medium", vertical_alignment="bottom")
    with columns[0]:
        run = pick_run()
        st.caption("Point at a feature to see where it fires. Choose tokens to rank features on them alone.")
    text = columns[1].text_area("Text", key=view("text"), height=106, on_change=_forget_tokens)
    by, at, dense = (st.session_state[view(name)] for name in ("by", "at", "dense"))
    address = {
        "run": run_name(run),
        "text": text,
        "by": "" if by == RANKINGS[0] else by,
        "at": ",".join(map(str, at)),
        "dense": dense,
    }
    write_address(PAGE, address, {"text": text, "by": by, "at": at, "dense": dense})
    require_model(run)
    _mount(run, text, {"at": at, "by": by, "dense": dense})


def _mount(run: Run, text: str, shown: dict[str, Any]) -> None:
    result = prompt_tokens()(
        key="tokens",
        data={
            "api": f"/api/runs/{run_name(run)}/prompt",
            "version": weights_version(run) + index_version(run),
            "run": run_name(run),
            "card_path": "/features",
            "text": text,
            "view": shown,
        },
        on_view_change=_change,
        on_open_change=lambda: None,
    )
    if result.open is not None:
        go_to("features", run=run_name(run), f=str(int(result.open)))


def _change() -> None:
    """Tokens were chosen, or the ranking was; the address follows."""
    chosen = st.session_state["tokens"].view or {}
    st.session_state[view("at")] = _tokens(",".join(str(i) for i in chosen.get("at", [])))
    st.session_state[view("by")] = _ranking(str(chosen.get("by")))
    st.session_state[view("dense")] = _density(str(chosen.get("dense")))


def _forget_tokens() -> None:
    """The tokens that were chosen were those of another text."""
    st.session_state[view("at")] = []


def _ranking(text: str | None) -> str:
    return text if text in RANKINGS else RANKINGS[0]


def _tokens(text: str | None) -> list[int]:
    numbers = (plain_number(part) for part in (text or "").split(","))
    return sorted({number for number in numbers if number})


def _density(text: str | None) -> str:
    """Largest share of the store's tokens on which a feature may fire, as the page writes it; empty for any."""
    return text if text in ("0.3", "0.1", "0.03", "0.01", "0.001") else ""
