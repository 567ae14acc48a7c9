"""Steering: exact when it should do nothing, as the formulas say when it does, and gone afterwards."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs

from interp.errors import InputError
from interp.model.language_model import LanguageModel
from interp.steering import sampling as sampling_module
from interp.steering.continuations import SteeringRequest, SteeringResult, steering_record
from interp.steering.edits import edit_activations, written
from interp.steering.records import read_steering_records, write_steering_record
from interp.steering.search import LARGEST_STRENGTH, EffectOfVectors, search_strengths
from interp.steering.steerer import Steerer

SITES = ("blocks.1.hook_resid_post", "blocks.0.mlp.hook_post", "blocks.1.attn.hook_z")


@pytest.fixture(scope="module")
def model(byte_model: LanguageModel) -> LanguageModel:
    return byte_model


def steerer_at(model: LanguageModel, site: str, n: int = 6) -> Steerer:
    directions = torch.randn(n, model.site(site).d_in, generator=torch.Generator().manual_seed(1))
    return Steerer(model, site, directions, torch.linspace(1.0, 2.0, n))


@pytest.fixture
def steerer(model: LanguageModel) -> Steerer:
    return steerer_at(model, SITES[0])


@pytest.fixture
def tokens(model: LanguageModel) -> torch.Tensor:
    drawn = torch.randint(1, model.d_vocab, (3, 12), generator=torch.Generator().manual_seed(2))
    drawn[:, 0] = drawn[1, 5] = model.bos_id  # a separator
    return drawn


def n_hooks(model: LanguageModel) -> int:
    return sum(len(point.fwd_hooks) for point in model.bridge.hook_dict.values())


def captured(model: LanguageModel, site: str, steerer: Steerer, tokens: torch.Tensor, **how: Any) -> torch.Tensor:
    """The activation at ``site`` after steering, heads flattened."""
    seen: list[torch.Tensor] = []
    look = [(site, lambda x, hook: seen.append(x.flatten(2).clone()))]
    edits = steerer.edits(how["strengths"], mode=how.get("mode", "add"))
    with written(model, [edits]), model.bridge.hooks(fwd_hooks=look):
        model.logits(tokens)
    return seen[-1]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(
    ("strengths", "mode"), [({}, "add"), ({2: 0.0}, "add"), ({2: 0.0, 4: 0.0}, "ablate"), ({2: 1.0}, "scale")]
)
def test_zero_strength_leaves_logits_bit_identical(
    model: LanguageModel, site: str, strengths: dict[int, float], mode: Any, tokens: torch.Tensor
) -> None:
    assert torch.equal(steerer_at(model, site).logits(tokens, strengths, mode=mode), model.logits(tokens))


@pytest.mark.parametrize("site", SITES)
def test_add_writes_strength_times_scale_times_direction_at_text_and_leaves_bos_and_separators(
    model: LanguageModel, site: str, tokens: torch.Tensor
) -> None:
    steerer = steerer_at(model, site)
    before = captured(model, site, steerer, tokens, strengths={})
    after = captured(model, site, steerer, tokens, strengths={1: 0.5, 3: -2.0})
    added = 0.5 * steerer.scales[1] * steerer.directions[1] - 2.0 * steerer.scales[3] * steerer.directions[3]
    is_text = tokens != model.bos_id
    assert int((~is_text).sum()) == 4
    assert torch.equal(after[~is_text], before[~is_text])
    torch.testing.assert_close(after[is_text], before[is_text] + added)
    assert not torch.allclose(steerer.logits(tokens, {1: 0.5, 3: -2.0})[:, 1:], model.logits(tokens)[:, 1:])


@pytest.mark.parametrize("site", SITES)
def test_clamp_sets_the_coefficients_of_several_oblique_directions(
    model: LanguageModel, site: str, tokens: torch.Tensor
) -> None:
    steerer = steerer_at(model, site)
    before = captured(model, site, steerer, tokens, strengths={})
    after = captured(model, site, steerer, tokens, strengths={0: 1.5, 2: -0.5}, mode="clamp")
    rows = steerer.directions[[0, 2]]
    wanted = torch.tensor([1.5, -0.5]) * steerer.scales[[0, 2]]
    is_text = tokens != model.bos_id
    torch.testing.assert_close(after[is_text] @ rows.T, wanted.expand(32, 2), atol=1e-4, rtol=1e-4)
    # Nothing outside the plane of the two directions has changed.
    change = after - before
    in_plane = change @ torch.linalg.pinv(rows) @ rows
    torch.testing.assert_close(change, in_plane, atol=1e-4, rtol=1e-4)


def test_ablate_removes_the_component_and_half_removes_half(model: LanguageModel, tokens: torch.Tensor) -> None:
    steerer = steerer_at(model, SITES[0])
    is_text = tokens != model.bos_id
    before, whole, half = (
        captured(model, SITES[0], steerer, tokens, strengths={5: share}, mode="ablate")[is_text] @ steerer.directions[5]
        for share in (0.0, 1.0, 0.5)
    )
    torch.testing.assert_close(whole, torch.zeros_like(whole), atol=1e-4, rtol=0)
    torch.testing.assert_close(half, before / 2, atol=1e-4, rtol=1e-4)


def test_clamping_to_zero_is_ablating(steerer: Steerer, tokens: torch.Tensor) -> None:
    clamped = steerer.logits(tokens, {2: 0.0}, mode="clamp")
    torch.testing.assert_close(clamped, steerer.logits(tokens, {2: 1.0}, mode="ablate"))


def test_no_hook_stays_behind_even_after_an_exception(
    model: LanguageModel, steerer: Steerer, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = model.logits(tokens)
    steerer.logits(tokens, {0: 1.0})
    steerer.generate("ab", {0: 1.0}, n_tokens=3)
    steerer.strength_for_kl(0, 0.1, tokens=tokens)

    def fail(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("inside the hook")

    with pytest.raises(RuntimeError, match="inside the hook"), edit_activations(model, SITES[0], fail):
        model.logits(tokens)
    monkeypatch.setattr(sampling_module, "_draw", lambda *_: (_ for _ in ()).throw(RuntimeError("while sampling")))
    with pytest.raises(RuntimeError, match="while sampling"):
        steerer.generate("ab", {0: 1.0}, n_tokens=3)
    assert n_hooks(model) == 0
    assert torch.equal(model.logits(tokens), clean)


def test_the_hooks_of_others_are_left_alone(model: LanguageModel, steerer: Steerer, tokens: torch.Tensor) -> None:
    with model.bridge.hooks(fwd_hooks=[(SITES[1], lambda x, hook: None)]):
        steerer.logits(tokens, {0: 1.0})
        assert n_hooks(model) >= 1
    assert n_hooks(model) == 0


def test_strength_zero_writes_exactly_the_baseline_text(steerer: Steerer) -> None:
    baseline = steerer.generate("def f", {}, n_samples=5, n_tokens=20, seed=3)
    assert steerer.generate("def f", {1: 0.0}, n_samples=5, n_tokens=20, seed=3) == baseline
    assert steerer.generate("def f", {1: 5.0}, n_samples=5, n_tokens=20, seed=3) != baseline
    assert steerer.generate("def f", {}, n_samples=5, n_tokens=20, seed=4) != baseline
    assert len(set(baseline)) == 5


def test_separators_are_left_alone_in_every_family(any_model: LanguageModel) -> None:
    site, seen = "blocks.1.hook_resid_post", []
    tokens = torch.tensor([[any_model.bos_id, 7, 9, any_model.bos_id, 11], [any_model.bos_id, 5, 6, 7, 8]])
    look = [(site, lambda x, hook: seen.append(x.clone()))]
    with any_model.bridge.hooks(fwd_hooks=look):
        any_model.logits(tokens)
    with edit_activations(any_model, site, lambda x: x + 1), any_model.bridge.hooks(fwd_hooks=look):
        any_model.logits(tokens)
    torch.testing.assert_close((seen[1] - seen[0]).mean(-1), (tokens != any_model.bos_id).float(), atol=1e-4, rtol=0)


def test_cached_sampling_writes_what_sampling_without_a_cache_writes(model: LanguageModel, steerer: Steerer) -> None:
    start = model.encode("x = ").repeat(3, 1)
    start[:, 2] = model.bos_id
    fast = steerer.sample(start, {0: 2.0, 1: -1.0}, n_tokens=15, seed=7)
    generator, sequence = torch.Generator().manual_seed(7), start
    for _ in range(15):
        logits = steerer.logits(sequence, {0: 2.0, 1: -1.0})[:, -1]
        noise = -torch.empty(logits.shape).exponential_(generator=generator).log()
        sequence = torch.cat([sequence, (logits + noise).argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(fast, sequence[:, start.shape[1] :])


@pytest.mark.parametrize("mode", ["add", "clamp", "ablate"])
def test_variants_in_one_batch_write_what_they_write_alone(model: LanguageModel, steerer: Steerer, mode: Any) -> None:
    start = model.encode("x").repeat(2, 1)
    variants: list[dict[int, float]] = [{}, {0: 1.0}, {3: 0.7, 1: -0.4}]
    together = steerer.sample_each(start, variants, n_tokens=10, seed=1, mode=mode)
    for variant, found in zip(variants, together, strict=True):
        assert torch.equal(found, steerer.sample(start, variant, n_tokens=10, seed=1, mode=mode))


def test_sampling_follows_the_models_distribution(model: LanguageModel, steerer: Steerer) -> None:
    start = model.encode("a").repeat(20_000, 1)
    drawn = steerer.sample(start, {}, n_tokens=1, temperature=2.0)[:, 0]
    wanted = (model.logits(start[:1])[0, -1] / 2.0).softmax(-1)
    found = torch.bincount(drawn, minlength=model.d_vocab) / len(drawn)
    assert float((found - wanted).abs().sum() / 2) < 0.05  # total variation; sampling noise alone is about .03


def test_temperature_zero_takes_the_likeliest_token(model: LanguageModel, steerer: Steerer) -> None:
    start = model.encode("a b c").repeat(2, 1)
    drawn = steerer.sample(start, {}, n_tokens=4, temperature=0)
    assert torch.equal(drawn[0], drawn[1])
    whole = torch.cat([start, drawn], dim=1)
    assert torch.equal(model.logits(whole)[:, start.shape[1] - 1 : -1].argmax(-1), drawn)


def test_log_probs_are_those_of_the_unsteered_model(
    model: LanguageModel, steerer: Steerer, tokens: torch.Tensor
) -> None:
    found = steerer.log_probs(tokens, n_prompt=5)
    for row in range(3):
        for i, position in enumerate(range(5, 12)):
            slow = model.logits(tokens[row : row + 1, :position])[0, -1].double().log_softmax(-1)
            assert float(found[row, i]) == pytest.approx(float(slow[tokens[row, position]]), abs=1e-4)


def slow_kl(model: LanguageModel, steerer: Steerer, tokens: torch.Tensor, strengths: dict[int, float]) -> float:
    """Mean over tokens of text, one sequence at a time, in float64."""
    values = []
    for row in tokens:
        clean = model.logits(row[None])[0].double().log_softmax(-1)
        steered = steerer.logits(row[None], strengths)[0].double().log_softmax(-1)
        values.append((clean.exp() * (clean - steered)).sum(-1)[row != model.bos_id])
    return float(torch.cat(values).mean())


def test_kl_is_the_slow_formula_and_zero_without_steering(
    model: LanguageModel, steerer: Steerer, tokens: torch.Tensor
) -> None:
    assert steerer.kl(tokens, {1: 1.5}) == pytest.approx(slow_kl(model, steerer, tokens, {1: 1.5}), rel=1e-4)
    assert steerer.kl(tokens, {1: 0.0}) == 0.0


def test_perplexity_ratio_is_the_slow_formula(model: LanguageModel, steerer: Steerer, tokens: torch.Tensor) -> None:
    def nll(logits: torch.Tensor) -> float:
        places = [(s, p) for s in range(3) for p in range(1, 11) if tokens[s, p] != model.bos_id]
        return float(np.mean([-logits[s, p].double().log_softmax(-1)[tokens[s, p + 1]] for s, p in places]))

    slow = np.exp(nll(steerer.logits(tokens, {0: 3.0})) - nll(model.logits(tokens)))
    assert steerer.perplexity_ratio(tokens, {0: 3.0}) == pytest.approx(slow, rel=1e-4)
    assert steerer.perplexity_ratio(tokens, {}) == 1.0


@pytest.mark.parametrize("sign", [1, -1])
def test_searched_strengths_have_the_effect_asked_for(
    model: LanguageModel, steerer: Steerer, tokens: torch.Tensor, sign: int
) -> None:
    found = steerer.strengths_for_kl([4, 0, 2], 0.1, tokens=tokens, sign=sign)
    assert [search.feature for search in found] == [4, 0, 2]
    for search in found:
        assert search.reached
        assert search.strength * sign > 0
        assert search.kl == pytest.approx(0.1, rel=0.05)
        assert search.kl == pytest.approx(slow_kl(model, steerer, tokens, {search.feature: search.strength}), rel=1e-3)


def test_features_searched_together_get_the_strength_they_get_alone(steerer: Steerer, tokens: torch.Tensor) -> None:
    together = steerer.strengths_for_kl([0, 1, 2], 0.2, tokens=tokens)
    alone = [steerer.strength_for_kl(f, 0.2, tokens=tokens) for f in (0, 1, 2)]
    assert [s.strength for s in together] == pytest.approx([s.strength for s in alone], rel=1e-2)


def test_an_unreachable_effect_is_reported_with_the_nearest_strength(steerer: Steerer, tokens: torch.Tensor) -> None:
    dead = Steerer(steerer.model, SITES[0], steerer.directions, torch.tensor([0.0, *[1.0] * 5]))
    for search in (dead.strengths_for_kl([0], 0.1, tokens=tokens)[0], steerer.strength_for_kl(0, 1e3, tokens=tokens)):
        assert not search.reached
        assert search.kl < search.target


def test_the_search_takes_the_first_crossing() -> None:
    def effect(rows: np.ndarray, strengths: np.ndarray) -> np.ndarray:
        return np.where(rows == 0, strengths**2, np.where(strengths < 1, strengths, 0.9 / strengths))

    strengths, effects = search_strengths(effect, 3, 0.5)
    assert strengths == pytest.approx([0.5**0.5, 0.5, 0.5], rel=0.01)
    assert effects == pytest.approx(0.5, rel=0.01)
    assert search_strengths(lambda rows, s: 0 * s + 0.1, 1, 0.5)[1] == 0.1
    assert search_strengths(lambda rows, s: 0 * s + 1.5, 1, 0.5) == (0, 0), "none at all is nearer"
    assert search_strengths(lambda rows, s: 1e-6 * s, 1, 0.5)[0] == LARGEST_STRENGTH
    assert search_strengths(lambda rows, s: 1e6 * s**2, 1, 0.5)[0] == pytest.approx((0.5e-6) ** 0.5, rel=0.01)


def test_a_quadratic_effect_is_found_in_two_tries_and_one_from_the_right_start() -> None:
    tried: list[float] = []

    def effect(rows: np.ndarray, strengths: np.ndarray) -> np.ndarray:
        tried.extend(strengths.tolist())
        return 0.7 * strengths**2

    search_strengths(effect, 1, 0.5)
    assert len(tried) == 2
    tried.clear()
    search_strengths(effect, 1, 0.5, start=np.array([(0.5 / 0.7) ** 0.5]))
    assert len(tried) == 1


def test_lifts_are_the_slow_formula(model: LanguageModel, steerer: Steerer, tokens: torch.Tensor) -> None:
    wanted, added = torch.tensor([3, 70, 9]), 4.0 * steerer.directions[:3]
    effects, (other, found) = EffectOfVectors(model, SITES[0], tokens).measure(added, [torch.tensor([1]), wanted])
    assert not np.allclose(other, found)
    clean = model.logits(tokens).double().softmax(-1)[..., wanted].sum(-1).log()
    for feature in range(3):
        steered = steerer.logits(tokens, {feature: 4.0 / float(steerer.scales[feature])}).double().softmax(-1)
        gain = (steered[..., wanted].sum(-1).log() - clean)[tokens != model.bos_id].mean()
        assert found[feature] == pytest.approx(float(gain), rel=1e-4)
        kl = slow_kl(model, steerer, tokens, {feature: 4.0 / float(steerer.scales[feature])})
        assert effects[feature] == pytest.approx(kl, rel=1e-3)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_effects_that_are_not_finite_are_above_the_target(wrong: float) -> None:
    strengths, effects = search_strengths(lambda rows, s: np.where(s > 1, wrong, s), 1, 0.5)
    assert effects == pytest.approx([0.5], rel=0.01)
    assert strengths == pytest.approx([0.5], rel=0.01)
    strengths, effects = search_strengths(lambda rows, s: np.where(s > 0.3, wrong, s), 1, 0.5)
    assert effects == pytest.approx([0.3], rel=0.01)
    assert search_strengths(lambda rows, s: 0 * s + wrong, 1, 0.5) == (0, 0)


def test_a_model_that_predicts_nothing_finite_is_refused(steerer: Steerer, tokens: torch.Tensor) -> None:
    overflow = [("unembed.hook_in", lambda x, hook: x * torch.inf)]
    with (
        steerer.model.bridge.hooks(fwd_hooks=overflow),
        pytest.raises(InputError, match="predicts nothing finite on the neutral text, so no effect can be measured"),
    ):
        steerer.strengths_for_kl([0], 0.1, tokens=tokens)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, t: s.generate("a" * 40, {0: 1.0}, n_tokens=20), "41 tokens and 20 new ones exceed the 48 tokens"),
        (lambda s, t: s.generate("a", {9: 1.0}, n_tokens=4), "no feature 9; features are numbered 0 to 5"),
        (
            lambda s, t: s.logits(t, {0: 1.0}, mode="push"),
            "no steering mode 'push'; there are 'add', 'clamp', 'scale', 'ablate'",
        ),
        (lambda s, t: s.logits(t, {0: float("nan")}), "strength is not finite"),
        (lambda s, t: s.kl(t[:, 1:], {0: 1.0}), "every sequence must begin with the BOS token 0"),
        (lambda s, t: s.kl(0 * t, {0: 1.0}), "the sequences hold nothing but BOS and separators; give text"),
        (lambda s, t: s.strengths_for_kl([0], 0.1, tokens=0 * t), "nothing but BOS and separators; give text"),
        (lambda s, t: s.kl(t[:0], {0: 1.0}), "give at least one sequence of 3 to 48 tokens"),
        (lambda s, t: s.strength_for_kl(0, 0.0, tokens=t), "give a target > 0"),
        (lambda s, t: s.strength_for_kl(0, 0.1, tokens=t, sign=2, mode="scale"), "give a target > 0 and sign 1 or -1"),
        (lambda s, t: s.generate("a", {}, n_samples=0), "give at least one text"),
        (lambda s, t: Steerer(s.model, SITES[1], s.directions, s.scales), r"\(6, 32\) but 'blocks.0.mlp.hook_post'"),
        (lambda s, t: Steerer(s.model, SITES[0], s.directions, s.scales[:2]), "6 directions but scales of shape"),
        (
            lambda s, t: Steerer(s.model, SITES[0], s.directions, 0 * s.scales).logits(t, {3: 1.0}),
            "feature 3 never fires",
        ),
        (
            lambda s, t: Steerer(s.model, SITES[0], s.directions, 0 * s.scales).strength_for_kl(3, 0.1, tokens=t),
            "feature 3 never fires",
        ),
        (lambda s, t: Steerer(s.model, "blocks.1.hook_resid_pots", s.directions, s.scales), "blocks.1.hook_resid_post"),
    ],
)
def test_wrong_input_is_named(steerer: Steerer, tokens: torch.Tensor, call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(steerer, tokens)


def test_records_come_back_in_order_and_a_torn_line_costs_only_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run: Any = SimpleNamespace(path=tmp_path)
    assert read_steering_records(run) == []
    request = SteeringRequest("def", {1: 2.0, 12: -1.5})
    first = steering_record(request, SteeringResult(["a\nb"], ["é"], kl=0.2, perplexity_ratio=1.5))
    write_steering_record(run, first)
    with (tmp_path / "steering.jsonl").open("a") as file:
        file.write('{"prompt": "x", "stren')
    write_steering_record(run, structs.replace(first, mode="rotate"))
    with caplog.at_level(logging.WARNING):
        records = read_steering_records(run)
    assert records == [first, structs.replace(first, mode="rotate")]
    assert records[0].strengths == {1: 2.0, 12: -1.5}
    assert "line 2 was cut short" in caplog.text
    with pytest.raises(InputError, match="the SteeringRecord cannot be written: expected float, got null at kl"):
        write_steering_record(run, structs.replace(first, kl=float("nan")))
    with (tmp_path / "steering.jsonl").open("a") as file:
        file.write(json.dumps({"schema": "other"}) + "\n")
    with pytest.raises(
        InputError, match=r"line 4 is other version None, this program reads interp.steering-record ver"
    ):
        read_steering_records(run)
