"""The files that pages read of a run: which of them a run has, by what it can do, and how each is built.

A method that needs a page of its own adds a capability and a part here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from interp.decomposers.base import Capability
from interp.errors import InputError
from interp.index.build import IndexConfig, build_index
from interp.index.reader import FeatureIndex, is_stale
from interp.manifolds.build import build_manifolds
from interp.manifolds.layout import FILE as MANIFOLDS
from interp.manifolds.reader import ManifoldIndex
from interp.model.language_model import LanguageModel
from interp.runs.record import Run


@dataclass(frozen=True)
class IndexPart:
    """One file beside a run's weights that is computed from them."""

    needs: Capability | None
    """What the decomposer must be able to do; None for a part that every run has."""
    build: Callable[[Run, LanguageModel | None, IndexConfig], Path]
    is_current: Callable[[Run], bool]
    """Whether the file is there and of the run's present weights."""


def _index_is_current(run: Run) -> bool:
    if not run.index_path.exists():
        return False
    try:
        with FeatureIndex(run.index_path) as index:
            return not is_stale(index, run)
    except InputError:  # of another version of the tool
        return False


def _manifolds_are_current(run: Run) -> bool:
    try:
        return (run.path / MANIFOLDS).exists() and not ManifoldIndex(run).is_stale
    except InputError:  # of another version of the tool
        return False


PARTS = (
    IndexPart(None, lambda run, model, config: build_index(run, config=config, model=model), _index_is_current),
    IndexPart(
        "forms",
        lambda run, model, config: build_manifolds(run, model=model),
        _manifolds_are_current,
    ),
)


def build_index_parts(
    run: Run, model: LanguageModel | None, config: IndexConfig | None = None, *, only_stale: bool = False
) -> Iterator[Path]:
    """Build every part that the run can have, or only those that are missing or stale; the path of each when it is whole.

    Without ``model`` tokens have numbers in place of text.
    """
    for part in PARTS:
        is_for_run = part.needs is None or run.can(part.needs)
        if is_for_run and not (only_stale and part.is_current(run)):
            yield part.build(run, model, config or IndexConfig())
