"""The table of metrics: every entry lies where it says, and text, JSON, dashboard and documentation are made from it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from made_metrics import around, baseline, concepts, made_metrics, reconstruction, seeds, spliced, steering

from interp.errors import InputError
from interp.evaluation.estimates import Estimate
from interp.evaluation.number_text import percent, short
from interp.evaluation.results import METRICS_FILE, HeldOut, Metrics, defined, read_metrics
from interp.evaluation.table import (
    MARKS,
    METRICS,
    Score,
    help_lines,
    measured,
    metrics_markdown,
    metrics_rows,
    metrics_table,
    names_of,
)
from interp.records import write_record

FORMAT = (Path(__file__).parent.parent / "activations" / "FORMAT.md").read_text()
BY_KEY = {metric.key: metric for metric in METRICS}


def run_with(folder: Path, name: str, **parts: Any) -> Any:
    """What the table needs of a run, with metrics of reconstruction alone unless ``parts`` says otherwise."""
    path = folder / name
    path.mkdir(parents=True)
    write_record(path / METRICS_FILE, made_metrics(name, **parts))
    return SimpleNamespace(path=path, name=name, kind="sae", site="here")


def cell(key: str, **parts: Any) -> str:
    return BY_KEY[key].cell(BY_KEY[key].score(made_metrics(**parts)))


def remarks(*runs: Any) -> list[str]:
    """The lines of the table below its sentences on the columns."""
    lines = metrics_table(runs).splitlines()
    return lines[len(lines) - lines[::-1].index("") :]


def type_at(path: str) -> Any:
    """The type of what lies at a path of ``metrics.json``."""
    kind: Any = Metrics
    for key in path.split("."):
        if key == "*":
            kind = kind.__args__[0]
            continue
        (field,) = [field for field in msgspec.structs.fields(kind) if field.name == key]
        alternatives = (
            (field.type,) if hasattr(field.type, "__origin__") else getattr(field.type, "__args__", (field.type,))
        )
        kind = next(each for each in alternatives if each is not type(None))
    return kind


def test_every_metric_lies_where_its_paths_say() -> None:
    """The paths lead through the records by the keys of the file to a number, or to a yes or no, and what stands beside it."""
    for metric in METRICS:
        number = bool if metric.format is None else int if metric.format == "%d" else float
        assert type_at(metric.path) is number, metric.key
        assert metric.interval is None or type_at(metric.interval) in (Estimate, tuple[float, float]), metric.key
        assert metric.null is None or type_at(metric.null) is float, metric.key
        assert metric.excess is None or type_at(metric.excess) is Estimate, metric.key


def test_keys_and_headings_are_unlike_each_other() -> None:
    assert len({metric.key for metric in METRICS}) == len({metric.heading for metric in METRICS}) == len(METRICS)
    assert all(metric.help.endswith(".") for metric in METRICS)
    assert BY_KEY["l0"].tooltip == "Codes that are not zero, mean per token. Neither way is better."
    assert BY_KEY["fvu"].tooltip.endswith(" Lower is better.")
    assert BY_KEY["is_held_out"].tooltip == BY_KEY["is_held_out"].help
    assert all(metric.tooltip.endswith(" is better.") for metric in METRICS if metric.format)


def test_the_documentation_has_the_same_table() -> None:
    assert metrics_markdown() in FORMAT
    assert f"`version` = `{Metrics.VERSION}`" in FORMAT.split("metrics.json`\n")[1]


def test_rows_have_the_figures_with_what_stands_beside_them(tmp_path: Path) -> None:
    runs = [run_with(tmp_path, "first"), run_with(tmp_path, "second", concepts=concepts(), steering=steering())]
    first, second = rows = metrics_rows(runs)
    assert json.loads(json.dumps(rows)) == rows
    assert first | {"fvu": 0.25, "interval_fvu": [0.24, 0.26], "l0": 32.0, "n_dead": 3, "is_held_out": True} == first
    assert first["concepts"] is first["null_concepts"] is first["excess_concepts"] is first["auroc"] is None
    assert (second["concepts"], second["interval_concepts"]) == (0.44, [0.37, 0.51])
    assert (second["null_concepts"], second["excess_concepts"]) == (0.23, [0.21, 0.15, 0.27])
    assert (second["steering"], second["null_steering"]) == (0.31, 0.02)
    assert second["null_average_precision"] == 0.2, "that of the null of which it is greatest"


def test_the_table_has_few_columns_and_a_sentence_on_each(tmp_path: Path) -> None:
    run = run_with(tmp_path, "r", concepts=concepts(), spliced=spliced(), seeds=seeds(), steering=steering())
    head, line, _, *below = metrics_table([run]).splitlines()
    columns = [
        "FVU",
        "CE recovered",
        "firing rate",
        "dense",
        "concepts found",
        "readable",
        "stability",
        "steering",
        "held out",
    ]
    assert [part.strip() for part in head.split("  ") if part.strip()] == ["run", "kind", *columns]
    assert [part.strip() for part in line.split("  ") if part.strip()] == [
        "r", "sae", ".250 [.240, .260]", ".950 [.940, .960]", "0.4 %", "2 %", ".44 [.37, .51] > null .23",
        "25 % [21, 29] > null 1 %", ".80 [.78, .82] > null .31", "+.31 (null +.02)", "yes",
    ]  # fmt: skip
    assert [text.split(":")[0] for text in below[:-1]] == columns
    assert below[-1] == MARKS
    assert "dead" in metrics_table([run], everything=True).splitlines()[0]
    assert metrics_table([run], explained=False).splitlines() == [head, line]


def test_the_site_is_a_column_where_there_are_several(tmp_path: Path) -> None:
    runs = [run_with(tmp_path, "a"), run_with(tmp_path, "b")]
    assert metrics_table(runs).split()[:3] == ["run", "kind", "FVU"]
    runs[1].site = "there"
    assert metrics_table(runs).split()[:4] == ["run", "kind", "site", "FVU"]


@pytest.mark.parametrize(
    ("excess", "shown"),
    [
        (Estimate(value=0.1, low=0.01, high=0.2), ".44 [.37, .51] > null .34"),
        (Estimate(value=0.1, low=-0.01, high=0.2), ".44 [.37, .51] = null .34"),
        (Estimate(value=-0.1, low=-0.2, high=-0.01), ".44 [.37, .51] < null .34"),
        (None, ".44 [.37, .51] > null .34"),
    ],
)
def test_a_figure_is_marked_by_the_interval_of_its_excess(excess: Estimate | None, shown: str) -> None:
    """By the excess and not by the figure's own interval, which may lie above the null while the difference is uncertain."""
    assert cell("concepts", concepts=concepts(null_f1=0.34, excess=excess)) == shown


def test_without_an_excess_the_own_interval_is_held_against_the_null() -> None:
    assert cell("stability", seeds=seeds(0.8, 0.31)) == ".80 [.78, .82] > null .31"
    assert cell("stability", seeds=seeds(0.8, 0.79)) == ".80 [.78, .82] = null .79"
    assert Score(0.5, (0.4, 0.6)).against_null is Score(0.5, None, 0.3).against_null is None


def test_what_was_not_measured_is_a_dash() -> None:
    assert cell("concepts") == cell("stability") == cell("ce_recovered") == "-"
    assert cell("ce_recovered", spliced=spliced(0.9, None)) == ".900"
    assert cell("fvu", reconstruction=None) == cell("l0", reconstruction=None) == "-"


def test_firing_means_nothing_of_a_dense_method() -> None:
    dense = {"reconstruction": reconstruction(fires=False, l0=255.9, n_dead=0, dense_share=1.0, median_rate=0.99)}
    assert [cell(key, **dense) for key in ("l0", "n_dead", "median_rate", "dense_share")] == ["-"] * 4
    assert cell("fvu", **dense) == ".250 [.240, .260]"
    assert [cell(key) for key in ("l0", "n_dead", "median_rate", "dense_share")] == ["32.0", "3", "0.4 %", "2 %"]


def test_auroc_is_a_column_only_beside_a_method_without_firing() -> None:
    firing, dense = made_metrics(concepts=concepts()), made_metrics(concepts=concepts(auroc=0.842, null_auroc=0.821))
    assert "auroc" not in [metric.key for metric in measured([firing])]
    assert "auroc" in [metric.key for metric in measured([firing, dense, None])]
    assert cell("auroc", concepts=dense.concepts) == ".84 (null .82)"
    assert measured([None]) == []


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0"), (0.25, "25"), (1.0, "100"), (0.0995, "10"), (0.031, "3.1"), (0.0004, "0.04")]
)
def test_shares_in_percent(value: float, shown: str) -> None:
    assert percent(value) == shown


def test_numbers_lose_the_zero_before_their_point() -> None:
    assert [short(value) for value in (0.444, -0.31, 1.0, 0.0)] == [".44", "-.31", "1.00", ".00"]
    assert short(0.31, "%+.2f") == "+.31"
    assert short(0.0, "%d") == "0"
    assert short(10.0, "%d") == "10"


def test_sentences_are_of_the_columns_shown() -> None:
    fvu = BY_KEY["fvu"]
    assert help_lines([fvu]) == [f"FVU: {fvu.tooltip}", MARKS]
    assert help_lines([BY_KEY["l0"]]) == [f"L0: {BY_KEY['l0'].tooltip}"], "no interval and no null to explain"


@pytest.mark.parametrize(
    ("held_out", "remark"),
    [
        ((False, 10, 4), "r: not held out, 4 of 10 documents were trained on."),
        ((None, 10, None), "r: whether the text is held out is unknown: the run's own store has changed, or"),
    ],
)
def test_the_table_says_what_was_trained_on(tmp_path: Path, held_out: tuple[Any, ...], remark: str) -> None:
    fields = dict(zip(("is_held_out", "n_documents", "n_trained_on"), held_out, strict=True))
    run = run_with(tmp_path, "r", held_out=HeldOut(**fields))
    assert remarks(run)[0].startswith(remark)
    assert metrics_table([run]).splitlines()[1].endswith(" no") == (held_out[0] is False)


def test_the_table_says_what_is_no_more_than_chance(tmp_path: Path) -> None:
    same, worse = Estimate(value=0.01, low=-0.02, high=0.04), Estimate(value=-0.1, low=-0.2, high=-0.01)
    runs = [
        run_with(tmp_path, "same", concepts=concepts(excess=same, readable_excess=same)),
        run_with(tmp_path, "worse", concepts=concepts(excess=worse, readable_excess=worse)),
        run_with(tmp_path, "fine", concepts=concepts()),
    ]
    assert remarks(*runs) == [
        "same: concepts are found no better than by the best null, shaped (shaped directions).",
        "same: no more features are readable than random directions are.",
        "worse: concepts are found worse than by the best null, shaped (shaped directions).",
        "worse: fewer features are readable than random directions are.",
    ]


def test_the_table_names_the_baselines_that_are_not_beaten(tmp_path: Path) -> None:
    baselines = (
        baseline("neurons", 0.5, Estimate(value=-0.06, low=-0.1, high=-0.02)),
        baseline("principal", 0.43, Estimate(value=0.01, low=-0.02, high=0.04)),
        baseline("ica", 0.2, around(0.24)),
    )
    assert remarks(run_with(tmp_path, "r", concepts=concepts(baselines=baselines))) == [
        "r: simple methods find the concepts better (F1): neurons .50, against .44.",
        "r: simple methods find the concepts as well, within the interval of the difference (F1): principal .43, against .44.",
    ]


def test_a_remark_on_several_runs_is_made_once(tmp_path: Path) -> None:
    report = concepts(left_out={"yield": "too few", "async": "too few"})
    runs = [run_with(tmp_path, name, concepts=report) for name in ("a", "b")]
    assert remarks(*runs) == ["a, b: labels left out, since too few tokens or documents have them: yield, async."]


def test_the_table_says_what_was_left_out_and_why(tmp_path: Path) -> None:
    dense = reconstruction(fvu=None, fvu_interval=None, reason="codes do not decode")
    nothing = concepts(f1=None, excess=None, null_f1=None, best_null=None)
    why = {"concepts_left_out": "the store has no labels", "steering": steering(None, None)}
    runs = [
        run_with(tmp_path, "a", reconstruction=dense, **why),
        run_with(tmp_path, "b", complete=False, concepts=nothing),
    ]
    assert remarks(*runs) == [
        "a: no FVU, codes do not decode.",
        "a: no concepts, the store has no labels.",
        "a: no steering, nothing fires.",
        f"b: the evaluation was interrupted; to finish it, run the same command again: interp evaluate {tmp_path / 'b'}.",
        "b: no concept is left to find.",
    ]


def test_figures_of_different_stores_are_said_not_to_be_comparable(tmp_path: Path) -> None:
    runs = [run_with(tmp_path, "a"), run_with(tmp_path, "b", store_identity="2")]
    assert remarks(*runs) == ["The runs were evaluated on different stores, so their figures are not comparable."]


def test_runs_of_one_name_are_called_by_store_or_folder(tmp_path: Path) -> None:
    paths = ["x/runs/a", "y/runs/a", "y/runs/b", "z/y/runs/b"]
    runs: Any = [SimpleNamespace(path=tmp_path / path, name=path[-1]) for path in paths]
    assert names_of(runs) == ["x/a", "y/a", str(tmp_path / paths[2]), str(tmp_path / paths[3])]
    assert names_of(runs[:1]) == ["a"]


def test_metrics_of_another_version_hide_no_other_run(tmp_path: Path) -> None:
    old = run_with(tmp_path, "old")
    record = json.loads((old.path / METRICS_FILE).read_text())
    (old.path / METRICS_FILE).write_text(json.dumps(record | {"version": 1}))
    with pytest.raises(InputError, match="is interp-metrics version 1, this program reads interp-metrics version 4"):
        read_metrics(old)
    text = metrics_table([old, run_with(tmp_path, "new")])
    assert f"old: not evaluated by this version; run: interp evaluate {old.path}." in text
    assert ".250" in text


def test_no_run_is_no_table() -> None:
    with pytest.raises(InputError, match="there is no run to compare"):
        metrics_table([])


def test_a_damaged_file_is_refused_by_the_name_of_the_key(tmp_path: Path) -> None:
    run = run_with(tmp_path, "r")
    record = json.loads((run.path / METRICS_FILE).read_text())
    (run.path / METRICS_FILE).write_text(json.dumps(record | {"config": record["config"] | {"n_sequence": 3}}))
    with pytest.raises(InputError, match="damaged: object contains unknown field n_sequence"):
        read_metrics(run)


def test_undefined_numbers_are_none() -> None:
    assert [defined(value) for value in (0.5, None, float("nan"), float("inf"))] == [0.5, None, None, None]
