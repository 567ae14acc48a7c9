"""``interp steer`` with ``--sweep`` and ``--judge``, as a person types them."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from interp.cli.main import main
from interp.corpora.labels.python import PYTHON
from interp.corpora.labels.registry import LABEL_SETS
from interp.evaluation import sweep as sweep_module
from interp.evaluation.sweep_table import read_sweep
from interp.runs.firing import firing_of
from interp.runs.record import Run

SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def run(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A sparse autoencoder on forty files of comments or code. Nothing of it may be changed but steering.jsonl."""
    folder = tmp_path_factory.mktemp("steer")
    texts = [folder / f"{i}.py" for i in range(40)]
    for i, text in enumerate(texts):
        text.write_text((f"# the {i}th of them, as said\n" if i % 2 else f"x[{i}] = (y, {i})\n") * 8)
    store = folder / "tiny"
    words = ["capture", "--model", str(tiny_model_folder), "--sites", SITE, "--tokens", "all", "--out", str(store)]
    main([*words, "--text", *map(str, texts)])
    options = ["--n-features", "24", "--k", "4", "--tokens", "2000", "--batch", "100"]
    main(["train", "sae", "--store", str(store), "--site", SITE, "--name", "first", *options])
    return Run.load(store / "runs/first")


@pytest.fixture(scope="module")
def live(run: Run) -> list[str]:
    """Two features that fire."""
    return [str(feature) for feature in firing_of(run).n_fire.argsort()[-2:]]


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["steer", *argv])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_a_sweep_by_the_stores_label_set(
    run: Run, live: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t.parquet"
    words = ["--sweep", "--features", *live, "--kls", ".05", ".2", "--prompts", "x =\\n", "def f", "--seeds", "0", "3"]
    main(
        ["steer", str(run.path), *words, "--samples", "2", "--tokens", "5", "--concepts", "comment", "--out", str(out)]
    )
    printed = capsys.readouterr().out
    lines = [line.split()[:2] for line in printed.splitlines()[:4]]
    assert lines == [["concept", "feature"], ["comment", live[0]], ["comment", live[1]], []]
    assert f"32 texts: {out}" in printed
    table = read_sweep(out)
    assert table.request.prompts == ("x =\n", "def f")
    assert table.request.judge == "label set python"
    assert table.concepts == ["comment"]
    page = (tmp_path / "t.html").read_text()
    assert page.count("plotly-graph-div") == 2
    assert "<h2>comment</h2>" in page


def test_prompts_and_concepts_are_those_of_the_label_set_by_default(
    run: Run, live: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LABEL_SETS, "python", replace(PYTHON, prompts=("def f", "x =")))  # short enough for the model
    words = ["--sweep", "--features", live[0], "--strengths", "-1", "--samples", "1", "--tokens", "4"]
    main(["steer", str(run.path), *words, "--out", str(tmp_path / "t.parquet")])
    table = read_sweep(tmp_path / "t.parquet")
    assert table.request.prompts == ("def f", "x =")
    assert set(table.columns["strength"]) == {-1.0}
    assert len(table.concepts) > 20


def test_an_interrupted_sweep_says_what_to_do(
    run: Run, live: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--sweep", "--features", live[0], "--strengths", "1", "--prompts", "x", "--tokens", "4"]
    command = ["steer", str(run.path), *words, "--out", str(tmp_path / "t.parquet")]
    with monkeypatch.context() as patch:
        patch.setattr(sweep_module, "_write", _interrupted)
        with pytest.raises(SystemExit) as stopped:
            main(command)
    assert stopped.value.code == 130
    assert "interrupted; what was written is kept, the same command goes on from there" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["t.journal.jsonl"]
    main(command)
    assert {path.name for path in tmp_path.iterdir()} == {"t.parquet", "t.html"}


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--features", "1"], "--features is an option of a sweep; give --sweep, too"),
        (["--seeds", "0", "1"], "--seeds is an option of a sweep"),
        ([], "give --prompt TEXT to say what to continue"),
        (["--sweep", "--features", "1", "--kls", "1"], "give --out NAME.parquet"),
        (["--sweep", "--prompt", "x"], "--prompt is of a single steering; with --sweep give --prompts"),
        (["--sweep", "--seed", "2"], "--seed is of a single steering; with --sweep give --seeds"),
        (["--sweep", "--kl", "1"], "--kl is of a single steering; with --sweep give --kls"),
        (["--sweep", "--features", "1", "--out", "t.parquet"], "give either strengths or target KLs"),
        (["--sweep", "--features", "1", "--kls", "1", "--out", "/no/t.parquet"], "the table cannot be '/no/t.parquet'"),
        (["--sweep", "--features", "99", "--kls", "1", "--out", "OUT"], "no feature 99; this run has 0-23"),
        (
            ["--sweep", "--features", "1", "--kls", "1", "--out", "OUT", "--concepts", "joy"],
            "no concept 'joy' in what label sets of this store judge; it has 'comment'",
        ),
        (
            ["--sweep", "--judge", "echo 1", "--concepts", "comment", "--out", "OUT"],
            "a command gives one number; leave",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(
    words: list[str], message: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, str(run.path), *[str(tmp_path / "t.parquet") if word == "OUT" else word for word in words])
    assert message in said
    assert list(tmp_path.iterdir()) == []


def test_a_page_of_another_table_is_left(
    run: Run, live: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.html").write_text("mine")
    words = ["--sweep", "--features", live[0], "--kls", ".1", "--out", str(tmp_path / "t.parquet")]
    assert "t.html' is there already, and no table beside it; give another --out" in refused(
        capsys, str(run.path), *words
    )
    assert (tmp_path / "t.html").read_text() == "mine"


def test_features_of_another_model_are_refused(
    run: Run, live: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run.store_path, tmp_path / "tiny") / "runs/first"
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(record | {"model_fingerprint": "0123"}))
    words = ["--sweep", "--features", live[0], "--kls", ".1", "--prompts", "x", "--out", str(tmp_path / "t.parquet")]
    assert "has other weights than the model that 'first' was trained on; put" in refused(capsys, str(copy), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


# -------------------------------------------------------------------------------------------------------------- --judge


def python(code: str) -> str:
    return shlex.join([sys.executable, "-S", "-c", code])


def test_a_command_judges_the_continuations_without_and_with(
    run: Run, live: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--prompt", "x =", "--feature", live[0], "--strength", "4", "--tokens", "5", "--samples", "2"]
    command = python("import sys; print(len(sys.stdin.buffer.read()))")
    main(["steer", str(run.path), *words, "--judge", command])
    record = json.loads((run.path / "steering.jsonl").read_text().splitlines()[-1])
    before, after = (sum(len(text.encode()) for text in record[side]) / 2 for side in ("baseline", "steered"))
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"judge, by {command}: mean {before:.4g} without, {after:.4g} with the feature (2 texts each)"


def test_a_judge_that_fails_is_named_and_the_texts_are_kept(
    run: Run, live: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    log = run.path / "steering.jsonl"
    n = len(log.read_text().splitlines()) if log.exists() else 0
    words = ["--prompt", "x =", "--feature", live[0], "--strength", "4", "--tokens", "5", "--samples", "1"]
    said = refused(capsys, str(run.path), *words, "--judge", python("raise SystemExit('no such model')"))
    assert "ended with exit status 1: no such model; it is given the continuation" in said
    assert len(log.read_text().splitlines()) == n + 1


def test_a_command_judges_a_sweep(
    run: Run, live: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--sweep", "--features", live[0], "--strengths", "2", "--prompts", "x", "--samples", "2", "--tokens", "4"]
    command = python("import sys; print(len(sys.stdin.buffer.read()))")
    main(["steer", str(run.path), *words, "--judge", command, "--out", str(tmp_path / "t.parquet")])
    table = read_sweep(tmp_path / "t.parquet")
    assert table.request.judge == command
    assert table.columns["share_judge"] == [len(text.encode()) for text in table.columns["text"]]
    assert "judge" in capsys.readouterr().out


def test_a_regression_on_tokens_judges_and_says_how_good_it_is(
    run: Run, live: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--sweep", "--features", live[0], "--strengths", "2", "--prompts", "x", "--samples", "2", "--tokens", "4"]
    main(["steer", str(run.path), *words, "--judge", "tokens", "--out", str(tmp_path / "t.parquet")])
    printed = capsys.readouterr().out
    assert "(balanced, chance 50 %)" in printed
    table = read_sweep(tmp_path / "t.parquet")
    assert "comment" in table.concepts
    assert all(0 < value < 1 for value in table.columns[f"share_{table.concepts[0]}"])
    single = ["--prompt", "x", "--feature", live[0], "--strength", "2", "--judge", "tokens", "--tokens", "4"]
    main(["steer", str(run.path), *single])
    printed = capsys.readouterr().out
    assert printed.count(", by tokens: mean 0.") == min(3, len(table.concepts))
    assert printed.count("(balanced, chance 50 %)") == min(3, len(table.concepts))
