"""The language model behind Prompt and Steer, loaded once for all sessions. Importing this module loads torch."""

from __future__ import annotations

import streamlit as st

from interp.errors import InputError
from interp.model.language_model import LanguageModel, load_model
from interp.runs.record import Run


def require_model(run: Run) -> LanguageModel:
    """The model the run was trained on. Ends the page with the reason if it cannot be loaded on this machine."""
    try:
        return _load(run.model_id)
    except InputError as error:
        st.warning(f"This page needs the language model, and {error}")
        st.caption("The Features and Runs pages work without it.")
        st.stop()


@st.cache_resource(show_spinner="Loading the language model", max_entries=1)
def _load(name: str) -> LanguageModel:
    return load_model(name)
