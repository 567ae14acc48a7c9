"""Is the evaluated text new to a run? Documents are compared by their tokens; a name says little about the text.

The same text captured at other sites, in another dtype or in sequences of another length is the same text. A store's last
document is cut off where the capture ended, so documents of one name are also the same when one is the beginning of the other.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

from interp.errors import InputError
from interp.evaluation.results import HeldOut

if TYPE_CHECKING:
    from interp.runs.record import Run
    from interp.store.reader import ActivationStore


def held_out(run: Run, store: ActivationStore) -> HeldOut:
    """How many documents of ``store`` are in the store that ``run`` was trained on.

    Unknown if that store has changed since the training, or was captured with another tokenizer.
    """
    documents = [(name, tokens.tobytes()) for name, tokens in store.document_tokens()]
    trained: ActivationStore | None = None
    with suppress(InputError):  # the run's own store has changed since
        trained = run.store()
    if trained is None or trained.manifest.tokenizer_fingerprint != store.manifest.tokenizer_fingerprint:
        return HeldOut(is_held_out=None, n_documents=len(documents), n_trained_on=None)
    by_text: defaultdict[bytes, set[int]] = defaultdict(set)
    by_name: defaultdict[str, set[int]] = defaultdict(set)
    for number, (name, text) in enumerate(documents):
        by_text[text].add(number)
        by_name[name].add(number)
    shared: set[int] = set()
    for name, tokens in trained.document_tokens():
        text = tokens.tobytes()
        shared |= by_text.get(text, set())
        for number in by_name.get(name, ()):
            known = documents[number][1]
            if known.startswith(text) or text.startswith(known):
                shared.add(number)
    return HeldOut(is_held_out=not shared, n_documents=len(documents), n_trained_on=len(shared))
