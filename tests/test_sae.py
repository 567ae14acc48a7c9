"""The sparse autoencoder: its kernels against plain autograd, its training against planted features."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from interp.decomposers.sae import SAE, SAEConfig, _Trainee
from interp.decomposers.sparse_kernels import top_k, topk_autoencode
from interp.errors import InputError
from interp.metrics import matched_cosine
from interp.store.source import ArraySource

N, D, FEATURES, K = 23, 7, 19, 4


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """x and the parameters in float64; the encoder is not the decoder, and no bias is zero."""
    random = torch.Generator().manual_seed(seed)
    shapes = {"x": (N, D), "W_enc": (FEATURES, D), "b_enc": (FEATURES,), "W_dec": (FEATURES, D), "b_dec": (D,)}
    return {
        name: torch.randn(*shape, generator=random, dtype=torch.float64).requires_grad_()
        for name, shape in shapes.items()
    }


def plain_codes(w: dict[str, torch.Tensor], k: int) -> torch.Tensor:
    pre = (w["x"] - w["b_dec"]) @ w["W_enc"].T + w["b_enc"]
    return pre.relu() * (pre >= pre.sort(dim=1, descending=True).values[:, k - 1 : k])


def gradients(loss: torch.Tensor, w: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(zip(w, torch.autograd.grad(loss, list(w.values())), strict=True))


# ------------------------------------------------------------------------------------------------------------ kernels


@pytest.mark.parametrize("k", [1, K, FEATURES])  # with all 19, many of the chosen entries are negative
def test_the_reconstruction_and_every_gradient_are_those_of_plain_autograd(k):
    w = weights()
    z = plain_codes(w, k)
    expected = z @ w["W_dec"] + w["b_dec"]
    decoded, values, indices = topk_autoencode(*w.values(), k)
    torch.testing.assert_close(decoded, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.zeros_like(z).scatter(1, indices, values), z, rtol=0, atol=1e-12)
    slow = gradients((expected - w["x"]).square().sum(), w)
    fast = gradients((decoded - w["x"]).square().sum(), w)
    for name in w:
        torch.testing.assert_close(fast[name], slow[name], rtol=1e-12, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def test_gradients_flow_through_the_values_of_the_codes_too():
    w = weights(1)
    # An odd function of the codes, so that every active one has a gradient of its own.
    slow = gradients(plain_codes(w, K).pow(3).sum(), {n: w[n] for n in ("x", "W_enc", "b_enc", "b_dec")})
    _, values, _ = topk_autoencode(*w.values(), K)
    fast = gradients(values.pow(3).sum(), w)
    for name in slow:
        torch.testing.assert_close(fast[name], slow[name], rtol=1e-12, atol=1e-11)
    assert not fast["W_dec"].any()


def test_a_dictionary_too_large_for_16_bit_numbers_has_the_same_gradients():
    random = torch.Generator().manual_seed(0)
    x, W_dec = torch.randn(5, 3, generator=random), torch.randn(40_000, 3, generator=random)
    W_enc, zeros = W_dec.clone().requires_grad_(), torch.zeros(40_000)
    decoded, _, indices = topk_autoencode(x, W_enc, zeros, W_dec, torch.zeros(3), 8)
    assert indices.max() >= 2**15
    (fast,) = torch.autograd.grad((decoded - x).square().sum(), W_enc)
    values = (x[:, None] * W_enc[indices]).sum(2).relu()
    (slow,) = torch.autograd.grad(((values[:, :, None] * W_dec[indices]).sum(1) - x).square().sum(), W_enc)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-3)


def test_the_loss_is_the_squared_error_of_a_token_summed_over_the_width():
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) + 2
    trainee = _Trainee(ArraySource(x), SAEConfig(n_features=12, k=3))
    p = {name: tensor.detach().double() for name, tensor in trainee.parameters.items()}
    scaled = x.double() * math.sqrt(6) / x.double().norm(dim=1).mean()
    z = plain_codes({"x": scaled, **p}, 3)
    expected = ((z @ p["W_dec"] + p["b_dec"] - scaled) ** 2).sum(1).mean()
    assert float(trainee.loss(x).detach()) == pytest.approx(float(expected), rel=1e-5)
    measured = trainee.measure(x)
    variance = (scaled - scaled.mean(0)).square().sum(1).mean()
    assert measured["fvu"] == pytest.approx(float(expected / variance), rel=1e-5)
    assert measured["l0"] == pytest.approx(float((z > 0).sum(1).double().mean()))


def test_top_k_keeps_the_largest_and_drops_negative_ones():
    values, indices = top_k(torch.tensor([[3.0, -1.0, 2.0, 1.0], [-4.0, -1.0, -2.0, 5.0]]), 2)
    assert sorted(zip(values[0].tolist(), indices[0].tolist(), strict=True)) == [(2, 2), (3, 0)]
    assert sorted(zip(values[1].tolist(), indices[1].tolist(), strict=True)) == [(0, 1), (5, 3)]


# ----------------------------------------------------------------------------------------------------------- training


def planted(n: int = 8000, d: int = 32, n_features: int = 48, l0: int = 3, seed: int = 0):
    """(rows, true directions): each row is a positive combination of ``l0`` random directions, plus a mean."""
    random = np.random.default_rng(seed)
    directions = random.standard_normal((n_features, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    codes = np.zeros((n, n_features))
    active = random.permuted(np.tile(np.arange(n_features), (n, 1)), axis=1)[:, :l0]
    np.put_along_axis(codes, active, random.uniform(0.5, 1.5, (n, l0)), axis=1)
    return torch.from_numpy(codes @ directions + 0.5).float(), directions


SMALL = SAEConfig(n_features=96, k=3, tokens=150_000, batch=256, lr=3e-3)


@pytest.fixture(scope="module")
def rows_and_truth():
    return planted()


@pytest.fixture(scope="module")
def trained(rows_and_truth) -> SAE:
    return SAE.fit(ArraySource(rows_and_truth[0]), SMALL)


def test_planted_features_are_recovered(trained, rows_and_truth):
    x, directions = rows_and_truth
    cosine, _ = matched_cosine(trained.directions().numpy(), directions)
    untrained, _ = matched_cosine(SAE.fit(ArraySource(x), replace(SMALL, tokens=256)).directions().numpy(), directions)
    assert untrained < 0.6
    assert cosine > 0.98
    assert trained.fvu(x) < 0.1


def test_codes_have_at_most_k_entries_above_zero(trained, rows_and_truth):
    z = trained.encode(rows_and_truth[0])
    assert (z >= 0).all()
    assert (z > 0).sum(1).max() == SMALL.k


def test_decoder_rows_keep_unit_norm(trained):
    torch.testing.assert_close(trained.W_dec.norm(dim=1), torch.ones(96), rtol=0, atol=1e-6)


def test_the_step_does_not_move_a_decoder_row_along_itself(rows_and_truth):
    trainee = _Trainee(ArraySource(rows_and_truth[0]), SMALL)
    trainee.loss(rows_and_truth[0][:256]).backward()
    gradient, rows = trainee.parameters["W_dec"].grad, trainee.parameters["W_dec"].detach()
    assert gradient is not None
    before = gradient.clone()
    trainee.before_step()
    torch.testing.assert_close((gradient * rows).sum(1), torch.zeros(96), rtol=0, atol=1e-5)
    tangent = before - (before * rows).sum(1, keepdim=True) * rows
    torch.testing.assert_close(gradient, tangent, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 500.0])
def test_folding_the_scale_changes_no_fvu(rows_and_truth, factor):
    x = rows_and_truth[0][:2000] * factor
    trainee = _Trainee(ArraySource(x), SMALL)
    with torch.no_grad():
        trainee.parameters["b_enc"] += 0.3  # zero at the start, where folding it wrongly would not show
        trainee.loss(x)
    in_training = trainee.measure(x)["fvu"]
    assert SAE(SMALL, trainee.folded()).fvu(x) == pytest.approx(in_training, rel=1e-4)


def test_the_unit_of_the_activations_does_not_change_what_is_learned(rows_and_truth):
    x, short = rows_and_truth[0], replace(SMALL, tokens=20_480)
    once, larger = (SAE.fit(ArraySource(x * factor), short) for factor in (1, 64))
    torch.testing.assert_close(once.W_dec, larger.W_dec, rtol=0, atol=1e-4)
    torch.testing.assert_close(once.encode(x[:100]) * 64, larger.encode(x[:100] * 64), rtol=1e-3, atol=1e-2)


class Memory:
    """A recorder that keeps records in a list and checkpoints in a folder, and is killed after some records."""

    def __init__(self, folder: Path, *, killed_after: int | None = None):
        self.checkpoints: Path | None = folder
        self.records: list[dict[str, float]] = []
        self._killed_after = killed_after

    def log(self, record: dict[str, float]) -> None:
        if len(self.records) == self._killed_after:
            raise KeyboardInterrupt
        self.records.append(record)


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, rows_and_truth):
    source, short = ArraySource(rows_and_truth[0]), replace(SMALL, tokens=25_600)
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = SAE.fit(source, short, Memory(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        SAE.fit(source, short, Memory(tmp_path / "killed", killed_after=20))
    with safe_open(tmp_path / "killed" / "checkpoint.safetensors", framework="pt") as file:
        assert int(file.metadata()["step"]) == 40  # of 100, recorded every second step
    rest = Memory(tmp_path / "killed")
    resumed = SAE.fit(source, short, rest)
    assert rest.records[0]["step"] == 42
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, resumed.tensors[name]), name


def test_a_checkpoint_of_other_options_is_refused(tmp_path, rows_and_truth):
    source, short = ArraySource(rows_and_truth[0]), replace(SMALL, tokens=2560)
    SAE.fit(source, short, Memory(tmp_path))
    with pytest.raises(InputError, match="holds a checkpoint of other options; choose another --name"):
        SAE.fit(source, replace(short, k=2), Memory(tmp_path))


def test_features_that_never_fire_are_counted_dead(rows_and_truth):
    x = rows_and_truth[0][:1000]
    trainee = _Trainee(ArraySource(x), replace(SMALL, k=96))
    with torch.no_grad():
        trainee.parameters["b_enc"][:5] = -1e6
        for batch in x.split(250):
            assert trainee.measure(batch)["dead"] == 0  # not before a pass over the rows is over
            trainee.loss(batch)
    z = SAE(SMALL, trainee.folded()).encode(x)
    assert not z[:, :5].any()
    assert trainee.measure(x)["dead"] == (z == 0).all(0).sum()


# -------------------------------------------------------------------------------------------------------- wrong input


def test_k_above_the_number_of_features_is_refused():
    with pytest.raises(InputError, match="k is 33, but it must lie between 1 and the number of features, 32"):
        SAEConfig(n_features=32, k=33)
    with pytest.raises(InputError, match="k is 0, but"):
        SAEConfig(k=0)


def test_options_of_the_training_are_checked():
    with pytest.raises(InputError, match="100 tokens in batches of 1024 make no step; give more tokens"):
        SAEConfig(tokens=100)
    with pytest.raises(InputError, match="the learning rate must be above 0"):
        SAEConfig(lr=0)
    with pytest.raises(InputError, match="shares that are together at most 1"):
        SAEConfig(warmup=0.6, cooldown=0.6)


def test_a_batch_larger_than_the_source_is_refused(rows_and_truth):
    with pytest.raises(InputError, match="a batch of 256 rows was asked for, but the source holds 100"):
        SAE.fit(ArraySource(rows_and_truth[0][:100]), SMALL)


def test_a_learning_rate_that_makes_the_loss_infinite_is_named(rows_and_truth):
    with pytest.raises(InputError, match=r"the loss is \S+ at step \d+; train again with a smaller --lr than 1e\+30"):
        SAE.fit(ArraySource(rows_and_truth[0]), replace(SMALL, tokens=25_600, lr=1e30))
