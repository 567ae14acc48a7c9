"""Steering with a quadratic latent: each operator does what its formula says and keeps the length of a row."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from interp.cli.main import main
from interp.decomposers.forms import QuadraticForm
from interp.errors import InputError
from interp.model.language_model import load_model
from interp.runs.record import Run
from interp.steering.continuations import neutral_tokens
from interp.steering.edits import edit_activations
from interp.steering.forms import QuadraticSteerer, flow_to_value, rotate, set_position, value_flow

D = 12


@pytest.fixture
def form() -> QuadraticForm:
    axes = torch.linalg.qr(torch.randn(D, 3, generator=torch.Generator().manual_seed(0)))[0].T
    return QuadraticForm(torch.tensor([2.0, -1.5, 0.5]), axes.contiguous(), torch.zeros(D), 0.0)


@pytest.fixture
def x() -> Tensor:
    return 5 * torch.randn(40, D, generator=torch.Generator().manual_seed(1))


def assert_same_length(moved: Tensor, x: Tensor) -> None:
    torch.testing.assert_close(moved.norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize("t", [-3.0, -0.2, 0.0, 0.4, 2.0])
def test_the_flow_is_the_matrix_exponential(form: QuadraticForm, x: Tensor, t: float) -> None:
    moved = value_flow(x, form, t)
    expected = (x / x.norm(dim=1, keepdim=True)) @ torch.matrix_exp(t * form.matrix())
    expected = expected / expected.norm(dim=1, keepdim=True) * x.norm(dim=1, keepdim=True)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-4)
    assert_same_length(moved, x)


def test_the_value_grows_with_time_and_ends_at_the_outermost_eigenvalues(form: QuadraticForm, x: Tensor) -> None:
    values = torch.stack([form.value(value_flow(x, form, t)) for t in torch.linspace(-20, 20, 81)])
    assert (values.diff(dim=0) >= -1e-5).all()
    torch.testing.assert_close(values[-1], torch.full((40,), 2.0))
    torch.testing.assert_close(values[0], torch.full((40,), -1.5))
    assert torch.isfinite(value_flow(x, form, 1e6)).all()


def test_the_flow_takes_one_time_a_row_and_rows_in_batches(form: QuadraticForm, x: Tensor) -> None:
    times = torch.linspace(-1, 1, 40)
    together = value_flow(x, form, times)
    torch.testing.assert_close(
        together, torch.stack([value_flow(row, form, float(t)) for row, t in zip(x, times, strict=True)])
    )
    torch.testing.assert_close(value_flow(x.view(4, 10, D), form, 0.3).view(40, D), value_flow(x, form, 0.3))


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.7])
def test_a_value_asked_for_is_reached(form: QuadraticForm, x: Tensor, value: float) -> None:
    moved, reached = flow_to_value(x, form, value)
    assert reached.all()
    torch.testing.assert_close(form.value(moved), torch.full((40,), value), rtol=0, atol=2e-3)
    assert_same_length(moved, x)


def test_a_value_out_of_reach_is_reported(form: QuadraticForm, x: Tensor) -> None:
    moved, reached = flow_to_value(x, form, 2.5)
    assert not reached.any()
    torch.testing.assert_close(form.value(moved), torch.full((40,), 2.0), rtol=0, atol=1e-3)


def test_a_rotation_turns_the_plane_and_leaves_the_rest(form: QuadraticForm, x: Tensor) -> None:
    axes = form.axes(2)
    turned = rotate(x, axes, 0.7)
    before, after = (torch.view_as_complex((rows @ axes.T).contiguous()) for rows in (x, turned))
    torch.testing.assert_close(after, before * complex(math.cos(0.7), math.sin(0.7)))
    torch.testing.assert_close(turned - (turned @ axes.T) @ axes, x - (x @ axes.T) @ axes)
    assert_same_length(turned, x)
    torch.testing.assert_close(rotate(x, axes, 2 * math.pi), x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("position", [[0.3, -0.4], [0.0, 0.0], [0.6, 0.8]])
def test_a_position_is_met_exactly(form: QuadraticForm, x: Tensor, position: list[float]) -> None:
    axes, wanted = form.axes(2), torch.tensor(position)
    moved = set_position(x, axes, wanted)
    torch.testing.assert_close((moved / moved.norm(dim=1, keepdim=True)) @ axes.T, wanted.expand(40, 2))
    assert_same_length(moved, x)
    # what is outside of the plane keeps its direction
    outside = [rows - (rows @ axes.T) @ axes for rows in (x, moved)]
    cosine = torch.nn.functional.cosine_similarity(*outside)
    assert float(wanted.norm()) == pytest.approx(1) or (cosine > 0.999).all()


def test_rows_of_zeros_stay(form: QuadraticForm) -> None:
    zeros = torch.zeros(2, D)
    for moved in (
        value_flow(zeros, form, 1.0),
        rotate(zeros, form.axes(2), 1.0),
        set_position(zeros, form.axes(2), torch.tensor([0.5, 0.0])),
    ):
        assert torch.equal(moved, zeros)


def test_wrong_input_is_refused(form: QuadraticForm, x: Tensor) -> None:
    zero = QuadraticForm(torch.zeros(2), torch.zeros(2, D), torch.zeros(D), 0.0)
    with pytest.raises(InputError, match="the form is zero, so no flow changes its value"):
        value_flow(x, zero, 1.0)
    biased = QuadraticForm(form.eigenvalues, form.eigenvectors, torch.ones(D), 0.0)
    with pytest.raises(InputError, match="a latent with a bias has no closed-form value flow; rotate in its plane"):
        flow_to_value(x, biased, 1.0)
    with pytest.raises(InputError, match=r"the latent is 12 wide, but the activations are 5; take its own site"):
        value_flow(torch.randn(3, 5), form, 1.0)
    with pytest.raises(InputError, match="a rotation is in a plane, but 3 axes were given; give two"):
        rotate(x, form.axes(3), 1.0)
    with pytest.raises(InputError, match="is not one of a unit row on 2 axes; give 2 coordinates of length at most 1"):
        set_position(x, form.axes(2), torch.tensor([0.9, 0.9]))


# --------------------------------------------------------------------------------------------------------- in a model


def test_flow_and_rotation_are_modes_of_steering(bilinear_run: Run) -> None:
    """Each writes what its operator does to the activations; the biased latents of this run have no flow."""
    model = load_model(bilinear_run.model_id, device="cpu")
    steerer = QuadraticSteerer.from_run(model, bilinear_run)
    tokens = neutral_tokens(bilinear_run, n_sequences=2, n_tokens=16)
    form = bilinear_run.decomposer().form(2)  # type: ignore[attr-defined]
    with edit_activations(model, bilinear_run.site.read, lambda x: rotate(x, form.axes(2), math.pi / 2)):
        expected = model.logits(tokens)
    torch.testing.assert_close(steerer.logits(tokens, {2: 0.25}, mode="rotate"), expected)
    torch.testing.assert_close(steerer.logits(tokens, {2: 1.0}, mode="rotate"), model.logits(tokens), rtol=0, atol=1e-3)
    assert torch.equal(steerer.logits(tokens, {2: 0.0}, mode="rotate"), model.logits(tokens))
    with pytest.raises(InputError, match="a latent with a bias has no closed-form value flow"):
        steerer.logits(tokens, {2: 0.5}, mode="flow")
    plain = replace(form, linear=torch.zeros(model.site(bilinear_run.site.read).d_in), constant=0.0)
    steerer.forms = lambda feature: plain
    t = 0.5 / float(plain.eigenvalues.abs().max())
    with edit_activations(model, bilinear_run.site.read, lambda x: value_flow(x, plain, t)):
        expected = model.logits(tokens)
    torch.testing.assert_close(steerer.logits(tokens, {2: 0.5}, mode="flow"), expected)
    for mode, sign in (("flow", 1), ("flow", -1), ("rotate", -1)):
        reachable = steerer.kl(tokens, {2: sign * 0.3}, mode=mode)
        found = steerer.strength_for_kl(2, reachable, tokens=tokens, sign=sign, mode=mode)
        assert found.reached
        assert sign * found.strength > 0
        assert steerer.kl(tokens, {2: found.strength}, mode=mode) == pytest.approx(found.kl, rel=1e-4)
    half_a_turn = steerer.strength_for_kl(2, 50.0, tokens=tokens, mode="rotate")
    assert not half_a_turn.reached
    assert 0 < half_a_turn.strength <= 0.5
    assert half_a_turn.kl == pytest.approx(steerer.kl(tokens, {2: half_a_turn.strength}, mode="rotate"), rel=1e-4)
    with pytest.raises(InputError, match="no steering mode 'spin'"):
        steerer.logits(tokens, {2: 0.5}, mode="spin")
    with pytest.raises(InputError, match="there is no feature 99"):
        steerer.logits(tokens, {99: 0.5}, mode="rotate")


def test_the_command_rotates_and_says_what_it_cannot(bilinear_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["steer", str(bilinear_run.path), "--prompt", "def f", "--feature", "2", "--tokens", "4", "--samples", "1"]
    main([*words, "--mode", "rotate", "--strength", "0.5"])
    assert "feature 2 at +0.50 turns: KL" in capsys.readouterr().out
    assert json.loads((bilinear_run.path / "steering.jsonl").read_text().splitlines()[-1])["mode"] == "rotate"
    main([*words, "--mode", "rotate", "--kl", "40"])
    said = capsys.readouterr().out
    assert "feature 2 does not reach 40 nats per token at any strength tried; the nearest is" in said
    for options, said in (
        (("--mode", "flow", "--strength", "1"), "a latent with a bias has no closed-form value flow"),
        (("--strength", "1", "--at-residual"), "the latents of 'forms' are forms of its own site; steer them there"),
    ):
        with pytest.raises(SystemExit):
            main([*words, *options])
        assert said in capsys.readouterr().err
