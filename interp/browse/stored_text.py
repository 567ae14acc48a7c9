"""A run's codes on text of which there is no index: typed, or stored in any store that has the run's site."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Int
from scipy import sparse

from interp.browse.comparison import TextCodes, chosen_passage
from interp.browse.prompt import PromptCodes
from interp.errors import InputError
from interp.index.reader import passages
from interp.runs.record import Run
from interp.store.reader import ActivationStore


def typed_text(found: PromptCodes) -> TextCodes:
    """The codes of a typed text, without BOS."""
    return TextCodes(found.tokens[1:], sparse.csr_array(found.codes[1:]))


@torch.no_grad()
def stored_text(
    run: Run,
    store: ActivationStore,
    document: int,
    passage: int,
    texts: Callable[[Sequence[int]], list[str]],
) -> TextCodes:
    """A passage of a document of a store: its tokens in one sequence. Passages count from 1; ``texts`` says what tokens are.

    Raises InputError for a store of another model, for one that lacks the run's site, and for a passage that there is not.
    """
    if store.manifest.model_fingerprint != run.record.model_fingerprint:
        raise InputError(
            f"run '{run.name}' was trained on another model than the store '{store.path}' was captured from"
        )
    rows = chosen_passage(passages_of(store, document), document, passage)
    codes = run.decomposer().encode(store.site(run.site.read).rows(rows)).cpu().numpy()
    ids = store.tokens()[tuple(store.positions()[rows].T)].tolist()
    return TextCodes(tuple(texts(ids)), sparse.csr_array(codes))


def passages_of(store: ActivationStore, document: int) -> list[Int[np.ndarray, " _"]]:
    """Rows of the document's tokens, those of one sequence together, in order."""
    return passages(store.positions(), store.documents()[1], document)
