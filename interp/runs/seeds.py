"""The same request trained from several seeds: what differs between the runs is chance, and what they share is not."""

from __future__ import annotations

from dataclasses import replace

from interp.errors import InputError
from interp.records import converted
from interp.runs.record import RECORD, Run, find_runs


def runs_of_seeds(run: Run, n: int) -> list[Run]:
    """``run``, and runs of its store, site and config from the n - 1 seeds that follow its own, in order of the seeds.

    A run that is there already is opened, whatever its name. One that is not is trained as NAME-seedS, S its seed, each in
    a pass of its own, since the seed also decides the order of the rows. An interrupted training goes on.

    Raises InputError for n below 1, for a run that was not trained here, when its store has changed since, and as
    ``train_run`` does.
    """
    from interp.decomposers import read_config  # deferred: imports torch
    from interp.runs.training import train_run  # deferred: imports torch

    if n < 1:
        raise InputError(f"a run has one seed or more, not {n}")
    config = read_config(run.kind, run.config)
    found = {_seed(sibling): sibling for sibling in reversed(siblings(run))} | {config.seed: run}
    missing = [seed for seed in range(config.seed, config.seed + n) if seed not in found]
    if missing and not run.training_curve():
        raise InputError(f"'{run.name}' was trained elsewhere, so it cannot be trained from other seeds here")
    for seed in missing:
        found[seed] = train_run(run.store(), run.site, replace(config, seed=seed), f"{run.name}-seed{seed}")
    return [found[seed] for seed in range(config.seed, config.seed + n)]


def siblings(run: Run) -> list[Run]:
    """The other finished runs of the same request in the same store whose seed is another, by seed, then by name."""
    same = [
        other
        for other in find_runs(run.store_path.parent)
        if other.store_path == run.store_path and set(run.record.differences(other.record)) == {"config"}
    ]
    seedless = {**run.config, "seed": None}
    found = [other for other in same if {**other.config, "seed": None} == seedless]
    return sorted(found, key=lambda other: (_seed(other), other.name))


def _seed(run: Run) -> int:
    return converted(run.config.get("seed"), int, f"seed in '{run.path / RECORD}'")
