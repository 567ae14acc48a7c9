"""Prompt: where a run's features fire on a text that the person types."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app.card import prompt_tokens
from app.models import ModelTurn, require_model
from app.state import go_to, pick_run, restore, view, write_address
from app.workspace import index_version, labels_of, open_index, run_name
from interp.browse.prompt import RANKINGS, PromptCodes, RankedFeature, encode_prompt, rank_features, ranking_rows
from interp.errors import InputError
from interp.runs.record import Run

PAGE = "prompt"
EXAMPLE = "def load(path):\n    with open(path) as file:\n        return json.load(file)\n"


def show() -> None:
    """Lay out the page."""
    restore(PAGE, {"text": lambda text: text or EXAMPLE, "by": lambda text: text if text in RANKINGS else RANKINGS[0]})
    columns = st.columns([2.9, 1.2, 4.4], gap="medium")
    with columns[0]:
        run = pick_run()
    with columns[1]:
        st.segmented_control("Rank by", RANKINGS, key=view("by"), required=True)
    text = st.text_area("Text", key=view("text"), height=110)
    by = st.session_state[view("by")]
    address = {"run": run_name(run), "text": "" if text == EXAMPLE else text, "by": "" if by == RANKINGS[0] else by}
    write_address(PAGE, address, {"text": text, "by": by})
    model = require_model(run)
    try:
        prompt = _encode(run_name(run), run.identity, text, _model=model, _run=run)
        chosen = _chosen(text)
        ranked = rank_features(prompt, chosen, by=by)
    except InputError as error:
        st.error(str(error))
        return
    st.caption(
        "Click tokens to rank features on them alone; none chosen means all. Point at a feature to see where it fires."
    )
    _mount(run, prompt, ranked, chosen)


# Clicking a token reruns the page; the forward pass need not run again for it.
@st.cache_data(show_spinner=False, max_entries=16)
def _encode(name: str, identity: str, text: str, _model: Any, _run: Run) -> PromptCodes:
    with ModelTurn(_model):
        return encode_prompt(_model, _run, text)


def _chosen(text: str) -> list[int]:
    """The tokens that were clicked; those of another text are forgotten."""
    if st.session_state.get("chosen_of") != text:
        st.session_state["chosen_of"], st.session_state["chosen"] = text, []
    return list(st.session_state["chosen"])


def _choose() -> None:
    st.session_state["chosen"] = [int(i) for i in st.session_state["tokens"].chosen or []]


def _mount(run: Run, prompt: PromptCodes, ranked: list[RankedFeature], chosen: list[int]) -> None:
    index = open_index(run) if index_version(run) else None
    labels = labels_of(run)
    result = prompt_tokens()(
        key="tokens",
        data={
            "run": run_name(run),
            "card_path": "/features",
            "tokens": list(prompt.tokens),
            "chosen": chosen,
            "ranked": ranking_rows(ranked, labels, index),
        },
        on_chosen_change=_choose,
        on_open_change=lambda: None,
    )
    if result.open is not None:
        go_to("features", run=run_name(run), f=str(int(result.open)))
