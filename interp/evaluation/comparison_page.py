"""A comparison as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count

import plotly.graph_objects as go

from interp.evaluation.compare import Comparison
from interp.evaluation.comparison_figures import (
    baselines_figure,
    concepts_figure,
    matching_figure,
    measures_figure,
    probes_figure,
    tradeoff_figure,
)
from interp.evaluation.comparison_text import apart_sentence, group_sentences
from interp.evaluation.groups import families
from interp.evaluation.html_page import figure_html, html_page, list_html, table_html
from interp.evaluation.remarks import remark_lines
from interp.evaluation.results import Metrics
from interp.evaluation.table import METRICS, help_lines, measured, table_cells
from interp.runs.record import Run

_MEASURES = {
    "How much of the activations and of the model's predictions is kept": ("fvu", "ce_recovered"),
    "How often features fire": ("median_rate", "dense_share"),
    "How well concepts are found, beside what chance finds": ("concepts", "average_precision", "auroc"),
    "How many features can be read or detect a concept, beside chance": ("readable", "detecting"),
    "How well firing is predicted from the tokens around": ("simulability",),
    "What steering with features adds, beside random directions": ("steering",),
    "Whether features come back from another seed": ("stability",),
}
"""Titles of dot plots, and the metrics in each."""


def comparison_page(runs: Mapping[str, Run], metrics: Mapping[str, Metrics], comparison: Comparison) -> str:
    """The page; ``runs`` and ``metrics`` by the same names, ``comparison`` what ``compare_runs`` found of them."""
    numbers = count(1)
    parts = [f"<h1>{len(runs)} runs compared</h1>"]
    if comparison.apart:
        parts.append(list_html([apart_sentence(each) for each in comparison.apart]))
    for group in comparison.groups:
        names = [name for name in metrics if name in group.runs]
        of_group = {name: metrics[name] for name in names}
        parts.append(f"<h2>{html.escape(group.title)}</h2>")
        parts.append(list_html(group_sentences(group, of_group)))
        parts += _table({name: runs[name] for name in names}, of_group)
        matched = next((each for each in comparison.matched if each.runs == group.runs), None)
        lines = families({name: runs[name] for name in names})
        for title, note, draw in _figures(of_group, lines):
            parts += figure_html(title, note, draw, numbers)
        if matched is not None:
            title = "How alike the features of two runs are"
            note = (
                "Features are paired one to one by the cosine of their read directions, or of the forms of quadratic latents; "
                "below it, with random ones."
            )
            parts += figure_html(title, note, partial(matching_figure, matched), numbers)
        parts += _seeds(of_group)
    parts += [f'<p class="note">{html.escape(line)}</p>' for line in comparison.unmatched]
    parts += _settings(comparison)
    return html_page(f"{len(runs)} runs compared", parts)


def _figures(
    metrics: Mapping[str, Metrics], lines: Mapping[str, str]
) -> Iterator[tuple[str, str, Callable[[], go.Figure]]]:
    """Title, note and how to draw it of each figure of a group, in order."""
    for title, keys in _MEASURES.items():
        yield title, "", partial(measures_figure, metrics, keys)
        if "fvu" in keys and len(metrics) > 1:
            note = "A line joins runs that differ in their number of features and k alone."
            yield "What is kept for how many firing features", note, partial(tradeoff_figure, metrics, lines)
        if "concepts" in keys:
            note = "F1 of each concept's best feature; = marks one that is not above its null."
            yield "Which concepts each run finds", note, partial(concepts_figure, metrics)
            note = "Coordinates, principal directions and the ceiling are of the activation itself, without any run."
            yield "How many features it takes to find a concept", note, partial(probes_figure, metrics)
            note = "Difference of F1, paired by concept and document; difference in means is fitted to the labels."
            yield "Concepts found, beside simple methods at the site", note, partial(baselines_figure, metrics)


def _table(runs: Mapping[str, Run], metrics: Mapping[str, Metrics]) -> list[str]:
    found = list(metrics.values())
    columns = measured(found)
    return [
        table_html(table_cells(runs, found, columns)),
        list_html(remark_lines(runs, found)),
        "<details><summary>What the columns say</summary>" + list_html(help_lines(columns)) + "</details>",
    ]


def _seeds(metrics: Mapping[str, Metrics]) -> list[str]:
    """Mean and standard deviation over seeds, of the metrics that a run was trained again for."""
    reports = {name: each.seeds for name, each in metrics.items() if each.seeds is not None}
    shown = [metric for metric in METRICS if any(metric.key in report.spread for report in reports.values())]
    if not shown:
        return []
    lines = [["run", "seeds", *(metric.heading for metric in shown)]]
    for name, report in reports.items():
        cells = [
            " ± ".join(map(metric.text, report.spread[metric.key])) if metric.key in report.spread else "-"
            for metric in shown
        ]
        lines.append([name, str(len(report.runs)), *cells])
    title = "<h3>What another seed changes</h3>"
    return [title, '<p class="note">Mean ± standard deviation over runs of the same request.</p>', table_html(lines)]


def _settings(comparison: Comparison) -> list[str]:
    settings, parts = comparison.settings, ["<h2>Settings</h2>"]
    if settings.differing:
        names = list(next(iter(settings.differing.values())))
        lines = [[option, *of.values()] for option, of in settings.differing.items()]
        parts += ["<h3>In which the runs differ</h3>", table_html([["option", *names], *lines])]
    shared = [["option", "of every run"], *([option, value] for option, value in settings.shared.items())]
    return [*parts, f"<details><summary>What they share</summary>{table_html(shared)}</details>"]
