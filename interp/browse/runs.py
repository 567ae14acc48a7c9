"""What the Runs page shows: runs in tables by what they were judged on, which is best and by what, and what steering did.

Everything is read from ``run.json`` and ``metrics.json``, without torch. A run is called best by a metric only if nothing else
explains it: it is above its null, its interval overlaps that of no other run of the table, it has as many features or the same
L0 as the next, and where less is lost by letting more features fire, it lets no more of them fire than any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from interp.browse.definitions import tooltip
from interp.errors import InputError
from interp.evaluation.comparison_figures import concept_results, concept_sentence, concept_text
from interp.evaluation.comparison_text import apart_sentence, lead_sentence
from interp.evaluation.groups import L0_TOLERANCE, Group, Lead, grouped, groups_apart
from interp.evaluation.remarks import remark_lines
from interp.evaluation.results import Metrics
from interp.evaluation.steering_results import SteeringEffect, SteeringReport
from interp.evaluation.steering_text import verdict
from interp.evaluation.table import MARKS, METRICS, Metric, Score, measured, metrics_of
from interp.runs.record import Run

KEPT = ("fvu", "ce_recovered")
"""Keys of the metrics that are better the more features fire."""
_METRICS = {metric.key: metric for metric in METRICS}

Against = Literal["above", "same", "below", ""]


class Cell(TypedDict):
    """A figure of a run."""

    text: str
    interval: str
    null: str
    """With the sign of how the figure compares with it."""
    against: Against
    is_best: bool


class RunRow(TypedDict):
    """A run in its table."""

    run: str
    kind: str
    features: str
    """How many."""
    l0: str
    index: str
    cells: list[Cell]


class Section(TypedDict):
    """Runs that were judged alike, or those of a site that were not judged."""

    title: str
    note: str
    """Why its figures cannot be compared with those of other sections."""
    rows: list[RunRow]
    verdicts: list[str]
    """Which run is best by what, and why none is by the rest."""
    remarks: list[str]


class Column(TypedDict):
    """A metric's column and its sentence."""

    heading: str
    says: str


class RunsTable(TypedDict):
    """All runs of the workspace."""

    columns: list[Column]
    sections: list[Section]
    how: list[str]
    """How to read the marks."""
    apart: list[str]
    """Which runs cannot be compared with which, and why, in full."""


class ConceptCell(TypedDict):
    """A concept in a run."""

    run: str
    feature: int
    text: str
    says: str
    share: float
    """F1, for the shade; 0 where it is not above its null."""


class ConceptMap(TypedDict):
    """Concepts by runs; the concept that is found best on average stands first."""

    runs: list[str]
    concepts: list[tuple[str, list[ConceptCell | None]]]


def runs_table(runs: Mapping[str, Run], indexes: Mapping[str, str]) -> RunsTable:
    """Runs by their names in tables, with the state of the index of each; those of one site stand together."""
    found = {name: metrics_of(run) for name, run in runs.items()}
    judged = {name: metrics for name, metrics in found.items() if metrics is not None}
    columns, groups = measured(list(judged.values())), grouped(judged)
    sections = [_section(group, groups, runs, judged, columns, indexes) for group in groups]
    sites = {str(run.site) for name, run in runs.items() if name not in judged}
    for site in sites:
        names = [name for name, run in runs.items() if name not in judged and str(run.site) == site]
        rows = [_row(name, runs[name], None, columns, indexes, {}) for name in names]
        remarks = remark_lines({name: runs[name] for name in names}, [None] * len(names))
        sections.append(Section(title=f"{site}, not evaluated", note="", rows=rows, verdicts=[], remarks=remarks))
    return RunsTable(
        columns=[Column(heading=metric.heading, says=metric.tooltip) for metric in columns],
        sections=sorted(sections, key=lambda section: _in_order(section["title"])),
        how=_how_to_read(columns),
        apart=[apart_sentence(apart) for apart in groups_apart(groups)],
    )


def judged_beside(name: str, runs: Mapping[str, Run]) -> dict[str, Metrics]:
    """The metrics of a run and of those that were judged alike, by name; empty for a run that was not evaluated."""
    found = {each: metrics for each, run in runs.items() if (metrics := metrics_of(run)) is not None}
    for group in grouped(found):
        if name in group.runs:
            return {each: found[each] for each in group.runs}
    return {}


def best_runs(group: Group, metrics: Mapping[str, Metrics]) -> tuple[dict[str, str], list[str]]:
    """The best run by the key of each metric in which one is shown to be, and sentences on all metrics.

    ``metrics`` by the names of the group's runs.
    """
    best, lines, reasons = {}, [], dict[str, list[str]]()
    for lead in group.leads:
        why = _why_not_best(lead, {name: metrics[name] for name in group.runs})
        if why:
            reasons.setdefault(why, []).append(_METRICS[lead.metric].heading)
        else:
            best[lead.metric] = lead.run
            lines.append(lead_sentence(lead, metrics))
    return best, lines + [f"No run is best by {_listed(names)}: {why}." for why, names in reasons.items()]


def _why_not_best(lead: Lead, metrics: Mapping[str, Metrics]) -> str:
    """What else may explain that a run comes first; empty where nothing does."""
    metric = _METRICS[lead.metric]
    scores = {name: metric.score(each) for name, each in metrics.items()}
    first, others = scores[lead.run], [s for name, s in scores.items() if name != lead.run and s.value is not None]
    if metric.null and not lead.is_above_null:
        return "even the first is not shown to be above its null"
    if first.interval is None or any(other.interval is None for other in others):
        return "there are no intervals to tell runs apart by"
    if any(_overlap(first, other) for other in others):
        return "the interval of the first overlaps that of another"
    if not lead.are_alike:
        return "the first and the next differ in both number of features and L0, which may be all there is to it"
    l0 = {name: _METRICS["l0"].score(each).value for name, each in metrics.items() if scores[name].value is not None}
    own = l0.pop(lead.run)
    if lead.metric in KEPT and (
        own is None or any(other and own > (1 + L0_TOLERANCE) * other for other in l0.values())
    ):
        return "the first also lets more features fire on a token; compare at equal L0, in the curves below"
    return ""


def _overlap(score: Score, other: Score) -> bool:
    assert score.interval is not None
    assert other.interval is not None
    return score.interval[0] <= other.interval[1] and other.interval[0] <= score.interval[1]


def _section(
    group: Group,
    groups: Sequence[Group],
    runs: Mapping[str, Run],
    judged: Mapping[str, Metrics],
    columns: Sequence[Metric],
    indexes: Mapping[str, str],
) -> Section:
    best, verdicts = best_runs(group, judged)
    of_group = {name: runs[name] for name in group.runs}
    return Section(
        title=group.title,
        note=_apart_note(group, groups),
        rows=[_row(name, run, judged[name], columns, indexes, best) for name, run in of_group.items()],
        verdicts=verdicts,
        remarks=remark_lines(of_group, [judged[name] for name in of_group]),
    )


def _row(
    name: str,
    run: Run,
    metrics: Metrics | None,
    columns: Sequence[Metric],
    indexes: Mapping[str, str],
    best: Mapping[str, str],
) -> RunRow:
    l0 = _METRICS["l0"]
    return RunRow(
        run=name,
        kind=run.kind,
        features=str(run.config.get("n_features", "-")),
        l0=l0.text(l0.score(metrics).value) if metrics else "-",
        index=indexes.get(name, ""),
        cells=[_cell(metric, metrics, is_best=best.get(metric.key) == name) for metric in columns],
    )


def _cell(metric: Metric, metrics: Metrics | None, *, is_best: bool) -> Cell:
    score = metric.score(metrics) if metrics else Score(None)
    text, interval, null = metric.parts(score)
    against = score.against_null if score.value is not None else None
    return Cell(text=text, interval=interval, null=null, against=against or "", is_best=is_best)


def _apart_note(group: Group, groups: Sequence[Group]) -> str:
    """By what a group was judged that others were not."""
    others = [other for other in groups if other is not group]
    differs = [
        name for name, value in group.conditions.items() if any(other.conditions[name] != value for other in others)
    ]
    if not differs:
        return ""
    return (
        f"Its figures cannot be compared with those of the other tables, which have another {_listed(differs, 'or')}."
    )


def _how_to_read(columns: Sequence[Metric]) -> list[str]:
    lines = [f"{tooltip('runs', 'l0')} With more of them, more is kept."]
    if any(metric.interval or metric.null for metric in columns):
        lines.append(MARKS)
    return [
        *lines,
        "An open dot, and a faded figure, is not above its null: chance does as well.",
        "best: above its null, its interval apart from that of every other run of the table, with as many features or the same "
        "L0 as the next run, and (FVU, CE recovered) with no more firing features than any. Where no run has the mark, none is "
        "shown to be better than the others.",
    ]


def _listed(names: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _in_order(title: str) -> list[tuple[int, str]]:
    """Numbers in a text by their size: layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", title)]


def concept_map(metrics: Mapping[str, Metrics]) -> ConceptMap:
    """How well each run finds each concept, with the feature that does. Raises InputError where no run has concepts."""
    found = concept_results(metrics)
    lines: list[tuple[str, list[ConceptCell | None]]] = []
    for concept, results in found.items():
        cells: list[ConceptCell | None] = []
        for name, result in results.items():
            if result is None:
                cells.append(None)
                continue
            is_above = result.excess is None or result.excess.is_above_zero
            says = f"{concept} in {name}: {concept_sentence(result)}; open feature {result.feature}"
            cells.append(
                ConceptCell(
                    run=name,
                    feature=result.feature,
                    text=concept_text(result),
                    says=says,
                    share=result.f1.value if is_above else 0.0,
                )
            )
        lines.append((concept, cells))
    return ConceptMap(runs=list(next(iter(found.values()))), concepts=lines)


def steering_rows(report: SteeringReport) -> list[dict[str, Any]]:
    """One row for each concept that was steered; shares of the written text as per cent."""
    return [
        {
            "concept": effect.concept,
            "feature": effect.feature,
            "without": 100 * effect.baseline_share,
            "with": 100 * effect.steered_share,
            "gain": f"{effect.difference.value:+.1%} [{effect.difference.low:+.1%}, {effect.difference.high:+.1%}]",
            "best null": f"{null.difference.value:+.1%} ({null.name})" if (null := effect.best_null) else "-",
            "verdict": verdict(effect),
            "fluency": effect.fluency,
            "KL": effect.kl,
        }
        for effect in report.effects
    ]


def steering_summary(report: SteeringReport) -> str:
    """How many concepts are written more than by chance, and under which conditions."""
    if report.reason is not None:
        return f"Nothing was steered: {report.reason}."
    n = len(report.effects)
    return (
        f"More than chance for {report.n_above_controls} of {n} concept{'' if n == 1 else 's'}, at an effect on neutral text "
        f"of KL {report.config.target_kl:g} nats per token."
    )


def steered_pair(effect: SteeringEffect) -> tuple[str, str, str]:
    """(prompt, continuation without, continuation with the feature): of the kept texts the one whose share changed most.

    Raises InputError where none was kept.
    """
    if not effect.gains:
        raise InputError(f"no text of '{effect.concept}' was kept")
    most = max(range(len(effect.gains)), key=lambda i: effect.gains[i])
    return effect.prompts[most], effect.baseline_texts[most], effect.texts[most]
