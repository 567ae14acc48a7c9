"""Comparing runs: those that were judged alike in groups, and which features the runs of a group share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interp.errors import InputError
from interp.evaluation.groups import Apart, Group, Settings, grouped, groups_apart, settings_of
from interp.evaluation.matching import best_matches
from interp.evaluation.results import Metrics
from interp.evaluation.table import Row, metrics_of, metrics_rows, names_of
from interp.progress import progress
from interp.records import Record
from interp.runs.record import Run


class Matched(Record, frozen=True):
    """How alike the features of runs are: each run's paired one to one with another's by read directions or forms."""

    runs: tuple[str, ...]
    cosines: tuple[tuple[float, ...], ...]
    """Mean over the pairs of features; absolute where a method has no sign of its own. 1 on the diagonal."""
    chance: tuple[tuple[float, ...], ...]
    """The same with as many random directions that have the activations' covariance. 1 on the diagonal."""


@dataclass(frozen=True)
class Comparison:
    """All that ``interp compare --json`` prints."""

    runs: tuple[Row, ...]
    groups: tuple[Group, ...]
    apart: tuple[Apart, ...]
    settings: Settings
    matched: tuple[Matched, ...]
    """Of each group with two runs or more."""
    unmatched: tuple[str, ...]
    """Why there is no matching for a group."""


def metrics_by_name(runs: Sequence[Run]) -> dict[str, Metrics]:
    """The metrics of runs, by names that are unlike each other.

    Raises InputError for fewer than two runs, for one that is given twice, and naming those that were not evaluated.
    """
    if len(runs) < 2:
        raise InputError(f"a comparison needs two runs or more; there is {'one' if runs else 'none'}")
    paths = [run.path.resolve() for run in runs]
    if twice := sorted({str(path) for path in paths if paths.count(path) > 1}):
        raise InputError(f"a run is given twice: {', '.join(twice)}; name each run once")
    found = dict(zip(names_of(runs), map(metrics_of, runs), strict=True))
    if absent := [name for name, metrics in found.items() if metrics is None]:
        folders = " ".join(str(run.path) for run, name in zip(runs, found, strict=True) if name in absent)
        raise InputError(f"not evaluated by this version: {', '.join(absent)}; run: interp evaluate {folders}")
    return {name: metrics for name, metrics in found.items() if metrics is not None}


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Compare evaluated runs. Raises InputError as ``metrics_by_name`` does."""
    metrics = metrics_by_name(runs)
    by_name = dict(zip(metrics, runs, strict=True))
    groups, matched, unmatched = grouped(metrics), [], []
    for group in groups:
        if len(group.runs) > 1:
            try:
                matched.append(match_runs({name: by_name[name] for name in group.runs}))
            except InputError as error:
                unmatched.append(f"features of {', '.join(group.runs)} were not matched: {error}")
    return Comparison(
        runs=tuple(metrics_rows(runs)),
        groups=tuple(groups),
        apart=groups_apart(groups),
        settings=settings_of(by_name),
        matched=tuple(matched),
        unmatched=tuple(unmatched),
    )


def match_runs(runs: Mapping[str, Run]) -> Matched:
    """Pair the features of every two runs one to one (Hungarian method). Raises InputError as ``best_matches`` does."""
    n = len(runs)
    cosines, chance = np.eye(n), np.eye(n)
    each = list(runs.values())
    for i in progress(range(n - 1), total=n - 1, what="match features", unit="run"):
        for j, matches in enumerate(best_matches(each[i], each[i + 1 :], pairing="one-to-one"), start=i + 1):
            # Unpaired features have 0 in both sums; as many are paired with random directions, though not the same ones.
            n_pairs = max(1, int((matches.features >= 0).sum()))
            cosines[i, j] = cosines[j, i] = matches.cosines.sum() / n_pairs
            chance[i, j] = chance[j, i] = matches.chance.sum() / n_pairs
    return Matched(
        runs=tuple(runs), cosines=tuple(map(tuple, cosines.tolist())), chance=tuple(map(tuple, chance.tolist()))
    )
