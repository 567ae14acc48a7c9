"""The gradient loop: it learns, it resumes to the same bits wherever it was cut off, it says when it cannot go on."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from interp.errors import InputError
from interp.fitting import CHECKPOINT, Silent
from interp.store import ArraySource
from interp.training import GradientConfig, load_checkpoint, train

CONFIG = GradientConfig(n_features=3, seed=1, tokens=640, batch=32, lr=0.05, warmup=0.1, cooldown=0.3)


class Centre:
    """Learns the mean row, kept within the unit ball, and a rank-2 correction; counts the rows seen."""

    def __init__(self) -> None:
        down = torch.linspace(-0.3, 0.3, 8).reshape(2, 4).T  # laid out in memory column by column
        self.parameters = {
            "centre": torch.zeros(4, requires_grad=True),
            "gain": torch.ones((), requires_grad=True),
            "down": down.clone().requires_grad_(),
            "up": torch.zeros(2, 4, requires_grad=True),
        }
        assert not self.parameters["down"].is_contiguous()
        self.state = {"n_seen": torch.zeros((), dtype=torch.int64)}
        self.calls: list[str] = []

    def loss(self, x: Tensor) -> Tensor:
        self.state["n_seen"] += len(x)
        self.calls.append("loss")
        p = self.parameters
        return (x - p["gain"] * p["centre"] - x @ p["down"] @ p["up"]).square().sum() / len(x)

    def before_step(self) -> None:
        assert self.parameters["centre"].grad is not None
        self.calls.append("before")

    def after_step(self) -> None:
        self.parameters["centre"] /= self.parameters["centre"].norm().clamp_min(1)
        self.calls.append("after")

    def measure(self, x: Tensor) -> dict[str, float]:
        return {"norm": float(self.parameters["centre"].norm())}

    def tensors(self) -> dict[str, Tensor]:
        return {**{name: tensor.detach().clone() for name, tensor in self.parameters.items()}, **self.state}


class Records:
    """Keeps records in memory and checkpoints in a folder; dies at the record of one step when asked."""

    def __init__(self, folder: Path, die_at: int | None = None):
        self.checkpoints: Path | None = folder
        self.die_at = die_at
        self.records: list[dict[str, float]] = []

    def log(self, record: dict[str, float]) -> None:
        if record["step"] == self.die_at:
            raise KeyboardInterrupt
        self.records.append(record)


@pytest.fixture
def source() -> ArraySource:
    generator = torch.Generator().manual_seed(0)
    return ArraySource(torch.randn(100, 4, generator=generator) * 0.1 + torch.tensor([0.5, -0.5, 0.3, 0.0]))


def test_it_learns_and_reports_every_step_of_a_short_training(source: ArraySource, tmp_path: Path) -> None:
    trainee, recorder = Centre(), Records(tmp_path)
    train(trainee, source, replace(CONFIG, tokens=6400), recorder)
    assert recorder.records[-1]["loss"] < 0.05  # the rows are 0.1 about their mean, which is 0.77 long
    assert [record["step"] for record in recorder.records] == list(range(4, 201, 4))
    assert recorder.records[-1]["tokens"] == 6400
    assert set(recorder.records[0]) == {"step", "tokens", "loss", "norm"}
    assert recorder.records[-1]["loss"] < recorder.records[0]["loss"]
    assert trainee.calls[:6] == ["loss", "before", "after"] * 2


@pytest.mark.parametrize("die_at", range(1, 21))
def test_a_training_killed_at_any_step_ends_with_the_same_bits(
    source: ArraySource, tmp_path: Path, die_at: int
) -> None:
    assert CONFIG.steps == 20
    whole = Centre()
    (tmp_path / "whole").mkdir()
    records = Records(tmp_path / "whole")
    train(whole, source, CONFIG, records)
    with pytest.raises(KeyboardInterrupt):
        train(Centre(), source, CONFIG, Records(tmp_path, die_at))
    resumed, rest = Centre(), Records(tmp_path)
    train(resumed, source, CONFIG, rest)
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name
    assert rest.records == records.records[die_at - 1 :]  # nothing is done twice but the step that was cut off
    kept, expected = load_file(tmp_path / CHECKPOINT), load_file(tmp_path / "whole" / CHECKPOINT)
    assert kept.keys() == expected.keys()
    assert all(torch.equal(kept[name], expected[name]) for name in expected)


def test_a_finished_training_that_is_run_again_changes_nothing(source: ArraySource, tmp_path: Path) -> None:
    first, again, recorder = Centre(), Centre(), Records(tmp_path)
    train(first, source, CONFIG, Records(tmp_path))
    train(again, source, CONFIG, recorder)
    assert torch.equal(first.tensors()["centre"], again.tensors()["centre"])
    assert not recorder.records


def test_without_a_folder_nothing_is_kept_and_the_result_is_the_same(source: ArraySource, tmp_path: Path) -> None:
    silent, kept = Centre(), Centre()
    train(silent, source, CONFIG, Silent())
    train(kept, source, CONFIG, Records(tmp_path))
    assert torch.equal(silent.tensors()["centre"], kept.tensors()["centre"])


@pytest.mark.parametrize("changed", [{"lr": 0.04}, {"seed": 2}, {"tokens": 960}, {"n_features": 4}])
def test_a_checkpoint_of_other_options_is_refused(source: ArraySource, tmp_path: Path, changed: dict[str, Any]) -> None:
    train(Centre(), source, CONFIG, Records(tmp_path))
    with pytest.raises(
        InputError, match="holds a checkpoint of other options; choose another --name or delete that fol"
    ):
        train(Centre(), source, replace(CONFIG, **changed), Records(tmp_path))


def test_a_damaged_checkpoint_is_refused_by_its_name(source: ArraySource, tmp_path: Path) -> None:
    train(Centre(), source, CONFIG, Records(tmp_path))
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=rf"{CHECKPOINT}' is damaged .*; delete it to train from the start"):
        train(Centre(), source, CONFIG, Records(tmp_path))


def test_a_loss_that_is_no_number_stops_the_training_and_keeps_the_last_checkpoint(
    source: ArraySource, tmp_path: Path
) -> None:
    class Diverging(Centre):
        def loss(self, x: Tensor) -> Tensor:
            value = super().loss(x)
            return value * float("nan") if int(self.state["n_seen"]) > 5 * 32 else value

    with pytest.raises(InputError, match=r"the loss is nan at step 6; train again with a smaller --lr than 0.05"):
        train(Diverging(), source, CONFIG, Records(tmp_path))
    optimizer = torch.optim.Adam(Centre().parameters.values(), fused=True)
    assert load_checkpoint(Centre(), optimizer, CONFIG, tmp_path) == 5


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    config = GradientConfig(tokens=1000, batch=10, lr=2.0, warmup=0.1, cooldown=0.4)
    rates = [config.lr_at(step) for step in range(config.steps)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9:61] == [2.0] * 52
    assert all(later > earlier for earlier, later in pairwise(rates[:10]))
    assert all(later < earlier for earlier, later in pairwise(rates[60:]))
    assert rates[80] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(2.0 / 40)
    assert config.lr_at(config.steps) == 0


@pytest.mark.parametrize(("warmup", "cooldown"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
def test_the_learning_rate_is_never_zero_or_above_its_height(warmup: float, cooldown: float) -> None:
    config = GradientConfig(tokens=100, batch=10, lr=1e-3, warmup=warmup, cooldown=cooldown)
    assert all(0 < config.lr_at(step) <= 1e-3 for step in range(config.steps))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokens": 31}, "31 tokens in batches of 32 make no step; give more tokens"),
        ({"batch": 0}, "in batches of 0 make no step"),
        ({"lr": 0.0}, "the learning rate must be above 0"),
        ({"warmup": -0.1}, "warmup and cooldown shares that are together at most 1"),
        ({"warmup": 0.8}, "warmup and cooldown shares that are together at most 1"),
        ({"seed": -1}, "the seed is -1; it must be 0 or more"),
        ({"n_features": 0}, "the number of features is 0; it must be 1 or more"),
    ],
)
def test_options_out_of_range_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **changed)


def test_clipping_bounds_a_step_but_not_what_is_learned(source: ArraySource) -> None:
    """A gradient a million times too large moves the parameters no further than the learning rate, which Adam takes."""

    class Steep(Centre):
        def loss(self, x: Tensor) -> Tensor:
            return 1e6 * super().loss(x)

    steep = Steep()
    train(steep, source, replace(CONFIG, tokens=32), Silent())
    assert float(steep.parameters["centre"].detach().abs().max()) <= CONFIG.lr * (1 + 1e-4)
    assert math.isfinite(float(steep.parameters["gain"].detach()))
