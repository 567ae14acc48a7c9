"""Sparse autoencoders: what their training finds, where it begins, how it goes on, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recorders import Memory
from safetensors import safe_open
from torch import Tensor

from interp.decomposers import load
from interp.decomposers.sae.autoencoder import (
    SAE,
    FrozenSAE,
    FrozenSAEConfig,
    SAEConfig,
    SubspaceSAE,
    SubspaceSAEConfig,
    VariantOptions,
)
from interp.decomposers.sae.config import Arithmetic, SparseConfig, VariantName
from interp.decomposers.sae.dead_features import DeadFeatures
from interp.decomposers.sae.initialisation import (
    Initialisation,
    SubspaceInitialisation,
    best_scale,
    choose_rank,
    initial_directions,
)
from interp.decomposers.sae.training import TrainableSAE
from interp.decomposers.sae.variants import VARIANTS
from interp.errors import InputError
from interp.metrics import matched_cosine
from interp.store.moments import moments_of
from interp.store.source import ArraySource
from interp.training.config import Schedule
from interp.training.loop import held_out_rows
from interp.training.protocol import Silent

Planted = tuple[Tensor, np.ndarray]


def planted(
    n: int = 8000, *, d: int = 32, n_features: int = 48, l0: int = 3, rank: int | None = None, tail: float = 0.01
) -> Planted:
    """(rows, true directions): each row is a positive combination of ``l0`` of the directions, plus noise and a mean.

    With a ``rank``, that many dimensions hold all but ``tail`` of the directions' squared length; the others share it.
    """
    random = np.random.default_rng(0)
    directions = random.standard_normal((n_features, d))
    if rank is not None:
        directions *= np.sqrt(np.r_[np.full(rank, (1 - tail) / rank), np.full(d - rank, tail / (d - rank))])
        directions @= np.linalg.qr(random.standard_normal((d, d)))[0].T
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    codes = np.zeros((n, n_features))
    active = np.argpartition(random.random((n, n_features)), l0, axis=1)[:, :l0]
    np.put_along_axis(codes, active, random.uniform(0.5, 1.5, (n, l0)), axis=1)
    noise = 0.01 * random.standard_normal((n, d))
    return torch.from_numpy(codes @ directions + noise + 0.2).float(), directions


SMALL = SAEConfig(n_features=96, k=3, tokens=60_000, batch=256, lr=1e-2)
FROZEN = FrozenSAEConfig(n_features=96, k=3, tokens=60_000, batch=256, lr=1e-2)

every_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture(scope="module")
def rows_and_truth() -> Planted:
    return planted()


@pytest.fixture(scope="module")
def trained(rows_and_truth: Planted) -> dict[str, SAE]:
    return {variant: SAE.fit(ArraySource(rows_and_truth[0]), replace(SMALL, variant=variant)) for variant in VARIANTS}


def trainable_of(x: Tensor, config: SAEConfig) -> TrainableSAE:
    return SAE.trainable(ArraySource(x), config)


# ---------------------------------------------------------------------------------------------------- what is recovered


@every_variant
def test_planted_features_are_recovered(trained: dict[str, SAE], rows_and_truth: Planted, variant: str) -> None:
    x, directions = rows_and_truth
    untrained = initial_directions(ArraySource(x), 96, "random", torch.Generator().manual_seed(0))
    assert matched_cosine(untrained.numpy(), directions)[0] < 0.6
    # Measured .998, .99, .93, .98, .92, and FVUs of .03, .04, .35, .05, .12: L1 shrinks codes, prefixes cost something.
    least, most = {"relu": (0.9, 0.45), "matryoshka": (0.88, 0.2)}.get(variant, (0.96, 0.1))
    assert matched_cosine(trained[variant].write_directions().numpy(), directions)[0] > least
    assert trained[variant].fvu(x) < most


@every_variant
def test_as_many_codes_are_active_as_asked_for(trained: dict[str, SAE], rows_and_truth: Planted, variant: str) -> None:
    z = trained[variant].encode(rows_and_truth[0])
    assert (z >= 0).all()
    active = (z > 0).sum(1).double()
    if variant == "topk":
        assert active.max() == 3
    else:
        assert float(active.mean()) == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("variant", ["relu", "jumprelu"])
@pytest.mark.parametrize("target", [2.0, 8.0])
def test_a_target_l0_is_reached_within_a_tenth(rows_and_truth: Planted, variant: VariantName, target: float) -> None:
    source = ArraySource(rows_and_truth[0])
    config = replace(SMALL, tokens=150_000, variant=variant, variant_options=VariantOptions(target_l0=target))
    sae = SAE.fit(source, config)
    assert float((sae.encode(rows_and_truth[0]) > 0).sum(1).double().mean()) == pytest.approx(target, rel=0.1)


def test_a_fixed_coefficient_has_the_l0_it_has(rows_and_truth: Planted) -> None:
    found = []
    for coefficient in (0.1, 3.0):
        recorder = Memory()
        options = VariantOptions(coefficient=coefficient)
        config = replace(SMALL, tokens=50_000, variant="relu", variant_options=options)
        SAE.fit(ArraySource(rows_and_truth[0]), config, recorder)
        assert {record["coefficient"] for record in recorder.records} == {coefficient}
        found.append(recorder.records[-1]["l0"])
    assert found[0] > 2 * found[1]


def test_what_is_logged_is_measured_on_held_out_rows_of_the_finished_autoencoder(rows_and_truth: Planted) -> None:
    x, recorder = rows_and_truth[0], Memory()
    options = DeadFeatures(dead_after=len(x), aux_k=0)
    sae = SAE.fit(ArraySource(x), replace(SMALL, tokens=50_000, dead_features=options), recorder)
    held_out = x[held_out_rows(len(x), 2048)]
    assert len(held_out) == 800
    z, last = sae.encode(held_out), recorder.records[-1]
    assert last["fvu"] == pytest.approx(sae.fvu(held_out), rel=1e-3)
    assert last["l0"] == pytest.approx(float((z > 0).sum(1).double().mean()), rel=1e-3)
    assert last["density"] == pytest.approx(last["l0"] / 96)
    n_silent = int((sae.encode(x) > 0).sum(0).eq(0).sum())
    # Dead are here those that did not fire on the last pass of the training, which changed them on the way.
    assert last["dead"] == pytest.approx(n_silent, abs=1)
    assert n_silent > 30


def test_a_prefix_of_a_matryoshka_reconstructs_better_than_one_of_batchtopk(
    trained: dict[str, SAE], rows_and_truth: Planted
) -> None:
    x = rows_and_truth[0]
    fvus = {}
    for variant in ("batchtopk", "matryoshka"):
        z = trained[variant].encode(x)
        z[:, 24:] = 0
        fvus[variant] = float((trained[variant].decode(z) - x).square().sum() / (x - x.mean(0)).square().sum())
    assert fvus["matryoshka"] < fvus["batchtopk"] - 0.05


# ------------------------------------------------------------------------------------------------ scale, norms, dead ones


def test_decoder_rows_keep_unit_norm(trained: dict[str, SAE]) -> None:
    for sae in trained.values():
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(96), rtol=0, atol=1e-6)


def test_the_step_does_not_move_a_decoder_row_along_itself(rows_and_truth: Planted) -> None:
    trainable = trainable_of(rows_and_truth[0], SMALL)
    trainable.loss(rows_and_truth[0][:256])[0].backward()
    gradient, rows = trainable.parameters["W_dec"].grad, trainable.parameters["W_dec"].detach()
    assert gradient is not None
    before = gradient.clone()
    trainable.before_step()
    torch.testing.assert_close((gradient * rows).sum(1), torch.zeros(96), rtol=0, atol=1e-5)
    tangent = before - (before * rows).sum(1, keepdim=True) * rows
    torch.testing.assert_close(gradient, tangent, rtol=1e-4, atol=1e-5)


@every_variant
@pytest.mark.parametrize("factor", [1e-3, 500.0])
def test_folding_the_scale_changes_no_fvu(rows_and_truth: Planted, variant: VariantName, factor: float) -> None:
    x, config = rows_and_truth[0][:2000] * factor, replace(SMALL, variant=variant)
    trainable = trainable_of(x, config)
    with torch.no_grad():
        trainable.parameters["b_enc"] += 0.3  # zero at the start, where folding it wrongly would not show
        trainable.after_step(trainable.loss(x)[1])
    in_training = trainable.measure(x)["fvu"]
    assert SAE(config, trainable.finished()).fvu(x) == pytest.approx(in_training, rel=1e-4)


def test_the_unit_of_the_activations_does_not_change_what_is_learned(rows_and_truth: Planted) -> None:
    x, short = rows_and_truth[0], replace(SMALL, tokens=20_480)
    once, larger = (SAE.fit(ArraySource(x * factor), short) for factor in (1, 64))
    torch.testing.assert_close(once.W_dec, larger.W_dec, rtol=0, atol=1e-4)
    torch.testing.assert_close(once.encode(x[:100]) * 64, larger.encode(x[:100] * 64), rtol=1e-3, atol=1e-2)


def test_features_that_never_fire_are_counted_dead(rows_and_truth: Planted) -> None:
    x = rows_and_truth[0][:1000]
    config = replace(SMALL, k=96, dead_features=DeadFeatures(dead_after=1000))
    trainable = trainable_of(x, config)
    with torch.no_grad():
        trainable.parameters["b_enc"][:5] = -1e6
        for batch in x.split(250):
            assert trainable.measure(batch)["dead"] == 0  # not before a pass over the rows is over
            trainable.after_step(trainable.loss(batch)[1])
    z = SAE(config, trainable.finished()).encode(x)
    assert not z[:, :5].any()
    assert trainable.measure(x)["dead"] == (z == 0).all(0).sum()


def test_an_auxiliary_loss_moves_dead_features_alone(rows_and_truth: Planted) -> None:
    x = rows_and_truth[0][:512]
    trainables = [
        trainable_of(x, replace(SMALL, dead_features=DeadFeatures(dead_after=1, aux_k=aux_k, aux_weight=1.0)))
        for aux_k in (0, 8)
    ]
    for trainable in trainables:
        with torch.no_grad():
            trainable.parameters["b_enc"][:10] -= 100.0
            trainable.after_step(trainable.loss(x)[1])  # those ten are dead from here on
        is_dead = trainable.state["tokens_since_fired"] > 0
        with torch.no_grad():
            trainable.parameters["b_enc"][:10] += 99.0  # so that some of their codes are above zero
        trainable.loss(x)[0].backward()
    without, with_it = ({name: p.grad for name, p in t.parameters.items()} for t in trainables)
    for name in ("W_enc", "W_dec", "b_enc"):
        assert without[name] is not None
        torch.testing.assert_close(with_it[name][~is_dead], without[name][~is_dead])
        assert not torch.equal(with_it[name][is_dead], without[name][is_dead])


def test_resampling_brings_dead_features_back() -> None:
    x, _ = planted(d=64, n_features=128, rank=8)
    config = replace(SMALL, n_features=512, tokens=60_000, schedule=Schedule(clip=0))
    recorders = Memory(), Memory()
    for recorder, every in zip(recorders, (0, 15_000), strict=True):
        options = DeadFeatures(dead_after=5_000, resample_every=every)
        SAE.fit(ArraySource(x), replace(config, dead_features=options), recorder)
    without, with_it = (recorder.records[-1] for recorder in recorders)
    assert without["dead"] > 200
    assert with_it["dead"] < 0.7 * without["dead"]
    assert with_it["fvu"] < 1.02 * without["fvu"]  # by held-out rows and seed from 1.1 % less to .9 % more


# ------------------------------------------------------------------------------------------------------- where it begins


def test_on_low_rank_data_random_directions_die_and_those_of_the_subspace_live() -> None:
    x, directions = planted(20_000, d=128, n_features=256, l0=4, rank=16)
    options: dict[str, Any] = {"n_features": 1024, "k": 4, "tokens": 400 * 256, "batch": 256, "lr": 3e-3}
    options["schedule"] = Schedule(warmup=0.05, cooldown=0.2, clip=0)  # clipped, a fifth of the subspace's die
    within = SubspaceInitialisation(rank=16, full_space=0.0)
    found = {}
    for name, method, config in (
        ("random", SAE, SAEConfig(**options)),
        ("subspace", SubspaceSAE, SubspaceSAEConfig(**options, initialisation=within)),
    ):
        recorder = Memory()
        sae = method.fit(ArraySource(x), config, recorder)  # type: ignore[arg-type]
        found[name] = recorder.records[-1] | {"mcc": matched_cosine(sae.write_directions().numpy(), directions)[0]}
    assert found["random"]["dead"] > 0.5 * 1024
    assert found["subspace"]["dead"] < 0.05 * 1024
    assert found["subspace"]["fvu"] < found["random"]["fvu"]
    assert found["subspace"]["mcc"] > found["random"]["mcc"] - 0.02


def directions_of(start: Any, x: Tensor, n: int = 400) -> Tensor:
    return initial_directions(ArraySource(x), n, start, torch.Generator().manual_seed(0))


def test_directions_begin_where_they_should() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 10, generator=random) * torch.tensor([5.0] + [1.0] * 8 + [0.0]) + 30.0
    starts = {start: directions_of(start, x) for start in ("random", "datapoint", "covariance")}
    for directions in starts.values():
        torch.testing.assert_close(directions.norm(dim=1), torch.ones(400))
    centred = torch.nn.functional.normalize(x - x.mean(0), dim=1)
    is_row = (starts["datapoint"] @ centred.T).max(1).values > 1 - 1e-5
    assert 310 <= int(is_row.sum()) <= 330
    spread = {start: directions.square().mean(0) for start, directions in starts.items()}
    torch.testing.assert_close(spread["random"], torch.full((10,), 0.1), rtol=0.25, atol=0)
    for start in ("covariance", "datapoint"):
        assert spread[start][0] > 4 * spread[start][1]
    assert spread["covariance"][9] < 1e-6


def test_a_subspace_holds_all_directions_but_the_full_space_share() -> None:
    x, _ = planted(4000, d=32, rank=5, tail=0.0)
    start = SubspaceInitialisation(rank=5, full_space=0.25, encoder_scale=0.5)
    config = SubspaceSAEConfig(n_features=80, k=3, initialisation=start)
    trainable = SubspaceSAE.trainable(ArraySource(x), config)
    basis = torch.from_numpy(moments_of([x]).spectrum[1][:5]).float()
    rows = trainable.parameters["W_dec"].detach()
    within = (rows @ basis.T).norm(dim=1)
    torch.testing.assert_close(within[:60], torch.ones(60))
    assert (within[60:] < 0.9).all()
    torch.testing.assert_close(trainable.parameters["W_enc"].detach(), 0.5 * rows)
    torch.testing.assert_close(trainable.parameters["b_dec"].detach(), x.mean(0) * trainable.scale)


def test_by_default_no_direction_of_a_subspace_autoencoder_begins_outside_of_it() -> None:
    x, _ = planted(4000, rank=12, tail=0.001)
    untrained = SubspaceSAE.untrained(ArraySource(x), SubspaceSAEConfig(n_features=64, k=3))
    leading = torch.from_numpy(moments_of([x]).spectrum[1][: untrained.notes["rank"]]).float()
    assert untrained.notes["rank"] < 20
    torch.testing.assert_close((untrained.W_dec @ leading.T).norm(dim=1), torch.ones(64))


def test_the_scale_that_is_found_has_the_least_error(rows_and_truth: Planted) -> None:
    x = rows_and_truth[0][:2000]

    def untrained(scale: Any) -> SAE:
        return SAE.untrained(ArraySource(x), replace(SMALL, initialisation=Initialisation(encoder_scale=scale)))

    found = untrained("auto")
    scale = found.notes["encoder_scale"]
    r = untrained(1.0).decode(untrained(1.0).encode(x)).double() - x.double().mean(0)
    assert scale == pytest.approx(float((r * (x - x.mean(0))).sum() / r.square().sum()), abs=1e-4)
    torch.testing.assert_close(found.tensors["W_enc"], scale * found.W_dec.T, rtol=1e-4, atol=1e-6)
    fvus = [untrained(scale * factor).fvu(x) for factor in (0.9, 0.98, 1.02, 1.1)]
    assert found.fvu(x) < min(fvus)
    assert fvus[1] < fvus[0] < untrained(1.0).fvu(x)


def test_codes_below_zero_have_no_part_in_the_scale() -> None:
    x = torch.ones(4, 2)
    assert best_scale(x, -torch.eye(2), 1) == 1.0
    assert best_scale(x, torch.eye(2), 2) == 1.0
    assert best_scale(x, torch.eye(2).repeat(2, 1), 4) == 0.5
    assert best_scale(x, torch.tensor([[-1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), 3) == 0.5


@every_variant
def test_the_share_that_is_silent_before_the_first_step_is_kept(variant: VariantName) -> None:
    x, _ = planted(4000, d=64, n_features=128, rank=8)
    config = SAEConfig(n_features=512, k=3, variant=variant)
    trainable = trainable_of(x, config)
    trainable.note_start(ArraySource(x))
    assert next(iter(trainable.notes)) == "silent_at_start"
    with torch.no_grad():
        n_fired = sum(trainable.loss(rows)[1].fired for rows in x.split(2048))
    assert trainable.notes["silent_at_start"] == pytest.approx(float((n_fired == 0).float().mean()), abs=0.01)
    if variant in ("topk", "batchtopk", "jumprelu"):
        assert trainable.notes["silent_at_start"] > 0.05
    assert trainable.state["steps"] == 0
    assert trainable.measure(x)["dead"] == 0


def with_spectrum(values: list[float], n: int = 4000) -> Any:
    """Moments of rows whose covariance has these eigenvalues."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(n, len(values), generator=random, dtype=torch.float64)
    x = torch.linalg.qr(x - x.mean(0))[0] * n**0.5
    return moments_of([(x * torch.tensor(values).double().sqrt()).float()])


@pytest.mark.parametrize(
    ("spectrum", "asked", "rank", "reason"),
    [
        ([1.0] * 10 + [1e-4] * 10, "auto", 10, "10 of 20 directions hold 99% of the variance"),
        ([1.0] * 4 + [1e-4] * 16, "auto", 5, "4 of 20 directions hold 99% of the variance; taken up to a quarter of"),
        ([1.0] * 20, "auto", 20, "there is no small subspace, and directions begin anywhere"),
        ([50.0] + [1.0] * 9 + [1e-4] * 10, "auto", 10, "beside the first, which alone holds 85%"),
        ([1.0] * 10 + [1e-4] * 10, 0.55, 6, "holds 0.55 of the variance, as asked for"),
        ([1.0] * 10 + [1e-4] * 10, 7, 7, "as asked for"),
    ],
)
def test_the_rank_follows_the_spectrum(spectrum: list[float], asked: Any, rank: int, reason: str) -> None:
    chosen = choose_rank(with_spectrum(spectrum), asked)
    assert chosen.rank == rank
    assert reason in chosen.reason
    held = sum(sorted(spectrum, reverse=True)[:rank]) / sum(spectrum)
    assert chosen.variance_share == pytest.approx(held, rel=1e-3)


def test_a_rank_of_too_few_rows_is_said_to_be_one() -> None:
    few = with_spectrum([1.0] * 10 + [1e-4] * 10, n=399)
    assert choose_rank(few, "auto").reason.endswith("; 399 rows are few to tell by, 400 would be enough")
    assert choose_rank(few, 4).reason == "as asked for"


def test_the_rank_the_spectrum_and_the_reason_are_kept(tmp_path: Path) -> None:
    x, _ = planted(4000, rank=12)
    sae = SubspaceSAE.fit(ArraySource(x), SubspaceSAEConfig(n_features=64, k=3, tokens=2560, batch=256))
    sae.save(tmp_path / "sae.safetensors")
    loaded = load(tmp_path / "sae.safetensors")
    assert loaded.notes == sae.notes
    assert loaded.notes["rank"] == 13  # the noise takes some of the last per cent
    assert "13 of 32 directions hold 99% of the variance" in loaded.notes["rank_reason"]
    assert loaded.notes["rank_variance_share"] > 0.99
    expected = torch.from_numpy(moments_of([x]).spectrum[0]).float()
    torch.testing.assert_close(loaded.tensors["spectrum"], expected)


# ------------------------------------------------------------------------------------------- a frozen decoder, no training


@pytest.mark.parametrize(
    ("variant", "adam"), [("topk", "dense"), ("topk", "row-sparse"), ("batchtopk", "dense"), ("gated", "dense")]
)
def test_a_frozen_decoder_stays_to_the_bit_while_the_encoder_learns(
    rows_and_truth: Planted, variant: VariantName, adam: Any
) -> None:
    source = ArraySource(rows_and_truth[0])
    config = replace(FROZEN, tokens=20_000, variant=variant, arithmetic=Arithmetic(adam=adam))
    start, trained = FrozenSAE.untrained(source, config), FrozenSAE.fit(source, config)
    expected = initial_directions(source, 96, "random", torch.Generator().manual_seed(0))
    assert torch.equal(trained.W_dec, expected)
    assert torch.equal(start.W_dec, expected)
    moved = (trained.tensors["W_enc"] - start.tensors["W_enc"]).norm(dim=0)
    assert (moved > 0.05).float().mean() > 0.8
    # measured: topk .682 -> .623, batchtopk .800 -> .604, gated .800 -> .591
    assert trained.fvu(rows_and_truth[0]) < 0.95 * start.fvu(rows_and_truth[0])


def test_a_learned_decoder_does_better_than_a_frozen_one(trained: dict[str, SAE], rows_and_truth: Planted) -> None:
    x, directions = rows_and_truth
    frozen = FrozenSAE.fit(ArraySource(x), FROZEN)
    assert frozen.fvu(x) > 3 * trained["topk"].fvu(x)
    assert matched_cosine(frozen.write_directions().numpy(), directions)[0] < 0.6


def test_dead_features_of_a_frozen_decoder_can_be_helped_by_the_auxiliary_loss_alone(rows_and_truth: Planted) -> None:
    source = ArraySource(rows_and_truth[0])
    config = replace(FROZEN, tokens=5120, dead_features=DeadFeatures(dead_after=512, aux_k=4))
    assert torch.equal(FrozenSAE.fit(source, config).W_dec, FrozenSAE.untrained(source, config).W_dec)
    with pytest.raises(InputError, match=r"but a frozen decoder keeps its own; leave --resample-every out"):
        replace(FROZEN, dead_features=DeadFeatures(resample_every=2048))


@every_variant
def test_an_untrained_autoencoder_fires_as_often_as_asked_for(rows_and_truth: Planted, variant: VariantName) -> None:
    x, config = rows_and_truth[0], replace(SMALL, variant=variant)
    untrained = SAE.untrained(ArraySource(x), config)
    assert torch.equal(
        untrained.W_dec, initial_directions(ArraySource(x), 96, "random", torch.Generator().manual_seed(0))
    )
    active = (untrained.encode(x) > 0).sum(1)
    assert float(active.double().mean()) == pytest.approx(3, rel=0.05)
    if variant == "topk":
        assert (active == 3).all()


def test_an_untrained_autoencoder_has_the_target_l0_where_there_is_one(rows_and_truth: Planted) -> None:
    x = rows_and_truth[0]
    config = replace(SMALL, variant="relu", variant_options=VariantOptions(target_l0=8))
    assert float((SAE.untrained(ArraySource(x), config).encode(x) > 0).sum(1).double().mean()) == pytest.approx(
        8, rel=0.05
    )


def test_an_untrained_subspace_autoencoder_has_its_directions_in_the_subspace() -> None:
    x, _ = planted(4000, rank=12)
    config = SubspaceSAEConfig(n_features=64, k=3, initialisation=SubspaceInitialisation(rank=12, full_space=0.0))
    untrained = SubspaceSAE.untrained(ArraySource(x), config)
    leading = torch.from_numpy(moments_of([x]).spectrum[1][:12]).float()
    torch.testing.assert_close((untrained.W_dec @ leading.T).norm(dim=1), torch.ones(64))
    assert untrained.notes["rank"] == 12


# -------------------------------------------------------------------------------------------------------- going on, sharing


@pytest.mark.parametrize(
    "options",
    [
        *({"variant": variant} for variant in VARIANTS),
        {"arithmetic": Arithmetic(adam="row-sparse")},
        {"dead_features": DeadFeatures(dead_after=512, aux_k=4, resample_every=2048)},
    ],
    ids=str,
)
def test_a_killed_training_goes_on_to_the_same_bits(
    tmp_path: Path, rows_and_truth: Planted, options: dict[str, Any]
) -> None:
    short = replace(SMALL, tokens=12_800, **options)
    killed_at = int(np.random.default_rng(sum(map(ord, str(options)))).integers(2, 50))
    assert_goes_on_to_the_same_bits(SAE, short, rows_and_truth[0], tmp_path, killed_at)


@pytest.mark.parametrize("adam", ["dense", "row-sparse"])
def test_a_killed_training_with_a_frozen_decoder_goes_on_to_the_same_bits(
    tmp_path: Path, rows_and_truth: Planted, adam: Any
) -> None:
    short = replace(FROZEN, tokens=12_800, arithmetic=Arithmetic(adam=adam))
    assert_goes_on_to_the_same_bits(FrozenSAE, short, rows_and_truth[0], tmp_path, 21)


def assert_goes_on_to_the_same_bits(
    method: type[SAE | FrozenSAE], short: SparseConfig, x: Tensor, folder: Path, killed_at: int
) -> None:
    source = ArraySource(x)
    whole = method.fit(source, short, Silent())
    with pytest.raises(KeyboardInterrupt):
        method.fit(source, short, Memory(folder, killed_at=killed_at))
    with safe_open(folder / "checkpoint.safetensors", framework="pt") as file:
        assert int(file.get_tensor("progress")[0]) == killed_at - 1
    rest = Memory(folder)
    resumed = method.fit(source, short, rest)
    assert rest.records[0]["step"] == killed_at
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, resumed.tensors[name]), name


@pytest.mark.parametrize("variant", ["topk", "batchtopk", "jumprelu"])
def test_several_trained_in_one_pass_are_those_trained_alone(rows_and_truth: Planted, variant: VariantName) -> None:
    reads: list[int] = []

    class Counting(ArraySource):
        def rows(self, indices: Any) -> Tensor:
            reads.append(len(indices))
            return super().rows(indices)

    base = replace(SMALL, tokens=12_800, variant=variant)
    configs = [replace(base, k=2), replace(base, k=4), replace(base, n_features=64)]
    together = SAE.fit_together(Counting(rows_and_truth[0]), configs, [Silent()] * 3)
    assert reads.count(256) == 50
    for config, sae in zip(configs, together, strict=True):
        alone = SAE.fit(ArraySource(rows_and_truth[0]), config)
        assert alone.config == sae.config == config
        for name, tensor in alone.tensors.items():
            assert torch.equal(tensor, sae.tensors[name]), name


PARALLEL = """
import json, sys
import torch
from interp.decomposers.sae.autoencoder import SAE, SAEConfig
from interp.decomposers.sae.dead_features import DeadFeatures
from interp.distributed import joined
from interp.store.source import ArraySource

class Memory:
    checkpoints, records = None, []
    def log(self, record):
        self.records.append(record)

x = torch.randn(2000, 12, generator=torch.Generator().manual_seed(0)).relu() + 0.1
found = {}
with joined() as world:
    for variant in ("topk", "batchtopk", "jumprelu"):
        dead = DeadFeatures(dead_after=256, resample_every=1024)
        Memory.records = []
        config = SAEConfig(n_features=48, k=3, lr=1e-3, variant=variant, tokens=128 * 40, batch=128, dead_features=dead)
        sae = SAE.fit(ArraySource(x), config, Memory())
        found[variant] = {"records": Memory.records, "W_dec": sae.W_dec.tolist()}
    if world.is_first:
        print(json.dumps(found))
"""


def test_two_processes_have_the_loss_curve_of_one(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(PARALLEL)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    alone, shared = (
        json.loads(subprocess.run([*command, str(tmp_path / "job.py")], check=True, capture_output=True).stdout)
        for command in ([sys.executable], torchrun)
    )
    for variant, found in alone.items():
        records, others = found["records"], shared[variant]["records"]
        assert len(records) == len(others) == 40
        for key in ("loss", "fvu", "l0"):
            np.testing.assert_allclose([r[key] for r in others], [r[key] for r in records], rtol=2e-3, err_msg=variant)
        np.testing.assert_allclose(shared[variant]["W_dec"], found["W_dec"], atol=5e-3)


# ------------------------------------------------------------------------------------------------------------ wrong input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_features": 32, "k": 33}, "k is 33, but it must lie between 1 and the number of features, 32"),
        ({"k": 0}, "k is 0, but it must lie between 1 and"),
        ({"tokens": 100}, "100 tokens in batches of 1024 make no step; give more tokens"),
        ({"lr": 0}, "the learning rate must be above 0"),
        (
            {"variant_options": VariantOptions(target_l0=9)},
            "target-l0 and coefficient are for relu, jumprelu and gated; topk has the L0 that --k says",
        ),
        (
            {"variant": "relu", "n_features": 64, "variant_options": VariantOptions(target_l0=32)},
            "a target L0 of 32 is out of reach of 64 features, of which half fire",
        ),
        (
            {"variant": "matryoshka", "n_features": 12, "k": 3, "variant_options": VariantOptions(prefixes=5)},
            "12 features cannot be nested in 5 prefixes, each half of the next; give fewer --prefixes",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SAEConfig(**options)


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        (VariantOptions, {"target_l0": 3, "coefficient": 1}, "give --target-l0 or --coefficient, not both"),
        (VariantOptions, {"coefficient": 0}, "target-l0 and coefficient must be above 0"),
        (VariantOptions, {"bandwidth": 0}, "bandwidth must be above 0"),
        (VariantOptions, {"prefixes": 0}, "prefixes must be above 0"),
        (DeadFeatures, {"aux_k": -1}, "dead-after, aux-k, aux-weight and resample-every must not be negative"),
        (Initialisation, {"encoder_scale": 0}, "the encoder's scale is 0; it must be above 0"),
        (SubspaceInitialisation, {"full_space": 1.2}, "the share of full-space directions is 1.2; it must lie between"),
        (SubspaceInitialisation, {"rank": 0}, "the rank is 0; give a whole number from 1, a share of the variance"),
        (SubspaceInitialisation, {"rank": 1.5}, "the rank is 1.5; give a whole number from 1, a share of the variance"),
    ],
)
def test_parts_of_options_that_make_no_sense_are_refused(part: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        part(**options)


def test_a_rank_above_the_width_is_refused(rows_and_truth: Planted) -> None:
    config = SubspaceSAEConfig(n_features=64, k=3, initialisation=SubspaceInitialisation(rank=33))
    with pytest.raises(
        InputError, match="a subspace of rank 33 was asked for, but the site is 32 wide; give a smaller"
    ):
        SubspaceSAE.fit(ArraySource(rows_and_truth[0]), config)


def test_a_target_that_a_training_does_not_come_near_is_refused(rows_and_truth: Planted) -> None:
    options = VariantOptions(target_l0=2.0)
    short = replace(SMALL, tokens=5120, variant="relu", variant_options=options)
    with pytest.raises(InputError, match=r"the target L0 of 2 is out of reach: after 14 steps the L0 is far above it"):
        SAE.fit(ArraySource(rows_and_truth[0]), short)


def test_a_batch_larger_than_the_source_is_refused(rows_and_truth: Planted) -> None:
    with pytest.raises(InputError, match="a batch of 256 rows was asked for, but the source holds 100"):
        SAE.fit(ArraySource(rows_and_truth[0][:100]), SMALL)


def test_a_learning_rate_that_makes_the_loss_infinite_is_named(tmp_path: Path, rows_and_truth: Planted) -> None:
    with pytest.raises(InputError, match=r"is \S+ (at|after) step \d+; the last .*with a smaller --lr than 1e\+30"):
        SAE.fit(ArraySource(rows_and_truth[0]), replace(SMALL, tokens=25_600, lr=1e30), Memory(tmp_path))
