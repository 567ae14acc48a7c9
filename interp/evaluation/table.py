"""The table of metrics: what stands side by side for several runs, named once. Needs neither torch nor the stores.

The text table, its JSON, the dashboard's Runs page and the table in ``activations/FORMAT.md`` are made from ``METRICS``: a new
metric is a field of a record in ``results`` and an entry here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from interp.errors import InputError
from interp.evaluation.results import Metrics, read_metrics

if TYPE_CHECKING:
    from interp.runs.record import Run

Value = str | float | bool | None
"""Value of a cell; None where it was not or could not be measured."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One column of the table."""

    key: str
    """In the JSON rows."""
    path: str
    """Where it lies in ``metrics.json``: keys with dots between them."""
    heading: str
    help: str
    """What it says, in a sentence."""
    format: str | None
    """How a number is written, for ``%``; None for yes or no."""
    better: Literal["higher", "lower", "neither"]

    @property
    def tooltip(self) -> str:
        """The help, and which way is better."""
        return self.help if self.better == "neither" else f"{self.help} {self.better.title()} is better."

    def value(self, metrics: Metrics) -> Value:
        """The number; None where it was not measured."""
        found: Any = metrics
        for key in self.path.split("."):
            found = getattr(found, key)
            if found is None:
                return None
        return found

    def text(self, value: Value) -> str:
        """The number as text; "-" where it was not measured."""
        if value is None:
            return "-"
        if self.format is None:
            return "yes" if value else "no"
        return self.format % value


METRICS = (
    Metric(
        key="fvu",
        path="reconstruction.fvu",
        heading="FVU",
        help="Fraction of variance unexplained: squared error of the reconstruction over the variance of the activations.",
        format="%.4f",
        better="lower",
    ),
    Metric(
        key="fvu_own_target",
        path="reconstruction.fvu_own_target",
        heading="own FVU",
        help="Where codes do not decode to an activation: the FVU of this method, which is measured in another space.",
        format="%.4f",
        better="lower",
    ),
    Metric(
        key="fvu_of_span",
        path="reconstruction.fvu_of_span",
        heading="outside span",
        help="For the same methods: share of the activations' variance outside the span of each token's active latents.",
        format="%.4f",
        better="lower",
    ),
    Metric(
        key="l0",
        path="reconstruction.l0",
        heading="L0",
        help="Codes that are not zero, mean per token.",
        format="%.1f",
        better="neither",
    ),
    Metric(
        key="n_dead",
        path="reconstruction.n_dead",
        heading="dead",
        help="Features that fire on no token of the text.",
        format="%d",
        better="lower",
    ),
    Metric(
        key="ce_recovered",
        path="spliced.ce_recovered_mean",
        heading="CE recovered",
        help="Share of the model's cross-entropy kept with the reconstruction in place; 0 is that of the mean activation.",
        format="%.3f",
        better="higher",
    ),
    Metric(
        key="auroc",
        path="concepts.mean_auroc",
        heading="AUROC",
        help="Concept detection: AUROC of the best feature, mean over concepts.",
        format="%.3f",
        better="higher",
    ),
    Metric(
        key="null_auroc",
        path="concepts.mean_null_auroc",
        heading="null",
        help="AUROC of the best of as many random directions, mean over concepts.",
        format="%.3f",
        better="neither",
    ),
    Metric(
        key="excess",
        path="concepts.mean_excess_over_null",
        heading="excess",
        help="AUROC less its null, mean over concepts.",
        format="%+.3f",
        better="higher",
    ),
    Metric(
        key="steering",
        path="steering.mean_difference",
        heading="steering",
        help="Gain in the share of the written text that is the concept when its feature is steered, mean over concepts.",
        format="%+.3f",
        better="higher",
    ),
    Metric(
        key="null_steering",
        path="steering.mean_null_difference",
        heading="null steering",
        help="The same gain with random directions of the same effect.",
        format="%+.3f",
        better="neither",
    ),
    Metric(
        key="is_held_out",
        path="held_out.is_held_out",
        heading="held out",
        help="Whether the run was trained on no document of this text.",
        format=None,
        better="neither",
    ),
    Metric(
        key="n_trained_on",
        path="held_out.n_trained_on",
        heading="trained on",
        help="Documents of this text that are in the store the run was trained on.",
        format="%d",
        better="lower",
    ),
)


def metrics_rows(runs: Sequence[Run]) -> list[dict[str, Value]]:
    """What each run is, and its metrics by key: all None for a run that was not evaluated by this version."""
    return [_row(run, _metrics(run)) for run in runs]


def measured(rows: Sequence[Mapping[str, Value]]) -> list[Metric]:
    """The metrics that at least one of the rows has."""
    return [metric for metric in METRICS if any(row[metric.key] is not None for row in rows)]


def metrics_table(runs: Sequence[Run]) -> str:
    """What was measured, as text in aligned columns, and below it in sentences what no column says."""
    if not runs:
        raise InputError("there is no run to compare; give at least one")
    found = [_metrics(run) for run in runs]
    rows = [_row(*each) for each in zip(runs, found, strict=True)]
    columns = measured(rows)
    cells = [["run", "kind", "site", *(metric.heading for metric in columns)]]
    for run, row in zip(runs, rows, strict=True):
        cells.append([run.name, run.kind, str(run.site), *(metric.text(row[metric.key]) for metric in columns)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    for run, metrics in zip(runs, found, strict=True):
        lines += [f"{run.name}: {remark}." for remark in _remarks(run, metrics)]
    if len({metrics.store_identity for metrics in found if metrics}) > 1:
        lines.append("The runs were evaluated on different stores, so their figures are not comparable.")
    return "\n".join(lines)


def metrics_markdown() -> str:
    """The metrics as a Markdown table, for the documentation."""
    lines = ["| column | key in `metrics.json` | what it says | better |", "|---|---|---|---|"]
    lines += [f"| {m.heading} | `{m.path}` | {m.help} | {m.better} |" for m in METRICS]
    return "\n".join(lines)


def _metrics(run: Run) -> Metrics | None:
    try:
        return read_metrics(run)
    except InputError:  # not evaluated, or by a version that wrote another file: one such run must not hide the others
        return None


def _row(run: Run, metrics: Metrics | None) -> dict[str, Value]:
    what: dict[str, Value] = {"run": run.name, "kind": run.kind, "site": str(run.site)}
    what |= {metric.key: metric.value(metrics) if metrics else None for metric in METRICS}
    return what | {
        "store_identity": metrics.store_identity if metrics else None,
        "concepts_left_out": metrics.concepts_left_out if metrics else None,
    }


def _remarks(run: Run, metrics: Metrics | None) -> Iterator[str]:
    if metrics is None:
        yield f"not evaluated by this version; run: interp evaluate {run.path}"
        return
    text = metrics.held_out
    if text.n_trained_on is None:
        yield "whether the text is held out is unknown: the run's own store has changed, or has another tokenizer"
    elif not text.is_held_out:
        yield f"not held out, {text.n_trained_on} of {text.n_documents} documents were trained on"
    if metrics.concepts_left_out:
        yield f"no concepts, {metrics.concepts_left_out}"
