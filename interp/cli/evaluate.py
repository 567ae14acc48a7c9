"""``interp index`` and ``interp evaluate``: what is computed from runs after training."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from msgspec import structs

from interp.browse.index_parts import build_index_parts
from interp.corpora.documents import LabelSet
from interp.corpora.labels.registry import LABEL_SETS
from interp.errors import InputError
from interp.evaluation.controls import judge_controls
from interp.evaluation.results import EvaluationConfig, read_metrics
from interp.evaluation.seeds import report_seeds
from interp.evaluation.steering_effect import steering_task
from interp.evaluation.steering_text import steering_lines
from interp.evaluation.suite import evaluate_run
from interp.evaluation.table import metrics_rows, metrics_table
from interp.index.build import IndexConfig
from interp.model.language_model import load_model
from interp.progress import progress
from interp.runs.record import Run, resolve_run
from interp.runs.seeds import runs_of_seeds
from interp.store.reader import ActivationStore


@dataclass(frozen=True)
class Index:
    """Compute what the dashboard shows of each run, once, and keep it with the run."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run folders, or names of runs in the workspace."""
    config: IndexConfig = field(default_factory=IndexConfig)
    workspace: Path = Path("activations")
    """Where runs are looked up by name."""

    def run(self) -> None:
        load = functools.cache(load_model)
        for run in _runs(self.runs, self.workspace):
            for path in build_index_parts(run, load(run.model_id), self.config):
                print(path)


@dataclass(frozen=True)
class Evaluate:
    """Measure runs: reconstruction, the model's loss with it, which concepts their features find and how many can be read, what
    they do in the model, steering; beside nulls and simple methods. Prints a table and writes metrics.json and evidence.json
    into each run."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run folders, or names of runs in the workspace."""
    config: EvaluationConfig = field(default_factory=EvaluationConfig)
    store: Path | None = None
    """Store to evaluate on, of text that the runs were not trained on; by default, for runs of the store NAME, the store
    NAME-held-out beside it."""
    seeds: int = 1
    """Train and judge each run again with other seeds, this many runs in all, and report the spread and which features come
    back."""
    controls: bool = False
    """Also fit and judge the method with a frozen decoder (autoencoders) and in a copy of the model with shuffled weights."""
    workspace: Path = Path("activations")
    """Where runs are looked up by name."""
    all: bool = False
    """Print every column of the table, not only those to begin with."""
    json: bool = False
    """Print the table as JSON, with every column, and nothing else."""

    def run(self) -> None:
        runs, load = _runs(self.runs, self.workspace), functools.cache(load_model)
        if self.seeds < 1:
            raise InputError(f"--seeds is a number of runs, 1 or more, not {self.seeds}")
        stores = [_held_out_store(run, self.store) for run in runs]  # before the first is measured: refuse early
        label_sets = [_label_set(store, self.config) for store in stores]
        for run, store, label_set in zip(
            progress(runs, total=len(runs), what="evaluate", unit="run"), stores, label_sets, strict=True
        ):
            model, judged = load(run.model_id), runs_of_seeds(run, self.seeds)
            can_steer = label_set is not None and label_set.judge is not None and self.config.n_steered > 0
            task = steering_task(label_set) if label_set and can_steer else None
            for each in judged:
                # the others show how figures spread; what steering costs is spent once
                config = self.config if each is judged[0] else structs.replace(self.config, n_steered=0)
                evaluate_run(
                    each, model=model, store=store, config=config, steering=task if each is judged[0] else None
                )
            if self.controls:
                judge_controls(run, read_metrics(run), model=model, store=store)
            if len(judged) > 1:
                report_seeds(judged)
        if self.json:
            print(json.dumps(metrics_rows(runs), indent=1))
            return
        print(metrics_table(runs, everything=self.all))
        for run in runs:
            if (steering := read_metrics(run).steering) is not None:
                print("", *steering_lines(run.name, steering), sep="\n")


def _label_set(store: ActivationStore, config: EvaluationConfig) -> LabelSet | None:
    """The label set that the runs are judged by; None where the store has none, or it is a person's own."""
    if not store.label_sets and config.concepts.label_set is None:
        return None
    return LABEL_SETS.get(store.label_set(config.concepts.label_set))


def _runs(given: tuple[str, ...], workspace: Path) -> list[Run]:
    if not given:
        raise InputError("no run was named; give run folders or names")
    return [resolve_run(name, workspace) for name in given]


def _held_out_store(run: Run, given: Path | None) -> ActivationStore:
    if given is not None:
        return ActivationStore(given)
    held_out = run.store_path.with_name(run.store_path.resolve().name + "-held-out")
    if not held_out.exists():
        raise InputError(
            f"there is no held-out store '{held_out}' to evaluate '{run.name}' on; capture one, or name another with --store "
            f"(the run's own, {run.store_path}, holds the text that it was trained on)"
        )
    return ActivationStore(held_out)
