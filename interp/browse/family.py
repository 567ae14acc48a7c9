"""The parent and the siblings of a feature in the hierarchy of its run, read from the weights without torch."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TypedDict

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open

from interp.errors import InputError
from interp.runs.record import DECOMPOSER, Run

N_SIBLINGS = 20


class Family(TypedDict):
    """Where a feature stands in the hierarchy."""

    level: int
    """Level of the parent: 1, the features being level 0."""
    parent: int
    """The heaviest parent, by its number at that level."""
    share: float
    """Its weight as a share of the feature's weights from all parents."""
    siblings: list[tuple[int, float]]
    """The other features whose heaviest parent it is, with the weight of each, heaviest first."""


def family_of(run: Run, feature: int) -> Family | None:
    """The family of a feature; None for a run without hierarchy and for a feature without parent.

    Raises InputError if the weights cannot be read.
    """
    if not run.can("hierarchy"):
        return None
    path = run.path / DECOMPOSER
    weights = _weights(path, path.stat().st_mtime_ns)
    if weights is None or not weights[feature].any():
        return None
    parents = weights.argmax(1)
    parent = int(parents[feature])
    column = weights[:, parent]
    others = [
        int(f) for f in np.argsort(-column, kind="stable") if parents[f] == parent and column[f] > 0 and f != feature
    ]
    return Family(
        level=1,
        parent=parent,
        share=float(column[feature] / weights[feature].sum()),
        siblings=[(f, float(column[f])) for f in others[:N_SIBLINGS]],
    )


# Kept while the file stays as it is: every card of the run asks.
@lru_cache(maxsize=8)
def _weights(path: Path, changed: int) -> Float[np.ndarray, "n_features n_parents"] | None:
    """What each feature takes from each parent, W_0; None where there is no level above the features."""
    try:
        with safe_open(path, framework="np") as file:
            return file.get_tensor("level1.weights") if "level1.weights" in file.keys() else None  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"the weights '{path}' cannot be read: {error}") from None
