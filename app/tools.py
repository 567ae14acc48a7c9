"""What stands above every page: copy link, Python for a notebook, and the tour of the page."""

from __future__ import annotations

import streamlit as st

from app.card import page_tools
from interp.browse.snippets import PAGES
from interp.browse.tour import TOUR


def show_tools(page: str) -> None:
    """Lay them out for the page of this address; the page that only leads on has none."""
    if page not in TOUR:
        return
    with st.container(key="page-tools"):
        page_tools()(key=f"tools_{page}", data={"page": page, "tour": list(TOUR[page]), "has_snippet": page in PAGES})
