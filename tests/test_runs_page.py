"""What the Runs page says of the runs of a workspace, and that it calls none best which is not shown to be."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dashboard_workspace import DashboardWorkspace, make_workspace
from made_metrics import (
    around,
    concept,
    concepts,
    made_effect,
    made_metrics,
    made_run,
    made_steering,
    reconstruction,
    seeds,
    spliced,
    steering,
)
from streamlit.testing.v1 import AppTest

from interp.browse.runs import (
    best_runs,
    concept_map,
    judged_beside,
    runs_table,
    steered_pair,
    steering_rows,
    steering_summary,
)
from interp.errors import InputError
from interp.evaluation.estimates import Estimate
from interp.evaluation.groups import grouped
from interp.evaluation.results import METRICS_FILE, Metrics
from interp.records import write_record

CHANCE = Estimate(value=0.01, low=-0.02, high=0.04)


def run_of(fvu: float, l0: float = 32.0, half: float = 0.01, **parts: Any) -> Metrics:
    kept = reconstruction(fvu=fvu, l0=l0, fvu_interval=(fvu - half, fvu + half))
    return made_metrics(reconstruction=kept, **parts)


def best(metrics: dict[str, Metrics]) -> dict[str, str]:
    (group,) = grouped(metrics)
    return best_runs(group, metrics)[0]


def said(metrics: dict[str, Metrics]) -> str:
    (group,) = grouped(metrics)
    return "\n".join(best_runs(group, metrics)[1])


def test_a_run_is_best_where_its_interval_stands_apart_from_all_others() -> None:
    metrics = {"a": run_of(0.3), "b": run_of(0.2), "c": run_of(0.4)}
    assert best(metrics) == {"fvu": "b"}
    assert "FVU: b leads with .200 [.190, .210]; next is a with .300 [.290, .310]; the intervals do not" in said(
        metrics
    )


def test_no_run_is_best_whose_interval_overlaps_that_of_any_other() -> None:
    near = {"a": run_of(0.2), "b": run_of(0.215)}
    assert best(near) == {}
    assert said(near) == "No run is best by FVU: the interval of the first overlaps that of another."
    wide = {"a": run_of(0.2), "b": run_of(0.3), "c": run_of(0.4, half=0.25)}
    assert best(wide) == {}, "apart from the next one, but not from the third"


def test_no_run_is_best_by_a_figure_that_is_not_above_its_null() -> None:
    at_chance = {
        "a": made_metrics(concepts=concepts(f1=around(0.8, 0.01), excess=CHANCE)),
        "b": made_metrics(concepts=concepts(f1=around(0.4, 0.01))),
    }
    assert "concepts" not in best(at_chance)
    assert "by concepts found: even the first is not shown to be above its null" in said(at_chance)
    above = at_chance | {"a": made_metrics(concepts=concepts(f1=around(0.8, 0.01), excess=around(0.5)))}
    assert best(above)["concepts"] == "a"
    unknown = at_chance | {"a": made_metrics(concepts=concepts(f1=around(0.8, 0.01), excess=None, null_f1=None))}
    assert "concepts" not in best(unknown)


def test_no_run_is_best_for_keeping_more_with_more_features_that_fire() -> None:
    more = {"a": run_of(0.2, l0=64), "b": run_of(0.3, l0=32)}
    assert best(more) == {}
    assert "by FVU: the first also lets more features fire on a token" in said(more)
    assert best({"a": run_of(0.2, l0=35), "b": run_of(0.3, l0=32)}) == {"fvu": "a"}, "within a tenth"
    dense = {"a": made_metrics(reconstruction=reconstruction(fvu=0.1, fires=False, fvu_interval=(0.09, 0.11)))}
    assert best(dense | {"b": run_of(0.3)}) == {}
    assert best({"a": run_of(0.05)} | {"b": dense["a"]}) == {"fvu": "a"}
    assert best(more | {"c": run_of(0.1, l0=8)}) == {"fvu": "c"}


def test_no_run_is_best_that_differs_from_the_next_in_both_size_and_l0() -> None:
    metrics = {"a": run_of(0.2, l0=16, n_features=512), "b": run_of(0.3, l0=32)}
    assert best(metrics) == {}
    assert "by FVU: the first and the next differ in both number of features and L0" in said(metrics)
    assert best(metrics | {"a": run_of(0.2, l0=32, n_features=512)}) == {"fvu": "a"}


def test_no_run_is_best_without_intervals() -> None:
    metrics = {
        "a": made_metrics(steering=made_steering(mean_difference=0.5, excess=around(0.4)), spliced=spliced(0.9, None)),
        "b": made_metrics(steering=made_steering(mean_difference=0.1, excess=around(0.09)), spliced=spliced(0.8)),
    }
    assert not {"steering", "ce_recovered"} & best(metrics).keys()
    assert "by CE recovered and steering: there are no intervals to tell runs apart by." in said(metrics)


def test_every_figure_has_its_interval_and_its_null_and_the_best_is_marked(tmp_path: Path) -> None:
    runs = {
        "s/a": made_run(tmp_path / "s", made_metrics("a", concepts=concepts()), "a"),
        "s/b": made_run(tmp_path / "s", made_metrics("b", concepts=concepts(f1=around(0.9), excess=around(0.6))), "b"),
        "s/c": made_run(tmp_path / "s", made_metrics("c", concepts=concepts(f1=CHANCE, excess=CHANCE)), "c"),
        "s/d": made_run(tmp_path / "s", made_metrics("d"), "d"),
    }
    table = runs_table(runs, {"s/a": "fresh", "s/b": "none"})
    (section,) = table["sections"]
    place = [column["heading"] for column in table["columns"]].index("concepts found")
    a, b, c, d = section["rows"]
    assert a["cells"][place] == {
        "text": ".44",
        "interval": "[.37, .51]",
        "null": "> null .23",
        "against": "above",
        "is_best": False,
    }
    assert b["cells"][place]["is_best"]
    assert (c["cells"][place]["against"], c["cells"][place]["null"]) == ("same", "= null .23")
    assert d["cells"][place] == {"text": "-", "interval": "", "null": "", "against": "", "is_best": False}
    assert sum(cell["is_best"] for row in section["rows"] for cell in row["cells"]) == 1
    assert (a["run"], a["kind"], a["features"], a["l0"], a["index"]) == ("s/a", "sae", "256", "32.0", "fresh")
    assert table["columns"][place]["says"].endswith("Higher is better.")
    assert "auroc" not in str(table["columns"]).lower(), "of no run here"
    json.dumps(table)


def test_runs_of_a_site_stand_together_and_others_are_said_not_to_be_comparable(tmp_path: Path) -> None:
    sites = {"a": "blocks.10.hook_resid_post", "b": "blocks.2.hook_resid_post", "c": "blocks.10.hook_resid_post"}
    runs = {name: made_run(tmp_path, made_metrics(name, site=site), name) for name, site in sites.items()}
    runs["d"] = made_run(tmp_path, None, "d")
    table = runs_table(runs, {})
    assert [(section["title"], [row["run"] for row in section["rows"]]) for section in table["sections"]] == [
        ("blocks.0.hook_resid_post, not evaluated", ["d"]),
        ("blocks.2.hook_resid_post, judged on s-held-out", ["b"]),
        ("blocks.10.hook_resid_post, judged on s-held-out", ["a", "c"]),
    ]
    unjudged, _, last = table["sections"]
    assert last["note"].endswith("cannot be compared with those of the other tables, which have another site.")
    assert table["apart"] == [
        "a, c cannot be compared with b: site blocks.10.hook_resid_post, not blocks.2.hook_resid_post."
    ]
    assert unjudged["remarks"][0].startswith("d: not evaluated by this version; run: interp evaluate ")
    assert {cell["text"] for cell in unjudged["rows"][0]["cells"]} == {"-"}
    assert list(judged_beside("a", runs)) == ["a", "c"]
    assert judged_beside("d", runs) == {}
    for section in runs_table({name: runs[name] for name in "ac"}, {})["sections"]:
        assert section["note"] == ""


def test_a_cell_of_the_map_names_the_feature_and_is_shaded_if_it_is_above_its_null() -> None:
    metrics = {
        "a": made_metrics(concepts=concepts(concepts=(concept("number", 0.22), concept("<tag>", 0.8)))),
        "b": made_metrics(concepts=concepts(concepts=(concept("number", 0.5),))),
        "c": made_metrics(),
    }
    shown = concept_map(metrics)
    assert shown["runs"] == ["a", "b"]
    (first, of_tag), (second, of_number) = shown["concepts"]
    assert (first, second) == ("<tag>", "number"), "found best first"
    assert of_tag[1] is None
    assert of_tag[0] is not None
    assert of_tag[0] == {
        "run": "a",
        "feature": 7,
        "text": ".80",
        "says": "<tag> in a: F1 .80 [.75, .85] > null .20; open feature 7",
        "share": 0.8,
    }
    assert of_number[0] is not None
    assert (of_number[0]["text"], of_number[0]["share"]) == ("= .22", 0.0)
    with pytest.raises(InputError, match="none of the runs has concepts"):
        concept_map({"c": made_metrics()})


def test_steering_is_said_to_be_more_than_chance_only_where_it_is() -> None:
    effect = made_effect(
        gains=(0.1, 0.7), prompts=("p", "q"), baseline_texts=("x", "y"), texts=("# x", "# y"), difference=CHANCE
    )
    (row,) = steering_rows(made_steering(effect))
    assert (row["concept"], row["feature"], row["without"], row["with"]) == ("comment", 3, 10.0, 40.0)
    assert (row["gain"], row["best null"], row["verdict"]) == ("+1.0% [-2.0%, +4.0%]", "-", "no more than without")
    assert steered_pair(effect) == ("q", "y", "# y")
    assert steering_summary(made_steering(effect)).startswith(
        "More than chance for 0 of 1 concept, at an effect on neu"
    )
    assert steering_summary(steering(None, None)) == "Nothing was steered: nothing fires."
    with pytest.raises(InputError, match="no text of 'comment' was kept"):
        steered_pair(made_effect(gains=(), texts=(), baseline_texts=(), prompts=()))


# The page


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DashboardWorkspace:
    return make_workspace(tmp_path_factory.mktemp("dashboard"))


def page_of(**address: str) -> AppTest:
    page = AppTest.from_string("from app.views import runs\nruns.show()", default_timeout=60)
    page.query_params.update(address)
    page.run()
    assert not page.exception
    return page


def test_the_page_shows_runs_that_nobody_has_evaluated(copied: DashboardWorkspace) -> None:
    page = page_of(run=copied.name, below="nonsense")
    assert page.query_params["run"] in (copied.name, [copied.name])
    assert "below" not in page.query_params
    assert re.fullmatch(r"interp evaluate .*tiny/runs/sae", page.code[0].value)


def test_the_page_shows_the_metrics_texts_and_settings_of_the_run(copied: DashboardWorkspace) -> None:
    effect = made_effect(texts=("<script>",), baseline_texts=("&",))
    metrics = made_metrics("pca", concepts=concepts(), steering=made_steering(effect), seeds=seeds())
    write_record(copied.bare.path / METRICS_FILE, metrics)
    page = page_of(run="tiny/pca")
    assert [text.value for text in page.markdown] == [
        "###### Which concepts each run finds",
        "###### What is kept, for how many features that fire on a token",
    ]
    page = page_of(run="tiny/pca", below="this run")
    assert page.query_params["below"] in ("this run", ["this run"])
    assert page.markdown[0].value == r"##### tiny\/pca"
    details = next(table.value for table in page.dataframe if "FVU" in list(table.value.get("name", [])))
    shown = dict(zip(details["name"], details["value"], strict=True))
    assert shown["concepts found"] == ".44 [.37, .51] > null .23"
    assert shown["L0"] == "32.0"
    (texts,) = (each.proto.body for each in page.html if "pairs" in each.proto.body)
    assert "&lt;script&gt;" in texts
    assert "<script>" not in texts
    assert "&amp;" in texts


def test_the_page_needs_no_torch() -> None:
    program = "import sys, app.views.runs; print('torch' in sys.modules)"
    root = Path(__file__).parent.parent
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=True)
    assert result.stdout.strip() == "False"
