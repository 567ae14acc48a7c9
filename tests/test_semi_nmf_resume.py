"""A killed fit of semi-NMF goes on to the same bits, whatever it was doing, and its checkpoint is small beside its time."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recorders import Memory
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from interp.decomposers.semi_nmf import checkpoints, solver
from interp.decomposers.semi_nmf.checkpoints import Checkpoints
from interp.decomposers.semi_nmf.decomposer import SemiNMF, SemiNMFConfig
from interp.errors import InputError
from interp.runs.training import FileRecorder, train_run
from interp.store.reader import ActivationStore
from interp.store.source import ArraySource
from interp.training.checkpoints import save_checkpoint
from interp.training.protocol import CHECKPOINT

CONFIG = SemiNMFConfig(n_features=12, sparsity=0.1, passes=16, tolerance=0.0, levels=(4,))


@pytest.fixture(scope="module")
def x() -> Tensor:
    """Rows of 10 features and a steady column: two of 12 learned ones die now and then."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(10, 40, generator=random) * (torch.rand(10, 40, generator=random) < 0.15)
    codes = torch.rand(5000, 10, generator=random) * (torch.rand(5000, 10, generator=random) < 0.2)
    rows = codes @ features + 0.02 * torch.randn(5000, 40, generator=random)
    rows[:, 0] += 30
    return rows


def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save after every step, whatever that costs."""
    monkeypatch.setattr(checkpoints, "SHARE", math.inf)


def same(found: SemiNMF, expected: SemiNMF) -> bool:
    assert found.tensors.keys() == expected.tensors.keys()
    return all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.tensors.items())


@pytest.mark.parametrize("in_memory", [1.0, 0.0])
@pytest.mark.parametrize("killed_at", [1, 9, 11, 16])
@pytest.mark.parametrize("options", [{}, {"l1": 0.0}, {"online_epochs": 1}], ids=str)
def test_a_fit_killed_in_any_pass_goes_on_to_the_same_bits(
    x: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    killed_at: int,
    in_memory: float,
) -> None:
    always(monkeypatch)
    monkeypatch.setattr(solver, "IN_MEMORY", in_memory)
    config, whole = replace(CONFIG, **options), Memory()
    expected = SemiNMF.fit(ArraySource(x), config, whole)
    with pytest.raises(KeyboardInterrupt):
        SemiNMF.fit(ArraySource(x), config, Memory(tmp_path, killed_at=killed_at))
    rest = Memory(tmp_path)
    assert same(SemiNMF.fit(ArraySource(x), config, rest), expected)
    assert rest.records == whole.records[killed_at - 1 :]  # nothing is done twice but the pass that was cut off


@pytest.mark.parametrize("killed_at", [1, 3])
def test_a_fit_killed_in_an_online_epoch_goes_on_to_the_same_bits(
    x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    always(monkeypatch)
    config = replace(CONFIG, online_epochs=3, passes=3)
    expected = SemiNMF.fit(ArraySource(x), config)
    saved: list[float] = []

    def dying(self: Checkpoints, tensors: dict[str, Tensor], **tables: Any) -> None:
        saved.append(float(tensors["progress"][0]))
        if len(saved) > killed_at:
            raise KeyboardInterrupt
        save_checkpoint(tensors, (), config, tmp_path)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save_when_due", dying)
        with pytest.raises(KeyboardInterrupt):
            SemiNMF.fit(ArraySource(x), config, Memory(tmp_path))
    with safe_open(tmp_path / CHECKPOINT, framework="pt") as file:
        assert set(file.keys()) == {"parameter.features", "state.sums", "progress"}
        assert file.get_tensor("progress").tolist() == [killed_at]
    assert same(SemiNMF.fit(ArraySource(x), config, Memory(tmp_path)), expected)


def test_it_goes_on_from_whichever_pass_was_saved_last(x: Tensor, tmp_path: Path) -> None:
    """How often a state is saved depends on the time it takes; the result does not."""
    with pytest.raises(KeyboardInterrupt):
        SemiNMF.fit(ArraySource(x), CONFIG, Memory(tmp_path, killed_at=14))
    assert (tmp_path / CHECKPOINT).exists()
    rest = Memory(tmp_path)
    assert same(SemiNMF.fit(ArraySource(x), CONFIG, rest), SemiNMF.fit(ArraySource(x), CONFIG))
    assert 1 < rest.records[0]["step"] <= 14


def test_a_fit_that_had_stopped_by_itself_does_no_more_passes(
    x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    always(monkeypatch)
    config, first, again = replace(CONFIG, tolerance=0.9), Memory(tmp_path), Memory(tmp_path)
    expected = SemiNMF.fit(ArraySource(x), config, first)
    assert len(first.records) == 13
    assert same(SemiNMF.fit(ArraySource(x), config, again), expected)
    assert not again.records


def test_a_state_is_saved_when_that_takes_no_more_than_its_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    saved: list[float] = []

    def slow(*given: Any, **options: Any) -> None:
        saved.append(now[0])
        now[0] += 2

    monkeypatch.setattr(checkpoints, "save_checkpoint", slow)
    state = Checkpoints(CONFIG, tmp_path)
    for _ in range(100):
        now[0] += 1
        state.save_when_due({})
    assert saved == [1, 43, 85]  # 2 seconds each, 40 seconds apart


def test_the_codes_are_saved_beside_the_features(x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        SemiNMF.fit(ArraySource(x), CONFIG, Memory(tmp_path, killed_at=16))
    found = load_file(tmp_path / CHECKPOINT)
    assert found["state.codes"].shape == (5000, 12)
    assert (found["state.codes"] >= 0).all()
    assert found["progress"].tolist()[:2] == [15, 16]
    left = x - torch.tensor([30.0] + [0.0] * 39) - found["state.codes"] @ found["parameter.features"]
    assert float(left[:, 1:].square().sum() / x[:, 1:].square().sum()) < 0.3


def test_a_checkpoint_of_other_options_or_rows_is_refused(x: Tensor, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        SemiNMF.fit(ArraySource(x), CONFIG, Memory(tmp_path, killed_at=5))
    for rows, config in ((x, replace(CONFIG, seed=1)), (x[:4000], CONFIG)):
        with pytest.raises(InputError, match="holds a checkpoint of other options; choose another --name or delete"):
            SemiNMF.fit(ArraySource(rows), config, Memory(tmp_path))
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=rf"{CHECKPOINT}' is damaged .*; delete it to train from the start"):
        SemiNMF.fit(ArraySource(x), CONFIG, Memory(tmp_path))


def test_an_interrupted_run_ends_with_the_bytes_of_one_that_was_not(
    tiny_store: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ActivationStore(shutil.copytree(tiny_store.path, tmp_path / "tiny"))
    site, config = "blocks.1.mlp.hook_post", replace(CONFIG, sparsity=0.05)
    whole = train_run(store, site, config, "whole")
    log = FileRecorder.log

    def dying(self: FileRecorder, record: dict[str, float]) -> None:
        if record["step"] == 7:
            raise KeyboardInterrupt
        log(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(FileRecorder, "log", dying)
        with pytest.raises(KeyboardInterrupt):
            train_run(store, site, config, "cut")
    assert (store.path / "runs/cut" / CHECKPOINT).exists()
    cut = train_run(store, site, config, "cut")
    assert cut.identity == whole.identity
    assert cut.training_curve() == whole.training_curve()
    assert not (cut.path / CHECKPOINT).exists()
