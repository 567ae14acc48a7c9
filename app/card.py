"""The dashboard's own components: the feature card, the tokens of a prompt, lists of rows, and what stands above every page.

The scripts of the first two fetch the JSON routes, so that no step waits for a rerun.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from interp.browse.definitions import tooltips
from interp.browse.palette import token_styles

_HERE = Path(__file__).parent
_HTML = '<div class="features"><div class="table"></div><div class="card"></div></div>'


@cache
def feature_card() -> Any:
    """The component's mounting command. It must be registered once: doing so on every rerun would reload its script."""
    return st.components.v2.component("feature_card", html=_HTML, css=styles("card.css"), js=script("card.js"))


@cache
def prompt_tokens() -> Any:
    """The component of the Prompt page: tokens to click, and the features ranked for them."""
    return st.components.v2.component(
        "prompt_tokens",
        html='<div class="prompt"><div class="chips"></div><div class="tools"></div><div class="ranking"></div></div>',
        css=styles("card.css", "prompt.css"),
        js=script("prompt.js"),
    )


@cache
def row_list() -> Any:
    """A list of rows of which one is chosen, as Tree and Manifolds have it."""
    return st.components.v2.component(
        "row_list",
        html='<div class="rows"><div class="row head"></div><div class="view" role="listbox" tabindex="0"></div></div>',
        css=styles("card.css", "rows.css"),
        js=script("rows.js"),
    )


@cache
def page_tools() -> Any:
    """Copy link and the tour, above every page; its styles are its own, but it lies in the page itself, which it moves down."""
    return st.components.v2.component(
        "page_tools",
        html='<div class="page-tools"></div>',
        css=(_HERE / "tools.css").read_text(encoding="utf-8"),
        js=script("tools.js"),
        isolate_styles=False,
    )


def styles(*names: str) -> str:
    """The colours of tokens, then these files of styles."""
    return "\n".join([token_styles(), *((_HERE / name).read_text(encoding="utf-8") for name in names)])


def script(name: str) -> str:
    """A component is one script: the tooltips and the parts that all components share, then the named part, which exports."""
    parts = ((_HERE / part).read_text(encoding="utf-8") for part in ("table.js", "tokens.js", "charts.js", name))
    return "\n".join([f"const DEFINITIONS = {json.dumps(tooltips())};", *parts])
