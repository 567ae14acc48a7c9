"""Features on a text of one's own: codes as the decomposer gives them, rankings as a slow loop gives them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from dashboard_workspace import SITE, DashboardWorkspace, make_workspace

from interp.browse.evidence import ShownLabel
from interp.browse.prompt import PromptCodes, encode_prompt, prompt_payload, rank_features
from interp.errors import InputError
from interp.index.reader import FeatureIndex
from interp.model.language_model import LanguageModel, load_model
from interp.steering.continuations import SteeringRequest, compare_continuations, neutral_tokens, sweep_strength
from interp.steering.steerer import Steerer

CODES = np.array([[9.0, 9.0, 9.0, 9.0], [0.0, 1.0, -3.0, 0.0], [0.0, 1.5, 2.0, 0.0], [0.0, 1.5, 0.0, 0.5]], np.float32)
PROMPT = PromptCodes(np.array([0, 5, 6, 7]), ("<bos>", "a", "b", "c"), CODES)


def test_ranking_by_max_takes_the_largest_absolute_code_with_its_sign_and_never_bos() -> None:
    ranked = rank_features(PROMPT, by="max")
    assert [(item.feature, item.value) for item in ranked] == [(2, -3.0), (1, 1.5), (3, 0.5)]
    assert [item.n_active for item in ranked] == [2, 3, 1]


def test_ranking_by_sum_adds_codes() -> None:
    assert [(item.feature, item.value) for item in rank_features(PROMPT, by="sum")] == [(1, 4.0), (2, -1.0), (3, 0.5)]


def test_only_chosen_tokens_count_and_bos_among_them_is_ignored() -> None:
    assert [item.feature for item in rank_features(PROMPT, [0, 3])] == [1, 3]
    assert rank_features(PROMPT, [0]) == []
    assert len(rank_features(PROMPT, n=1)) == 1


def test_rankings_equal_a_slow_loop() -> None:
    codes = np.random.default_rng(0).normal(size=(7, 30)).astype(np.float32) * (
        np.random.default_rng(1).random((7, 30)) < 0.4
    )
    prompt = PromptCodes(np.arange(7), tuple("abcdefg"), codes.astype(np.float32))
    for by in ("max", "sum"):
        slow = []
        for f in range(30):
            column = [float(codes[i, f]) for i in (2, 3, 5)]
            value = max(column, key=abs) if by == "max" else float(np.sum(np.float32(column)))
            if any(column):
                slow.append((f, value))
        slow.sort(key=lambda pair: (-abs(pair[1]), pair[0]))
        found = rank_features(prompt, [5, 2, 3], by=by, n=30)  # type: ignore[arg-type]
        assert [item.feature for item in found] == [f for f, _ in slow]
        assert [item.value for item in found] == pytest.approx([value for _, value in slow], abs=1e-6)


def test_positions_outside_the_text_are_refused() -> None:
    with pytest.raises(InputError, match="there is no token 4; this text has tokens 0-3"):
        rank_features(PROMPT, [4])


def test_the_payload_holds_every_code_but_those_of_bos() -> None:
    prompt = PromptCodes(PROMPT.token_ids, PROMPT.tokens, np.vstack([np.zeros((1, 4), np.float32), CODES[1:]]))
    payload = prompt_payload(prompt, {2: ShownLabel("opens", True)}, None)
    assert payload["tokens"] == ["<bos>", "a", "b", "c"]
    assert [one["feature"] for one in payload["features"]] == [1, 2, 3], "what fires nowhere is left out"
    assert payload["features"][1] == {
        "feature": 2, "at": [1, 2], "codes": [-3.0, 2.0], "label": "opens", "is_automatic": True, "max": None,
        "density": None,
    }  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DashboardWorkspace]:
    return make_workspace(tmp_path_factory.mktemp("prompting"))


@pytest.fixture(scope="module")
def model(made: DashboardWorkspace) -> LanguageModel:
    return load_model(made.run.model_id, device="cpu")


def test_codes_are_the_decomposers_own_on_the_models_activations(
    made: DashboardWorkspace, model: LanguageModel
) -> None:
    prompt = encode_prompt(model, made.run, "with open(path) as file:\n")
    seen: list[torch.Tensor] = []
    model.bridge.run_with_hooks(
        torch.from_numpy(prompt.token_ids)[None], fwd_hooks=[(SITE, lambda activation, hook: seen.append(activation))]
    )
    expected = made.run.decomposer().encode(seen[0][0].detach())
    assert np.allclose(prompt.codes[1:], expected[1:].detach().numpy(), atol=1e-5)
    assert not prompt.codes[0].any(), "BOS is not ranked"
    assert "".join(prompt.tokens[1:]) == "with open(path) as file:\n"


def test_texts_that_do_not_fit_are_refused(made: DashboardWorkspace, model: LanguageModel) -> None:
    with pytest.raises(InputError, match="the text is empty"):
        encode_prompt(model, made.run, "")
    with pytest.raises(InputError, match="reads at most 64: shorten it"):
        encode_prompt(model, made.run, "x = 1\n" * 60)


def test_steered_continuations_share_their_noise_and_report_their_effect(
    made: DashboardWorkspace, model: LanguageModel
) -> None:
    steerer, neutral = Steerer.from_run(model, made.run), neutral_tokens(made.run, n_sequences=3, n_tokens=32)
    assert neutral.shape == (3, 32)
    assert (neutral[:, 0] == model.bos_id).all()
    feature = int(np.argmax(steerer.scales.numpy()))
    nothing = compare_continuations(steerer, SteeringRequest("def f", {feature: 0.0}, n_samples=2, n_tokens=6), neutral)
    assert nothing.baseline == nothing.steered
    assert (nothing.kl, nothing.perplexity_ratio) == pytest.approx((0.0, 1.0), abs=1e-6)
    kls = sweep_strength(steerer, feature, neutral, [1.0, 4.0])
    request = SteeringRequest("def f", {feature: 4.0}, n_samples=2, n_tokens=6)
    assert compare_continuations(steerer, request, neutral).kl == pytest.approx(kls[1])
    assert 0 < kls[0] < kls[1]


def test_the_payload_says_how_large_and_how_dense_features_are_on_the_store(
    made: DashboardWorkspace, model: LanguageModel
) -> None:
    prompt = encode_prompt(model, made.run, "with open(path) as file:\n")
    with FeatureIndex(made.run.index_path) as index:
        payload = prompt_payload(prompt, {}, index)
        pages = [index.feature(one["feature"]) for one in payload["features"]]
    for one, page in zip(payload["features"], pages, strict=True):
        assert (one["max"], one["density"]) == (page["max"], page["density"])
        row = np.zeros(len(prompt.tokens))
        row[one["at"]] = one["codes"]
        assert np.allclose(row, prompt.codes[:, one["feature"]], rtol=1e-3)
    assert set(np.flatnonzero(prompt.codes.any(0))) == {one["feature"] for one in payload["features"]}
