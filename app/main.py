"""The dashboard's entry script: one page at a time, chosen in the bar at the top."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from app.navigation import pages
from app.tools import show_tools

_HERE = Path(__file__).parent

# A local picture: an icon by name would be asked from a font server.
st.set_page_config(page_title="interp", page_icon=str(_HERE / "icon.png"), layout="wide")
st.html(_HERE / "page.css")
page = st.navigation(pages(), position="top")
show_tools(page.url_path)
page.run()
