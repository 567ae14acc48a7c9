"""Ordinal labels, which a manifold may show in order: a token's position, and the store's labels with several values.

position            place in its sequence, 1 for the first token after BOS
position in line    characters from the last newline to the token's end; NaN before a sequence's first newline, whose
                    line began elsewhere
every label of the store that takes more than two values, such as indentation_depth
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

if TYPE_CHECKING:
    from interp.store.reader import ActivationStore

POSITION, POSITION_IN_LINE = "position", "position in line"


def ordinals(store: ActivationStore, vocabulary: list[str] | None) -> dict[str, Float[np.ndarray, " n_rows"]]:
    """Name to a number for each row of the store; the position in the line only with ``vocabulary``."""
    positions = store.positions()
    sequence, place = positions.T
    found = {POSITION: place.astype(np.float32)}
    if vocabulary is not None:
        found[POSITION_IN_LINE] = position_in_line(store.tokens(), vocabulary)[sequence, place]
    labels = {label_set: store.labels(label_set) for label_set in store.label_sets}
    for name, (label_set, column) in store.label_places().items():
        values = labels[label_set][:, column]
        if len(np.unique(values)) > 2:
            found[name] = values.astype(np.float32)
    return found


def position_in_line(
    tokens: Int[np.ndarray, "n_sequences n_ctx"], vocabulary: list[str]
) -> Float[np.ndarray, "n_sequences n_ctx"]:
    """Characters between the last newline before each token and its start. BOS, the token at position 0, ends a line too."""
    bos = tokens[0, 0]
    tail = np.array([len(text) - 1 - text.rfind("\n") for text in vocabulary])
    starts_line = np.array(["\n" in text for text in vocabulary])
    tail[bos], starts_line[bos] = 0, True
    is_start = starts_line[tokens]
    is_start[:, 0] = False  # a sequence may begin in the middle of a line
    written = np.cumsum(tail[tokens], axis=1).astype(np.float64)
    line_start = np.maximum.accumulate(np.where(is_start, written - tail[tokens], -np.inf), axis=1)
    after = np.where(np.isfinite(line_start), written - line_start, np.nan)
    return np.concatenate([np.full((len(tokens), 1), np.nan), after[:, :-1]], axis=1).astype(np.float32)


def fitting_half(store: ActivationStore, rows: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Whether each of the ascending ``rows`` is in the half that chooses and fits; the other half judges.

    It is every other document that has one of ``rows``; the first half of them if all are of one document.
    """
    sequence, place = store.positions()[rows].T
    documents = store.documents()[1][sequence, place]
    numbers = np.unique(documents)
    return np.isin(documents, numbers[::2]) if len(numbers) > 1 else np.arange(len(rows)) < len(rows) // 2
