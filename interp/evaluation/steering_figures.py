"""A figure of the steering evaluation: what features add to the share of a concept, beside what their controls add."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import get_args

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.errors import InputError
from interp.evaluation.comparison_figures import COLOURS, NULL, laid_out
from interp.evaluation.steering_results import NULLS, Control, SteeringEffect, SteeringReport
from interp.figures import LINE

_SYMBOLS = dict(zip(get_args(Control), ("diamond", "x", "cross", "triangle-up", "square"), strict=True))
_ROW = 34
"""Height of a report's line, pixels."""


def steering_figure(reports: Mapping[str, SteeringReport]) -> go.Figure:
    """A panel for each concept that was steered: what each report's feature adds to the share of the text, and its controls.

    ``reports`` by the names they are shown with. A dot with its 95 % interval is the feature, filled where it adds more than
    every null with whole intervals, else open; nulls are grey, the controls that are methods of their own coloured. Raises
    InputError where nothing was steered.
    """
    effects = {(e.concept, name): e for name, report in reports.items() for e in report.effects}
    concepts = list(dict.fromkeys(concept for concept, _ in effects))
    if not concepts:
        raise InputError("no concept was steered in any of the reports; run: interp evaluate RUN...")
    figure = make_subplots(
        rows=1,
        cols=len(concepts),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=list(map(html.escape, concepts)),
    )
    for column, concept in enumerate(concepts, start=1):
        of_concept = {name: effects[concept, name] for name in reports if (concept, name) in effects}
        for trace in (*_controls(of_concept), *_features(of_concept)):
            figure.add_trace(trace, row=1, col=column)
    for trace in _legend():
        figure.add_trace(trace)
    order = [html.escape(name) for name in reversed(list(reports))]
    figure.update_yaxes(categoryorder="array", categoryarray=order, range=[-0.6, len(order) - 0.4])
    figure.update_xaxes(tickformat="+.0%", nticks=6)
    figure.update_xaxes(title_text="added to the share of the text", col=(len(concepts) + 1) // 2)
    figure = laid_out(figure, height=_ROW * len(order) + 190)
    return figure.update_xaxes(zeroline=True, zerolinecolor=NULL)


def _controls(effects: Mapping[str, SteeringEffect]) -> list[go.Scatter]:
    """A trace for each control, over the reports that have it."""
    traces = []
    for control in _SYMBOLS:
        held = {name: each.difference for name, e in effects.items() for each in e.controls if each.name == control}
        traces.append(
            go.Scatter(
                x=[gain.value for gain in held.values()],
                y=list(map(html.escape, held)),
                mode="markers",
                marker=_marker(control),
                name=control,
                hovertemplate="%{y}: " + control + " %{x:+.1%}<extra></extra>",
                showlegend=False,
            )
        )
    return traces


def _features(effects: Mapping[str, SteeringEffect]) -> list[go.Scatter]:
    traces = []
    for is_above, colour in ((True, LINE), (False, "#FFFFFF")):
        held = {name: e for name, e in effects.items() if e.is_above_controls == is_above}
        gains = [e.difference for e in held.values()]
        traces.append(
            go.Scatter(
                x=[gain.value for gain in gains],
                y=list(map(html.escape, held)),
                error_x={
                    "symmetric": False,
                    "array": [gain.high - gain.value for gain in gains],
                    "arrayminus": [gain.value - gain.low for gain in gains],
                    "color": LINE,
                },
                mode="markers",
                marker={"size": 11, "color": colour, "line": {"color": LINE, "width": 2}},
                text=[f"feature {e.feature}" for e in held.values()],
                hovertemplate="%{y}: %{text} %{x:+.1%}<extra></extra>",
                name="above every null" if is_above else "not above every null",
                showlegend=False,
            )
        )
    return traces


def _marker(control: str) -> dict[str, object]:
    colour = NULL if control in NULLS else COLOURS[list(_SYMBOLS).index(control)]
    return {"symbol": _SYMBOLS[control], "size": 8, "color": colour}


def _legend() -> list[go.Scatter]:
    """What the marks mean, once a figure, whichever of them are in its panels."""
    dot = {"size": 11, "line": {"color": LINE, "width": 2}}
    looks = {"above every null": dot | {"color": LINE}, "not above every null": dot | {"color": "#FFFFFF"}}
    looks |= {control: _marker(control) for control in _SYMBOLS}
    return [go.Scatter(x=[None], y=[None], mode="markers", marker=look, name=name) for name, look in looks.items()]
