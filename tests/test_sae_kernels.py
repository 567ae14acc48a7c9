"""The sparse kernels of autoencoders: values and every gradient are those of plain autograd with dense products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from interp.decomposers.sae.config import SparseConfig, VariantName, VariantOptions
from interp.decomposers.sae.kernels import (
    Pairs,
    above,
    decode_pairs,
    encode_all,
    encode_pairs,
    kth_largest,
    largest_of_batch,
    largest_of_rows,
    pre_activations,
    stable_order,
)
from interp.decomposers.sae.l0_control import L0Control
from interp.decomposers.sae.row_sparse_adam import RowSparseAdam
from interp.decomposers.sae.training import TrainableSAE
from interp.decomposers.sae.variants import VARIANTS
from interp.decomposers.sae.variants.matryoshka import prefix_groups
from interp.store.source import ArraySource

N, D, FEATURES, K = 23, 7, 19, 4
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")


def weights(seed: int = 0) -> dict[str, Tensor]:
    """x and the parameters in float64; the encoder is not the decoder, and no bias is zero."""
    random = torch.Generator().manual_seed(seed)
    shapes = {"x": (N, D), "W_enc": (FEATURES, D), "b_enc": (FEATURES,), "W_dec": (FEATURES, D), "b_dec": (D,)}
    return {
        name: torch.randn(*shape, generator=random, dtype=torch.float64).requires_grad_(name != "x")
        for name, shape in shapes.items()
    }


def assert_same_gradients(fast: Tensor, slow: Tensor, parameters: dict[str, Tensor], **tolerance: float) -> None:
    """Of every parameter; one that a loss does not depend on has a gradient of zeros."""
    found, expected = (
        torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        for loss in (fast, slow)
    )
    for name, one, other in zip(parameters, found, expected, strict=True):
        torch.testing.assert_close(
            one, other, **(tolerance or {"rtol": 1e-10, "atol": 1e-10}), msg=lambda m, n=name: f"{n}: {m}"
        )


# ---------------------------------------------------------------------------------------------------------- the kernels


@pytest.mark.parametrize("n_pairs", [0, 1, 60, N * FEATURES])
def test_encoding_and_decoding_of_pairs_have_the_values_and_gradients_of_dense_products(n_pairs: int) -> None:
    w, p = weights(), {name: weights()[name] for name in NAMES}
    flat = torch.randperm(N * FEATURES, generator=torch.Generator().manual_seed(1))[:n_pairs].sort().values
    mask = torch.zeros(N * FEATURES, dtype=torch.float64).index_fill(0, flat, 1.0).view(N, FEATURES)
    slow_pre = (w["x"] - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]
    slow = (slow_pre.sin() * mask) @ p["W_dec"]
    centred = (w["x"] - p["b_dec"]).detach()
    pairs = Pairs.of_rows(flat, N, FEATURES)
    values = encode_pairs(centred, p["W_enc"], p["b_enc"], p["b_dec"], pre_activations(centred, *first_two(p)), pairs)
    torch.testing.assert_close(values, slow_pre.flatten()[flat])
    fast = decode_pairs(values.sin(), p["W_dec"], pairs)  # any function of the values may stand between the two
    torch.testing.assert_close(fast, slow)
    assert_same_gradients(fast.pow(3).sum() + values.cos().sum(), slow.pow(3).sum() + (slow_pre.cos() * mask).sum(), p)


def first_two(p: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return p["W_enc"].detach(), p["b_enc"].detach()


def test_encoding_of_all_entries_has_the_gradients_of_autograd() -> None:
    w, p = weights(), {name: weights()[name] for name in NAMES}
    slow = (w["x"] - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]
    centred = (w["x"] - p["b_dec"]).detach()
    pre = pre_activations(centred, *first_two(p))
    fast = encode_all(centred, p["W_enc"], p["b_enc"], p["b_dec"], pre)
    torch.testing.assert_close(fast, slow)
    assert_same_gradients(fast.pow(3).sum(), slow.pow(3).sum(), p)


def test_bags_of_groups_of_features_decode_each_group_alone() -> None:
    p = {name: weights()[name] for name in NAMES}
    flat = torch.randperm(N * FEATURES, generator=torch.Generator().manual_seed(1))[:90].sort().values
    group = torch.arange(FEATURES) % 3
    pairs = Pairs.of_rows(flat, N, FEATURES).grouped(group, 3)
    z = torch.randn(N, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    mask = torch.zeros(N * FEATURES, dtype=torch.float64).index_fill(0, flat, 1.0).view(N, FEATURES)
    slow = torch.stack([(z * mask * (group == g)) @ p["W_dec"] for g in range(3)])
    fast = decode_pairs(pairs.values(z), p["W_dec"], pairs).view(3, N, D)
    torch.testing.assert_close(fast, slow)
    assert_same_gradients(fast.pow(3).sum(), slow.pow(3).sum(), {"z": z, "W_dec": p["W_dec"]})


def test_a_dictionary_too_large_for_16_bit_numbers_has_the_same_gradients() -> None:
    random, n = torch.Generator().manual_seed(0), 70_000
    x, W_dec = torch.randn(5, 3, generator=random), torch.randn(n, 3, generator=random).requires_grad_()
    W_enc, b_enc, b_dec = torch.randn(n, 3, generator=random).requires_grad_(), torch.zeros(n), torch.zeros(3)
    pre = pre_activations(x, W_enc.detach(), b_enc)
    flat = largest_of_rows(pre, 8)
    pairs = Pairs.of_rows(flat, 5, n)
    assert pairs.feature.max() >= 2**16
    fast = decode_pairs(
        encode_pairs(x, W_enc, b_enc.requires_grad_(), b_dec.requires_grad_(), pre, pairs), W_dec, pairs
    )
    indices = pairs.feature.view(5, 8)
    slow = ((x[:, None] * W_enc[indices]).sum(2)[:, :, None] * W_dec[indices]).sum(1)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)
    assert_same_gradients(
        fast.square().sum(), slow.square().sum(), {"W_enc": W_enc, "W_dec": W_dec}, rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("n_keys", [3, 2**16, 2**16 + 1, 2**20])
def test_the_order_is_that_of_a_stable_sort(n_keys: int) -> None:
    keys = torch.randint(n_keys, (4000,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(stable_order(keys, n_keys), torch.sort(keys, stable=True).indices)


def test_an_encoder_in_bfloat16_is_that_of_rounded_numbers() -> None:
    w = {name: tensor.detach().float() for name, tensor in weights().items()}
    exact = pre_activations(w["x"], w["W_enc"], w["b_enc"])
    rounded = pre_activations(w["x"], w["W_enc"], w["b_enc"], bfloat16=True)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.1)


def test_pairs_stand_row_by_row() -> None:
    pairs = Pairs.of_rows(torch.tensor([1, 2, 3, 8]), 5, 2)
    assert pairs.row.tolist() == [0, 1, 1, 4]
    assert pairs.feature.tolist() == [1, 0, 1, 0]
    assert pairs.starts.tolist() == [0, 1, 3, 3, 3, 4]


# ------------------------------------------------------------------------------------------------------------ selection


@pytest.mark.parametrize(("n_features", "k"), [(40, 3), (40, 40), (512, 1), (512, 7), (4096, 32)])
def test_the_largest_of_rows_are_those_of_a_sort(n_features: int, k: int) -> None:
    pre = torch.randn(50, n_features, generator=torch.Generator().manual_seed(k))
    found = largest_of_rows(pre, k).view(50, k)
    assert torch.equal(found // n_features, torch.arange(50)[:, None].expand(50, k))
    assert torch.equal((found % n_features).sort(1).values, pre.sort(1, descending=True).indices[:, :k].sort(1).values)


@pytest.mark.parametrize("k", [1, 5])
def test_of_equal_entries_only_as_many_as_asked_for_are_taken(k: int) -> None:
    assert len(largest_of_rows(torch.ones(30, 400), k)) == 30 * k
    flat, least = largest_of_batch(torch.ones(30, 400), 30 * k, 0.9)
    assert (len(flat), least) == (30 * k, 1.0)
    assert len(flat.unique()) == 30 * k


@pytest.mark.parametrize("guess", [-10.0, 0.0, 1.0, 1.5, 10.0])
def test_the_largest_of_a_batch_do_not_depend_on_the_guess(guess: float) -> None:
    pre = torch.randn(50, 120, generator=torch.Generator().manual_seed(0))
    flat, least = largest_of_batch(pre, 150, guess)
    expected = pre.flatten().topk(150)
    assert torch.equal(flat, expected.indices.sort().values)
    assert least == float(expected.values[-1]) == kth_largest(pre.flatten(), 150)


def test_above_is_a_threshold_of_one_or_of_each_feature_and_gives_up_on_too_many() -> None:
    pre = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 0.0]])
    found = above(pre, 2.0)
    assert found is not None
    assert found.tolist() == [1, 2, 3]
    by_feature = above(pre, torch.tensor([3.0, 1.0, 1.0]))
    assert by_feature is not None
    assert by_feature.tolist() == [1, 2, 3, 4]
    assert above(pre, 2.0, at_most=2) is None


# --------------------------------------------------------------------------------------------- whole losses of variants


def dense_loss(trainable: TrainableSAE, x: Tensor) -> Tensor:
    """The loss of a variant written out in full, with straight-through thresholds, in the trainable's own parameters."""
    config, p = trainable.config, trainable.parameters
    x = x * trainable.scale
    pre = (x - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]
    penalty: Tensor | float = 0.0
    match config.variant:
        case "topk":
            z = pre.relu() * (pre >= pre.sort(1, descending=True).values[:, config.k - 1 : config.k])
        case "batchtopk" | "matryoshka":
            z = pre.relu() * (pre >= pre.flatten().sort(descending=True).values[config.k * len(x) - 1])
        case "relu":
            z = pre.relu()
            penalty = coefficient(trainable) * (z * p["W_dec"].norm(dim=1).detach()).sum()
        case "gated":
            magnitude = p["r_mag"].exp() * (pre - p["b_enc"]) + p["b_mag"]
            z = (pre > 0) * magnitude.relu()
            by_gate = pre.relu() @ p["W_dec"].detach() + p["b_dec"].detach()
            penalty = coefficient(trainable) * pre.relu().sum() + (by_gate - x).square().sum()
        case "jumprelu":
            z, active = straight_through(pre, p["log_threshold"].exp(), config.variant_options.bandwidth)
            penalty = coefficient(trainable) * active.sum()
    ends = [config.n_features]
    if config.variant == "matryoshka":
        n = config.variant_options.prefixes
        ends = [config.n_features >> (n - 1 - i) for i in range(n)]
    errors = [(z[:, :end] @ p["W_dec"][:end] + p["b_dec"] - x).square().sum() for end in ends]
    return (torch.stack(errors).mean() + penalty) / len(x)


def coefficient(trainable: TrainableSAE) -> float:
    return trainable.variant.control.coefficient


def straight_through(pre: Tensor, threshold: Tensor, width: float) -> tuple[Tensor, Tensor]:
    """(z, z > 0) whose gradients in the threshold are -t / width and -1 / width within width / 2 of it."""
    is_active = (pre > threshold).to(pre.dtype)
    near = ((pre - threshold).abs() < width / 2).to(pre.dtype)
    t = threshold.detach()
    moved = -(threshold - t) / width * near
    return pre * is_active + t * moved, is_active + moved


@pytest.mark.parametrize(
    ("variant", "is_dense"),
    [(variant, False) for variant in VARIANTS] + [("relu", True), ("jumprelu", True), ("gated", True)],
)
def test_the_loss_and_its_gradients_are_those_of_the_dense_formula(
    variant: VariantName, is_dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.decomposers.sae.variants.base.SPARSE_BELOW", 0.0 if is_dense else 1.0)
    steered: Any = {"coefficient": 0.3} if VARIANTS[variant].has_penalty else {}
    config = SparseConfig(
        n_features=32, k=5, variant=variant, variant_options=VariantOptions(**steered, prefixes=3), batch=64
    )
    x = torch.randn(64, 12, generator=torch.Generator().manual_seed(0)) + 0.5
    random = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(32, 12, generator=random), dim=1)
    trainable = TrainableSAE(ArraySource(x), config, directions, encoder_scale=0.7)
    with torch.no_grad():
        for name in {"b_enc", "r_mag", "b_mag"} & set(trainable.parameters):
            trainable.parameters[name] += 0.2 * torch.randn(32, generator=random)
    expected, (found, _) = dense_loss(trainable, x), trainable.loss(x)
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-5, atol=1e-5, check_dtype=False)
    assert_same_gradients(found, expected, trainable.parameters, rtol=1e-4, atol=1e-4)


def test_prefixes_are_nested_and_double() -> None:
    groups = prefix_groups(16, 3)
    assert groups.tolist() == [0] * 4 + [1] * 4 + [2] * 8
    assert prefix_groups(7, 1).tolist() == [0] * 7


def test_a_coefficient_is_steered_until_the_l0_is_the_target() -> None:
    """A made-up model whose L0 follows the coefficient with a lag, from either side and over orders of magnitude."""
    for target, needed in ((10.0, 30.0), (10.0, 1e-2), (200.0, 0.5)):
        control, l0 = L0Control(target=target), 50.0
        for _ in range(1500):
            l0 += 0.1 * (target * (needed / control.coefficient) ** 0.7 - l0)
            control.update(l0)
        assert l0 == pytest.approx(target, rel=0.02)
        assert control.coefficient == pytest.approx(needed, rel=0.05)


def test_a_fixed_coefficient_stays() -> None:
    control = L0Control(fixed=0.3)
    control.update(1e6)
    assert (control.coefficient, control.error, control.state) == (0.3, 0.0, {})


def test_row_sparse_steps_are_adams_where_every_row_has_a_gradient() -> None:
    random = torch.Generator().manual_seed(0)
    ours, theirs = (torch.ones(6, 3, requires_grad=True) for _ in range(2))
    optimizers = RowSparseAdam([ours], lr=0.1), torch.optim.Adam([theirs], lr=0.1)
    for _ in range(5):
        ours.grad = torch.randn(6, 3, generator=random)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs)
    before, state = ours.detach().clone(), {k: v.clone() for k, v in optimizers[0].state[ours].items()}
    assert ours.grad is not None
    ours.grad[2:5] = 0
    optimizers[0].step()
    assert torch.equal(ours[2:5], before[2:5])
    assert (ours[:2] != before[:2]).all()
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(optimizers[0].state[ours][key][2:5], state[key][2:5])
