"""What features make the model predict, estimated from gradients, against what happens when they are added."""

from __future__ import annotations

import pytest
import torch

from interp.errors import InputError
from interp.model.language_model import LanguageModel
from interp.steering.output import OutputEffects, output_effects
from interp.steering.search import EffectOfVectors

SITES = ("blocks.0.hook_resid_post", "blocks.0.mlp.hook_post", "blocks.1.attn.hook_z")
SETS = [torch.tensor([5, 9, 70]), torch.tensor([33])]


@pytest.fixture
def tokens(byte_model: LanguageModel) -> torch.Tensor:
    drawn = torch.randint(1, byte_model.d_vocab, (12, 20), generator=torch.Generator().manual_seed(2))
    drawn[:, 0] = drawn[1, 5] = drawn[2, 15:] = byte_model.bos_id
    return drawn


def unit_rows(n: int, d: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(3)), dim=1)


@pytest.mark.parametrize("site", SITES)
def test_the_gradient_is_what_a_small_step_changes(byte_model: LanguageModel, site: str, tokens: torch.Tensor) -> None:
    found = output_effects(byte_model, site, tokens, SETS)
    directions, effect = unit_rows(4, found.gradient.shape[1]), EffectOfVectors(byte_model, site, tokens)
    for row, wanted in zip(found.gradient, SETS, strict=True):
        there, back = (effect.measure(step * directions, [wanted])[1][0] for step in (0.02, -0.02))
        assert (there - back) / 0.04 == pytest.approx((directions @ row).numpy(), rel=0.02, abs=2e-4)


@pytest.mark.parametrize("site", SITES)
def test_the_length_has_about_the_effect_asked_for(byte_model: LanguageModel, site: str, tokens: torch.Tensor) -> None:
    found = output_effects(byte_model, site, tokens.repeat(12, 1), SETS)
    directions = unit_rows(24, found.gradient.shape[1])
    length = found.length(directions, 0.001)
    kl = EffectOfVectors(byte_model, site, tokens)(length[:, None] * directions)
    # 576 draws of one chi-square each: a standard deviation of 6 % a direction
    assert kl == pytest.approx(0.001, rel=0.25)
    assert float(kl.mean()) == pytest.approx(0.001, rel=0.06)


def test_lifts_are_the_gradient_times_the_length_and_change_sign_with_the_direction() -> None:
    gradient, scores = torch.tensor([[3.0, 0.0, 1.0]]), torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    effects = OutputEffects(gradient, scores)
    rows = torch.eye(3)
    # d^T F d is 4 / 2, 1 / 2 and 0
    torch.testing.assert_close(effects.length(rows, 0.25), torch.tensor([0.5, 1.0, torch.inf]))
    torch.testing.assert_close(effects.lift(rows, 0.25), torch.tensor([[1.5, 0.0, 0.0]]))
    torch.testing.assert_close(effects.lift(-rows, 0.25), -effects.lift(rows, 0.25))


def test_the_same_seed_gives_the_same_and_no_hook_or_gradient_stays(
    byte_model: LanguageModel, tokens: torch.Tensor
) -> None:
    one, two, other = (output_effects(byte_model, SITES[0], tokens, SETS, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.scores, two.scores)
    assert not torch.equal(one.scores, other.scores)
    assert torch.equal(one.gradient, other.gradient)
    assert not one.gradient.requires_grad
    assert sum(len(point.fwd_hooks) for point in byte_model.bridge.hook_dict.values()) == 0
    with pytest.raises(InputError, match="nothing but BOS and separators"):
        output_effects(byte_model, SITES[0], 0 * tokens, SETS)
