"""Runs of other seeds: trained once, found again, told from runs of another request."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from interp.decomposers.baselines.pca import PCA, PCAConfig
from interp.decomposers.sae.autoencoder import SAE, SAEConfig
from interp.errors import InputError
from interp.runs.record import Run
from interp.runs.seeds import runs_of_seeds, siblings
from interp.runs.training import FileRecorder, keep_run, train_run
from interp.store.reader import ActivationStore

SITE = "blocks.1.hook_resid_post"
CONFIG = SAEConfig(n_features=24, k=4, tokens=64 * 10, batch=64, seed=4)


@pytest.fixture
def store(tiny_store: ActivationStore, tmp_path: Path) -> ActivationStore:
    return ActivationStore(shutil.copytree(tiny_store.path, tmp_path / "workspace" / "tiny"))


def names(runs: list[Run]) -> list[str]:
    return [run.name for run in runs]


def test_seeds_are_trained_once_and_then_opened(store: ActivationStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train_run(store, SITE, CONFIG, "first")
    passes, fit_together = [], SAE.fit_together.__func__
    monkeypatch.setattr(
        SAE, "fit_together", classmethod(lambda cls, *args: (passes.append(1), fit_together(cls, *args))[1])
    )
    runs = runs_of_seeds(run, 3)
    assert names(runs) == ["first", "first-seed5", "first-seed6"]
    assert [run.config["seed"] for run in runs] == [4, 5, 6]
    assert len({run.identity for run in runs}) == 3
    assert [run.decomposer().config for run in runs] == [replace(CONFIG, seed=seed) for seed in (4, 5, 6)]
    assert len(passes) == 2
    passes.clear()
    assert runs_of_seeds(run, 3) == runs_of_seeds(run, 4)[:3] == runs
    assert len(passes) == 1  # the fourth
    assert train_run(store, SITE, replace(CONFIG, seed=6), "alone").identity == runs[2].identity
    assert names(runs_of_seeds(run, 1)) == ["first"]


def test_a_run_of_the_seed_is_taken_whatever_its_name(store: ActivationStore) -> None:
    run, other = (train_run(store, SITE, PCAConfig(n_features=3, seed=seed), f"pca{seed}") for seed in (0, 1))
    assert names(runs_of_seeds(run, 3)) == ["pca0", "pca1", "pca0-seed2"]
    assert names(runs_of_seeds(other, 2)) == ["pca1", "pca0-seed2"]


def test_siblings_ask_for_the_same_but_for_the_seed(store: ActivationStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train_run(store, SITE, PCAConfig(n_features=3, seed=1), "one")
    for name, seed in (("z", 0), ("b", 2), ("a", 2)):
        train_run(store, SITE, PCAConfig(n_features=3, seed=seed), name)
    train_run(store, SITE, PCAConfig(n_features=3, seed=1), "copy")
    train_run(store, SITE, PCAConfig(n_features=4, seed=2), "wider")
    train_run(store, "blocks.0.hook_resid_post", PCAConfig(n_features=3, seed=2), "elsewhere")
    second = ActivationStore(shutil.copytree(store.path, store.path.parent / "second"))
    assert names(siblings(run)) == ["z", "a", "b"]
    assert names(siblings(Run.load(second.path / "runs" / "one"))) == ["z", "a", "b"]
    assert {sibling.store_path for sibling in siblings(run)} == {store.path.resolve()}
    assert names(runs_of_seeds(run, 2)) == ["one", "a"]


def test_an_interrupted_training_of_a_seed_goes_on(store: ActivationStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train_run(store, SITE, CONFIG, "first")
    with monkeypatch.context() as patch:

        def die(self: FileRecorder, record: dict[str, float]) -> None:
            raise KeyboardInterrupt

        patch.setattr(FileRecorder, "log", die)
        with pytest.raises(KeyboardInterrupt):
            runs_of_seeds(run, 2)
    assert not siblings(run)
    assert (store.path / "runs" / "first-seed5").exists()
    assert names(runs_of_seeds(run, 2)) == ["first", "first-seed5"]


def test_what_cannot_be_trained_again_is_refused(store: ActivationStore) -> None:
    run = train_run(store, SITE, PCAConfig(n_features=3), "pca")
    with pytest.raises(InputError, match="a run has one seed or more, not 0"):
        runs_of_seeds(run, 0)
    decomposer = run.decomposer()
    assert isinstance(decomposer, PCA)
    kept = keep_run(store, SITE, PCA(PCAConfig(n_features=3, seed=9), decomposer.tensors), "kept")
    with pytest.raises(InputError, match="'kept' was trained elsewhere, so it cannot be trained from other seeds here"):
        runs_of_seeds(kept, 2)
    assert names(runs_of_seeds(kept, 1)) == ["kept"]
