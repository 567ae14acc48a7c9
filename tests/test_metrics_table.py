"""The table of metrics: every entry lies where it says, and text, JSON, dashboard and documentation are made from it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from interp.errors import InputError
from interp.evaluation.results import (
    METRICS_FILE,
    EvaluationConfig,
    HeldOut,
    Metrics,
    Reconstruction,
    defined,
    read_metrics,
)
from interp.evaluation.table import METRICS, measured, metrics_markdown, metrics_rows, metrics_table
from interp.records import write_record

FORMAT = (Path(__file__).parent.parent / "activations" / "FORMAT.md").read_text()


def run_with(folder: Path, name: str, **parts: Any) -> Any:
    """What the table needs of a run, with metrics of reconstruction alone unless ``parts`` says otherwise."""
    reconstruction = Reconstruction(
        fvu=0.25, shrinkage=1.0, reason=None, fvu_own_target=None, fvu_of_span=None,
        l0=32.0, n_dead=3, dense_share=0.0, n_tokens=100,
    )  # fmt: skip
    known: dict[str, Any] = {
        "run": name, "kind": "sae", "site": "here", "model": "tiny", "store": "s", "store_identity": "1", "n_tokens": 100,
        "held_out": HeldOut(is_held_out=True, n_documents=12, n_trained_on=0), "config": EvaluationConfig(), "versions": {},
        "reconstruction": reconstruction, "spliced": None, "concepts": None, "concepts_left_out": None, "steering": None,
    }  # fmt: skip
    path = folder / name
    path.mkdir()
    write_record(path / METRICS_FILE, Metrics(**known | parts))
    return SimpleNamespace(path=path, name=name, kind="sae", site="here")


def test_every_metric_lies_where_its_path_says() -> None:
    """The path leads through the records by the keys of the file to a number, or to a yes or no."""
    for metric in METRICS:
        kind: Any = Metrics
        for key in metric.path.split("."):
            (field,) = [field for field in msgspec.structs.fields(kind) if field.name == key]
            alternatives = getattr(field.type, "__args__", (field.type,))
            kind = next(each for each in alternatives if each is not type(None))
        assert kind is (bool if metric.format is None else int if metric.format == "%d" else float), metric.key


def test_keys_and_headings_are_unlike_each_other() -> None:
    assert len({metric.key for metric in METRICS}) == len({metric.heading for metric in METRICS}) == len(METRICS)
    assert all(metric.help.endswith(".") for metric in METRICS)
    assert {metric.key: metric.tooltip for metric in METRICS}["l0"] == "Codes that are not zero, mean per token."
    assert all(metric.tooltip.endswith("er is better.") for metric in METRICS if metric.better != "neither")


def test_the_documentation_has_the_same_table() -> None:
    assert metrics_markdown() in FORMAT
    assert f"`version` = `{Metrics.VERSION}`" in FORMAT.split("metrics.json`\n")[1]


def test_rows_and_text_show_what_was_measured(tmp_path: Path) -> None:
    runs = [run_with(tmp_path, "first"), run_with(tmp_path, "second", store_identity="2")]
    rows = metrics_rows(runs)
    assert json.loads(json.dumps(rows)) == rows
    assert [metric.key for metric in measured(rows)] == ["fvu", "l0", "n_dead", "is_held_out", "n_trained_on"]
    assert rows[0] | {"fvu": 0.25, "l0": 32.0, "n_dead": 3, "is_held_out": True, "auroc": None} == rows[0]
    head, first, _, remark = metrics_table(runs).splitlines()
    assert head.split() == ["run", "kind", "site", "FVU", "L0", "dead", "held", "out", "trained", "on"]
    assert first.split() == ["first", "sae", "here", "0.2500", "32.0", "3", "yes", "0"]
    assert remark == "The runs were evaluated on different stores, so their figures are not comparable."


@pytest.mark.parametrize(
    ("held_out", "remark"),
    [
        ((False, 10, 4), "r: not held out, 4 of 10 documents were trained on."),
        ((None, 10, None), "r: whether the text is held out is unknown: the run's own store has changed, or"),
    ],
)
def test_the_table_says_what_was_trained_on(tmp_path: Path, held_out: tuple[Any, ...], remark: str) -> None:
    fields = dict(zip(("is_held_out", "n_documents", "n_trained_on"), held_out, strict=True))
    lines = metrics_table([run_with(tmp_path, "r", held_out=HeldOut(**fields))]).splitlines()
    assert lines[2].startswith(remark)
    assert lines[1].split()[6:] == (["no", "4"] if held_out[0] is False else [])


def test_metrics_of_another_version_hide_no_other_run(tmp_path: Path) -> None:
    old = run_with(tmp_path, "old")
    record = json.loads((old.path / METRICS_FILE).read_text())
    (old.path / METRICS_FILE).write_text(json.dumps(record | {"version": 1}))
    with pytest.raises(InputError, match="is interp-metrics version 1, this program reads interp-metrics version 2"):
        read_metrics(old)
    text = metrics_table([old, run_with(tmp_path, "new")])
    assert f"old: not evaluated by this version; run: interp evaluate {old.path}." in text
    assert "0.2500" in text


def test_a_damaged_file_is_refused_by_the_name_of_the_key(tmp_path: Path) -> None:
    run = run_with(tmp_path, "r")
    record = json.loads((run.path / METRICS_FILE).read_text())
    (run.path / METRICS_FILE).write_text(json.dumps(record | {"config": record["config"] | {"n_sequence": 3}}))
    with pytest.raises(InputError, match="damaged: object contains unknown field n_sequence"):
        read_metrics(run)


def test_undefined_numbers_are_none() -> None:
    assert [defined(value) for value in (0.5, None, float("nan"), float("inf"))] == [0.5, None, None, None]
