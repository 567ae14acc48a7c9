"""Ablation: what a forward pass written out gives, and the planted feature's effect told from that of the controls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_evaluation import Affine, Quadratic
from torch import Tensor

from interp.errors import InputError
from interp.evaluation import ablation
from interp.evaluation.ablation import AblationTarget, LabelledText, ablate_features
from interp.evaluation.ablation_results import AblationConfig, ConceptAblation
from interp.evaluation.estimates import Estimate
from interp.evaluation.evidence import Detected, FeatureEvidence
from interp.evaluation.feature_evidence import ablation_tests
from interp.evaluation.prediction_means import PredictionMeans
from interp.model.language_model import LanguageModel
from interp.model.sites import Site
from interp.records import from_json, to_json

FIRST, LAST = Site.of("blocks.0.hook_resid_post"), Site.of("blocks.1.hook_resid_post")
FEW = AblationConfig(n_sequences=4, n_draws=3, min_predictions=2)


def dictionary(n: int, d: int, *, seed: int = 0) -> Affine:
    """Non-negative codes along random directions, which fire on a fifth of the tokens or so."""
    generator = torch.Generator().manual_seed(seed)
    A, W = torch.randn(d, n, generator=generator), torch.randn(n, d, generator=generator)
    return Affine(A, 0.5 * W, torch.full((d,), 0.3), rectified=True)


def made_up_text(model: LanguageModel, n: int = 6, length: int = 20) -> LabelledText:
    """Random tokens of one document a sequence, with a separator in each; the concept is an even token id."""
    tokens = np.random.default_rng(0).integers(1, model.d_vocab, (n, length))
    tokens[:, [0, 11]] = model.bos_id
    documents = np.repeat(np.arange(n)[:, None], length, axis=1)
    return LabelledText(tokens, documents, {"even": tokens % 2 == 0})


def slow_predictions(
    model: LanguageModel, decomposer: Affine, site: Site, tokens: np.ndarray, target: AblationTarget, direction: Tensor
) -> list[tuple[int, float, float]]:
    """(position, change of the next token's log-probability, KL) where the feature fires, by one pass for the sequence."""
    row = torch.from_numpy(tokens)[None]
    z: list[float] = []

    def read(x: Tensor, hook: Any) -> None:
        z.extend(decomposer.encode(x.flatten(2)[0])[:, target.feature].tolist())

    model.bridge.run_with_hooks(row, fwd_hooks=[(site.read, read)])
    fires = [target.sign * z[p] > target.threshold and tokens[p] != model.bos_id for p in range(len(tokens))]

    def write(x: Tensor, hook: Any) -> Tensor:
        x = x.clone()
        for position in range(len(tokens)):
            if fires[position]:
                x[0, position] -= (z[position] * direction).view(x.shape[2:])
        return x

    clean = model.logits(row)[0].double().log_softmax(-1)
    ablated = model.bridge.run_with_hooks(row, fwd_hooks=[(site.write, write)])[0].double().log_softmax(-1)
    return [
        (p, float((ablated - clean)[p, tokens[p + 1]]), float((clean[p].exp() * (clean[p] - ablated[p])).sum()))
        for p in range(len(tokens) - 1)
        if fires[p] and tokens[p + 1] != model.bos_id
    ]


def expect(found: Any, text: LabelledText, rows: list[tuple[int, int, float, float]]) -> None:
    """``found`` is an effect of the predictions (sequence, position, change, KL)."""
    has = [text.labels["even"][sequence, position + 1] for sequence, position, _, _ in rows]
    on = np.mean([row[2] for row, h in zip(rows, has, strict=True) if h])
    off = np.mean([row[2] for row, h in zip(rows, has, strict=True) if not h])
    assert found.with_concept == pytest.approx(on, abs=2e-6)
    assert found.without_concept == pytest.approx(off, abs=2e-6)
    assert found.specific == pytest.approx(on - off, abs=4e-6)
    assert found.kl == pytest.approx(np.mean([row[3] for row in rows]), abs=2e-6)


@pytest.mark.parametrize("site", ["blocks.0.hook_resid_post", "blocks.0.mlp.hook_post", "blocks.0.hook_attn_out"])
def test_a_feature_is_taken_out_as_by_a_pass_written_out_in_every_architecture(
    any_model: LanguageModel, site: str
) -> None:
    text, where = made_up_text(any_model), Site.of(site)
    decomposer = dictionary(8, any_model.site(site).d_in)
    target = AblationTarget("even", 3)
    config = AblationConfig(n_sequences=6, n_draws=2, min_predictions=1)
    (found,) = ablate_features(any_model, decomposer, site=where, text=text, targets=[target], config=config)
    rows = [
        (s, *row)
        for s, tokens in enumerate(text.tokens)
        for row in slow_predictions(any_model, decomposer, where, tokens, target, decomposer.W_dec[3])
    ]
    assert found.n_predictions == len(rows) > 5
    assert found.n_with_concept == sum(text.labels["even"][s, p + 1] for s, p, _, _ in rows)
    assert found.own is not None
    assert found.own.kl > 1e-4
    expect(found.own, text, rows)


def test_a_transcoder_is_read_at_one_hook_point_and_taken_out_at_another(byte_model: LanguageModel) -> None:
    text, site = made_up_text(byte_model), Site("blocks.0.hook_resid_mid", "blocks.0.hook_mlp_out")
    decomposer, target = dictionary(8, 32), AblationTarget("even", 1)
    (found,) = ablate_features(
        byte_model, decomposer, site=site, text=text, targets=[target], config=replaced(n_sequences=6)
    )
    rows = [
        (s, *row)
        for s, tokens in enumerate(text.tokens)
        for row in slow_predictions(byte_model, decomposer, site, tokens, target, decomposer.W_dec[1])
    ]
    expect(found.own, text, rows)


def replaced(**options: int) -> AblationConfig:
    return AblationConfig(**{"n_sequences": 4, "n_draws": 3, "min_predictions": 2} | options)


def test_a_signed_feature_is_taken_out_on_its_side_and_above_its_threshold(byte_model: LanguageModel) -> None:
    text = made_up_text(byte_model)
    linear = dictionary(5, 32)
    decomposer = Affine(linear._A, linear.W_dec, linear.b_dec)
    target = AblationTarget("even", 2, sign=-1, threshold=0.7)
    (found,) = ablate_features(
        byte_model, decomposer, site=LAST, text=text, targets=[target], config=replaced(n_sequences=6)
    )
    rows = [
        (s, *row)
        for s, tokens in enumerate(text.tokens)
        for row in slow_predictions(byte_model, decomposer, LAST, tokens, target, decomposer.W_dec[2])
    ]
    assert 0 < found.n_predictions == len(rows) < text.tokens.size / 2
    expect(found.own, text, rows)


def test_the_control_features_are_those_that_fire_as_often_and_take_out_as_much(byte_model: LanguageModel) -> None:
    text = made_up_text(byte_model)
    decomposer = dictionary(6, 32)
    decomposer._A[:, 4] = decomposer._A[:, 1]  # fires where feature 1 does
    decomposer._A[:, 5] = decomposer._A[:, 1]
    decomposer._W_dec[5] = 0  # dead
    target = AblationTarget("even", 1)
    options = {"site": LAST, "text": text, "targets": [target]}
    kls_of_feature_4 = set()
    for seed in range(4):
        config = replaced(n_sequences=6, n_draws=1, seed=seed)
        (found,) = ablate_features(byte_model, decomposer, config=config, **options)
        features, random = found.controls
        assert (features.directions, features.n_draws, features.kl_spread) == ("features", 1, None)
        assert (random.directions, random.n_draws) == ("random", 1)
        kls_of_feature_4.add(features.mean.kl)
    assert len(kls_of_feature_4) == 1
    as_long = decomposer.W_dec[4] / decomposer.W_dec[4].norm() * decomposer.W_dec[1].norm()
    rows = [
        (s, *row)
        for s, tokens in enumerate(text.tokens)
        for row in slow_predictions(byte_model, decomposer, LAST, tokens, target, as_long)
    ]
    expect(features.mean, text, rows)
    (found,) = ablate_features(byte_model, decomposer, config=replaced(n_draws=9), **options)
    assert [control.n_draws for control in found.controls] == [4, 9]
    for control in found.controls:
        assert control.kl_spread is not None
        assert found.own is not None
        for name in ("with_concept", "specific", "kl"):
            wanted = getattr(found.own, name) - getattr(control.mean, name)
            assert getattr(control.difference, name) == pytest.approx(wanted)
    decomposer._W_dec[1] *= 1e-3
    (found,) = ablate_features(byte_model, decomposer, config=FEW, **options)
    for control in found.controls:
        assert 0 <= control.mean.kl < 1e-5


# -------------------------------------------------------------------------------------------------------------- planted


def planted(model: LanguageModel) -> tuple[Affine, LabelledText]:
    """Feature 0 fires on a third of the tokens and writes what raises even tokens; the other 30 write at random.

    At the last layer, so that what taking it out does is known: the logits are those of the remaining residual stream.
    """
    tokens = np.random.default_rng(1).integers(1, model.d_vocab, (12, 40))
    tokens[:, 0] = model.bos_id
    even = torch.arange(model.d_vocab) % 2 == 0
    W_U = model.bridge.W_U
    decomposer = dictionary(31, 32, seed=3)
    decomposer._W_dec[0] = torch.nn.functional.normalize(W_U[:, even].mean(1) - W_U[:, ~even].mean(1), dim=0)
    decomposer._W_dec[1:] = torch.nn.functional.normalize(decomposer._W_dec[1:], dim=1)
    documents = np.repeat(np.arange(12)[:, None], 40, axis=1)
    return decomposer, LabelledText(tokens, documents, {"even": tokens % 2 == 0})


def test_the_planted_feature_acts_for_its_concept_by_the_amount_computed_and_its_controls_do_not(
    byte_model: LanguageModel,
) -> None:
    decomposer, text = planted(byte_model)
    config = AblationConfig(n_sequences=12)
    (found,) = ablate_features(
        byte_model, decomposer, site=LAST, text=text, targets=[AblationTarget("even", 0)], config=config
    )
    _, cache = byte_model.bridge.run_with_cache(torch.from_numpy(text.tokens), names_filter=LAST.read)
    x = cache[LAST.read].double()
    z = decomposer.encode(x.float())[..., 0].double()
    network = byte_model.bridge.original_model
    norm, W_U = network.transformer.ln_f, network.lm_head.weight.double().T

    def log_p(rows: Tensor) -> Tensor:
        centred = rows - rows.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()
        return ((scaled * norm.weight.double() + norm.bias.double()) @ W_U).log_softmax(-1)

    change = log_p(x - z[..., None] * decomposer.W_dec[0].double()) - log_p(x)
    fires = (z[:, 1:-1] > 0).numpy()
    next_token = torch.from_numpy(text.tokens[:, 2:])[..., None]
    of_next = change[:, 1:-1].gather(-1, next_token)[..., 0].numpy()
    has = text.labels["even"][:, 2:]
    own = found.own
    assert own is not None
    assert own.specific_interval is not None
    assert found.reason is None
    assert own.with_concept == pytest.approx(of_next[fires & has].mean(), abs=1e-5)
    assert own.without_concept == pytest.approx(of_next[fires & ~has].mean(), abs=1e-5)
    assert own.with_concept < 0 < own.without_concept
    assert own.specific_interval[1] < 0
    for control in found.controls:
        assert control.difference.specific_interval is not None
        assert control.difference.specific_interval[1] < 0
        assert abs(control.mean.specific) < 0.3 * abs(own.specific)


def test_a_decoy_that_fires_with_the_planted_feature_does_not_act_for_the_concept(byte_model: LanguageModel) -> None:
    decomposer, text = planted(byte_model)
    decomposer._A[:, 1] = decomposer._A[:, 0]
    config = AblationConfig(n_sequences=12)
    targets = [AblationTarget("even", 0), AblationTarget("even", 1)]
    own, decoy = ablate_features(byte_model, decomposer, site=LAST, text=text, targets=targets, config=config)
    assert own.n_predictions == decoy.n_predictions
    assert own.own is not None
    assert decoy.own is not None
    assert own.own.specific_interval[1] < 0 < decoy.own.specific_interval[1]
    assert abs(decoy.own.specific) < 0.5 * abs(own.own.specific)
    assert decoy.own.kl > 0.5 * own.own.kl
    for control in decoy.controls:
        low, high = control.difference.specific_interval
        assert low < 0 < high
    detected = Detected(
        concept="even", f1=0.6, precision=0.9, recall=0.5, excess=Estimate(value=0.3, low=0.2, high=0.4), n_documents=9,
        is_detected=True,
    )  # fmt: skip
    grades = [
        FeatureEvidence(
            feature=each.feature, sign=1, threshold=0.0, n_fires=90, detected=detected,
            tests=tuple(test for _, _, test in ablation_tests([each])),
        ).grade
        for each in (own, decoy)
    ]  # fmt: skip
    assert grades == ["detects and acts", "detects"], "what they fire on is the same, what they do is not"


# ---------------------------------------------------------------------------------- what is left out, and what is chosen


def test_what_cannot_be_measured_says_why(byte_model: LanguageModel) -> None:
    text, decomposer = made_up_text(byte_model), dictionary(6, 32)
    decomposer._W_dec[2] = 0
    decomposer._A[:, 3] = 0
    text.labels["rare"] = np.zeros_like(text.labels["even"])
    targets = [
        AblationTarget("even", 2),
        AblationTarget("even", 3),
        AblationTarget("rare", 0),
        AblationTarget("even", 0),
    ]
    dead, silent, rare, fine = ablate_features(
        byte_model, decomposer, site=LAST, text=text, targets=targets, config=FEW
    )
    assert dead.reason == "the feature is dead: it has no direction that could be taken out"
    assert silent.reason == "the feature never fires on the text"
    for record in (dead, silent):
        assert record.own is None
        assert record.controls == ()
        assert (record.n_predictions, record.n_sequences, record.n_documents) == (0, 0, 0)
    assert rare.reason == "the feature fires before 0 tokens with the concept, fewer than 2"
    assert rare.own is not None
    assert rare.own.with_concept is rare.own.specific is rare.own.specific_interval is None
    assert fine.reason is None
    assert fine.own is not None
    assert rare.own.kl == fine.own.kl
    assert from_json(to_json(rare), ConceptAblation, "") == rare


def test_only_predictions_within_a_judged_document_count(byte_model: LanguageModel) -> None:
    text, decomposer = made_up_text(byte_model), dictionary(4, 32)
    decomposer._A, decomposer._shift = torch.full((32, 4), 0.01), torch.full((32,), -5.0)  # fires everywhere
    target = [AblationTarget("even", 0)]
    (whole,) = ablate_features(
        byte_model, decomposer, site=FIRST, text=text, targets=target, config=replaced(n_sequences=6)
    )
    assert whole.n_predictions == 6 * (9 + 7)  # tokens 1 to 10 and 12 to 19, the last of each asked about nothing
    rows = [
        (s, *row)
        for s, tokens in enumerate(text.tokens)
        for row in slow_predictions(byte_model, decomposer, FIRST, tokens, target[0], decomposer.W_dec[0])
    ]
    assert len(rows) == whole.n_predictions
    expect(whole.own, text, rows)  # BOS and separators stay as they are, though the feature fires on them
    documents = text.documents.copy()
    documents[:2] = -1
    documents[2, 15:] = 77
    part = replace(text, documents=documents)
    (some,) = ablate_features(
        byte_model, decomposer, site=FIRST, text=part, targets=target, config=replaced(n_sequences=6)
    )
    assert some.n_predictions == 4 * 16 - 1
    assert (some.n_documents, some.n_sequences) == (5, 4)


def test_sequences_come_from_many_documents_those_with_most_firings_first() -> None:
    fires = np.zeros((6, 9), bool)
    for sequence, n in enumerate((3, 9, 8, 0, 2, 8)):
        fires[sequence, :n] = True
    documents = np.repeat(np.array([[5], [5], [5], [5], [6], [7]]), 10, axis=1)
    assert ablation._spread_sequences(fires, documents, 6) == [1, 5, 4, 2, 0]
    assert ablation._spread_sequences(fires, documents, 2) == [1, 5]


def test_a_feature_of_several_concepts_is_taken_out_once_and_the_seed_decides_the_rest(
    byte_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, decomposer = made_up_text(byte_model), dictionary(6, 32)
    text.labels["odd"] = text.tokens % 2 == 1
    both = [AblationTarget("even", 0), AblationTarget("odd", 0)]
    runs, predictions = [], ablation._predictions
    monkeypatch.setattr(ablation, "_predictions", lambda *args: (runs.append(1), predictions(*args))[1])
    found = ablate_features(byte_model, decomposer, site=LAST, text=text, targets=both, config=FEW)
    assert len(runs) == 4
    even, odd = (record.own for record in found)
    assert even is not None
    assert odd is not None
    assert (even.with_concept, even.specific) == (odd.without_concept, pytest.approx(-odd.specific))
    assert ablate_features(byte_model, decomposer, site=LAST, text=text, targets=both, config=FEW) == found
    other = ablate_features(byte_model, decomposer, site=LAST, text=text, targets=both, config=replaced(seed=1))
    assert other[0].own.kl == even.kl
    assert other[0].controls[1].mean.kl != found[0].controls[1].mean.kl
    monkeypatch.setattr(ablation, "_LOGITS_PER_PASS", 1)  # one direction a pass
    (again, _) = ablate_features(byte_model, decomposer, site=LAST, text=text, targets=both, config=FEW)
    assert again.own.kl == pytest.approx(even.kl, rel=1e-4)
    assert again.controls[1].mean.specific == pytest.approx(found[0].controls[1].mean.specific, abs=1e-6)


def test_no_hook_stays_behind_after_an_error(byte_model: LanguageModel) -> None:
    text, decomposer = made_up_text(byte_model), dictionary(6, 32)
    tokens = torch.from_numpy(text.tokens)
    before = byte_model.logits(tokens)

    def stop(logits: Tensor, hook: Any) -> None:
        raise ZeroDivisionError

    call = {"site": LAST, "text": text, "targets": [AblationTarget("even", 0)], "config": FEW}
    with byte_model.bridge.hooks(fwd_hooks=[("unembed.hook_out", stop)]), pytest.raises(ZeroDivisionError):
        ablate_features(byte_model, decomposer, **call)
    assert torch.equal(byte_model.logits(tokens), before)


def test_wrong_input_is_refused(byte_model: LanguageModel) -> None:
    text, decomposer = made_up_text(byte_model), dictionary(6, 32)

    def ablate(decomposer: Any = decomposer, text: LabelledText = text, target: Any = None) -> None:
        targets = [target or AblationTarget("even", 0)]
        ablate_features(byte_model, decomposer, site=LAST, text=text, targets=targets, config=FEW)

    with pytest.raises(InputError, match="codes of 'quadratic' do not decode to an activation"):
        ablate(Quadratic(torch.eye(32)))
    with pytest.raises(
        InputError, match=r"the decomposer is for width 16, but 'blocks\.1\.hook_resid_post' is 32 wide"
    ):
        ablate(dictionary(4, 16))
    with pytest.raises(InputError, match="must begin with the BOS token 0"):
        ablate(text=replace(text, tokens=text.tokens + 1))
    with pytest.raises(InputError, match=r"must be tables of one size, not \[\(5, 20\), \(6, 20\)\]"):
        ablate(text=replace(text, labels={"even": text.labels["even"][1:]}))
    with pytest.raises(InputError, match=r"no concept 'evn' in the labels of the text.*did you mean 'even'"):
        ablate(target=AblationTarget("evn", 0))
    with pytest.raises(InputError, match="there is no feature 6; features are numbered 0 to 5"):
        ablate(target=AblationTarget("even", 6))
    with pytest.raises(InputError, match=r"cannot fire by sign 1 and threshold -1\.0"):
        ablate(target=AblationTarget("even", 0, threshold=-1.0))


# ------------------------------------------------------------------------------------------------------------ intervals


def test_intervals_cover_the_truth_although_tokens_of_a_document_are_alike() -> None:
    random = np.random.default_rng(0)
    document = np.repeat(np.arange(40), random.integers(5, 60, 40))
    n_covered = {"with_concept": 0, "specific": 0, "kl": 0, "difference": 0}
    n_trials = 150
    for trial in range(n_trials):
        has = random.random(len(document)) < 0.4
        of_document = random.normal(size=40)
        log_p = -1.0 * has + 2 * of_document[document] + random.normal(size=len(document))
        kl = 3 + of_document[document]
        means = PredictionMeans(has, document, AblationConfig(seed=trial))
        effect = means.effect(np.stack([log_p, kl]))
        drawn = 2 * of_document[document] + random.normal(size=(3, len(document)))
        control = means.control("random", np.stack([log_p, kl]), np.stack([drawn, np.tile(kl, (3, 1))]))
        for name, value in (("with_concept", -1.0), ("specific", -1.0), ("kl", 3.0)):
            low, high = getattr(effect, f"{name}_interval")
            n_covered[name] += low <= value <= high
        low, high = control.difference.specific_interval
        n_covered["difference"] += low <= -1.0 <= high
        assert high - low < np.ptp(effect.with_concept_interval)  # paired: what documents share is gone
        assert control.difference.kl_interval == pytest.approx((0, 0), abs=1e-12)
    for name, count in n_covered.items():
        assert 0.87 < count / n_trials <= 1, (name, count)


def test_intervals_and_spreads_are_those_written_out() -> None:
    random = np.random.default_rng(0)
    document, has = random.integers(0, 5, 40) * 7, random.random(40) < 0.2
    changes, drawn = random.normal(size=(2, 40)), random.normal(size=(2, 3, 40))
    means = PredictionMeans(has, document, AblationConfig(min_predictions=1, seed=3))
    effect, control = means.effect(changes), means.control("features", changes, drawn)
    resampled = []
    for times in np.random.default_rng(3).multinomial(5, np.full(5, 0.2), size=1000):
        rows = np.repeat(np.arange(40), times[document // 7])
        log_p, with_concept = changes[0, rows], has[rows]
        if with_concept.any() and not with_concept.all():
            resampled.append((log_p[with_concept].mean(), log_p[with_concept].mean() - log_p[~with_concept].mean()))
    assert len(resampled) < 1000
    expected = np.quantile(resampled, [0.025, 0.975], axis=0)
    assert effect.with_concept_interval == pytest.approx(expected[:, 0])
    assert effect.specific_interval == pytest.approx(expected[:, 1])
    each = [means.effect(drawn[:, k]) for k in range(3)]
    for name in ("with_concept", "specific", "kl"):
        points = [getattr(one, name) for one in each]
        assert getattr(control.mean, name) == pytest.approx(np.mean(points))
        assert getattr(control, f"{name}_spread") == pytest.approx(np.std(points, ddof=1))


def test_an_interval_needs_two_documents_with_something_to_average() -> None:
    changes = np.stack([np.arange(6.0), np.ones(6)])
    has = np.array([True, True, False, False, False, False])
    config = AblationConfig(min_predictions=1)
    one = PredictionMeans(has, np.array([4, 4, 4, 4, 4, 4]), config).effect(changes)
    assert (one.with_concept, one.without_concept, one.specific, one.kl) == (0.5, 3.5, -3.0, 1.0)
    assert one.with_concept_interval is one.specific_interval is one.kl_interval is None
    two = PredictionMeans(has, np.array([4, 4, 4, 9, 9, 9]), config).effect(changes)
    assert two.with_concept_interval is two.specific_interval is None
    assert two.kl_interval == (1.0, 1.0)
    few = PredictionMeans(has, np.array([4, 4, 4, 9, 9, 9]), AblationConfig(min_predictions=3)).effect(changes)
    assert (few.with_concept, few.without_concept, few.specific) == (None, 3.5, None)
