"""The language model behind Prompt, Steer and the feature card, loaded once for all. Importing this module loads torch."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import streamlit as st

from interp.errors import InputError
from interp.model.language_model import LanguageModel, load_model
from interp.model.threads import fitting_threads
from interp.runs.record import Run

_loading = threading.Lock()
_models: dict[str, LanguageModel] = {}


def held_model(run: Run) -> LanguageModel:
    """The model the run was trained on; it replaces another one in memory. Raises InputError if it cannot be loaded."""
    with _loading:
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


class ModelTurn:
    """The right to run a model, which all sessions share: hooks that one of them sets would change what another reads.

    Those who wait get it in the order in which they asked. Within a turn the model has as many threads as fit it.
    """

    _waiting, _running = threading.Lock(), threading.Lock()

    def __init__(self, model: LanguageModel) -> None:
        self._model, self._held = model, ExitStack()

    def __enter__(self) -> ModelTurn:
        # Whoever waits to run holds the first lock, so that who gives its turn and asks at once comes after it.
        with self._waiting:
            self._held.enter_context(self._running)
        self._held.enter_context(fitting_threads(self._model))
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()
