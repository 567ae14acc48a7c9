"""Which run a page shows first."""

from __future__ import annotations

import os
from pathlib import Path

from made_metrics import around, concepts, made_metrics, made_run

from interp.browse.first_run import best_first, excess_of
from interp.evaluation.results import METRICS_FILE
from interp.records import write_record


def test_the_greatest_excess_is_first_then_runs_without_evaluation_then_those_without_index(tmp_path: Path) -> None:
    store = tmp_path / "s"
    made = {
        "a-worse": made_metrics("a-worse", concepts=concepts(excess=around(-0.1))),
        "b-not-judged": None,
        "c-best": made_metrics("c-best", concepts=concepts(excess=around(0.3))),
        "d-without-labels": made_metrics("d-without-labels"),
        "e-no-index": made_metrics("e-no-index", concepts=concepts(excess=around(0.9))),
    }
    runs = {name: made_run(store, metrics, name) for name, metrics in made.items()}
    indexed = set(runs) - {"e-no-index"}
    assert best_first(runs, indexed) == ["c-best", "a-worse", "b-not-judged", "d-without-labels", "e-no-index"]
    assert [excess_of(run) for run in runs.values()] == [-0.1, None, 0.3, None, 0.9]


def test_a_new_evaluation_counts_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    run = made_run(tmp_path / "s", made_metrics("r", concepts=concepts(excess=around(0.2))))
    assert excess_of(run) == 0.2
    path = run.path / METRICS_FILE
    write_record(path, made_metrics("r", concepts=concepts(excess=around(0.4))))
    os.utime(path, ns=(1, 1))
    assert excess_of(run) == 0.4
    path.write_text("damaged")
    assert excess_of(run) is None
