"""Firing of a run's features: counted over every token of its store, kept with the run, counted anew for other weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from interp.decomposers.baselines.pca import PCAConfig
from interp.index.build import build_index
from interp.runs import firing as firing_module
from interp.runs.firing import FILE, firing_of
from interp.runs.record import Run
from interp.runs.training import train_run
from interp.steering.scales import feature_scales
from interp.store.reader import ActivationStore

SITE = "blocks.1.hook_resid_post"


@pytest.fixture
def run(tiny_store: ActivationStore, tmp_path: Path) -> Run:
    shutil.copytree(tiny_store.path, tmp_path / "tiny")
    return train_run(ActivationStore(tmp_path / "tiny"), SITE, PCAConfig(n_features=6), "components")


def by_hand(run: Run) -> tuple[np.ndarray, np.ndarray]:
    source = run.store().site(SITE)
    codes = run.decomposer().encode(source.rows(np.arange(len(source)))).numpy()
    return codes.max(0), (codes > 0).sum(0)


def test_firing_is_that_of_every_token_in_chunks_of_any_size(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firing_module, "CHUNK_VALUES", 1)
    found = firing_of(run)
    maximum, n_fire = by_hand(run)
    np.testing.assert_allclose(found.maximum, maximum, rtol=1e-6)
    np.testing.assert_array_equal(found.n_fire, n_fire)


def test_it_is_counted_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = firing_of(run)
    monkeypatch.setattr(firing_module, "count_firing", lambda *given: pytest.fail("it was counted again"))
    np.testing.assert_array_equal(firing_of(run).maximum, first.maximum)


@pytest.mark.parametrize("is_damaged", [True, False])
def test_what_is_damaged_or_of_other_weights_is_counted_anew(run: Run, is_damaged: bool) -> None:
    if is_damaged:
        (run.path / FILE).write_bytes(b"nothing of the kind")
    else:
        wrong = {"maximum": np.ones(6, np.float32), "n_fire": np.ones(6, np.int64)}
        save_file(wrong, run.path / FILE, metadata={"run_identity": "another"})
    np.testing.assert_array_equal(firing_of(run).n_fire, by_hand(run)[1])


def test_strengths_have_a_unit_without_an_index_and_the_same_with_one(run: Run) -> None:
    without = feature_scales(run)
    assert not run.index_path.exists()
    (run.path / FILE).unlink()
    build_index(run)
    np.testing.assert_array_equal(firing_of(run).n_fire, by_hand(run)[1])
    np.testing.assert_allclose(feature_scales(run), without, rtol=1e-6)
