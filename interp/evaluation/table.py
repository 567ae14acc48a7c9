"""The table of metrics: what stands side by side for several runs, named once. Needs neither torch nor the stores.

The text table, its JSON, the dashboard's Runs page, the page of ``interp compare`` and the table in ``activations/FORMAT.md``
are made from ``METRICS``: a new metric is a field of a record in ``results`` and an entry here.

A score stands beside its null, what chance achieves with as many candidates and the same freedom of choice:

    .44 [.37, .51] > null .23    above its null: the whole 95 % interval of the difference is above 0
    .24 [.19, .29] = null .23    indistinguishable from its null: that interval holds 0
    .12 [.08, .16] < null .23    below its null
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from interp.errors import InputError
from interp.evaluation.estimates import Estimate
from interp.evaluation.number_text import aligned, percent, short
from interp.evaluation.remarks import remark_lines
from interp.evaluation.results import Metrics, read_metrics

if TYPE_CHECKING:
    from interp.runs.record import Run

Value = float | bool | None
"""Value of a cell; None where it was not or could not be measured."""
Row = dict[str, Any]
"""What a run is and what was measured of it, as plain JSON data."""

Better = Literal["higher", "lower", "neither"]
DIRECTIONS: dict[Better, str] = {
    "higher": "Higher is better.",
    "lower": "Lower is better.",
    "neither": "Neither way is better.",
}
SIGNS = {"above": ">", "same": "=", "below": "<"}
MARKS = (
    "In brackets: the 95 % interval. null: what chance achieves with as many candidates and the same freedom of choice. "
    "> above its null, = indistinguishable from it, < below it, by the 95 % interval of the difference."
)


@dataclass(frozen=True)
class Score:
    """The value of a metric for one run, with what stands beside it."""

    value: Value
    interval: tuple[float, float] | None = None
    """95 %."""
    null: float | None = None
    excess: Estimate | None = None
    """Value less null."""

    @property
    def number(self) -> float:
        """The value where it was measured."""
        assert self.value is not None
        return float(self.value)

    @property
    def against_null(self) -> Literal["above", "same", "below"] | None:
        """By the interval of the excess, or where there is none by the value's own; None without either or without a null."""
        if self.excess is not None:
            low, high = self.excess.low, self.excess.high
        elif self.interval is not None and self.null is not None:
            low, high = self.interval[0] - self.null, self.interval[1] - self.null
        else:
            return None
        return "above" if low > 0 else "below" if high < 0 else "same"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One column of the table. Paths are keys of ``metrics.json`` with dots between them; ``*`` is the one of a list of which
    what follows is greatest."""

    key: str
    """In the JSON rows."""
    path: str
    """Where its value lies."""
    interval: str | None = None
    """Where its interval lies, a pair or an ``Estimate``."""
    null: str | None = None
    """Where its null lies."""
    excess: str | None = None
    """Where the ``Estimate`` of value less null lies."""
    heading: str
    help: str
    """What it says, in a sentence."""
    format: str | None
    """How a number is written, for ``%``; "percent" for a share; None for yes or no."""
    better: Better
    is_first: bool = True
    """Whether it is in the table that a newcomer sees; the others are in ``interp evaluate --all`` and in the JSON."""
    of_firing: bool = False
    """Whether it says nothing of a method whose codes are hardly ever 0."""

    @property
    def tooltip(self) -> str:
        """The help, and, of a number, which way is better."""
        return self.help if self.format is None else f"{self.help} {DIRECTIONS[self.better]}"

    def score(self, metrics: Metrics) -> Score:
        """The value with what stands beside it; all None where it was not measured."""
        reconstruction = metrics.reconstruction
        if self.of_firing and reconstruction is not None and not reconstruction.fires:
            return Score(None)
        interval = _at(metrics, self.interval)
        if isinstance(interval, Estimate):
            interval = (interval.low, interval.high)
        return Score(_at(metrics, self.path), interval, _at(metrics, self.null), _at(metrics, self.excess))

    def text(self, value: Value) -> str:
        """The value as text; "-" where it was not measured."""
        if value is None:
            return "-"
        if self.format is None:
            return "yes" if value else "no"
        if self.format == "percent":
            return f"{percent(float(value))} %"
        return short(float(value), self.format)

    def parts(self, score: Score) -> tuple[str, str, str]:
        """The value, its interval, and its null with its sign, as text; empty where there is none."""
        interval = null = ""
        if score.value is not None and score.interval is not None:
            low, high = (self.text(end).removesuffix(" %") for end in score.interval)
            interval = f"[{low}, {high}]"
        if score.value is not None and score.null is not None:
            against, null = score.against_null, f"null {self.text(score.null)}"
            null = f"{SIGNS[against]} {null}" if against else f"({null})"
        return self.text(score.value), interval, null

    def cell(self, score: Score) -> str:
        """The value with its interval and its null, as text."""
        return " ".join(filter(None, self.parts(score)))


METRICS = (
    Metric(
        key="fvu",
        path="reconstruction.fvu",
        interval="reconstruction.fvu_interval",
        heading="FVU",
        help="Fraction of variance unexplained: squared error of the reconstruction over the variance of the activations.",
        format="%.3f",
        better="lower",
    ),
    Metric(
        key="fvu_own_target",
        path="reconstruction.fvu_own_target",
        heading="own FVU",
        help="Where codes do not decode to an activation: the FVU of what the method itself rebuilds (bilinear: products of "
        "two coordinates; random directions, differences of means: the activation, by least squares).",
        format="%.3f",
        better="lower",
        is_first=False,
    ),
    Metric(
        key="fvu_of_span",
        path="reconstruction.fvu_of_span",
        heading="outside span",
        help="For the same methods: share of the activations' variance outside the span of each token's active latents.",
        format="%.3f",
        better="lower",
        is_first=False,
    ),
    Metric(
        key="ce_recovered",
        path="spliced.ce_recovered_mean",
        interval="spliced.ce_recovered_interval",
        heading="CE recovered",
        help="Share of the model's cross-entropy kept with the reconstruction in place; 0 is that of the mean activation.",
        format="%.3f",
        better="higher",
    ),
    Metric(
        key="l0",
        path="reconstruction.l0",
        heading="L0",
        help="Codes that are not zero, mean per token.",
        format="%.1f",
        better="neither",
        is_first=False,
        of_firing=True,
    ),
    Metric(
        key="n_dead",
        path="reconstruction.n_dead",
        heading="dead",
        help="Features that fire on no token of the text.",
        format="%d",
        better="lower",
        is_first=False,
        of_firing=True,
    ),
    Metric(
        key="median_rate",
        path="reconstruction.median_rate",
        heading="firing rate",
        help="Share of tokens on which a feature fires, median over features.",
        format="percent",
        better="neither",
        of_firing=True,
    ),
    Metric(
        key="dense_share",
        path="reconstruction.dense_share",
        heading="dense",
        help="Share of features that fire on more than 10 % of tokens.",
        format="percent",
        better="lower",
        of_firing=True,
    ),
    Metric(
        key="concepts",
        path="concepts.f1.value",
        interval="concepts.f1",
        null="concepts.null_f1",
        excess="concepts.excess",
        heading="concepts found",
        help="How well the best feature of each concept detects it by firing: F1, mean over concepts.",
        format="%.2f",
        better="higher",
    ),
    Metric(
        key="average_precision",
        path="concepts.average_precision",
        null="concepts.nulls.*.average_precision",
        heading="average precision",
        help="Of the codes of each concept's best feature, mean over concepts; does not depend on where it begins to fire.",
        format="%.2f",
        better="higher",
        is_first=False,
    ),
    Metric(
        key="mutual_information",
        path="concepts.mutual_information",
        null="concepts.nulls.*.mutual_information",
        heading="mutual information",
        help="Of the concept and the firing of its best feature, over the mean of their entropies; mean over concepts.",
        format="%.2f",
        better="higher",
        is_first=False,
    ),
    Metric(
        key="auroc",
        path="concepts.auroc",
        null="concepts.null_auroc",
        heading="AUROC",
        help="Of methods without firing of their own: how well the codes of a concept's best feature rank tokens, mean over "
        "concepts.",
        format="%.2f",
        better="higher",
    ),
    Metric(
        key="readable",
        path="concepts.readable.value",
        interval="concepts.readable",
        null="concepts.null_readable",
        excess="concepts.readable_excess",
        heading="readable",
        help="Share of features whose strongest tokens have a concept or a token in common.",
        format="percent",
        better="higher",
    ),
    Metric(
        key="detecting",
        path="concepts.detecting",
        null="concepts.null_detecting",
        heading="detecting",
        help="Share of features that detect a concept precisely and better than random directions, in at least 5 documents.",
        format="percent",
        better="higher",
        is_first=False,
    ),
    Metric(
        key="simulability",
        path="simulability.auroc.value",
        interval="simulability.auroc",
        null="simulability.null_auroc",
        excess="simulability.difference",
        heading="simulability",
        help="How well a feature's firing is predicted from the tokens around it: AUROC, mean over features.",
        format="%.2f",
        better="higher",
        is_first=False,
    ),
    Metric(
        key="stability",
        path="seeds.stability.value",
        interval="seeds.stability",
        null="seeds.null_stability",
        heading="stability",
        help="Cosine of a feature with its counterpart in a run from another seed, mean over features.",
        format="%.2f",
        better="higher",
    ),
    Metric(
        key="steering",
        path="steering.mean_difference",
        null="steering.mean_null_difference",
        excess="steering.excess",
        heading="steering",
        help="Gain in the share of the written text that is the concept when its feature is steered, mean over concepts.",
        format="%+.2f",
        better="higher",
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
        is_first=False,
    ),
)


def metrics_rows(runs: Sequence[Run]) -> list[Row]:
    """What each run is, and its metrics by key: all None for a run that was not evaluated by this version.

    Beside a metric ``KEY`` stand ``interval_KEY`` (low, high), ``null_KEY`` and ``excess_KEY`` (value, low, high), where it has
    them.
    """
    return [_row(name, run, metrics_of(run)) for name, run in zip(names_of(runs), runs, strict=True)]


def measured(found: Sequence[Metrics | None], *, everything: bool = False) -> list[Metric]:
    """The metrics that at least one run has: those of a newcomer's table, or all."""
    return [
        metric
        for metric in METRICS
        if (everything or metric.is_first)
        and any(each is not None and metric.score(each).value is not None for each in found)
    ]


def metrics_table(runs: Sequence[Run] | Mapping[str, Run], *, everything: bool = False, explained: bool = True) -> str:
    """What was measured, as text in aligned columns, with remarks below it. Runs may be given by names to call them.

    ``everything`` adds the columns that a newcomer is spared, ``explained`` a sentence on each column. Raises InputError
    without a run.
    """
    if not runs:
        raise InputError("there is no run to compare; give at least one")
    by_name = runs if isinstance(runs, Mapping) else dict(zip(names_of(runs), runs, strict=True))
    found = [metrics_of(run) for run in by_name.values()]
    columns = measured(found, everything=everything)
    lines = aligned(table_cells(by_name, found, columns))
    lines += ["", *help_lines(columns)] if explained and columns else []
    remarks = remark_lines(by_name, found)
    return "\n".join([*lines, "", *remarks] if remarks else lines)


def table_cells(runs: Mapping[str, Run], found: Sequence[Metrics | None], columns: Sequence[Metric]) -> list[list[str]]:
    """The headings, and a line of cells for each run; the site is a column where the runs have several."""
    sites = {str(run.site) for run in runs.values()}
    head = ["run", "kind", *(["site"] if len(sites) > 1 else []), *(metric.heading for metric in columns)]
    lines = [head]
    for (name, run), metrics in zip(runs.items(), found, strict=True):
        cells = [metric.cell(metric.score(metrics)) if metrics else "-" for metric in columns]
        lines.append([name, run.kind, *([str(run.site)] if len(sites) > 1 else []), *cells])
    return lines


def help_lines(columns: Sequence[Metric]) -> list[str]:
    """A sentence on each column, and one on intervals and marks where there are any."""
    lines = [f"{metric.heading}: {metric.tooltip}" for metric in columns]
    return [*lines, MARKS] if any(metric.interval or metric.null for metric in columns) else lines


def metrics_markdown() -> str:
    """The metrics as a Markdown table, for the documentation."""
    lines = ["| column | key in `metrics.json` | its interval, null, and excess | what it says | better |"]
    lines += ["|---|---|---|---|---|"]
    for m in METRICS:
        beside = ", ".join(f"`{path}`" if path else "-" for path in (m.interval, m.null, m.excess))
        lines.append(f"| {m.heading} | `{m.path}` | {beside} | {m.help} | {m.better} |")
    return "\n".join(lines)


def names_of(runs: Sequence[Run]) -> list[str]:
    """Names that are unlike each other: with the store's, or the whole path, where two runs have the same."""
    names = [run.name for run in runs]
    for longer in (lambda run: f"{run.path.resolve().parent.parent.name}/{run.name}", lambda run: str(run.path)):
        times = Counter(names)
        names = [longer(run) if times[name] > 1 else name for run, name in zip(runs, names, strict=True)]
    return names


def metrics_of(run: Run) -> Metrics | None:
    """The run's metrics; None where it was not evaluated, or by a version that wrote another file: one such run must not hide
    the others."""
    try:
        return read_metrics(run)
    except InputError:
        return None


def _at(found: Any, path: str | None) -> Any:
    """What lies at a path from a record; None where a part of it is None."""
    if path is None:
        return None
    for place, key in enumerate(keys := path.split(".")):
        if key == "*":
            rest = (_at(each, ".".join(keys[place + 1 :])) for each in found)
            return max((value for value in rest if value is not None), default=None)
        found = getattr(found, key)
        if found is None:
            return None
    return found


def _row(name: str, run: Run, metrics: Metrics | None) -> Row:
    row: Row = {"run": name, "kind": run.kind, "site": str(run.site)}
    for metric in METRICS:
        score, excess = metric.score(metrics) if metrics else Score(None), None
        if score.excess is not None:
            excess = [score.excess.value, score.excess.low, score.excess.high]
        row[metric.key] = score.value
        row |= {f"interval_{metric.key}": list(score.interval) if score.interval else None} if metric.interval else {}
        row |= {f"null_{metric.key}": score.null} if metric.null else {}
        row |= {f"excess_{metric.key}": excess} if metric.excess else {}
    return row | {
        "store_identity": metrics.store_identity if metrics else None,
        "concepts_left_out": metrics.concepts_left_out if metrics else None,
    }
