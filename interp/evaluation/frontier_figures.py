"""Figures of a steering sweep: how much of a concept is written, against the effect on neutral text and against fluency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from interp.errors import InputError
from interp.evaluation.comparison_figures import COLOURS, DASHES, NULL, laid_out
from interp.evaluation.estimates import Estimate
from interp.evaluation.frontier import FrontierPoint

_BEST = "star"


def share_by_kl(points: Mapping[int, Sequence[FrontierPoint]], *, title: str) -> go.Figure:
    """Share of a concept against KL, a line a feature from the unsteered share at KL 0; bars are 95 % intervals.

    ``points`` as of ``frontier``; ``title`` says of the vertical axis what was judged. A star marks each feature's best
    strength, an open dot a strength that missed its target. Raises InputError where there are no points.
    """
    figure = _lines(points, lambda point: point.kl, None)
    figure.update_xaxes(title_text="effect on neutral text: KL, nats per token", rangemode="tozero")
    return _titled(figure, points, title)


def share_by_fluency(points: Mapping[int, Sequence[FrontierPoint]], *, title: str) -> go.Figure:
    """Share of a concept against fluency, a line a feature from the unsteered texts; else as ``share_by_kl``."""
    figure = _lines(points, lambda point: point.fluency.value, lambda point: point.fluency)
    figure.update_xaxes(title_text="fluency")
    return _titled(figure, points, title)


def _lines(points: Mapping[int, Sequence[FrontierPoint]], x: Any, interval: Any) -> go.Figure:
    if not any(points.values()):
        raise InputError("a frontier needs at least one strength of one feature")
    figure = go.Figure()
    for number, (feature, each) in enumerate(points.items()):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        start = (0.0 if interval is None else each[0].baseline_fluency.value, each[0].baseline_share.value)
        xs, ys = [start[0], *map(x, each)], [start[1], *(point.share.value for point in each)]
        figure.add_scatter(
            x=xs,
            y=ys,
            mode="lines",
            line={"color": colour, "width": 2, "dash": dash},
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=xs[1:],
            y=ys[1:],
            error_y=_bars([point.share for point in each], colour),
            error_x=_bars([interval(point) for point in each], colour) if interval else None,
            mode="markers",
            marker={
                "color": [colour if point.reached else "#FFFFFF" for point in each],
                "line": {"color": colour, "width": 2},
                "symbol": [_BEST if point.is_best else "circle" for point in each],
                "size": [15 if point.is_best else 8 for point in each],
            },
            text=[_hover(point) for point in each],
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
        entry = {"color": colour, "width": 2, "dash": dash}
        figure.add_scatter(
            x=[None], y=[None], mode="lines", line=entry, name=f"feature {feature}", showlegend=True, hoverinfo="skip"
        )
    first = next(iter(points.values()))[0]
    figure.add_scatter(
        x=[0.0 if interval is None else first.baseline_fluency.value],
        y=[first.baseline_share.value],
        error_y=_bars([first.baseline_share], NULL),
        mode="markers",
        marker={"symbol": "diamond", "size": 10, "color": NULL},
        name="not steered",
        showlegend=True,
        cliponaxis=False,
        hovertemplate=f"not steered: {first.baseline_share.value:.3g}<extra></extra>",
    )
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        marker={"symbol": _BEST, "size": 13, "color": "#FFFFFF", "line": {"color": NULL, "width": 2}},
        name="best strength",
        showlegend=True,
        hoverinfo="skip",
    )
    return figure


def _titled(figure: go.Figure, points: Mapping[int, Sequence[FrontierPoint]], title: str) -> go.Figure:
    are_shares = all(point.score is not None for each in points.values() for point in each)
    figure.update_yaxes(title_text=title, tickformat=".0%" if are_shares else None)
    figure.update_layout(showlegend=True)
    return laid_out(figure, height=420)


def _hover(point: FrontierPoint) -> str:
    score = "" if point.score is None else f", harmonic mean {point.score.value:.3g}"
    missed = "" if point.reached else "<br>its target KL was not reached"
    return (
        f"feature {point.feature}, strength {point.strength:.3g}, KL {point.kl:.3g}<br>"
        f"{point.share.value:.3g} [{point.share.low:.3g}, {point.share.high:.3g}], "
        f"fluency {point.fluency.value:.3g}{score}{missed}"
    )


def _bars(estimates: Sequence[Estimate], colour: str) -> dict[str, Any]:
    return {
        "symmetric": False,
        "array": [max(0.0, each.high - each.value) for each in estimates],
        "arrayminus": [max(0.0, each.value - each.low) for each in estimates],
        "color": colour,
        "thickness": 1.2,
        "width": 3,
    }
