"""What ``metrics.json`` holds, side by side for several runs. Needs neither torch nor the stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from interp.errors import InputError
from interp.records import read_json

if TYPE_CHECKING:
    from interp.runs.record import Run

METRICS_FILE, SCHEMA, VERSION = "metrics.json", "interp-metrics", 1

COLUMNS = {
    "run": "run",
    "kind": "kind",
    "site": "site",
    "fvu": "FVU",
    "l0": "L0",
    "n_dead": "dead",
    "ce_recovered": "CE recovered",
    "auroc": "AUROC",
    "null_auroc": "null",
    "excess": "excess",
    "steering": "steering",
    "null_steering": "null steering",
    "is_held_out": "held out",
}
"""Key of a row to its heading. CE recovered is against mean ablation; AUROC is the mean over concepts of the best feature's;
null is the best of as many random directions; steering is the mean gain in the share of the concept written."""


def read_metrics(run: Run) -> dict[str, Any]:
    """The run's metrics, schema and version checked. Raises InputError when it has not been evaluated."""
    absent = f"run '{run.name}' has no metrics yet; run: interp evaluate {run.path}"
    return read_json(run.path / METRICS_FILE, SCHEMA, VERSION, absent)


def metrics_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row a run, keys as in ``COLUMNS``; None for what was not or could not be measured."""
    return [_row(run, read_metrics(run) if (run.path / METRICS_FILE).exists() else {}) for run in runs]


def metrics_table(runs: Sequence[Run]) -> str:
    """The rows as text in aligned columns; "-" for what was not measured, and what differs between the rows named below."""
    if not runs:
        raise InputError("there is no run to compare; give at least one")
    rows = metrics_rows(runs)
    cells = [list(COLUMNS.values()), *([_cell(row[key]) for key in COLUMNS] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines += [_other_target(row) for row in rows if row["fvu_own_target"] is not None]
    lines += [f"{row['run']}: no concepts, {row['concepts_left_out']}." for row in rows if row["concepts_left_out"]]
    if len({row["store_identity"] for row in rows if row["store_identity"]}) > 1:
        lines.append("The runs were judged on different stores, so their figures are not comparable.")
    return "\n".join(lines)


def _row(run: Run, metrics: dict[str, Any]) -> dict[str, Any]:
    parts = {name: metrics.get(name) or {} for name in ("reconstruction", "spliced", "concepts", "steering")}
    return {
        "run": run.name,
        "kind": run.kind,
        "site": run.site,
        "fvu": parts["reconstruction"].get("fvu"),
        "fvu_own_target": parts["reconstruction"].get("fvu_own_target"),
        "fvu_of_span": parts["reconstruction"].get("fvu_of_span"),
        "l0": parts["reconstruction"].get("l0"),
        "n_dead": parts["reconstruction"].get("n_dead"),
        "ce_recovered": parts["spliced"].get("ce_recovered_mean"),
        "auroc": parts["concepts"].get("mean_auroc"),
        "null_auroc": parts["concepts"].get("mean_null_auroc"),
        "excess": parts["concepts"].get("mean_excess_over_null"),
        "steering": parts["steering"].get("mean_difference"),
        "null_steering": parts["steering"].get("mean_null_difference"),
        "is_held_out": metrics.get("is_held_out"),
        "store_identity": metrics.get("store_identity"),
        "concepts_left_out": metrics.get("concepts_left_out"),
    }


def _other_target(row: dict[str, Any]) -> str:
    """What is known of a run whose codes do not decode, in figures that must not stand in the column of FVUs."""
    line = f"{row['run']}: FVU {row['fvu_own_target']:.3f} of what it reconstructs, which is not x"
    if row["fvu_of_span"] is None:
        return line + "."
    return line + f"; {row['fvu_of_span']:.3f} of the variance of x lies outside of what its active latents span."


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)
