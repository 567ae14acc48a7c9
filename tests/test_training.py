"""The gradient loop: it learns, it resumes to the same bits wherever it was cut off, it says when it cannot go on."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from interp.errors import InputError
from interp.store.reader import ActivationStore
from interp.store.source import ArraySource
from interp.training.advice import advice, gain_of_doubling
from interp.training.config import GradientConfig, Schedule
from interp.training.loop import Training, held_out_rows, lr_factor, train, train_together
from interp.training.protocol import CHECKPOINT, Silent

CONFIG = GradientConfig(
    n_features=3, seed=1, tokens=640, batch=32, lr=0.05, schedule=Schedule(warmup=0.1, cooldown=0.3)
)


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

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the two matrices, Adam for the rest, each at a rate of its own."""
        matrices = [parameter for parameter in self.parameters.values() if parameter.ndim == 2]
        others = [parameter for parameter in self.parameters.values() if parameter.ndim < 2]
        return [torch.optim.Muon(matrices, lr=0.02, weight_decay=0.0), torch.optim.Adam(others, lr=0.05, fused=True)]

    def loss(self, x: Tensor) -> tuple[Tensor, int]:
        self.calls.append("loss")
        p = self.parameters
        return (x - p["gain"] * p["centre"] - x @ p["down"] @ p["up"]).square().sum() / len(x), len(x)

    def before_step(self) -> None:
        assert self.parameters["centre"].grad is not None
        self.calls.append("before")

    def after_step(self, seen: int) -> None:
        self.state["n_seen"] += seen
        self.parameters["centre"] /= self.parameters["centre"].norm().clamp_min(1)
        self.calls.append("after")

    def measure(self, x: Tensor) -> dict[str, float]:
        p = self.parameters
        error = x - p["gain"] * p["centre"] - x @ p["down"] @ p["up"]
        return {"fvu": float(error.square().sum() / (x - x.mean(0)).square().sum()), "rows": len(x)}

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
    trainable, recorder = Centre(), Records(tmp_path)
    train(trainable, source, replace(CONFIG, tokens=6400), recorder)
    assert recorder.records[-1]["loss"] < 0.05  # the rows are 0.1 about their mean, which is 0.77 long
    assert [record["step"] for record in recorder.records] == list(range(4, 201, 4))
    assert recorder.records[-1]["tokens"] == 6400
    assert set(recorder.records[0]) == {"step", "tokens", "loss", "fvu", "rows"}
    assert recorder.records[-1]["loss"] < recorder.records[0]["loss"]
    assert trainable.calls[:6] == ["loss", "before", "after"] * 2


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


def factor(config: GradientConfig, step: int) -> float:
    schedule = config.schedule
    return lr_factor(
        step, config.steps, warmup=config.steps * schedule.warmup, cooldown=config.steps * schedule.cooldown
    )


def test_a_loss_that_is_no_number_stops_the_training_and_keeps_the_last_checkpoint(
    source: ArraySource, tmp_path: Path
) -> None:
    class Diverging(Centre):
        def loss(self, x: Tensor) -> tuple[Tensor, int]:
            value, seen = super().loss(x)
            return value * float("nan") if int(self.state["n_seen"]) >= 5 * 32 else value, seen

    message = r"the loss is nan at step 6; the last checkpoint is kept: train again with a smaller --lr than 0.05"
    with pytest.raises(InputError, match=message):
        train(Diverging(), source, CONFIG, Records(tmp_path))
    assert Training(Centre(), CONFIG, Records(tmp_path)).step == 5


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    config = GradientConfig(tokens=1000, batch=10, schedule=Schedule(warmup=0.1, cooldown=0.4))
    rates = [2 * factor(config, step) for step in range(config.steps)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9:61] == [2.0] * 52
    assert all(later > earlier for earlier, later in pairwise(rates[:10]))
    assert all(later < earlier for earlier, later in pairwise(rates[60:]))
    assert rates[80] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(2.0 / 40)
    assert factor(config, config.steps) == 0


@pytest.mark.parametrize(("warmup", "cooldown"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
def test_the_learning_rate_is_never_zero_or_above_its_height(warmup: float, cooldown: float) -> None:
    config = GradientConfig(tokens=100, batch=10, schedule=Schedule(warmup=warmup, cooldown=cooldown))
    assert all(0 < factor(config, step) <= 1 for step in range(config.steps))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokens": 31}, "31 tokens in batches of 32 make no step; give more tokens"),
        ({"batch": 0}, "in batches of 0 make no step"),
        ({"lr": 0.0}, "the learning rate must be above 0"),
        ({"seed": -1}, "the seed is -1; it must be 0 or more"),
        ({"n_features": 0}, "the number of features is 0; it must be 1 or more"),
    ],
)
def test_options_out_of_range_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **changed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup": -0.1}, "warmup and cooldown must be shares that are together at most 1"),
        ({"warmup": 0.8}, "warmup and cooldown must be shares that are together at most 1"),
        ({"clip": -1.0}, "clip, held-out and patience must not be negative; 0 turns each off"),
        ({"held_out": -1}, "clip, held-out and patience must not be negative; 0 turns each off"),
    ],
)
def test_schedules_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Schedule(**options)


def test_clipping_bounds_a_step_but_not_what_is_learned(source: ArraySource) -> None:
    """A gradient a million times too large moves the parameters no further than the learning rate, which Adam takes."""

    class Steep(Centre):
        def loss(self, x: Tensor) -> tuple[Tensor, int]:
            value, seen = super().loss(x)
            return 1e6 * value, seen

    steep = Steep()
    train(steep, source, replace(CONFIG, tokens=32), Silent())
    assert float(steep.parameters["centre"].detach().abs().max()) <= 0.05 * (1 + 1e-4)
    assert math.isfinite(float(steep.parameters["gain"].detach()))


def test_a_gradient_that_is_no_number_stops_the_training_before_it_is_used(source: ArraySource, tmp_path: Path) -> None:
    class Broken(Centre):
        def before_step(self) -> None:
            super().before_step()
            if len(self.calls) > 3 * 3:
                gradient = self.parameters["up"].grad
                assert gradient is not None
                gradient[0, 0] = float("inf")

    broken = Broken()
    with pytest.raises(InputError, match="the gradient's norm is inf at step 4; the last checkpoint is kept"):
        train(broken, source, CONFIG, Records(tmp_path))
    assert all(torch.isfinite(parameter).all() for parameter in broken.parameters.values())
    assert Training(Centre(), CONFIG, Records(tmp_path)).step == 3


def test_parameters_that_a_step_has_broken_are_not_kept(source: ArraySource, tmp_path: Path) -> None:
    class Leaping(Centre):
        def after_step(self, seen: int) -> None:
            super().after_step(seen)
            if len(self.calls) > 3 * 3:
                self.parameters["gain"] *= float("inf")

    with pytest.raises(InputError, match=r"the fvu is (nan|inf) after step 4; the last checkpoint is kept"):
        train(Leaping(), source, CONFIG, Records(tmp_path))
    assert Training(Centre(), CONFIG, Records(tmp_path)).step == 3


@pytest.mark.parametrize(("n_rows", "n_asked", "n_blocks"), [(1500, 100, 3), (1500, 999, 4), (333, 40, 1), (9, 5, 1)])
def test_held_out_rows_are_blocks_spread_evenly_over_the_source(
    monkeypatch: pytest.MonkeyPatch, n_rows: int, n_asked: int, n_blocks: int
) -> None:
    monkeypatch.setattr("interp.training.loop.HELD_OUT_BLOCK", 40)
    rows = held_out_rows(n_rows, n_asked)
    n = min(n_asked, n_rows // 10)
    assert len(rows) == n
    blocks = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    assert len(blocks) == n_blocks
    for number, block in enumerate(blocks, start=1):
        assert len(block) in (n // n_blocks, -(-n // n_blocks))
        if n:
            assert block[-1] == number * n_rows // n_blocks - 1, "the end of its stretch"


def test_the_held_out_rows_of_a_store_come_from_many_documents(tiny_store: ActivationStore) -> None:
    """Of 13 documents of 120 tokens in 1500 rows; the last rows would be of 2."""
    names, of_token = tiny_store.documents()
    sequence, position = tiny_store.positions().T
    document = of_token[sequence, position]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.training.loop.HELD_OUT_BLOCK", 16)
        assert len(set(document[held_out_rows(len(document), 150)])) >= 10
    assert len(set(document[-150:])) <= 2
    assert len(names) >= 12


def test_what_is_logged_is_measured_on_rows_that_are_never_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.training.loop.HELD_OUT_BLOCK", 3)
    seen: list[Tensor] = []

    class Watching(Centre):
        def loss(self, x: Tensor) -> tuple[Tensor, int]:
            seen.append(x)
            return super().loss(x)

        def measure(self, x: Tensor) -> dict[str, float]:
            assert torch.equal(x, rows[held_out])
            return super().measure(x)

    rows = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    held_out = [31, 32, 64, 65, 97, 98, 99]
    train(Watching(), ArraySource(rows), replace(CONFIG, schedule=Schedule(held_out=7)), Records(tmp_path))
    trained_on = {tuple(row.tolist()) for row in torch.cat(seen)}
    assert trained_on <= {tuple(row.tolist()) for i, row in enumerate(rows) if i not in held_out}
    assert len(trained_on) > 80


def test_at_most_a_tenth_of_the_rows_is_held_out(source: ArraySource, tmp_path: Path) -> None:
    recorder = Records(tmp_path)
    train(Centre(), source, CONFIG, recorder)
    assert {record["rows"] for record in recorder.records} == {10}


def test_a_training_without_gain_goes_over_to_its_cool_down(source: ArraySource, tmp_path: Path) -> None:
    patient = replace(CONFIG, tokens=32 * 500, schedule=Schedule(cooldown=0.1, patience=3))
    stopped, whole = Records(tmp_path), Records(tmp_path / "none")
    whole.checkpoints = None
    train(Centre(), source, patient, stopped)
    train(Centre(), source, replace(patient, schedule=Schedule(cooldown=0.1)), whole)
    last = int(stopped.records[-1]["step"])
    best = min(range(len(stopped.records)), key=lambda i: stopped.records[i]["fvu"])
    assert last < 400
    assert last % 10 == 0  # 50 records in 500 steps, and a cool-down of 50 steps after one of them
    assert stopped.records[-1]["fvu"] < 1.02 * whole.records[-1]["fvu"]
    assert best >= 0
    cut, rest = Records(tmp_path / "cut", die_at=last - 20), Records(tmp_path / "cut")
    (tmp_path / "cut").mkdir()
    with pytest.raises(KeyboardInterrupt):
        train(Centre(), source, patient, cut)
    train(Centre(), source, patient, rest)  # killed within the cool-down, it still knows when to end
    assert [*cut.records, *rest.records] == stopped.records


def test_trained_in_one_pass_each_ends_as_it_would_have_alone(source: ArraySource, tmp_path: Path) -> None:
    reads: list[int] = []

    class Counting(ArraySource):
        def rows(self, indices: Any) -> Tensor:
            reads.append(len(indices))
            return super().rows(indices)

    configs = [replace(CONFIG, lr=lr, n_features=n) for lr, n in ((0.05, 3), (0.02, 4), (0.01, 5))]
    alone, together = [Centre() for _ in configs], [Centre() for _ in configs]
    for trainable, config in zip(alone, configs, strict=True):
        train(trainable, source, config, Silent())
    counting = Counting(source.rows(torch.arange(100).numpy()))
    for i, die_at in ((0, None), (1, 7), (2, None)):  # the second is behind when all go on
        (tmp_path / str(i)).mkdir()
        short = [Training(Centre(), configs[i], Records(tmp_path / str(i), die_at or 12))]
        with pytest.raises(KeyboardInterrupt):
            train_together(short, source)
    reads.clear()
    train_together(
        [Training(t, c, Records(tmp_path / str(i))) for i, (t, c) in enumerate(zip(together, configs, strict=True))],
        counting,
    )
    assert reads == [10] + [32] * 14  # the held-out rows, and each batch from step 7 on, once
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(one.tensors()[name], other.tensors()[name]) for name in one.tensors())


def test_trainings_that_cannot_share_a_pass_are_refused(source: ArraySource) -> None:
    for changed in ({"batch": 16}, {"seed": 5}, {"schedule": Schedule(held_out=3)}):
        trainings = [Training(Centre(), config, Silent()) for config in (CONFIG, replace(CONFIG, **changed))]
        with pytest.raises(InputError, match="in one pass need the same batch, tokens, seed and held-out rows"):
            train_together(trainings, source)


def test_a_batch_larger_than_what_is_left_to_train_on_is_refused(source: ArraySource) -> None:
    with pytest.raises(InputError, match="a batch of 95 rows was asked for, but the source holds 100, of which 10 are"):
        train(Centre(), source, replace(CONFIG, batch=95), Silent())


# --------------------------------------------------------------------------------------------------------------- advice


def curve_of(exponent: float, config: GradientConfig) -> list[dict[str, float]]:
    """FVU as a power of the tokens while the rate is constant; a fall by half where it goes down."""
    constant = config.steps * (1 - config.schedule.cooldown)
    return [
        {"step": step, "tokens": step * config.batch, "fvu": step**-exponent * (1 if step <= constant else 0.5)}
        for step in range(2, config.steps + 1, 2)
    ]


def test_what_the_last_doubling_gained_is_told_from_what_the_falling_rate_gained() -> None:
    config = replace(CONFIG, tokens=32 * 100)
    found = gain_of_doubling(curve_of(0.3, config), config)
    assert found is not None
    share, tokens = found
    assert tokens == 70 * 32
    assert share == pytest.approx(1 - (35 / 70) ** 0.3, abs=0.01)  # the record at step 34 stands for half


@pytest.mark.parametrize(
    ("exponent", "said"), [(0.3, "the FVU fell by 19% while the tokens doubled to 2,240"), (0.02, None)]
)
def test_more_tokens_are_advised_where_they_would_gain(exponent: float, said: str | None) -> None:
    config = replace(CONFIG, tokens=32 * 100)
    found = advice(curve_of(exponent, config), config)
    assert found is None if said is None else found is not None and found.startswith(said) and "--tokens 6400" in found


@pytest.mark.parametrize("schedule", [Schedule(warmup=0.0, cooldown=1.0), Schedule(warmup=0.5, cooldown=0.3)])
def test_nothing_is_said_where_the_rate_was_never_constant_over_a_doubling(schedule: Schedule) -> None:
    config = replace(CONFIG, tokens=32 * 100, schedule=schedule)
    assert advice(curve_of(0.3, config), config) is None
