"""Runs: one request, one result, however often it was asked for or cut off; what is damaged is said to be so."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from interp.decomposers.baselines.pca import PCAConfig
from interp.decomposers.sae.autoencoder import SAE, SAEConfig
from interp.errors import InputError
from interp.runs.record import Run, find_runs, resolve_run
from interp.runs.training import REPLACED, FileRecorder, train_run
from interp.store.reader import ActivationStore, SiteSource
from interp.training.protocol import CHECKPOINT

SITE, OTHER = "blocks.1.hook_resid_post", "blocks.1.mlp.hook_post"
CONFIG = SAEConfig(n_features=24, k=4, tokens=64 * 30, batch=64)


@pytest.fixture
def store(tiny_store: ActivationStore, tmp_path: Path) -> ActivationStore:
    """A copy of the tiny store in a workspace of its own."""
    return ActivationStore(shutil.copytree(tiny_store.path, tmp_path / "workspace" / "tiny"))


def kill_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Let the process die when the record of ``step`` is to be written."""
    log = FileRecorder.log

    def dying(self: FileRecorder, record: dict[str, float]) -> None:
        if record["step"] == step:
            raise KeyboardInterrupt
        log(self, record)

    patch.setattr(FileRecorder, "log", dying)


def refuse(why: str) -> None:
    raise InputError(why)


def change_record(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    record = json.loads((run / "run.json").read_text())
    change(record)
    (run / "run.json").write_text(json.dumps(record))


# ------------------------------------------------------------------------------------------------------------- training


def test_a_run_says_what_it_is_and_loads_what_was_fitted(store: ActivationStore) -> None:
    run = train_run(store, SITE, CONFIG, "first")
    assert (run.name, run.kind, str(run.site), run.config) == ("first", "sae", SITE, asdict(CONFIG))
    assert run.path == store.path / "runs" / "first"
    assert (run.store_identity, run.model_id) == (store.identity, store.manifest.model_id)
    assert run.store().identity == store.identity
    fitted, loaded = SAE.fit(store.site(SITE), CONFIG), run.decomposer()
    assert loaded.config == CONFIG
    for name, tensor in fitted.tensors.items():
        assert torch.equal(tensor, loaded.tensors[name])
    curve = run.training_curve()
    assert [record["step"] for record in curve] == list(range(1, 31))
    assert curve[-1]["fvu"] < curve[0]["fvu"]
    assert not (run.path / "metrics.json").exists()
    assert not list(run.path.glob("checkpoint*"))
    assert not list(run.path.glob("*.partial"))


@pytest.mark.parametrize("config", [CONFIG, PCAConfig(n_features=3)], ids=lambda config: type(config).__name__)
def test_the_same_request_opens_the_run_without_training(store: ActivationStore, config: Any) -> None:
    first = train_run(store, SITE, config, "first")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in first.path.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        # Whatever trains must read activations, by whichever function.
        for method in ("rows", "chunks", "moments"):
            patch.setattr(SiteSource, method, lambda *args, **options: pytest.fail("it was trained again"))
        again = train_run(store, SITE, config, "first")
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in again.path.iterdir()} == before
    assert again.identity == first.identity


@pytest.mark.parametrize(
    ("site", "config", "what"),
    [
        (SITE, replace(CONFIG, lr=1e-4), "config"),
        (OTHER, CONFIG, "site, d_in"),
        (SITE, PCAConfig(n_features=3), "kind, config"),
    ],
)
def test_another_request_under_the_same_name_is_refused(
    store: ActivationStore, site: str, config: Any, what: str
) -> None:
    first = train_run(store, SITE, CONFIG, "first")
    with pytest.raises(
        InputError, match=f"holds a run with another {what}; choose another --name, or replace it and all"
    ):
        train_run(store, site, config, "first")
    assert Run.load(first.path).identity == first.identity


@pytest.mark.parametrize("step", [1, 2, 17, 30])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(store: ActivationStore, step: int) -> None:
    whole = train_run(store, SITE, CONFIG, "whole")
    with pytest.MonkeyPatch.context() as patch:
        kill_at(step, patch)
        with pytest.raises(KeyboardInterrupt):
            train_run(store, SITE, CONFIG, "cut")
    with pytest.raises(InputError, match=r"the training of '.*cut' was interrupted; run the same interp train command"):
        Run.load(store.path / "runs" / "cut")
    if (store.path / "runs" / "cut" / CHECKPOINT).exists():
        with pytest.raises(InputError, match="holds a run with another config"):
            train_run(store, SITE, replace(CONFIG, lr=1e-4), "cut")
    cut = train_run(store, SITE, CONFIG, "cut")
    expected, found = load_file(whole.path / "decomposer.safetensors"), load_file(cut.path / "decomposer.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert cut.training_curve() == whole.training_curve()
    assert cut.identity == whole.identity


def test_a_run_killed_between_weights_and_record_is_finished(
    store: ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_run(store, SITE, CONFIG, "whole")
    with monkeypatch.context() as patch:

        def dying(self: SAE, path: Path) -> None:
            path.write_bytes(b"half")
            raise KeyboardInterrupt

        patch.setattr(SAE, "save", dying)
        with pytest.raises(KeyboardInterrupt):
            train_run(store, SITE, CONFIG, "cut")
    assert train_run(store, SITE, CONFIG, "cut").identity == whole.identity


def test_a_refused_training_leaves_its_name_free(store: ActivationStore) -> None:
    with pytest.raises(InputError, match="33 components were asked for, but the site is 32 wide"):
        train_run(store, SITE, PCAConfig(n_features=33), "pca")
    assert not (store.path / "runs" / "pca").exists()
    assert train_run(store, SITE, PCAConfig(n_features=32), "pca").decomposer().n_features == 32


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a b", "-x", "é"])
def test_names_that_make_no_folder_are_refused(store: ActivationStore, name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}' cannot name a run; use letters, digits, dots, hyphens and under"):
        train_run(store, SITE, CONFIG, name)
    assert not (store.path / "runs").exists()


def test_an_unknown_site_is_refused_before_anything_is_written(store: ActivationStore) -> None:
    with pytest.raises(InputError, match=r"no hook point 'blocks.1.hook_resid' in the store .*did you mean"):
        train_run(store, "blocks.1.hook_resid", CONFIG, "first")
    assert not (store.path / "runs").exists()


# -------------------------------------------------------------------------------------------------- damaged and changed


def test_a_run_that_was_only_begun_does_not_block_its_name(store: ActivationStore) -> None:
    with pytest.MonkeyPatch.context() as patch:
        kill_at(1, patch)
        with pytest.raises(KeyboardInterrupt):
            train_run(store, SITE, CONFIG, "name")
    (store.path / "runs" / "name" / CHECKPOINT).unlink(missing_ok=True)
    other = replace(CONFIG, lr=1e-4)
    assert train_run(store, SITE, other, "name").identity == train_run(store, SITE, other, "direct").identity
    assert not (store.path / "runs" / REPLACED).exists()


def test_overwrite_replaces_a_run_once_the_new_one_is_trained(store: ActivationStore) -> None:
    first = train_run(store, SITE, CONFIG, "name")
    (first.path / "metrics.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SAE, "fit_together", lambda *given: refuse("refused"))
        with pytest.raises(InputError, match="refused"):
            train_run(store, SITE, replace(CONFIG, lr=1e-4), "name", overwrite=True)
    assert Run.load(first.path).identity == first.identity
    assert (first.path / "metrics.json").exists(), "nothing is lost by a training that is refused"
    second = train_run(store, SITE, replace(CONFIG, lr=1e-4), "name", overwrite=True)
    assert second.identity != first.identity
    assert not (first.path / "metrics.json").exists(), "measured on the run that is gone"
    assert [run.name for run in find_runs(store.path.parent)] == ["name"]


@pytest.fixture
def run(store: ActivationStore) -> Run:
    return train_run(store, SITE, PCAConfig(n_features=3), "pca")


def test_a_store_that_changed_since_is_refused(run: Run) -> None:
    path = run.store_path / "store.json"
    record = json.loads(path.read_text())
    record["shards"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"the store '.*tiny' has changed since 'pca' was trained; train it again"):
        Run.load(run.path).store()
    with pytest.raises(InputError, match="holds a run with another store_identity"):
        train_run(ActivationStore(run.store_path), SITE, PCAConfig(n_features=3), "pca")


def write_header(path: Path, **changed: str) -> None:
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    save_file(load_file(path), path, metadata=header | changed)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            {"config": '{"n_features": 3, "seed": 0, "n_featurs": 4}'},
            "no option 'n_featurs' in the pca config; did you me",
        ),
        ({"config": '{"n_features": 3}'}, "the pca config lacks seed; make it again with this version"),
        ({"kind": "pcaa"}, "no decomposer 'pcaa' in this version; did you mean 'pca'"),
        ({"version": "2"}, "is not a decomposer of schema version 1; train the run again"),
        ({"schema": "other"}, "is not a decomposer of schema version 1"),
    ],
)
def test_weights_with_a_header_that_does_not_fit_are_refused(run: Run, header: dict[str, str], message: str) -> None:
    write_header(run.path / "decomposer.safetensors", **header)
    with pytest.raises(InputError, match=message):
        Run.load(run.path).decomposer()


@pytest.mark.parametrize("n_bytes", [0, 5, 200, -1])
def test_truncated_or_missing_weights_are_refused(run: Run, n_bytes: int) -> None:
    path = run.path / "decomposer.safetensors"
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(InputError, match=r"decomposer.safetensors' is damaged .*; train the run again"):
        Run.load(run.path).decomposer()
    path.unlink()
    with pytest.raises(
        InputError, match=r"there is no decomposer at .*; its training was interrupted: run interp train"
    ):
        Run.load(run.path).decomposer()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(version=9), "is interp-run version 9, this program reads interp-run version 2"),
        (lambda record: record.pop("site"), "run.json' is damaged: object missing required field site; make it again"),
        (lambda record: record.update(complete=False), "the training of .* was interrupted"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(
    run: Run, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    change_record(run.path, change)
    with pytest.raises(InputError, match=message):
        Run.load(run.path)


# -------------------------------------------------------------------------------------------------------------- finding


def test_find_runs_lists_whole_runs_and_leaves_damaged_ones_out(store: ActivationStore, run: Run) -> None:
    workspace = store.path.parent
    for name in ("a", "cut", "old", "torn", "odd"):
        shutil.copytree(run.path, store.path / "runs" / name)
    change_record(store.path / "runs" / "cut", lambda record: record.update(complete=False))
    change_record(store.path / "runs" / "old", lambda record: record.update(version=0))
    change_record(store.path / "runs" / "odd", lambda record: record.pop("kind"))
    (store.path / "runs" / "torn" / "run.json").write_text('{"schema": ')
    (store.path / "runs" / "notes").mkdir()
    assert [found.name for found in find_runs(workspace)] == ["a", "pca"]
    assert find_runs(workspace / "nowhere") == []


def test_a_run_is_resolved_by_name_or_folder(store: ActivationStore, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = store.path.parent
    assert resolve_run("pca", workspace).path == run.path
    assert resolve_run(run.path, workspace).path == run.path
    (workspace / "pca").mkdir()  # a folder of that name which is no run does not hide the run
    monkeypatch.chdir(workspace)
    assert resolve_run("pca", workspace).path == run.path
    monkeypatch.chdir(run.path)
    assert resolve_run(".", workspace).name == "pca"
    assert resolve_run(".", workspace).store().identity == store.identity


def test_a_name_that_is_unknown_unfinished_or_ambiguous_is_refused(store: ActivationStore, run: Run) -> None:
    workspace = store.path.parent
    with pytest.raises(InputError, match=r"no run 'pac' in the workspace .*; did you mean 'pca'"):
        resolve_run("pac", workspace)
    with pytest.raises(InputError, match="'nowhere/pca' is no run; make one with interp train"):
        resolve_run("nowhere/pca", workspace)
    shutil.copytree(run.path, store.path / "runs" / "cut")
    change_record(store.path / "runs" / "cut", lambda record: record.update(complete=False))
    with pytest.raises(InputError, match=r"the training of .*cut' was interrupted; run the same interp train command"):
        resolve_run("cut", workspace)
    shutil.copytree(store.path, workspace / "other")
    with pytest.raises(
        InputError, match=r"several stores have a run 'pca': .*other/runs/pca, .*tiny/runs/pca; give the"
    ):
        resolve_run("pca", workspace)


def test_reading_what_a_run_is_does_not_import_torch(run: Run) -> None:
    """The dashboard opens without torch, which takes seconds to import."""
    code = (
        "import sys; from pathlib import Path; from interp.runs.record import find_runs; "
        f"[run] = find_runs(Path({str(run.store_path.parent)!r})); "
        "print(run.name, run.kind, str(run.site), run.config, run.identity, run.training_curve(), 'torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("pca pca blocks.1.hook_resid_post")
    assert shown.endswith("False\n")


def test_a_checkpoint_left_beside_a_finished_run_goes_when_it_is_opened_again(store: ActivationStore) -> None:
    run = train_run(store, SITE, CONFIG, "first")
    (run.path / CHECKPOINT).touch()
    train_run(store, SITE, CONFIG, "first")
    assert not (run.path / CHECKPOINT).exists()


def test_a_run_says_what_its_decomposer_can_do_and_an_autoencoder_has_one_site(store: ActivationStore) -> None:
    run = train_run(store, SITE, PCAConfig(n_features=3), "components")
    assert run.can("decode")
    assert not run.can("forms")
    assert not run.can("hierarchy")
    with pytest.raises(
        InputError, match=f"pca writes the hook point it reads, but '{SITE}->blocks.1.hook_out' are two"
    ):
        train_run(store, f"{SITE}->blocks.1.hook_out", PCAConfig(n_features=3), "elsewhere")
    assert not (store.path / "runs" / "elsewhere").exists()
