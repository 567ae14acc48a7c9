"""A comparison as one HTML file that needs nothing else: plotly's program is in it, and a policy in its head keeps a browser
from loading anything from anywhere."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from interp.errors import InputError
from interp.evaluation.compare import Comparison, families
from interp.evaluation.comparison_figures import (
    baselines_figure,
    concepts_figure,
    matching_figure,
    measures_figure,
    probes_figure,
    tradeoff_figure,
)
from interp.evaluation.comparison_text import apart_sentence, group_sentences
from interp.evaluation.remarks import remark_lines
from interp.evaluation.results import Metrics
from interp.evaluation.table import METRICS, help_lines, measured, table_cells
from interp.runs.record import Run

_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 1120px; padding: 24px 32px 64px; background: #fff; color: #1f2933;
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 0 0 8px; }
h2 { font-size: 20px; margin: 44px 0 8px; padding-top: 12px; border-top: 2px solid #e4e7eb; }
h3 { font-size: 16px; margin: 32px 0 2px; }
p { margin: 4px 0; } p.note, details { color: #52606d; font-size: 13.5px; } ul { margin: 8px 0; padding-left: 20px; }
.wide { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid #e4e7eb; vertical-align: top; }
th { font-weight: 600; } td { white-space: nowrap; } small { color: #52606d; }
summary { cursor: pointer; margin-top: 12px; }
"""

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
        parts.append(_list([apart_sentence(each) for each in comparison.apart]))
    for group in comparison.groups:
        names = [name for name in metrics if name in group.runs]
        of_group = {name: metrics[name] for name in names}
        parts.append(f"<h2>{html.escape(group.title)}</h2>")
        parts.append(_list(group_sentences(group, of_group)))
        parts += _table({name: runs[name] for name in names}, of_group)
        matched = next((each for each in comparison.matched if each.runs == group.runs), None)
        lines = families({name: runs[name] for name in names})
        for title, note, draw in _figures(of_group, lines):
            parts += _drawn(title, note, draw, numbers)
        if matched is not None:
            title = "How alike the features of two runs are"
            note = (
                "Features are paired one to one by the cosine of their read directions, or of the forms of quadratic latents; "
                "below it, with random ones."
            )
            parts += _drawn(title, note, partial(matching_figure, matched), numbers)
        parts += _seeds(of_group)
    parts += [f'<p class="note">{html.escape(line)}</p>' for line in comparison.unmatched]
    parts += _settings(comparison)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{len(runs)} runs compared</title><style>{_STYLE}</style>"
        f"<script>{get_plotlyjs()}</script></head>\n<body>{chr(10).join(parts)}</body></html>\n"
    )


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


def _drawn(title: str, note: str, draw: Callable[[], go.Figure], numbers: Iterator[int]) -> list[str]:
    """A figure with its title; nothing where there is nothing to draw."""
    try:
        figure = draw()
    except InputError:
        return []
    options = {"displaylogo": False, "responsive": True, "displayModeBar": False}
    drawn = figure.to_html(full_html=False, include_plotlyjs=False, config=options, div_id=f"figure-{next(numbers)}")
    return [f"<h3>{html.escape(title)}</h3>", f'<p class="note">{html.escape(note)}</p>' if note else "", drawn]


def _table(runs: Mapping[str, Run], metrics: Mapping[str, Metrics]) -> list[str]:
    found = list(metrics.values())
    columns = measured(found)
    return [
        _rows(table_cells(runs, found, columns)),
        _list(remark_lines(runs, found)),
        "<details><summary>What the columns say</summary>" + _list(help_lines(columns)) + "</details>",
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
    return [title, '<p class="note">Mean ± standard deviation over runs of the same request.</p>', _rows(lines)]


def _settings(comparison: Comparison) -> list[str]:
    settings, parts = comparison.settings, ["<h2>Settings</h2>"]
    if settings.differing:
        names = list(next(iter(settings.differing.values())))
        lines = [[option, *of.values()] for option, of in settings.differing.items()]
        parts += ["<h3>In which the runs differ</h3>", _rows([["option", *names], *lines])]
    shared = [["option", "of every run"], *([option, value] for option, value in settings.shared.items())]
    return [*parts, f"<details><summary>What they share</summary>{_rows(shared)}</details>"]


def _rows(cells: Sequence[Sequence[str]]) -> str:
    head, *lines = cells
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(map(_cell, line)) + "</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    """A cell; the null of a score stands below it, which keeps the table narrow."""
    score, null, *_ = *re.split(r" (?=[>=<] null |\(null )", text, maxsplit=1), ""
    return f"<td>{html.escape(score)}{f'<br><small>{html.escape(null)}</small>' if null else ''}</td>"


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>" if lines else ""
