"""How steered text is drawn, token by token, against cases worked by hand; and what a token's likelihood changes by."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor

from interp.errors import InputError
from interp.figures import next_tokens_html, token_changes_html
from interp.model.language_model import LanguageModel
from interp.steering.continuations import SteeringRequest, compare_continuations, continuations
from interp.steering.edits import Positions
from interp.steering.effects import edited_logits, next_tokens, token_changes
from interp.steering.sampling import Sampling, kept, penalised
from interp.steering.steerer import Steerer

SITE = "blocks.1.hook_resid_post"
P = torch.tensor([[0.4, 0.05, 0.3, 0.15, 0.1]])


@pytest.fixture
def steerer(byte_model: LanguageModel) -> Steerer:
    directions = torch.randn(3, byte_model.site(SITE).d_in, generator=torch.Generator().manual_seed(1))
    return Steerer(byte_model, SITE, directions, torch.ones(3))


@pytest.fixture
def neutral(byte_model: LanguageModel) -> Tensor:
    tokens = torch.randint(1, byte_model.d_vocab, (2, 12), generator=torch.Generator().manual_seed(2))
    tokens[:, 0] = byte_model.bos_id
    return tokens


def n_hooks(model: LanguageModel) -> int:
    return sum(len(point.fwd_hooks) for point in model.bridge.hook_dict.values())


@pytest.mark.parametrize(
    ("sampling", "stay"),
    [
        (Sampling(), [0, 1, 2, 3, 4]),
        (Sampling(top_k=2), [0, 2]),
        (Sampling(top_k=9), [0, 1, 2, 3, 4]),
        (Sampling(top_p=0.39), [0]),
        (Sampling(top_p=0.6), [0, 2]),  # 0.4 is not enough, 0.4 + 0.3 is
        (Sampling(top_p=0.84), [0, 2, 3]),
        (Sampling(top_p=0.97), [0, 1, 2, 3, 4]),
        (Sampling(top_k=3, top_p=0.5), [0, 2]),  # of the three, 0.4 / 0.85 = 0.47 is not enough
        (Sampling(top_k=2, top_p=0.55), [0]),  # of the two, 0.4 / 0.7 = 0.57 is
    ],
)
def test_top_k_and_top_p_keep_the_likeliest(sampling: Sampling, stay: list[int]) -> None:
    found = kept(P.log(), sampling)
    assert found[0].isfinite().nonzero()[:, 0].tolist() == stay
    assert torch.equal(found[0, stay], P.log()[0, stay])


def test_a_penalty_divides_what_is_positive_and_multiplies_what_is_negative() -> None:
    logits = torch.tensor([[3.0, 2.0, -1.0, 4.0], [3.0, 2.0, -1.0, 4.0]])
    text = torch.tensor([[0, 1, 2, 1], [0, 3, 3, 3]])
    expected = torch.tensor([[3.0, 1.0, -2.0, 4.0], [3.0, 2.0, -1.0, 2.0]])  # BOS, token 0, stays
    assert torch.equal(penalised(logits, text, 2.0, bos_id=0), expected)


def test_a_strong_penalty_writes_no_token_twice(byte_model: LanguageModel, steerer: Steerer) -> None:
    start = byte_model.encode("abc")
    text = torch.cat([start, steerer.sample(start[None], {}, n_tokens=30, sampling=Sampling(0.0, 0, 1.0, 1e6))[0]])
    assert len(text.unique()) == len(text)


def test_sampled_tokens_have_the_filtered_distribution(byte_model: LanguageModel, steerer: Steerer) -> None:
    start = byte_model.encode("a").repeat(20_000, 1)
    drawn = steerer.sample(start, {}, n_tokens=1, sampling=Sampling(temperature=2.0, top_k=40, top_p=0.5))[:, 0]
    p = (byte_model.logits(start[:1])[0, -1].double() / 2).softmax(-1)
    chosen = p.argsort(descending=True)[:40]
    chosen = chosen[: int((p[chosen].cumsum(0) / p[chosen].sum() < 0.5).sum()) + 1]
    wanted = torch.zeros_like(p).index_put((chosen,), p[chosen] / p[chosen].sum())
    found = torch.bincount(drawn, minlength=byte_model.d_vocab) / len(drawn)
    assert set(drawn.tolist()) <= set(chosen.tolist())
    assert float((found - wanted).abs().sum() / 2) < 0.03


def test_filtered_text_shares_its_noise_with_the_baseline(steerer: Steerer) -> None:
    options = {"n_samples": 4, "n_tokens": 12, "seed": 5, "sampling": Sampling(1.0, 20, 0.9, 1.2)}
    assert steerer.generate("de", {1: 0.0}, **options) == steerer.generate("de", {}, **options)
    barely, strongly = (steerer.generate("de", {1: strength}, **options) for strength in (1e-4, 5.0))
    assert barely == steerer.generate("de", {}, **options) != strongly


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": -0.1}, "the temperature is -0.1; give 0 or more"),
        ({"temperature": float("nan")}, "the temperature is nan; give 0 or more"),
        ({"top_k": -1}, "top-k is -1; give a number of tokens, or 0 for all"),
        ({"top_p": 1.2}, "top-p is 1.2; give a probability above 0 and at most 1"),
        ({"repetition_penalty": 0.0}, "the repetition penalty is 0.0; give a number above 0"),
    ],
)
def test_sampling_that_means_nothing_is_refused(options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Sampling(**options)


# ------------------------------------------------------------------------------------------------------------ streaming


def test_texts_grow_to_what_is_written_at_once_without_a_hook_left_between(
    byte_model: LanguageModel, steerer: Steerer, neutral: Tensor
) -> None:
    request = SteeringRequest("def", {0: 4.0}, n_samples=2, n_tokens=6, seed=1)
    clean, seen = byte_model.logits(neutral), []
    for texts in continuations(steerer, request):
        assert n_hooks(byte_model) == 0
        assert torch.equal(byte_model.logits(neutral), clean)
        seen.append(texts)
    assert [texts.tokens.shape for texts in seen] == [(2, 2, n) for n in range(1, 7)]
    assert torch.equal(seen[2].tokens, seen[-1].tokens[..., :3])
    shown: list = []
    result = compare_continuations(steerer, request, neutral, show=shown.append)
    assert (result.baseline, result.steered) == (seen[-1].baseline, seen[-1].steered)
    assert [texts.steered for texts in shown] == [texts.steered for texts in seen]
    assert result.steered == steerer.generate("def", {0: 4.0}, n_samples=2, n_tokens=6, temperature=0.7, seed=1)
    with pytest.raises(RuntimeError, match="closed window"):
        compare_continuations(steerer, request, neutral, show=_fail)
    assert n_hooks(byte_model) == 0


def _fail(texts: object) -> None:
    raise RuntimeError("closed window")


def test_nothing_is_drawn_from_logits_that_are_not_finite(
    byte_model: LanguageModel, steerer: Steerer, neutral: Tensor
) -> None:
    start = byte_model.encode("ab")[None]
    for strength in (1e39, -1e39):
        with pytest.raises(
            InputError, match="the logits for new token 1 are not finite, so none can be drawn; steer less"
        ):
            steerer.sample(start, {0: strength}, n_tokens=3)
    assert n_hooks(byte_model) == 0
    late = Steerer(
        byte_model, SITE, steerer.directions, steerer.scales, positions=Positions("all", ("z",))
    )  # no new token is z, but neutral text holds one
    request = SteeringRequest("ab", {0: 1e39}, n_samples=1, n_tokens=2, sampling=Sampling(temperature=0))
    neutral[1, 5] = byte_model.encode("z")[1]
    with pytest.raises(InputError, match="predictions on neutral text are not finite; steer less strongly"):
        compare_continuations(late, request, neutral)


# -------------------------------------------------------------------------------------------------------- token by token


def test_a_tokens_change_is_that_of_its_log_probability(byte_model: LanguageModel, steerer: Steerer) -> None:
    texts = torch.stack([byte_model.encode("def f(x)"), byte_model.encode("a = [1] ")])
    edits = steerer.edits({0: 3.0})
    found = token_changes(byte_model, edits, texts)
    for row, changes in zip(texts, found, strict=True):
        assert "".join(change.text for change in changes) == byte_model.decode(row[1:])
        for i in range(1, len(row)):
            with_it, without = (
                edited_logits(byte_model, each, row[None, :i])[0, -1].double().log_softmax(-1) for each in (edits, [])
            )
            assert changes[i - 1].change == pytest.approx(float(with_it[row[i]] - without[row[i]]), abs=1e-4)
    assert found[0][0].change == 0, "BOS predicts it, and nothing is written there"


def test_from_the_prompts_end_on_only_what_follows_changes(byte_model: LanguageModel, steerer: Steerer) -> None:
    late = Steerer(byte_model, SITE, steerer.directions, steerer.scales, positions=Positions("end"))
    text = byte_model.encode("def f(x)")[None]
    changes = [change.change for change in token_changes(byte_model, late.edits({0: 3.0}), text, n_prompt=4)[0]]
    assert changes[:3] == [0.0, 0.0, 0.0]
    assert all(abs(change) > 1e-4 for change in changes[3:])


def test_next_tokens_are_the_likeliest_of_both_sides(byte_model: LanguageModel, steerer: Steerer) -> None:
    text, edits = byte_model.encode("def f"), steerer.edits({0: 4.0})
    found = next_tokens(byte_model, edits, text, k=3)
    sides = [edited_logits(byte_model, each, text[None])[0, -1].double().softmax(-1) for each in ([], edits)]
    ids = {int(i) for p in sides for i in p.argsort(descending=True)[:3]}
    assert [token.text for token in found] == byte_model.token_strings(sorted(ids, key=lambda i: -sides[1][i]))
    for token in found:
        i = next(i for i in ids if byte_model.token_strings([i]) == [token.text])
        assert (token.baseline, token.steered) == pytest.approx((float(sides[0][i]), float(sides[1][i])), rel=1e-3)


def test_what_a_request_changes_is_told_for_prompt_and_text(
    byte_model: LanguageModel, steerer: Steerer, neutral: Tensor
) -> None:
    result = compare_continuations(steerer, SteeringRequest("def", {0: 4.0}, n_samples=2, n_tokens=5), neutral)
    assert "".join(change.text for change in result.prompt_changes) == "def"
    assert [len(changes) for changes in result.changes] == [5, 5]
    first, likelihood = result.changes[0][0], {token.text: token for token in result.next_tokens}
    for token in likelihood.values():
        if token.text == first.text:
            assert first.change == pytest.approx(log(token.steered / token.baseline), abs=1e-3)
    assert sum(token.steered for token in result.next_tokens) <= 1


def test_tokens_are_shown_escaped_and_coloured_by_sign() -> None:
    shown = token_changes_html([("<b>", 4.0), ("&", -1.0), ("x", float("nan"))])
    assert "<b>" not in shown
    assert "&lt;b&gt;" in shown
    assert "rgba(230,159,0,0.80)" in shown
    assert "rgba(86,180,233,0.20)" in shown
    assert 'title="-1.00 nats">&amp;</span>' in shown
    table = next_tokens_html([("<script>", 0.25, 0.5), (" \n", 0.1, 0.01)])
    assert "<script>" not in table
    assert "<td>25.0%</td>" in table
    assert "width:50.0%" in table
    assert "␣⏎" in table
