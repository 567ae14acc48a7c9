"""The components of the Runs and Compare pages: tables and columns whose rows, cells and tokens are clicked."""

from __future__ import annotations

from functools import cache
from typing import Any

import streamlit as st

from app.card import script, styles


@cache
def runs_table() -> Any:
    """All runs in tables: the row that is clicked is the value of ``run``."""
    return _component("runs_table", "runs")


@cache
def concept_map() -> Any:
    """Concepts by runs: the cell that is clicked is the value of ``open``, (run, feature)."""
    return _component("concept_map", "concepts")


@cache
def compared_runs() -> Any:
    """A text in several runs: ``token`` is the token chosen, ``open`` the (run, feature) that is clicked."""
    return _component("compared_runs", "compare")


def _component(name: str, part: str) -> Any:
    """A component of one root and a script of the same name."""
    return st.components.v2.component(
        name, html=f'<div class="{part}"></div>', css=styles("panels.css"), js=script(f"{part}.js")
    )
