"""What changes when a run is trained again from another seed: the spread of its figures, and which features come back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import structs

from interp.errors import InputError
from interp.evaluation.matching import best_matches
from interp.evaluation.resampling import mean_over_features
from interp.evaluation.results import METRICS_FILE, SeedReport, read_metrics
from interp.evaluation.table import METRICS
from interp.records import write_record
from interp.runs.record import Run


def report_seeds(runs: Sequence[Run]) -> SeedReport:
    """Compare the first of the runs with the others, all evaluated on one store, and keep the report in its metrics.

    Raises InputError for fewer than two runs, and for runs that were not evaluated.
    """
    if len(runs) < 2:
        raise InputError("the spread over seeds needs two runs or more; ask for --seeds 2 or more")
    metrics = [read_metrics(run) for run in runs]
    spread = {}
    for metric in METRICS:
        values = [metric.score(each).value for each in metrics]
        numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if len(numbers) == len(values):
            spread[metric.key] = (float(np.mean(numbers)), float(np.std(numbers, ddof=1)))
    found = best_matches(runs[0], runs[1:], pairing="one-to-one")
    is_alive = np.any([each.features >= 0 for each in found], axis=0)
    cosines = np.mean([each.cosines for each in found], axis=0)[is_alive]
    report = SeedReport(
        runs=tuple(run.name for run in runs),
        spread=spread,
        stability=mean_over_features(cosines, seed=0),
        null_stability=float(np.mean([each.chance[is_alive] for each in found])),
    )
    write_record(runs[0].path / METRICS_FILE, structs.replace(metrics[0], seeds=report))
    return report
