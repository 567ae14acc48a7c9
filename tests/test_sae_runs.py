"""Sparse autoencoders from the command line: several runs in one pass, several processes, what is printed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from interp.cli.main import main
from interp.decomposers.sae.autoencoder import SAE, SAEConfig
from interp.errors import InputError
from interp.runs.record import Run, find_runs
from interp.runs.training import FileRecorder, train_run, train_runs
from interp.store.reader import ActivationStore

SITE = "blocks.1.hook_resid_post"
CONFIG = SAEConfig(n_features=24, k=4, tokens=64 * 20, batch=64)


@pytest.fixture
def store(tiny_store: ActivationStore, tmp_path: Path) -> ActivationStore:
    return ActivationStore(shutil.copytree(tiny_store.path, tmp_path / "workspace" / "tiny"))


def train(store: ActivationStore, *words: str) -> None:
    place = ["--store", str(store.path), "--site", SITE, "--tokens", "1280", "--batch", "64"]
    main(["train", *words, *place])


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.path / "decomposer.safetensors")


def test_several_values_make_as_many_runs_each_as_if_trained_alone(
    store: ActivationStore, capsys: pytest.CaptureFixture[str]
) -> None:
    train(store, "sae", "--name", "many", "--k", "2", "4", "--n-features", "24", "32", "--seed", "3")
    runs = find_runs(store.path.parent)
    names = ["many-n24-k2", "many-n24-k4", "many-n32-k2", "many-n32-k4"]
    assert [run.name for run in runs] == names
    assert [(run.config["k"], run.config["n_features"]) for run in runs] == [(2, 24), (4, 24), (2, 32), (4, 32)]
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert [line.split()[0].rsplit("/", 1)[1] for line in lines] == names
    train(store, "sae", "--name", "alone", "--k", "4", "--n-features", "32", "--seed", "3")
    alone = weights(Run.load(store.path / "runs" / "alone"))
    for name, tensor in weights(runs[3]).items():
        assert torch.equal(tensor, alone[name]), name


def test_of_several_runs_only_what_is_missing_is_trained(
    store: ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = {f"k{k}": SAEConfig(n_features=24, k=k, tokens=1280, batch=64) for k in (1, 2, 3)}
    whole = {name: weights(train_run(store, SITE, config, "whole-" + name)) for name, config in configs.items()}
    train_run(store, SITE, configs["k1"], "k1")
    log = FileRecorder.log

    def dying(self: FileRecorder, record: dict[str, float]) -> None:
        if record["step"] == 11 and self.checkpoints and self.checkpoints.name == "k3":
            raise KeyboardInterrupt  # when k2 has done this step already
        log(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(FileRecorder, "log", dying)
        with pytest.raises(KeyboardInterrupt):
            train_runs(store, SITE, configs)
    fitted: list[int] = []
    together = SAE.fit_together

    def watching(source, given, recorders):
        fitted.extend(config.k for config in given)
        return together(source, given, recorders)

    monkeypatch.setattr(SAE, "fit_together", watching)
    runs = train_runs(store, SITE, configs)
    assert fitted == [2, 3]
    assert [run.name for run in runs] == ["k1", "k2", "k3"]
    for run in runs:
        assert all(torch.equal(tensor, whole[run.name][name]) for name, tensor in weights(run).items())
        assert [record["step"] for record in run.training_curve()] == list(range(1, 21))


def test_a_refusal_leaves_all_names_free(store: ActivationStore) -> None:
    configs = {f"b{batch}": SAEConfig(n_features=24, k=4, tokens=1280, batch=batch) for batch in (64, 32)}
    with pytest.raises(InputError, match="runs trained in one pass need the same batch, tokens, seed and held-out"):
        train_runs(store, SITE, configs)
    assert not find_runs(store.path.parent)
    assert not list((store.path / "runs").iterdir())


def test_what_is_silent_before_the_first_step_the_rank_and_why_it_was_chosen_are_printed(
    store: ActivationStore, capsys: pytest.CaptureFixture[str]
) -> None:
    train(store, "subspace-sae", "--name", "within", "--k", "4", "--n-features", "24", "--rank", "0.9")
    shown = capsys.readouterr().out
    run = Run.load(store.path / "runs" / "within")
    assert run.kind == "subspace-sae"
    notes = run.decomposer().notes
    assert f"silent at start: {notes['silent_at_start']}\n  encoder scale: {notes['encoder_scale']}\n  rank:" in shown
    assert f"rank: {notes['rank']}\n" in shown
    assert "rank reason: holds 0.9 of the variance, as asked for" in shown
    assert run.decomposer().tensors["spectrum"].shape == (32,)
    main(["info", str(run.path), "--json"])
    assert json.loads(capsys.readouterr().out)["notes"] == notes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["sae", "--k", "25", "--n-features", "24"],
            "k is 25, but it must lie between 1 and the number of features, 24",
        ),
        (
            ["subspace-sae", "--rank", "40"],
            "a subspace of rank 40 was asked for, but the site is 32 wide; give a smaller",
        ),
        (
            ["sae", "--variant", "topk", "--target-l0", "5"],
            "target-l0 and coefficient are for relu, jumprelu and gated",
        ),
        (["sae", "--k", "2", "40", "--n-features", "24"], "k is 40, but it must lie between 1 and the number"),
    ],
)
def test_wrong_options_are_refused_and_leave_nothing(
    store: ActivationStore, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        train(store, *words, "--name", "refused")
    assert stopped.value.code == 2
    said = " ".join(re.findall(r"[^\s│]+", capsys.readouterr().err))  # without the frame that tyro draws
    assert message in said
    assert not find_runs(store.path.parent)


def test_processes_write_one_run_which_is_that_of_one_process(store: ActivationStore) -> None:
    alone = train_run(store, SITE, CONFIG, "alone")
    words = ["train", "sae", "--store", str(store.path), "--site", SITE, "--n-features", "24", "--k", "4"]
    words += ["--tokens", str(64 * 20), "--batch", "64", "--name", "shared"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    done = subprocess.run([*torchrun, "interp", *words], check=True, capture_output=True, text=True)
    assert done.stdout.count("shared") == 1  # the first process alone says something
    shared = Run.load(store.path / "runs" / "shared")
    assert shared.config == alone.config
    for key in ("loss", "fvu"):
        curves = [[record[key] for record in run.training_curve()] for run in (shared, alone)]
        np.testing.assert_allclose(*curves, rtol=1e-3)
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(shared)[name], tensor, rtol=0, atol=2e-3)
