"""Figures that compare runs: functions of metrics by the names of runs, for the page of ``interp compare`` and for notebooks.

A filled dot is a figure above its null or without one, an open dot one that is indistinguishable from its null or below it;
bars are 95 % intervals. Names and concepts are escaped, since plotly reads some HTML in texts.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.errors import InputError, unknown_name
from interp.evaluation.number_text import short
from interp.evaluation.results import ConceptResult, Metrics, ProbeReport
from interp.evaluation.table import METRICS, Metric, Score
from interp.figures import CATEGORIES, LINE

if TYPE_CHECKING:  # it loads torch, which the figures do without
    from interp.evaluation.compare import Matched

NULL = "#7A7F87"
"""Grey: what chance or the bare activation achieves."""
COLOURS = tuple(colour for colour in CATEGORIES if colour != "#F0E442")
"""Of runs; the yellow is left out, a thin line of it cannot be seen on white."""
DASHES = ("solid", "dash", "dot")
_SHADES = [[0.0, "#F6F8FA"], [1.0, "#56B4E9"]]
"""Light enough for dark text on every shade."""
_TEXT = "#1F2933"
_GRID = "rgba(128, 128, 128, 0.22)"
_ROW = 26
"""Height of a run's line, pixels."""


def measures_figure(metrics: Mapping[str, Metrics], keys: Sequence[str]) -> go.Figure:
    """A panel for each metric of ``keys`` that was measured: a dot a run, with its interval and its null.

    Raises InputError for an unknown key, and where no run has any of the metrics.
    """
    panels = []
    for key in keys:
        metric = next((each for each in METRICS if each.key == key), None)
        if metric is None or metric.format is None:
            raise unknown_name("metric", key, [each.key for each in METRICS if each.format], "the table")
        scores = {name: metric.score(each) for name, each in metrics.items()}
        if any(score.value is not None for score in scores.values()):
            panels.append((metric, scores))
    if not panels:
        raise InputError(f"none of the runs has {' or '.join(keys)}; run: interp evaluate RUN...")
    n_rows = math.ceil(len(panels) / 2)
    height, gap = _ROW * len(metrics) + 90, 70
    figure = make_subplots(
        rows=n_rows,
        cols=min(2, len(panels)),
        shared_yaxes=True,
        horizontal_spacing=0.05,
        vertical_spacing=gap / (n_rows * height) if n_rows > 1 else 0,
        subplot_titles=[_panel_title(metric) for metric, _ in panels],
    )
    for i, (metric, scores) in enumerate(panels):
        for trace in _dots(metric, scores):
            figure.add_trace(trace, row=i // 2 + 1, col=i % 2 + 1)
        axis = {"tickformat": "~%" if metric.format == "percent" else None, "nticks": 8}
        # Where a null or 0 is the other end of the scale, it is in sight; recovered cross-entropy is all near 1.
        has_null = any(score.null is not None for score in scores.values())
        axis["rangemode"] = "tozero" if has_null or metric.better != "higher" else "normal"
        figure.update_xaxes(**axis, row=i // 2 + 1, col=i % 2 + 1)
    order = [html.escape(name) for name in reversed(list(metrics))]
    figure.update_yaxes(categoryorder="array", categoryarray=order, range=[-0.6, len(order) - 0.4])
    if any(score.null is not None for _, scores in panels for score in scores.values()):
        figure.add_traces(_legend_entries())
    return laid_out(figure, height=n_rows * height)


def tradeoff_figure(metrics: Mapping[str, Metrics], families: Mapping[str, str] | None = None) -> go.Figure:
    """FVU and recovered cross-entropy against L0; the runs of one family joined by a line, in the order of their L0.

    ``families`` names the family of each run, by default its method. Of a family with several numbers of features and
    several L0 each, every number has a line of its own. Methods without an L0, whose codes are hardly ever 0, are left out.
    Raises InputError where no run has an L0.
    """
    scores = {name: _metric("l0").score(each) for name, each in metrics.items()}
    l0 = {name: score.number for name, score in scores.items() if score.value is not None}
    if not l0:
        raise InputError("none of the runs has an L0: their codes are hardly ever 0")
    lines: dict[str, list[str]] = {}
    for name, line in _lines_of(metrics, families or {name: each.kind for name, each in metrics.items()}).items():
        if name in l0:
            lines.setdefault(line, []).append(name)
    shown = _metric("fvu"), _metric("ce_recovered")
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.09, subplot_titles=[_panel_title(m) for m in shown])
    for number, (line, names) in enumerate(lines.items()):
        names.sort(key=lambda name: l0[name])
        for column, metric in enumerate(shown, start=1):
            held = [metric.score(metrics[name]) for name in names]
            colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
            figure.add_scatter(
                x=[l0[name] for name in names],
                y=[score.value for score in held],
                error_y=_bars(held, colour),
                mode="lines+markers",
                line={"color": colour, "width": 2, "dash": dash},
                marker={"size": 8},
                text=[html.escape(name) for name in names],
                hovertemplate="%{text}<br>L0 %{x:.3g}<br>%{y:.3f}<extra></extra>",
                name=html.escape(line),
                legendgroup=line,
                showlegend=column == 1,
                row=1,
                col=column,
            )
    ticks = [step * 10**power for power in range(-2, 6) for step in (1, 2, 5)]
    figure.update_xaxes(
        title_text="L0: features that fire on a token (logarithmic)",
        type="log",
        tickvals=ticks,
        ticktext=list(map(str, ticks)),
        range=[math.log10(min(l0.values()) / 2), math.log10(max(l0.values()) * 2)],  # holds a tick or two
    )
    return laid_out(figure, height=360)


def probes_figure(metrics: Mapping[str, Metrics]) -> go.Figure:
    """F1 of probes on the k best features against k, beside as many coordinates and principal directions, and the ceiling.

    The runs must have been judged alike: what is not of features is drawn of the first. Raises InputError without probes.
    """
    probes = {name: each.probes for name, each in metrics.items() if each.probes is not None}
    if not probes:
        raise InputError("none of the runs has probes; run: interp evaluate RUN...")
    figure, site = go.Figure(), next(iter(probes.values()))
    k = [str(each) for each in site.k]
    for number, (name, report) in enumerate(probes.items()):
        figure.add_trace(_probe_line(name, report, number))
    for name, values, dash in (
        ("coordinates of the activation", site.coordinates, "dash"),
        ("its principal directions", site.principal, "dot"),
        ("the whole activation: the ceiling", [site.whole] * len(k), "solid"),
    ):
        line = {"color": NULL, "dash": dash, "width": 2}
        figure.add_scatter(x=k, y=list(values), name=name, mode="lines", line=line)
    figure.update_xaxes(title_text="k: features that a probe sees", type="category")
    figure.update_yaxes(title_text="F1, mean over concepts", rangemode="tozero")
    return laid_out(figure, height=380)


def concepts_figure(metrics: Mapping[str, Metrics]) -> go.Figure:
    """F1 of each concept's best feature, concepts by runs; "=" before one that is not above its null.

    Raises InputError where no run has concepts.
    """
    found = concept_results(metrics)
    cells = list(found.values())
    figure = go.Figure(
        go.Heatmap(
            x=[html.escape(name) for name in cells[0]],
            y=[html.escape(concept) for concept in found],
            z=[[cell.f1.value if cell else None for cell in line.values()] for line in cells],
            text=[[concept_text(cell) if cell else "" for cell in line.values()] for line in cells],
            customdata=[[_cell_hover(cell) for cell in line.values()] for line in cells],
            texttemplate="%{text}",
            textfont={"color": _TEXT},
            hovertemplate="%{y} in %{x}<br>%{customdata}<extra></extra>",
            colorscale=_SHADES,
            zmin=0,
            zmax=1,
            xgap=2,
            ygap=2,
            colorbar={"title": {"text": "F1", "side": "right"}, "thickness": 10},
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(side="top")
    return laid_out(figure, height=22 * len(found) + 90)


def concept_results(metrics: Mapping[str, Metrics]) -> dict[str, dict[str, ConceptResult | None]]:
    """Of every concept the result of each run that has concepts; None where it was not judged.

    The concept that is found best on average stands first. Raises InputError where no run has concepts.
    """
    found = {name: each.concepts.concepts for name, each in metrics.items() if each.concepts is not None}
    by_run = {name: {result.concept: result for result in results} for name, results in found.items()}
    known = {concept for results in by_run.values() for concept in results}
    if not known:
        raise InputError("none of the runs has concepts; run: interp evaluate RUN... on a store with labels")

    def mean(concept: str) -> float:
        values = [results[concept].f1.value for results in by_run.values() if concept in results]
        return sum(values) / len(values)

    concepts = sorted(known, key=lambda concept: (-mean(concept), concept))
    return {concept: {name: results.get(concept) for name, results in by_run.items()} for concept in concepts}


def concept_text(result: ConceptResult) -> str:
    """Its F1; "=" before one that is not above its null."""
    text = _metric("concepts").text(result.f1.value)
    return text if result.excess is None or result.excess.is_above_zero else f"= {text}"


def concept_sentence(result: ConceptResult) -> str:
    """Its F1 with interval and null."""
    null = max(result.null_f1.values(), default=None)
    score = Score(result.f1.value, (result.f1.low, result.f1.high), null, result.excess)
    return f"F1 {_metric('concepts').cell(score)}"


def baselines_figure(metrics: Mapping[str, Metrics]) -> go.Figure:
    """F1 of each run less that of simple methods at the site, with intervals; a run left of 0 loses to the method.

    Raises InputError where no run was compared with any.
    """
    reports = {name: each.concepts.baselines for name, each in metrics.items() if each.concepts is not None}
    names = list(dict.fromkeys(each.name for report in reports.values() for each in report))
    if not names:
        raise InputError("none of the runs was compared with simple methods; run: interp evaluate RUN...")
    figure = go.Figure()
    for number, name in enumerate(names):
        held = [(run, each.difference) for run, report in reports.items() for each in report if each.name == name]
        colour = COLOURS[number % len(COLOURS)]
        scores = [Score(each.value, (each.low, each.high)) for _, each in held]
        # Beside each other, not on one line: their intervals would hide one another.
        figure.add_scatter(
            x=[score.value for score in scores],
            y=[list(reports).index(run) + 0.22 * ((len(names) - 1) / 2 - number) for run, _ in held],
            error_x=_bars(scores, colour),
            mode="markers",
            marker={"size": 9, "color": colour},
            text=[html.escape(run) for run, _ in held],
            hovertemplate="%{text}: %{x:+.3f}<extra></extra>",
            name=html.escape(name),
        )
    figure.add_vline(x=0, line={"color": NULL, "width": 1})
    ticks = {"tickvals": list(range(len(reports))), "ticktext": [html.escape(name) for name in reports]}
    figure.update_yaxes(**ticks, range=[len(reports) - 0.4, -0.6])
    figure.update_xaxes(title_text="F1 of the run less F1 of the simple method")
    return laid_out(figure, height=(_ROW + 16) * len(reports) + 120)


def matching_figure(matched: Matched) -> go.Figure:
    """Mean cosine of the features of every two runs, paired one to one; below each what chance gives."""
    runs = [html.escape(name) for name in matched.runs]
    off = [[None if i == j else value for j, value in enumerate(line)] for i, line in enumerate(matched.cosines)]
    texts = [
        [
            "" if value is None else f"{short(value)}<br>chance {short(matched.chance[i][j])}"
            for j, value in enumerate(line)
        ]
        for i, line in enumerate(off)
    ]
    figure = go.Figure(
        go.Heatmap(
            x=runs,
            y=runs,
            z=off,
            text=texts,
            texttemplate="%{text}",
            textfont={"color": _TEXT},
            hovertemplate="%{y} and %{x}: %{text}<extra></extra>",
            colorscale=_SHADES,
            zmin=0,
            zmax=1,
            xgap=2,
            ygap=2,
            hoverongaps=False,
            colorbar={"title": {"text": "mean cosine", "side": "right"}, "thickness": 10},
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(side="top")
    return laid_out(figure, height=44 * len(runs) + 130)


def _dots(metric: Metric, scores: Mapping[str, Score]) -> list[go.Scatter]:
    """The nulls, then the figures above their null (or without one), then those that are not."""
    held = {name: score for name, score in scores.items() if score.value is not None}
    is_above = {name: score.against_null not in ("same", "below") for name, score in held.items()}
    nulls = {name: score.null for name, score in held.items() if score.null is not None}
    hover = "%{text}<extra></extra>"
    traces = [
        go.Scatter(
            x=list(nulls.values()),
            y=[html.escape(name) for name in nulls],
            mode="markers",
            marker={"symbol": "diamond-open", "size": 9, "color": NULL, "line": {"width": 2}},
            text=[f"{html.escape(name)}: null {metric.text(value)}" for name, value in nulls.items()],
            hovertemplate=hover,
            name="null: what chance achieves",
            showlegend=False,
            cliponaxis=False,
        )
    ]
    for wanted, name, colour in ((True, "measured", LINE), (False, "not above its null", "#FFFFFF")):
        names = [each for each in held if is_above[each] == wanted]
        traces.append(
            go.Scatter(
                x=[held[each].value for each in names],
                y=[html.escape(each) for each in names],
                error_x=_bars([held[each] for each in names], LINE),
                mode="markers",
                marker={"size": 10, "color": colour, "line": {"color": LINE, "width": 2}},
                text=[f"{html.escape(each)}: {html.escape(metric.cell(held[each]))}" for each in names],
                hovertemplate=hover,
                name=name,
                showlegend=False,
                cliponaxis=False,
            )
        )
    return traces


def _legend_entries() -> list[go.Scatter]:
    """What the dots mean, once a figure, whichever of them are in its panels."""
    looks: dict[str, dict[str, Any]] = {
        "measured": {"color": LINE},
        "not above its null": {"color": "#FFFFFF", "line": {"color": LINE, "width": 2}},
        "null: what chance achieves": {"symbol": "diamond-open", "color": NULL, "line": {"width": 2}},
    }
    return [
        go.Scatter(x=[None], y=[None], mode="markers", marker={"size": 10} | look, name=name)
        for name, look in looks.items()
    ]


def _probe_line(name: str, report: ProbeReport, number: int) -> go.Scatter:
    colour = COLOURS[number % len(COLOURS)]
    scores = [Score(each.value, (each.low, each.high)) for each in report.features]
    return go.Scatter(
        x=[str(each) for each in report.k],
        y=[each.value for each in report.features],
        error_y=_bars(scores, colour),
        name=html.escape(name),
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": DASHES[number // len(COLOURS) % len(DASHES)]},
        marker={"size": 8},
    )


def _bars(scores: Sequence[Score], colour: str) -> dict[str, Any]:
    """Error bars of intervals; none where a score has none."""
    ends = [score.interval if score.value is not None else None for score in scores]
    sizes = [
        (end[1] - score.number, score.number - end[0]) if end else (0.0, 0.0)
        for score, end in zip(scores, ends, strict=True)
    ]
    return {
        "symmetric": False,
        "array": [max(0.0, above) for above, _ in sizes],
        "arrayminus": [max(0.0, below) for _, below in sizes],
        "color": colour,
        "thickness": 1.5,
        "width": 3,
    }


def _lines_of(metrics: Mapping[str, Metrics], families: Mapping[str, str]) -> dict[str, str]:
    """The line that each run is on."""
    sizes: dict[str, list[int]] = {}
    for name, each in metrics.items():
        sizes.setdefault(families[name], []).append(each.n_features)
    apart = {family for family, of in sizes.items() if 1 < len(set(of)) < len(of)}
    return {
        name: f"{families[name]}, {each.n_features} features" if families[name] in apart else families[name]
        for name, each in metrics.items()
    }


def _cell_hover(cell: ConceptResult | None) -> str:
    return f"{html.escape(concept_sentence(cell))}<br>feature {cell.feature}" if cell else "not judged"


def _metric(key: str) -> Metric:
    return next(metric for metric in METRICS if metric.key == key)


def _panel_title(metric: Metric) -> str:
    return metric.heading if metric.better == "neither" else f"{metric.heading} ({metric.better} is better)"


def laid_out(figure: go.Figure, *, height: int) -> go.Figure:
    """The look of a light page: no frame, a pale grid, room for names, the legend below."""
    figure.update_layout(
        height=height,
        margin={"l": 20, "r": 20, "t": 40, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "yanchor": "bottom", "y": 0, "yref": "container", "x": 0},
    )
    figure.update_annotations(font_size=14)
    axes = {"gridcolor": _GRID, "zeroline": False, "automargin": True, "title_font_size": 13}
    figure.update_xaxes(**axes)
    figure.update_yaxes(**axes)
    return figure
