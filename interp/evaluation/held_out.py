"""Is the evaluated text new to a run? Documents are compared by their tokens; a name says little about the text.

The same text captured at other sites, in another dtype or in sequences of another length is the same text. A store may hold
a part of a document: its snippets, or the last one as far as the capture went. So a document of one store is in the other if

- some document there has the same tokens, whatever its name; or
- one there has its name, and wherever both hold the same characters they hold the same tokens; or, where they hold none
  in common, both stores were captured from a text of the same name, such as ``stdlib``.

Snippets of one document under two names, or from texts of two names, with nothing in common, are not found.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from interp.errors import InputError
from interp.evaluation.results import HeldOut

if TYPE_CHECKING:
    from interp.runs.record import Run
    from interp.store.reader import ActivationStore, DocumentTokens


def held_out(run: Run, store: ActivationStore) -> HeldOut:
    """How many documents of ``store`` are in the store that ``run`` was trained on.

    Unknown if that store has changed since the training, or was captured with another tokenizer.
    """
    documents = list(store.document_tokens())
    trained: ActivationStore | None = None
    with suppress(InputError):  # the run's own store has changed since
        trained = run.store()
    if trained is None or trained.manifest.tokenizer_fingerprint != store.manifest.tokenizer_fingerprint:
        return HeldOut(is_held_out=None, n_documents=len(documents), n_trained_on=None)
    by_text: defaultdict[bytes, set[int]] = defaultdict(set)
    by_name: defaultdict[str, set[int]] = defaultdict(set)
    for number, document in enumerate(documents):
        by_text[document.tokens.tobytes()].add(number)
        by_name[document.name].add(number)
    same_text = trained.manifest.corpus == store.manifest.corpus
    shared: set[int] = set()
    for document in trained.document_tokens():
        shared |= by_text.get(document.tokens.tobytes(), set())
        for number in by_name.get(document.name, set()) - shared:
            if _agree(document, documents[number], where_apart=same_text):
                shared.add(number)
    return HeldOut(is_held_out=not shared, n_documents=len(documents), n_trained_on=len(shared))


def _agree(one: DocumentTokens, other: DocumentTokens, *, where_apart: bool) -> bool:
    """Whether two have the same tokens at the places that both have; ``where_apart`` if there is no such place."""
    first, second = _places(one.offsets), _places(other.offsets)
    if not np.isin(first, second).any():
        return where_apart
    return np.array_equal(one.tokens[np.isin(first, second)], other.tokens[np.isin(second, first)])


def _places(offsets: np.ndarray) -> np.ndarray:
    """One number for the place of each token: several tokens may begin at one character, as bytes of it."""
    firsts = np.flatnonzero(np.diff(offsets, prepend=-1))
    nth = np.arange(len(offsets)) - np.repeat(firsts, np.diff(firsts, append=len(offsets)))
    return offsets.astype(np.int64) << 16 | nth
