"""Codes that no index holds: of a text that is typed, and of stored text that was not indexed. Importing this loads torch."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from app.models import require_model
from app.on_demand import codes_of_text
from app.workspace import index_version, open_index, run_name
from interp.browse.comparison import TextCodes
from interp.browse.stored_text import passages_of, stored_text, typed_text
from interp.runs.record import Run
from interp.store.reader import ActivationStore


def typed(run: Run, text: str) -> TextCodes:
    """The codes of a typed text. Ends the page with the reason if the model cannot be loaded."""
    require_model(run)
    return typed_text(codes_of_text(run, run_name(run), text))


def stored(run: Run, store: Path, document: int, passage: int) -> TextCodes:
    """The codes of a passage of a store. Raises InputError as ``stored_text`` does."""
    opened = ActivationStore(store)
    return _stored(run_name(run), run.identity, opened.identity, document, passage, _store=opened, _run=run)


@st.cache_data(show_spinner=False, max_entries=16)
def _stored(
    name: str, identity: str, store: str, document: int, passage: int, _store: ActivationStore, _run: Run
) -> TextCodes:
    texts = open_index(_run).token_texts if index_version(_run) else require_model(_run).token_strings
    return stored_text(_run, _store, document, passage, texts)


def documents(store: Path) -> list[str]:
    """Names of a store's documents by their numbers."""
    return ActivationStore(store).documents()[0]


def n_passages(store: Path, document: int) -> int:
    """How many passages a document has."""
    return len(passages_of(ActivationStore(store), document))
