"""The figures that compare runs hold the numbers of the metrics, and nothing that was not measured."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
import pytest
from made_metrics import (
    around,
    baseline,
    concept,
    concepts,
    made_metrics,
    probes,
    reconstruction,
    seeds,
    spliced,
    steering,
)

from interp.errors import InputError
from interp.evaluation.compare import Matched
from interp.evaluation.comparison_figures import (
    baselines_figure,
    concepts_figure,
    matching_figure,
    measures_figure,
    probes_figure,
    tradeoff_figure,
)
from interp.evaluation.estimates import Estimate
from interp.evaluation.results import Metrics

CHANCE = Estimate(value=0.01, low=-0.02, high=0.04)


def traces(figure: go.Figure, name: str) -> list[Any]:
    return [trace for trace in figure.data if trace.name == name and trace.y != (None,)]


def test_dots_stand_at_their_figures_with_intervals_and_nulls() -> None:
    metrics = {
        "a": made_metrics(concepts=concepts()),
        "<b>": made_metrics(concepts=concepts(f1=around(0.24), excess=CHANCE, null_f1=0.23)),
        "c": made_metrics(),
    }
    figure = measures_figure(metrics, ("concepts",))
    (filled,), (open_,) = traces(figure, "measured"), traces(figure, "not above its null")
    assert (list(filled.x), list(filled.y)) == ([0.44], ["a"])
    assert (list(open_.x), list(open_.y)) == ([0.24], ["&lt;b&gt;"])
    assert (filled.marker.color, open_.marker.color) != (open_.marker.color,) * 2
    assert filled.error_x.array == pytest.approx([0.07])
    assert filled.error_x.arrayminus == pytest.approx([0.07])
    (null,) = traces(figure, "null: what chance achieves")
    assert list(null.x) == [0.23, 0.23]
    assert list(figure.layout.yaxis.categoryarray) == ["c", "&lt;b&gt;", "a"], "the first on top, and a place for each"


def test_a_panel_for_each_metric_that_was_measured() -> None:
    figure = measures_figure({"a": made_metrics(seeds=seeds())}, ("fvu", "ce_recovered", "stability"))
    assert [title.text for title in figure.layout.annotations] == [
        "FVU (lower is better)",
        "stability (higher is better)",
    ]
    assert [trace.x[0] for trace in traces(figure, "measured")] == [0.25, 0.8]
    with pytest.raises(InputError, match="none of the runs has steering"):
        measures_figure({"a": made_metrics()}, ("steering",))
    with pytest.raises(InputError, match="no metric 'steer' in the table; did you mean 'steering'"):
        measures_figure({"a": made_metrics(steering=steering())}, ("steer",))


def run_of(l0: float, fvu: float, n_features: int = 256, **parts: Any) -> Metrics:
    rec = reconstruction(l0=l0, fvu=fvu, fvu_interval=(fvu - 0.02, fvu + 0.01), fires=parts.pop("fires", True))
    return made_metrics(reconstruction=rec, n_features=n_features, spliced=spliced(1 - fvu, None), **parts)


def test_runs_of_a_family_are_joined_in_the_order_of_their_l0() -> None:
    metrics = {
        "k32": run_of(32, 0.2), "k16": run_of(16, 0.3), "k64": run_of(64, 0.1), "nmf": run_of(20, 0.25, kind="semi-nmf"),
        "pca": run_of(256, 0.01, kind="pca", fires=False),
    }  # fmt: skip
    figure = tradeoff_figure(metrics)
    assert [(trace.name, list(trace.x)) for trace in figure.data] == [
        ("sae", [16, 32, 64]), ("sae", [16, 32, 64]), ("semi-nmf", [20]), ("semi-nmf", [20]),
    ]  # fmt: skip
    fvu, recovered = figure.data[:2]
    assert list(fvu.y) == [0.3, 0.2, 0.1]
    assert fvu.error_y.array == pytest.approx([0.01] * 3)
    assert fvu.error_y.arrayminus == pytest.approx([0.02] * 3)
    assert recovered.y == pytest.approx([0.7, 0.8, 0.9])
    named = tradeoff_figure(metrics, {"k32": "gated", "k16": "topk", "k64": "topk", "nmf": "nmf", "pca": "pca"})
    assert {trace.name: list(trace.x) for trace in named.data} == {"gated": [32], "topk": [16, 64], "nmf": [20]}
    with pytest.raises(InputError, match="none of the runs has an L0"):
        tradeoff_figure({"pca": metrics["pca"]})


def test_several_sizes_are_one_line_unless_each_has_several_l0() -> None:
    sizes = {"a": run_of(32, 0.2), "b": run_of(33, 0.1, 512)}
    assert [trace.name for trace in tradeoff_figure(sizes).data] == ["sae", "sae"]
    both = sizes | {"c": run_of(16, 0.3), "d": run_of(17, 0.2, 512)}
    assert {trace.name: list(trace.x) for trace in tradeoff_figure(both).data} == {
        "sae, 256 features": [16, 32],
        "sae, 512 features": [17, 33],
    }


def test_probes_stand_beside_coordinates_principal_directions_and_the_ceiling() -> None:
    figure = probes_figure(
        {"a": made_metrics(probes=probes(0.4)), "b": made_metrics(probes=probes(0.1)), "c": made_metrics()}
    )
    lines = {trace.name: list(trace.y) for trace in figure.data}
    assert lines["a"] == pytest.approx([0.4, 0.5, 0.6, 0.65])
    assert lines["b"] == pytest.approx([0.1, 0.2, 0.3, 0.35])
    assert "c" not in lines
    assert lines["coordinates of the activation"] == [0.3, 0.35, 0.4, 0.5]
    assert lines["its principal directions"] == [0.2, 0.3, 0.45, 0.6]
    assert lines["the whole activation: the ceiling"] == [0.9] * 4
    assert list(figure.data[0].x) == ["1", "2", "5", "16"]
    with pytest.raises(InputError, match="none of the runs has probes"):
        probes_figure({"c": made_metrics()})


def test_the_heat_map_marks_what_is_not_above_its_null() -> None:
    metrics = {
        "a": made_metrics(concepts=concepts(concepts=(concept("number", 0.22), concept("<tag>", 0.8)))),
        "b": made_metrics(concepts=concepts(concepts=(concept("number", 0.5),))),
        "c": made_metrics(),
    }
    (shown,) = concepts_figure(metrics).data
    assert list(shown.x) == ["a", "b"]
    assert list(shown.y) == ["&lt;tag&gt;", "number"], "found best first"
    assert [list(line) for line in shown.z] == [[0.8, None], [0.22, 0.5]]
    assert [list(line) for line in shown.text] == [[".80", ""], ["= .22", ".50"]]
    assert shown.customdata[1][0] == "F1 .22 [.17, .27] = null .20<br>feature 7"
    with pytest.raises(InputError, match="none of the runs has concepts"):
        concepts_figure({"c": made_metrics()})


def test_baselines_are_drawn_by_what_the_run_is_ahead_of_them() -> None:
    reports = (baseline("neurons", 0.3, around(0.14)), baseline("principal", 0.5, around(-0.06)))
    metrics = {"a": made_metrics(concepts=concepts(baselines=reports)), "b": made_metrics(concepts=concepts())}
    figure = baselines_figure(metrics)
    assert {trace.name: list(trace.x) for trace in figure.data} == {"neurons": [0.14], "principal": [-0.06]}
    assert all(round(trace.y[0]) == 0 for trace in figure.data), "on the line of the first run"
    assert list(figure.layout.yaxis.ticktext) == ["a", "b"]
    with pytest.raises(InputError, match="was compared with simple methods"):
        baselines_figure({"b": metrics["b"]})


def test_the_matrix_of_matched_features_has_cosines_with_chance_and_an_empty_diagonal() -> None:
    matched = Matched(runs=("a", "b"), cosines=((1.0, 0.81), (0.81, 1.0)), chance=((1.0, 0.3), (0.3, 1.0)))
    (shown,) = matching_figure(matched).data
    assert [list(line) for line in shown.z] == [[None, 0.81], [0.81, None]]
    assert [list(line) for line in shown.text] == [["", ".81<br>chance .30"], [".81<br>chance .30", ""]]
