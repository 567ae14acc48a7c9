"""The language model behind Prompt and Steer, loaded once for all sessions. Importing this module loads torch."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import streamlit as st

from interp.errors import InputError
from interp.model.language_model import LanguageModel, load_model
from interp.model.threads import fitting_threads
from interp.runs.record import Run


def require_model(run: Run) -> LanguageModel:
    """The model the run was trained on. Ends the page with the reason if it cannot be loaded on this machine."""
    try:
        return _load(run.model_id)
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


@st.cache_resource(show_spinner="Loading the language model", max_entries=1)
def _load(name: str) -> LanguageModel:
    return load_model(name)
