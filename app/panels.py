"""The components of the Runs and Compare pages: tables and columns whose rows, cells and tokens are clicked."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from interp.browse.palette import token_styles

_HERE = Path(__file__).parent


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
    """A component of one root, a script and a stylesheet of the same name; the first scripts are what all components share."""
    scripts = ("table.js", "tokens.js", "charts.js", f"{part}.js")
    return st.components.v2.component(
        name,
        html=f'<div class="{part}"></div>',
        css="\n".join([token_styles(), _read("panels.css")]),
        js="\n".join(map(_read, scripts)),
    )


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
