"""What the dashboard and the notebooks draw: training curves and steering sweeps with plotly, contexts as HTML.

Positive is orange and negative sky blue throughout (Okabe and Ito, https://jfly.uni-koeln.de/color/), which every type
of colour vision tells apart. Figures carry no theme of their own: transparent paper, so that a light or dark page shows
through, and lines of mid lightness that stand out on both.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.errors import InputError

POSITIVE = "#E69F00"
NEGATIVE = "#56B4E9"
LINE = "#5B7BC0"
"""Lines that are neither positive nor negative; 3:1 or better on white and on near-black."""

CURVES = {
    "loss": "loss",
    "fvu": "fraction of variance unexplained",
    "l0": "active features a token (L0)",
    "dead": "dead features",
}
"""What a training record may hold, with the title of its panel, in the order of panels."""

_GRID = "rgba(128, 128, 128, 0.22)"


def training_curves(records: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Loss, FVU, L0 and dead features over training, one panel for each that was recorded.

    ``records`` are the lines of ``train.jsonl``; the horizontal axis is tokens where they were counted, else steps.
    Values that are not finite leave a gap. Raises InputError when no record holds any of them.
    """
    names = [name for name in CURVES if any(name in record for record in records)]
    if not names:
        raise InputError("this run recorded no training curve; methods that are fitted in one step have none.")
    along = "tokens" if all("tokens" in record for record in records) else "step"
    figure = make_subplots(rows=1, cols=len(names), subplot_titles=[CURVES[name] for name in names])
    for column, name in enumerate(names, start=1):
        held = [record for record in records if name in record]
        x = [record.get(along, i) for i, record in enumerate(held)]
        y = [_finite(record[name]) for record in held]
        # A fit of a few steps shows as dots; a long one as a line, on which dots would only be noise.
        mode = "lines+markers" if len(held) <= 30 else "lines"
        figure.add_scatter(x=x, y=y, mode=mode, line={"color": LINE, "width": 2}, name=name, row=1, col=column)
        figure.update_xaxes(title_text=along, row=1, col=column)
    figure.update_annotations(font_size=13)
    # All four are counts or shares: from 0, so that a flat curve looks flat.
    figure.update_yaxes(rangemode="tozero")
    return _plain(figure, height=260)


def steering_sweep(
    strengths: Sequence[float], kls: Sequence[float], *, present: float | None = None, target: float | None = None
) -> go.Figure:
    """Effect against strength of steering one feature.

    ``strengths`` in multiples of the feature's maximum, ``kls`` in nats per token. ``present`` marks the strength in use,
    ``target`` the effect asked for. Raises InputError for lists of different length or none.
    """
    if not strengths or len(strengths) != len(kls):
        raise InputError(f"a sweep needs one effect for each strength; there are {len(strengths)} and {len(kls)}.")
    pairs = sorted(zip(strengths, kls, strict=True))
    x, y = [pair[0] for pair in pairs], [_finite(pair[1]) for pair in pairs]
    figure = go.Figure(go.Scatter(x=x, y=y, mode="lines+markers", line={"color": LINE, "width": 2}, name="KL"))
    if present is not None:
        colour = NEGATIVE if present < 0 else POSITIVE
        figure.add_vline(x=present, line={"color": colour, "width": 2}, annotation_text=f"{present:.3g} × max")
    if target is not None:
        figure.add_hline(y=target, line={"color": LINE, "dash": "dot"}, annotation_text=f"target {target:.3g}")
    figure.update_xaxes(title_text="strength, × max activation")
    figure.update_yaxes(title_text="KL, nats per token")
    return _plain(figure, height=260)


def contexts_html(examples: Sequence[Mapping[str, Any]]) -> str:
    """Examples of ``FeatureIndex.examples`` as HTML for a notebook: tokens shaded by their activation, strongest bold.

    Shares of the largest activation on view set the strength of the colour. Every token is escaped.
    """
    largest = max((max(example["activations"], default=0.0) for example in examples), default=0.0) or 1.0
    lines = []
    for example in examples:
        tokens = "".join(
            _token_html(text, activation / largest, is_centre=i == example["centre"])
            for i, (text, activation) in enumerate(zip(example["tokens"], example["activations"], strict=True))
        )
        lines.append(
            f"<div><small>{example['value']:.2f} · {html.escape(example['document'])}</small><pre>{tokens}</pre></div>"
        )
    return "".join(lines)


def _token_html(text: str, share: float, *, is_centre: bool) -> str:
    shown = html.escape(text)
    if share <= 0:
        return shown
    red, green, blue = (int(POSITIVE[i : i + 2], 16) for i in (1, 3, 5))
    style = f"background:rgba({red},{green},{blue},{0.15 + 0.85 * share:.2f})"
    return f'<span style="{style}">{f"<b>{shown}</b>" if is_centre else shown}</span>'


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _plain(figure: go.Figure, *, height: int) -> go.Figure:
    figure.update_layout(
        height=height,
        margin={"l": 50, "r": 16, "t": 34, "b": 44},
        showlegend=False,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    figure.update_xaxes(gridcolor=_GRID, zeroline=False)
    figure.update_yaxes(gridcolor=_GRID, zeroline=False)
    return figure
