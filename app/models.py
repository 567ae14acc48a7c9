"""The language model behind Prompt, Steer and the feature card, loaded once for all. Importing this module loads torch."""

from __future__ import annotations

import threading

import streamlit as st

from interp.errors import InputError
from interp.model.language_model import LanguageModel, load_model
from interp.runs.record import Run

MODEL_LOCK = threading.RLock()
"""Held while the model is loaded or run: hooks are set on the one model that all sessions share."""

_models: dict[str, LanguageModel] = {}


def held_model(run: Run) -> LanguageModel:
    """The model the run was trained on; it replaces another one in memory. Raises InputError if it cannot be loaded."""
    with MODEL_LOCK:
        if run.model_id not in _models:
            _models.clear()
            _models[run.model_id] = load_model(run.model_id)
        return _models[run.model_id]


def require_model(run: Run) -> LanguageModel:
    """The model the run was trained on. Ends the page with the reason if it cannot be loaded on this machine."""
    try:
        with st.spinner("Loading the language model"):
            return held_model(run)
    except InputError as error:
        st.warning(f"This page needs the language model, and {error}")
        st.caption("The Features and Runs pages work without it.")
        st.stop()
