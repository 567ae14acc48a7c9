"""The command line as a person meets it: what it prints, and what it says to wrong input."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import torch

from interp.cli.main import main
from interp.cli.verbs import VERBS, parse
from interp.decomposers import registry
from interp.index.reader import FeatureIndex
from interp.model.language_model import load_model
from interp.store.reader import ActivationStore

SITE = "blocks.1.hook_resid_post"


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Runs a command that must be refused; what it said on stderr."""
    with pytest.raises(SystemExit) as stopped:
        main(list(argv))
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err


@pytest.fixture(scope="session")
def workspace(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the tiny model and one run, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("cli") / "activations"
    base = ["capture", "--model", str(tiny_model_folder), "--sites", SITE]
    main([*base, "--tokens", "600", "--text", "stdlib", "--out", str(folder / "tiny")])
    sources = [
        str(path)
        for path in sorted((Path(__file__).parent.parent / "interp").glob("*.py"))
        if path.stat().st_size < 3000
    ]
    main([*base, "--tokens", "4000", "--text", *sources, "--out", str(folder / "tiny-held-out")])
    options = ["--n-features", "24", "--k", "4", "--tokens", "2000", "--batch", "100"]
    main(["train", "sae", "--store", str(folder / "tiny"), "--site", SITE, "--name", "first", *options])
    return folder


def test_capture_train_index_info(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["index", "first", "--workspace", str(workspace)])
    assert capsys.readouterr().out.strip() == str(workspace / "tiny" / "runs" / "first" / "index.h5")
    main(["info", str(workspace / "tiny"), "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["tokens"] == 600
    assert facts["runs"] == ["first"]
    assert facts["state"] == "complete"
    assert facts["checks"][f"{SITE.split('.h')[0]}: resid_post = resid_pre + attn_out + mlp_out"].startswith(
        "holds (error "
    )
    main(["info", str(workspace / "tiny" / "runs" / "first"), "--json"])
    assert json.loads(capsys.readouterr().out)["record"]["config"]["k"] == 4


def test_info_computes_spectra_and_rereads_checksums(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(workspace / "tiny", tmp_path / "tiny")
    main(["info", str(copy), "--spectra", "--verify", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["verified"] == "every byte is what was written"
    shares = facts["spectra"][SITE]["share of variance by rank"]
    assert list(shares) == ["1", "2", "4", "8", "16"]
    assert 0 < shares["1"] <= shares["16"] < 1
    x = torch.cat(list(ActivationStore(copy).site(SITE).chunks())).double()
    values = torch.linalg.svdvals(x - x.mean(0)) ** 2
    assert shares["8"] == pytest.approx(float(values[:8].sum() / values.sum()), abs=1e-3)
    shard = copy / "shards" / "000000.h5"
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)
    said = refused(capsys, "info", str(copy), "--verify")
    assert "000000.h5 of 1 shards are not what was written; delete those files and run the same interp capture" in said


def test_info_shows_how_far_an_unfinished_capture_is(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(workspace / "tiny", tmp_path / "tiny")
    record = json.loads((copy / "store.json").read_text())
    (copy / "store.json").write_text(json.dumps(record | {"complete": False, "n_tokens": 1000}))
    main(["info", str(copy)])
    assert "unfinished, 600 of 1,000 tokens" in capsys.readouterr().out


def test_a_feature_of_any_site_is_read(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(workspace / "tiny", tmp_path / "tiny") / "runs" / "first"
    (run / "index.h5").unlink(missing_ok=True)
    main(["read", str(run), "--feature", "0"])
    assert f"contexts    none yet: interp index {run}" in capsys.readouterr().out
    feature = _a_live_feature(run, capsys)
    main(["read", str(run), "--feature", str(feature), "--n", "3"])
    printed = capsys.readouterr().out
    with FeatureIndex(run / "index.h5") as index:
        page, (best, *_) = index.feature(feature), index.examples(feature, "top")
    assert f"fires on    {page['density']:.2%} of 600 tokens, at most {page['max']:.3g}" in printed
    assert repr(page["promoted"][0][0]) in printed
    after = printed.splitlines()[printed.splitlines().index("contexts") + 1 :]
    assert len(after) >= 4
    first = after[0]
    centre = best["tokens"][best["centre"]].replace("\n", "⏎").replace("\t", "→")
    assert f"[{centre}]" in first
    assert first.startswith(f"{best['value']:>8.3g}  ")
    assert refused(capsys, "read", str(run), "--feature", "24").startswith("interp: no feature 24; this run has 0-23")


def test_evaluate_prints_json_alone(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", "first", "--workspace", str(workspace), "--n-sequences", "4", "--n-steered", "0", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["run"] == "first"
    assert row["l0"] <= 4
    assert (row["is_held_out"], row["n_trained_on"]) == (True, 0)


def test_steer_shows_both_texts_and_keeps_them(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "steer",
        "first",
        "--workspace",
        str(workspace),
        "--prompt",
        "import os\\n",
        "--tokens",
        "6",
        "--samples",
        "2",
    ]
    feature = _a_live_feature(workspace / "tiny" / "runs" / "first", capsys)
    main([*words, "--feature", str(feature), "--strength", "3"])
    printed = capsys.readouterr().out
    assert printed.count("baseline") == printed.count("steered") == 2
    record = (workspace / "tiny" / "runs" / "first" / "steering.jsonl").read_text().splitlines()[-1]
    assert json.loads(record)["prompt"] == "import os\n"


@pytest.mark.parametrize(("mode", "strength"), [("ablate", 1.0), ("clamp", -1.0), ("add", -1.0)])
def test_a_concept_that_negative_codes_mean_is_written_and_removed(
    mode: str, strength: float, workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Adding and clamping go the concept's way; to ablate removes the component, whatever its sign."""
    run = shutil.copytree(workspace / "tiny", tmp_path / "tiny") / "runs" / "first"
    feature = _a_live_feature(run, capsys)
    few = ["--n-sequences", "2", "--n-steered", "0", "--min-positives", "5", "--min-documents", "1"]
    main(["evaluate", str(run), "--store", str(workspace / "tiny-held-out"), *few])
    metrics = json.loads((run / "metrics.json").read_text())
    (first, *_) = metrics["concepts"]["concepts"]
    first |= {"concept": "mine", "feature": feature, "sign": -1}
    (run / "metrics.json").write_text(json.dumps(metrics))
    words = ["steer", str(run), "--prompt", "import os\\n", "--tokens", "4", "--samples", "1", "--mode", mode]
    main([*words, "--concept", "mine", "--strength", "1"])
    main([*words, "--feature", str(feature), "--strength", str(strength)])
    by_concept, by_feature = map(json.loads, (run / "steering.jsonl").read_text().splitlines()[-2:])
    assert by_concept["strengths"] == by_feature["strengths"] == {str(feature): strength}
    assert by_concept["kl"] == by_feature["kl"] > 0


def _a_live_feature(run: Path, capsys: pytest.CaptureFixture[str]) -> int:
    if not (run / "index.h5").exists():
        main(["index", str(run)])
        capsys.readouterr()
    with h5py.File(run / "index.h5") as file:
        return int(file["features/n_fire"][()].argmax())


def test_unknown_hook_point(tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["capture", "--model", str(tiny_model_folder), "--out", str(tmp_path / "s"), "--tokens", "100"]
    said = refused(capsys, *words, "--sites", "blocks.1.hook_resid_pst")
    assert "no hook point 'blocks.1.hook_resid_pst'" in said
    assert "did you mean 'blocks.1.hook_resid_post'" in said
    assert not (tmp_path / "s").exists()


def test_model_folder_without_tokenizer(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny_model_folder / name).read_bytes())
    said = refused(capsys, "capture", "--model", str(tmp_path), "--sites", SITE, "--out", str(tmp_path / "s"))
    assert "has no tokenizer" in said


def test_all_of_a_text_is_captured(tiny_model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one line of text\n" * 20)
    words = ["--text", str(tmp_path / "text.txt"), "--tokens", "all", "--sites", SITE, "--out", str(tmp_path / "s")]
    main(["capture", "--model", str(tiny_model_folder), *words])
    store = ActivationStore(tmp_path / "s")
    tokens = load_model(str(tiny_model_folder), device="cpu").encode("one line of text\n" * 20)
    assert store.n_rows == len(tokens) - 1  # without the beginning of the sequence
    assert store.manifest.n_tokens is None


def test_empty_text(tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_text("")
    words = ["--text", str(tmp_path / "empty.txt"), "--sites", SITE, "--out", str(tmp_path / "s")]
    said = refused(capsys, "capture", "--model", str(tiny_model_folder), *words)
    assert "empty.txt' is empty; give other text" in said


def test_feature_out_of_range(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["steer", "first", "--workspace", str(workspace), "--prompt", "x", "--strength", "1"]
    assert "no feature 99999; this run has 0-23" in refused(capsys, *words, "--feature", "99999")


def test_unknown_run_and_store(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'first'" in refused(capsys, "index", "frist", "--workspace", str(workspace))
    assert "is no activation store" in refused(capsys, "info", str(tmp_path))


def test_truncated_run_and_store(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "tiny"
    for path in (workspace / "tiny").rglob("*"):
        if path.is_file():
            (copy / path.relative_to(workspace / "tiny")).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(workspace / "tiny")).write_bytes(path.read_bytes())
    weights = copy / "runs" / "first" / "decomposer.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    assert "is damaged" in refused(capsys, "info", str(copy / "runs" / "first"))
    shard = copy / "shards" / "000000.h5"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    words = ["train", "sae", "--store", str(copy), "--site", SITE, "--name", "p", "--tokens", "2000", "--batch", "100"]
    assert "000000.h5' is missing or cut short; delete it" in refused(capsys, *words)


def test_other_schema_version(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((workspace / "tiny" / "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps(record | {"version": 99}))
    assert "version 99, this program reads interp-activation-store version 2" in refused(capsys, "info", str(tmp_path))


@pytest.mark.parametrize(
    "words",
    [
        ("steer", "first", "--feature", "1", "--kl", "nan"),
        ("steer", "first", "--feature", "1", "--strength", "2", "--temperature", "nan"),
        ("train", "sae", "--store", "x", "--site", SITE, "--name", "p", "--lr", "nan"),
        ("train", "sae", "--store", "x", "--site", SITE, "--name", "p", "--lr", "inf"),
    ],
)
def test_numbers_that_are_none_are_refused_before_anything_is_done(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"{words[-2]} {words[-1]} is not a number to compute with; give a finite one" in refused(capsys, *words)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert re.fullmatch(r"interp-features \d+\.\d+\S*\n", capsys.readouterr().out)


def test_unknown_option_and_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "sae", "--store", "x", "--site", "y", "--name", "z", "--n-featurs", "3"])
    assert stopped.value.code == 2
    assert "--n-features" in capsys.readouterr().err
    assert refused(capsys, "trian") == "interp: no verb 'trian' in interp; did you mean 'train'?\n"


def test_help_names_every_verb_and_loads_nothing_that_computes() -> None:
    code = "import sys; from interp.cli.main import main; main(['--help']); print(sorted(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    page, _, modules = printed.rpartition("\n[")
    assert not {"'torch'", "'numpy'", "'pandas'"} & set(modules.split(", "))
    for name, verb in VERBS.items():
        assert re.search(rf"^  {name} +{re.escape(verb.says)}$", page, re.MULTILINE)


@pytest.mark.parametrize("name", VERBS)
def test_the_example_of_each_verb_is_a_command_that_is_taken(name: str) -> None:
    words = shlex.split(VERBS[name].example)
    assert words[0] == name
    assert type(parse(words)).__name__ == name.capitalize()


def test_help_on_training_says_what_each_method_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    printed = capsys.readouterr().out
    for method in registry:
        assert re.search(rf"• {method}[\s│]+[A-Za-z]", printed), method
