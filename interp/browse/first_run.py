"""Which run a page shows first: the one whose features find most concepts beyond chance."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path

from interp.evaluation.results import METRICS_FILE
from interp.evaluation.table import metrics_of
from interp.runs.record import Run

MEASURE = (
    "The best run is first: the one with the greatest excess of concepts found, as interp evaluate measured it (mean F1 of "
    "each concept's best feature, less that of as many random directions). Runs without evaluation come after those with one, "
    "and runs without an index last."
)
"""How ``best_first`` orders runs, for a person."""


def best_first(runs: Mapping[str, Run], indexed: Collection[str]) -> list[str]:
    """The names of ``runs``, those of ``indexed`` first, among them the greatest excess of concepts found; then by name."""
    excess = {name: excess_of(run) for name, run in runs.items()}

    def place(name: str) -> tuple[bool, bool, float, str]:
        value = excess[name]
        return (name not in indexed, value is None, -(value or 0.0), name)

    return sorted(runs, key=place)


def excess_of(run: Run) -> float | None:
    """F1 of each concept's best feature less that of the best null, mean over concepts; None where it was not measured."""
    path = run.path / METRICS_FILE
    return _excess(path, path.stat().st_mtime_ns) if path.is_file() else None


# Read once while the file stays as it is: the picker of every page asks, for all runs.
@lru_cache(maxsize=1024)
def _excess(path: Path, changed: int) -> float | None:
    metrics = metrics_of(Run.load(path.parent))
    concepts = metrics.concepts if metrics else None
    return concepts.excess.value if concepts and concepts.excess else None
