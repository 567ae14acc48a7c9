"""The figure of the steering evaluation holds its numbers: features with their intervals, and every control beside them."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
import pytest
from made_metrics import around, made_effect, made_steering

from interp.errors import InputError
from interp.evaluation.estimates import Estimate
from interp.evaluation.steering_figures import steering_figure
from interp.evaluation.steering_results import SteeringControl

CHANCE = Estimate(value=0.01, low=-0.02, high=0.04)


def control(name: str, gain: float, excess: Estimate) -> SteeringControl:
    return SteeringControl(name=name, difference=around(gain), excess=excess, spread=None, fluency=0.5)  # type: ignore[arg-type]


def traces(figure: go.Figure, name: str) -> list[Any]:
    return [trace for trace in figure.data if trace.name == name and trace.x != (None,)]


def test_features_stand_beside_their_controls_filled_where_above_every_null() -> None:
    above = made_effect(controls=(control("features", 0.05, around(0.25)), control("difference in means", 0.5, CHANCE)))
    not_above = made_effect(
        difference=Estimate(value=0.2, low=0.1, high=0.35), controls=(control("features", 0.19, CHANCE),)
    )
    other = made_effect(concept="a<b", controls=(control("features", 0.02, around(0.1)),))
    figure = steering_figure({"x": made_steering(above, other), "<y>": made_steering(not_above)})

    filled, of_other = traces(figure, "above every null")
    assert (list(filled.x), list(filled.y)) == ([0.3], ["x"])
    assert (list(of_other.x), of_other.xaxis) == ([0.3], "x2"), "each concept has its panel"
    open_, _ = traces(figure, "not above every null")
    assert (list(open_.x), list(open_.y)) == ([0.2], ["&lt;y&gt;"])
    assert list(open_.error_x.array) == pytest.approx([0.15])
    assert list(open_.error_x.arrayminus) == pytest.approx([0.1])
    null, _ = traces(figure, "features")
    assert dict(zip(null.y, null.x, strict=True)) == {"x": 0.05, "&lt;y&gt;": 0.19}
    supervised, _ = traces(figure, "difference in means")
    assert (list(supervised.x), list(supervised.y)) == ([0.5], ["x"])
    assert null.marker.color != supervised.marker.color, "nulls are told from methods of their own"
    assert [title.text for title in figure.layout.annotations[:2]] == ["comment", "a&lt;b"]
    assert list(figure.layout.yaxis.categoryarray) == ["&lt;y&gt;", "x"], "the first on top"


def test_nothing_steered_is_no_figure() -> None:
    with pytest.raises(InputError, match="no concept was steered"):
        steering_figure({"x": made_steering()})
