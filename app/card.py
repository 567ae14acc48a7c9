"""The feature table and card: one component whose script fetches the JSON routes, so that no step waits for a rerun."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from interp.browse.palette import token_styles

_HERE = Path(__file__).parent
_HTML = '<div class="features"><div class="table"></div><div class="card"></div></div>'


@cache
def feature_card() -> Any:
    """The component's mounting command. It must be registered once: doing so on every rerun would reload its script."""
    return st.components.v2.component("feature_card", html=_HTML, css=_styles("card.css"), js=_script("card.js"))


@cache
def prompt_tokens() -> Any:
    """The component of the Prompt page: tokens to click, and the features ranked for them."""
    return st.components.v2.component(
        "prompt_tokens",
        html='<div class="prompt"><div class="chips"></div><div class="ranking"></div></div>',
        css=_styles("card.css", "prompt.css"),
        js=_script("prompt.js"),
    )


def _styles(*names: str) -> str:
    return "\n".join([token_styles(), *((_HERE / name).read_text(encoding="utf-8") for name in names)])


def _script(name: str) -> str:
    """A component is one script: the parts that both components share, then the named part, which exports."""
    return "\n".join(
        (_HERE / part).read_text(encoding="utf-8") for part in ("table.js", "tokens.js", "charts.js", name)
    )
