"""What the dashboard and the notebooks draw: training curves, steering sweeps and manifolds with plotly, contexts as HTML.

Positive is orange and negative sky blue throughout (Okabe and Ito, https://jfly.uni-koeln.de/color/), which every type
of colour vision tells apart. Figures carry no theme of their own: transparent paper, so that a light or dark page shows
through, and lines of mid lightness that stand out on both.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from interp.errors import InputError, unknown_name
from interp.index.token_text import show_blanks
from interp.manifolds.layout import PLANES
from interp.manifolds.reader import ManifoldView

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
"""Fields of a training record to the titles of their panels, in order."""

VALUE = "value"
"""The colouring of a latent's tokens by its own value: orange above 0, blue below."""

CATEGORIES = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Okabe and Ito's colours, for the most frequent tokens."""

OWN_PLANE = PLANES[0]

_TEXTS = {"token": "text", "next token": "next"}
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
        # A fit of a few steps is drawn with dots; on a long line they would only be noise.
        mode = "lines+markers" if len(held) <= 30 else "lines"
        figure.add_scatter(x=x, y=y, mode=mode, line={"color": LINE, "width": 2}, name=name, row=1, col=column)
        figure.update_xaxes(title_text=along, row=1, col=column)
    figure.update_annotations(font_size=13)
    # All four axes start at 0, so that a flat curve looks flat.
    figure.update_yaxes(rangemode="tozero")
    return _plain(figure, height=260)


def steering_sweep(
    strengths: Sequence[float],
    kls: Sequence[float],
    *,
    unit: str = "× its maximum",
    present: float | None = None,
    target: float | None = None,
) -> go.Figure:
    """Effect against strength of steering one feature.

    ``strengths`` in multiples of ``unit``, ``kls`` in nats per token. ``present`` marks the strength in use,
    ``target`` the effect asked for. Raises InputError for lists of different length or none.
    """
    if not strengths or len(strengths) != len(kls):
        raise InputError(f"a sweep needs one effect for each strength; there are {len(strengths)} and {len(kls)}.")
    pairs = sorted(zip(strengths, kls, strict=True))
    x, y = [pair[0] for pair in pairs], [_finite(pair[1]) for pair in pairs]
    figure = go.Figure(go.Scatter(x=x, y=y, mode="lines+markers", line={"color": LINE, "width": 2}, name="KL"))
    if present is not None:
        colour = NEGATIVE if present < 0 else POSITIVE
        figure.add_vline(x=present, line={"color": colour, "width": 2}, annotation_text=f"{present:.3g}")
    if target is not None:
        figure.add_hline(y=target, line={"color": LINE, "dash": "dot"}, annotation_text=f"target {target:.3g}")
    figure.update_xaxes(title_text=f"strength ({unit})")
    figure.update_yaxes(title_text="KL, nats per token")
    return _plain(figure, height=260)


def stability_curve(
    ranks: Sequence[int], stabilities: Sequence[Sequence[float]], fvus: Sequence[float], *, recommended: int
) -> go.Figure:
    """Stability and error against the number of features; ``stabilities`` holds those of all features for each rank.

    Bars span the first to the third quartile of the features. Raises InputError without any rank.
    """
    if not ranks:
        raise InputError("a stability curve needs one number of features or more.")
    titles = ["stability of a feature: mean and quartiles", "fraction of variance unexplained"]
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles)
    means = [float(np.mean(values)) for values in stabilities]
    low, high = zip(*(np.percentile(values, [25, 75]) for values in stabilities), strict=True)
    bars = {
        "symmetric": False,
        "array": [max(0.0, float(h) - m) for h, m in zip(high, means, strict=True)],
        "arrayminus": [max(0.0, m - float(v)) for v, m in zip(low, means, strict=True)],
    }
    style = {"mode": "lines+markers", "line": {"color": LINE, "width": 2}}
    figure.add_scatter(x=list(ranks), y=means, error_y=bars, name="stability", row=1, col=1, **style)
    figure.add_scatter(x=list(ranks), y=list(fvus), name="FVU", row=1, col=2, **style)
    figure.add_vline(x=recommended, line={"color": POSITIVE, "dash": "dot"}, annotation_text=f"{recommended}")
    figure.update_annotations(font_size=13)
    figure.update_xaxes(title_text="features")
    figure.update_yaxes(rangemode="tozero", col=2)
    return _plain(figure, height=320)


def manifold_plane(view: ManifoldView, colour: str = VALUE) -> go.Figure:
    """A latent's tokens on its first two axes, its strongest as larger points.

    ``colour`` is "value", "token", "next token" or an ordinal of the view; of an ordinal the curve and R^2 are drawn too.
    """
    figure = go.Figure(_point_traces(view, colour, go.Scatter, ("x", "y")))
    if colour in view.curves:
        x, y = view.curves[colour].points.T
        r2 = view.label_r2[colour][OWN_PLANE]
        line = {"color": LINE, "width": 2.5}
        figure.add_scatter(x=x, y=y, mode="lines+markers", line=line, name=f"curve, R² {r2:.2f}", hoverinfo="skip")
    figure.update_yaxes(scaleanchor="x", scaleratio=1)
    figure.update_xaxes(title_text=_axis_title(view, 0))
    figure.update_yaxes(title_text=_axis_title(view, 1))
    return _legend_below(_plain(figure, height=460))


def manifold_space(view: ManifoldView, colour: str = VALUE) -> go.Figure:
    """The same tokens on three axes, to be turned with the mouse."""
    figure = go.Figure(_point_traces(view, colour, go.Scatter3d, ("x", "y", "z")))
    titles = {f"{axis}axis_title_text": _axis_title(view, i) for i, axis in enumerate("xyz")}
    sides = {f"{axis}axis": {"gridcolor": _GRID, "backgroundcolor": "rgba(0,0,0,0)"} for axis in "xyz"}
    figure.update_layout(
        scene={"aspectmode": "cube", **sides}, scene_dragmode="orbit", scene_camera_eye={"x": 1.55, "y": 1.55, "z": 1.0}
    )
    figure.update_layout({f"scene_{name}": title for name, title in titles.items()})
    figure = _legend_below(_plain(figure, height=460))
    return figure.update_layout(margin={"l": 0, "r": 0, "t": 8, "b": 30})


def eigenvalue_bars(eigenvalues: Float[np.ndarray, " r"]) -> go.Figure:
    """A form's signed eigenvalues, largest magnitude first."""
    values = eigenvalues.tolist()
    colours = [POSITIVE if value > 0 else NEGATIVE for value in values]
    names = [str(i) for i in range(1, len(values) + 1)]
    figure = go.Figure(go.Bar(x=names, y=values, marker_color=colours, hovertemplate="%{y:.3f}<extra></extra>"))
    figure.update_xaxes(title_text="axis", type="category")
    figure.update_yaxes(title_text="eigenvalue")
    return _plain(figure, height=190)


def contexts_html(examples: Sequence[Mapping[str, Any]]) -> str:
    """Examples of ``FeatureIndex.examples`` as HTML for a notebook: tokens shaded by their activation, strongest bold.

    The colour's opacity is the activation as a share of the largest one shown. Every token is escaped.
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


_FULL_CHANGE = 4.0
"""Nats at which a change of log-probability has its full colour: the token is 55 times as likely, or a 55th."""


def token_changes_html(changes: Sequence[tuple[str, float]]) -> str:
    """A text whose tokens are shaded by what steering does to their likelihood: orange makes it larger, sky blue smaller.

    ``changes`` are (text of the token, change of its log-probability in nats), also shown when pointed at. All text is
    escaped.
    """
    return "".join(
        f'<span style="background:{_shade(change)}" title="{change:+.2f} nats">{html.escape(text)}</span>'
        for text, change in changes
    )


def _shade(change: float) -> str:
    if not math.isfinite(change):
        return "none"
    colour = POSITIVE if change > 0 else NEGATIVE
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{0.8 * min(1.0, abs(change) / _FULL_CHANGE):.2f})"


def next_tokens_html(tokens: Sequence[tuple[str, float, float]]) -> str:
    """Two distributions of the next token beside each other, with a bar for every probability.

    ``tokens`` are (text, probability without steering, probability with it). All text is escaped.
    """
    lines = []
    for text, *probabilities in tokens:
        cells = "".join(
            f'<td>{p:.1%}</td><td class="bar"><i style="width:{p:.1%};background:{colour}"></i></td>'
            for p, colour in zip(probabilities, (LINE, POSITIVE), strict=True)
        )
        lines.append(f"<tr><td><code>{html.escape(show_blanks(text))}</code></td>{cells}</tr>")
    head = '<tr><th>next token</th><th colspan="2">baseline</th><th colspan="2">steered</th></tr>'
    return f'<table class="next-tokens">{head}{"".join(lines)}</table>'


def _token_html(text: str, share: float, *, is_centre: bool) -> str:
    shown = html.escape(text)
    if share <= 0:
        return shown
    red, green, blue = (int(POSITIVE[i : i + 2], 16) for i in (1, 3, 5))
    style = f"background:rgba({red},{green},{blue},{0.15 + 0.85 * share:.2f})"
    return f'<span style="{style}">{f"<b>{shown}</b>" if is_centre else shown}</span>'


def _point_traces(view: ManifoldView, colour: str, kind: Any, axes: Sequence[str]) -> list[Any]:
    """The strongest tokens, and the others as smaller points; one trace per token if ``colour`` is a kind of token."""
    if colour not in colourings(view):
        raise unknown_name("colouring", colour, colourings(view), f"latent {view.feature}")
    hover = _hover_texts(view)
    size = 5.5 if len(axes) == 2 else 3.0

    def trace(rows: Sequence[int], name: str, **marker: Any) -> Any:
        places = {axis: view.coordinates[rows, i] for i, axis in enumerate(axes)}
        text, shown = [hover[i] for i in rows], "%{text}<extra></extra>"
        return kind(
            **places, mode="markers", name=name, text=text, hovertemplate=shown, marker={"size": size, **marker}
        )

    far, others = list(range(view.n_far)), list(range(view.n_far, len(view.coordinates)))
    if colour in _TEXTS:
        named = [show_blanks(text) for text in view.text[_TEXTS[colour]]]
        common = [text for text, _ in Counter(named[: view.n_far]).most_common(len(CATEGORIES))]
        traces = [
            trace(others, "other tokens", size=0.5 * size, color="rgba(128,128,128,0.4)"),
            trace([i for i in far if named[i] not in common], "strongest", color="rgba(128,128,128,0.8)"),
        ]
        for text, paint in zip(common, CATEGORIES, strict=False):
            traces.append(trace([i for i in far if named[i] == text], html.escape(text) or "(end)", color=paint))
        return traces
    values = view.value if colour == VALUE else view.ordinals[colour]
    known = values[np.isfinite(values)]
    scale: dict[str, Any] = {"colorscale": "Cividis", "cmin": known.min(initial=0), "cmax": known.max(initial=0)}
    if colour == VALUE:
        most = float(np.abs(known).max(initial=1e-12))
        scale = {"colorscale": [NEGATIVE, "#8A8F98", POSITIVE], "cmin": -most, "cmax": most}
    bar = {"title": {"text": colour, "side": "right"}, "thickness": 10, "len": 0.8}
    traces = []
    for rows, name, marker in (
        (others, "other tokens", {"size": 0.5 * size, "opacity": 0.7}),
        (far, "strongest", {"colorbar": bar}),
    ):
        rows = [i for i in rows if math.isfinite(values[i])]
        traces.append(trace(rows, name, color=values[rows], **scale, **marker))
    return traces


def colourings(view: ManifoldView) -> list[str]:
    """The values of ``colour`` that a latent's tokens can have."""
    return [VALUE, *(_TEXTS if view.text else ()), *view.ordinals]


def _hover_texts(view: ManifoldView) -> list[str]:
    """Hover text of each point: the token in its context, the value, the labels. Escaped."""
    texts = []
    for i, value in enumerate(view.value):
        lines = [f"value {value:.3g}"]
        if view.text:
            before, token, after = (show_blanks(view.text[name][i]) for name in ("before", "text", "after"))
            lines.insert(0, f"{html.escape(before[-30:])}<b>[{html.escape(token)}]</b>{html.escape(after[:20])}")
        lines += [f"{name} {values[i]:g}" for name, values in view.ordinals.items() if math.isfinite(values[i])]
        texts.append("<br>".join(lines))
    return texts


def _axis_title(view: ManifoldView, i: int) -> str:
    if i < view.n_axes:
        return f"axis {i + 1} (λ {view.eigenvalues[i]:+.2f})"
    return "outside of the plane"


def _legend_below(figure: go.Figure) -> go.Figure:
    return figure.update_layout(
        showlegend=True, legend={"orientation": "h", "yanchor": "top", "y": -0.14, "itemsizing": "constant"}
    )


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
