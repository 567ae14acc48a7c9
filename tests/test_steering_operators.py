"""Steering with runs: operators go by the run's own codes; units, positions, several layers, the residual stream."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest
from torch import Tensor

from app.workspace import WORKSPACE_VARIABLE
from interp.cli.main import main
from interp.decomposers.baselines.diff_means import DiffMeansConfig
from interp.decomposers.sae.autoencoder import SAEConfig
from interp.errors import InputError
from interp.index.build import IndexConfig, build_index
from interp.model.language_model import LanguageModel
from interp.model.sites import Site
from interp.runs.firing import firing_of
from interp.runs.record import Run
from interp.runs.training import train_run
from interp.steering import steerer as steerer_module
from interp.steering.continuations import SteeringRequest, compare_continuations, neutral_tokens
from interp.steering.edits import Positions, SiteEdit, edit_activations, written
from interp.steering.effects import EffectOnText, edited_logits
from interp.steering.steerer import Steerer
from interp.store.reader import ActivationStore

NEURONS, RESIDUAL = "blocks.1.mlp.hook_post", "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def store(tiny_store: ActivationStore, tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    """A copy of ``tiny_store`` with an autoencoder on its neurons and differences of means in its residual stream."""
    store = ActivationStore(shutil.copytree(tiny_store.path, tmp_path_factory.mktemp("steered") / "tiny"))
    train_run(store, NEURONS, SAEConfig(n_features=24, k=4, tokens=6000, batch=100), "sae")
    train_run(store, RESIDUAL, DiffMeansConfig(), "labels")
    return store


@pytest.fixture(scope="module")
def run(store: ActivationStore) -> Run:
    return Run.load(store.path / "runs/sae")


@pytest.fixture(scope="module")
def labels(store: ActivationStore) -> Run:
    return Run.load(store.path / "runs/labels")


@pytest.fixture(scope="module")
def neutral(run: Run) -> Tensor:
    return neutral_tokens(run, n_sequences=4, n_tokens=24)


@pytest.fixture(scope="module")
def live(run: Run) -> list[int]:
    """The two features that fire most."""
    return firing_of(run).n_fire.argsort()[::-1][:2].tolist()


def rows_at(model: LanguageModel, site: str, edits: list[SiteEdit], tokens: Tensor, **options: Any) -> Tensor:
    """Activations of the tokens at ``site`` after ``edits``."""
    seen: list[Tensor] = []
    look = [(site, lambda x, hook: seen.append(x.flatten(2).clone()))]
    with written(model, [edits], **options), model.bridge.hooks(fwd_hooks=look):
        model.logits(tokens)
    return seen[-1]


# ------------------------------------------------------------------------------------------------------------ operators


@pytest.mark.parametrize("mode", ["add", "clamp", "scale", "ablate"])
def test_operators_of_a_run_go_by_its_own_codes(
    tiny_model: LanguageModel, run: Run, neutral: Tensor, live: list[int], mode: str
) -> None:
    """What the row becomes is written out with codes and decoder rows; clamping leaves the reconstruction error as it was."""
    decomposer, maximum = run.decomposer(), torch.from_numpy(firing_of(run).maximum)[live]
    strengths = torch.tensor([1.5, 0.25])
    edits = Steerer.from_run(tiny_model, run).edits(dict(zip(live, strengths.tolist(), strict=True)), mode=mode)
    is_text = neutral != tiny_model.bos_id
    before, after = (rows_at(tiny_model, NEURONS, each, neutral)[is_text] for each in ([], edits))
    codes = decomposer.encode(before)
    z = codes[:, live]
    change = {
        "add": (strengths * maximum).expand_as(z),
        "clamp": strengths * maximum - z,
        "scale": (strengths - 1) * z,
        "ablate": -strengths * z,
    }[mode]
    torch.testing.assert_close(after, before + change @ decomposer.tensors["W_dec"][live], atol=1e-4, rtol=1e-4)
    assert float(change.abs().max()) > 0.1
    if mode == "clamp":
        wanted = codes.clone()
        wanted[:, live] = strengths * maximum
        error = before - decomposer.decode(codes)  # type: ignore[attr-defined]
        torch.testing.assert_close(after - decomposer.decode(wanted), error, atol=1e-4, rtol=1e-4)  # type: ignore[attr-defined]


def test_codes_that_do_not_decode_are_scaled_by_their_coefficient(
    tiny_model: LanguageModel, labels: Run, neutral: Tensor
) -> None:
    steerer = Steerer.from_run(tiny_model, labels)
    assert steerer.contributions is None
    is_text = neutral != tiny_model.bos_id
    before, after = (
        rows_at(tiny_model, RESIDUAL, edits, neutral)[is_text] for edits in ([], steerer.edits({0: 3.0}, mode="scale"))
    )
    direction = steerer.directions[0]
    torch.testing.assert_close(after, before + 2 * (before @ direction)[:, None] * direction, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("mode", "neutral_strength"), [("add", 0.0), ("scale", 1.0), ("ablate", 0.0)])
def test_the_neutral_strength_writes_nothing(
    tiny_model: LanguageModel, run: Run, neutral: Tensor, live: list[int], mode: str, neutral_strength: float
) -> None:
    steerer = Steerer.from_run(tiny_model, run)
    strengths = dict.fromkeys(live, neutral_strength)
    assert steerer.edits(strengths, mode=mode) == []
    assert torch.equal(steerer.logits(neutral, strengths, mode=mode), tiny_model.logits(neutral))
    assert steerer.edits({live[0]: neutral_strength, live[1]: 0.5}, mode=mode) != []


# ---------------------------------------------------------------------------------------------------- units and effects


def test_strengths_may_be_multiples_of_the_mean_norm(
    tiny_model: LanguageModel, run: Run, store: ActivationStore, neutral: Tensor, live: list[int]
) -> None:
    steerer = Steerer.from_run(tiny_model, run, unit="norm")
    rows = torch.cat(list(store.site(NEURONS).chunks()))
    added = rows_at(tiny_model, NEURONS, steerer.edits({live[0]: -0.5}), neutral) - rows_at(
        tiny_model, NEURONS, [], neutral
    )
    length = added.norm(dim=-1)[neutral != tiny_model.bos_id]
    assert length.numpy() == pytest.approx(0.5 * float(rows.double().norm(dim=1).mean()), rel=1e-4)
    assert torch.equal(steerer.is_dead, Steerer.from_run(tiny_model, run).is_dead), "no unit makes a dead feature live"


MODES = [
    ("add", 1, 2.0), ("add", -1, -2.0), ("clamp", 1, 4.0), ("clamp", -1, -4.0), ("scale", 1, 3.0), ("scale", -1, -2.0),
    ("ablate", 1, 0.7),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "sign", "strength"), MODES)
def test_every_mode_meets_a_target_effect(
    tiny_model: LanguageModel, run: Run, neutral: Tensor, live: list[int], mode: str, sign: int, strength: float
) -> None:
    steerer = Steerer.from_run(tiny_model, run)
    target = steerer.kl(neutral, {live[0]: strength}, mode=mode)
    found = steerer.strength_for_kl(live[0], target, tokens=neutral, sign=sign, mode=mode)
    assert found.reached
    assert found.kl == pytest.approx(steerer.kl(neutral, {live[0]: found.strength}, mode=mode), rel=1e-3)
    assert (found.strength - steerer.neutral.get(mode, 0.0)) * sign > 0


def test_out_of_reach_is_the_largest_effect_there_is(
    tiny_model: LanguageModel, run: Run, neutral: Tensor, live: list[int]
) -> None:
    """Nothing is removed twice, and a clamp never has less effect than it has at 0."""
    steerer = Steerer.from_run(tiny_model, run)
    all_of_it = steerer.kl(neutral, {live[0]: 1.0}, mode="ablate")
    found = steerer.strength_for_kl(live[0], 100.0, tokens=neutral, mode="ablate")
    assert (found.strength, found.kl, found.reached) == (1.0, pytest.approx(all_of_it), False)
    least = steerer.strength_for_kl(live[0], all_of_it / 10, tokens=neutral, mode="clamp")
    assert not least.reached
    assert least.kl == pytest.approx(steerer.kl(neutral, {live[0]: least.strength}, mode="clamp"), rel=1e-3)
    assert least.kl > all_of_it / 5


# ------------------------------------------------------------------------------------------------------------ positions


def test_from_the_prompts_end_on_nothing_before_is_touched(
    tiny_model: LanguageModel, run: Run, neutral: Tensor, live: list[int]
) -> None:
    steerer = Steerer.from_run(tiny_model, run, positions=Positions("end"))
    before = rows_at(tiny_model, NEURONS, [], neutral)
    after = rows_at(tiny_model, NEURONS, steerer.edits({live[0]: 2.0}), neutral, first=9)
    is_touched = (after != before).any(-1)
    expected = (neutral != tiny_model.bos_id) & (torch.arange(neutral.shape[1]) >= 9)
    assert torch.equal(is_touched, expected)
    assert steerer.kl(neutral, {live[0]: 2.0}) == Steerer.from_run(tiny_model, run).kl(neutral, {live[0]: 2.0})


def test_only_given_tokens_are_touched(tiny_model: LanguageModel, run: Run, neutral: Tensor, live: list[int]) -> None:
    ids = neutral[neutral != tiny_model.bos_id].unique()[:3]
    texts = tuple(tiny_model.token_strings(ids.tolist()))
    steerer = Steerer.from_run(tiny_model, run, positions=Positions("all", texts))
    before, after = (rows_at(tiny_model, NEURONS, e, neutral) for e in ([], steerer.edits({live[0]: 2.0})))
    assert torch.equal((after != before).any(-1), torch.isin(neutral, ids))
    found = steerer.strength_for_kl(live[0], steerer.kl(neutral, {live[0]: 3.0}), tokens=neutral)
    assert found.kl == pytest.approx(steerer.kl(neutral, {live[0]: found.strength}), rel=1e-3)
    with pytest.raises(InputError, match="no single token 'two words' in the vocabulary of"):
        Steerer.from_run(tiny_model, run, positions=Positions("all", ("two words",)))


@pytest.mark.parametrize("positions", [Positions("end"), Positions("all", ("e", "\n", " ")), Positions("end", ("e",))])
@pytest.mark.parametrize("mode", ["add", "clamp"])
@pytest.mark.parametrize("which", ["run", "labels"])
def test_positions_are_the_same_with_and_without_a_cache(
    tiny_model: LanguageModel, request: pytest.FixtureRequest, positions: Positions, mode: str, which: str
) -> None:
    steered: Run = request.getfixturevalue(which)
    steerer = Steerer.from_run(tiny_model, steered, positions=positions)
    first, second = (~steerer.is_dead).nonzero()[:2, 0].tolist()
    start = tiny_model.encode("def users(e):\n").repeat(6, 1)
    strengths, n_prompt = {first: 6.0, second: -4.0}, start.shape[1]
    fast = steerer.sample(start, strengths, n_tokens=10, temperature=1.5, seed=3, mode=mode)
    edits, generator, text = steerer.edits(strengths, mode=mode), torch.Generator().manual_seed(3), start
    for _ in range(10):
        logits = edited_logits(tiny_model, edits, text, n_prompt=n_prompt)[:, -1]
        noise = -torch.empty(logits.shape).exponential_(generator=generator).log()
        text = torch.cat([text, (logits / 1.5 + noise).argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(fast, text[:, n_prompt:])
    logits = edited_logits(tiny_model, edits, text, n_prompt=n_prompt)[:, -1]
    if which == "labels":  # written in the first of two layers, so that what is written in the prompt matters later
        everywhere = Steerer.from_run(tiny_model, steered).edits(strengths, mode=mode)
        assert not torch.allclose(edited_logits(tiny_model, everywhere, text)[:, -1], logits, atol=1e-3)


# ------------------------------------------------------------------------------------------------------- several layers


def test_layers_are_steered_at_once_and_each_variant_by_its_own_edits(
    tiny_model: LanguageModel, run: Run, labels: Run, neutral: Tensor, live: list[int]
) -> None:
    first, second = (
        Steerer.from_run(tiny_model, labels).edits({0: 2.0}),
        Steerer.from_run(tiny_model, run).edits({live[0]: 3.0}, mode="clamp"),
    )
    with edit_activations(tiny_model, RESIDUAL, first[0].edit), edit_activations(tiny_model, NEURONS, second[0].edit):
        expected = tiny_model.logits(neutral)
    torch.testing.assert_close(edited_logits(tiny_model, first + second, neutral), expected)
    with written(tiny_model, [[], first, first + second]):
        together = tiny_model.logits(neutral.repeat(3, 1)).chunk(3)
    torch.testing.assert_close(together[0], tiny_model.logits(neutral))
    torch.testing.assert_close(together[1], edited_logits(tiny_model, first, neutral))
    torch.testing.assert_close(together[2], expected)


def test_edits_at_one_site_follow_each_other(tiny_model: LanguageModel, neutral: Tensor) -> None:
    double, more = SiteEdit(NEURONS, lambda x: 2 * x), SiteEdit(NEURONS, lambda x: x + 1)
    before = rows_at(tiny_model, NEURONS, [], neutral)
    after = rows_at(tiny_model, NEURONS, [double, more], neutral)
    is_text = neutral != tiny_model.bos_id
    torch.testing.assert_close(after[is_text], 2 * before[is_text] + 1)


def test_what_is_measured_of_a_request_is_of_all_its_layers(
    tiny_model: LanguageModel, run: Run, labels: Run, neutral: Tensor, live: list[int]
) -> None:
    own, other = Steerer.from_run(tiny_model, run), Steerer.from_run(tiny_model, labels)
    alone = SteeringRequest("def e", {live[0]: 2.0}, n_samples=2, n_tokens=8)
    both = replace(alone, also={"labels": {1: 4.0}})
    result = compare_continuations(own, both, neutral, others={"labels": other})
    edits = own.edits({live[0]: 2.0}) + other.edits({1: 4.0})
    assert result.kl == EffectOnText(tiny_model, neutral)(edits).kl
    assert result.steered != compare_continuations(own, alone, neutral).steered


# --------------------------------------------------------------------------------------------------- the residual stream


@pytest.mark.parametrize("site", ["blocks.0.mlp.hook_post", "blocks.1.attn.hook_z"])
def test_behind_the_output_matrix_the_same_is_added(
    any_model: LanguageModel, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits are those of adding at the site itself, in every family without a norm in between."""
    directions = torch.randn(3, any_model.site(site).d_in, generator=torch.Generator().manual_seed(0))
    directions /= directions.norm(dim=1, keepdim=True)
    scales = torch.tensor([2.0, 0.0, 3.0]).numpy()
    monkeypatch.setattr(steerer_module, "feature_scales", lambda run: scales)
    made: Any = SimpleNamespace(
        name="made",
        record=SimpleNamespace(model_fingerprint=any_model.fingerprint),
        site=Site.of(site),
        decomposer=lambda: SimpleNamespace(write_directions=lambda: directions),
    )
    if "gemma2" in any_model.id:
        with pytest.raises(InputError, match=r"has a norm between '.*' and the residual stream"):
            Steerer.from_run(any_model, made, at="residual")
        return
    behind = Steerer.from_run(any_model, made, at="residual")
    assert behind.site.d_in == any_model.d_model
    tokens = torch.randint(1, any_model.d_vocab, (2, 10), generator=torch.Generator().manual_seed(1))
    tokens[:, 0] = any_model.bos_id
    expected = Steerer.from_run(any_model, made).logits(tokens, {0: 1.5, 2: -1.0})
    torch.testing.assert_close(behind.logits(tokens, {0: 1.5, 2: -1.0}), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(expected, any_model.logits(tokens), atol=1e-2)
    assert behind.is_dead.tolist() == [False, True, False]


def test_the_wrong_run_or_site_is_named(
    tiny_model: LanguageModel, byte_model: LanguageModel, run: Run, labels: Run
) -> None:
    with pytest.raises(
        InputError, match=r"run 'sae' was trained on '.*', not on these weights of '.*'; take a run of this"
    ):
        Steerer.from_run(byte_model, run)
    with pytest.raises(InputError, match=r"'blocks.0.hook_resid_post' has no output matrix that leads to the residual"):
        Steerer.from_run(tiny_model, labels, at="residual")
    with pytest.raises(InputError, match=r"no hook point 'blocks.1.hook_mlp_out' in the store"):
        Steerer.from_run(tiny_model, run, at="residual", unit="norm")


# ----------------------------------------------------------------------------------------------------- the command line


def steer(run: Run, *options: str) -> dict[str, Any]:
    """The record that a command leaves."""
    words = ["steer", str(run.path), "--prompt", "def\\n", "--tokens", "4", "--samples", "1", *options]
    main([*words, "--workspace", str(run.store_path.parent)])
    return json.loads((run.path / "steering.jsonl").read_text().splitlines()[-1])


def test_the_command_writes_several_layers_at_chosen_tokens(
    run: Run, live: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--feature",
        str(live[0]),
        "--strength",
        "0.5",
        "--unit",
        "norm",
        "--also",
        "labels:1:1.5",
        "labels:0:-2",
    ]
    sampling = ["--top-k", "5", "--top-p", "0.9", "--repetition-penalty", "1.2", "--temperature", "0.8"]
    record = steer(run, *options, *sampling, "--at", "end", "--at-tokens", "e", "\\n", "--show-tokens")
    printed = capsys.readouterr().out
    assert f"feature {live[0]} at +0.50 × the site's mean norm, feature 1 of labels at +1.50" in printed
    assert "--- prompt: change of each token's log-probability, nats" in printed
    assert "--- 1: change of each token's log-probability, nats" in printed
    assert "'\\n'" in printed
    expected = {
        "unit": "norm", "at": "end", "at_tokens": ["e", "\n"], "also": {"labels": {"1": 1.5, "0": -2.0}}, "top_k": 5,
        "top_p": 0.9, "repetition_penalty": 1.2, "temperature": 0.8, "at_residual": False,
    }  # fmt: skip
    assert {name: record[name] for name in expected} == expected
    assert record["kl"] > 0


def test_the_command_scales_and_writes_into_the_residual_stream(run: Run, live: list[int]) -> None:
    feature = ["--feature", str(live[0])]
    assert steer(run, *feature, "--mode", "scale", "--strength", "1")["kl"] == 0
    assert steer(run, *feature, "--mode", "scale", "--kl", "0.002")["kl"] == pytest.approx(0.002, rel=0.1)
    at_site, behind = (steer(run, *feature, "--strength", "2", *options)["kl"] for options in ([], ["--at-residual"]))
    assert at_site == pytest.approx(behind, rel=1e-3)


@pytest.mark.parametrize("concept", ["has_vowel", "is_blank"])
def test_a_label_is_steered_by_feature_and_by_concept(
    labels: Run, concept: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A difference of means is the feature of its label, evaluated or not, in every mode."""
    feature = labels.decomposer().concepts[concept]
    assert list(labels.decomposer().concepts) == ["has_vowel", "is_blank"]
    by_concept = steer(labels, "--concept", concept, "--strength", "1")
    by_feature = steer(labels, "--feature", str(feature), "--strength", "1")
    assert by_concept["strengths"] == by_feature["strengths"] == {str(feature): 1.0}
    assert by_concept["kl"] == by_feature["kl"] > 0
    for mode in ("clamp", "scale", "ablate"):
        found = steer(labels, "--concept", concept, "--mode", mode, "--strength", "0.5")
        assert found["kl"] > 0
    assert f"feature {feature} at +0.50 of what it contributes removed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--also", "labels:1"), "--also 'labels:1' names no feature; write RUN:FEATURE:STRENGTH"),
        (("--also", "label:1:2"), "did you mean 'labels'"),
        (("--also", "labels:9:2"), "there is no feature 9; features are numbered 0 to 1"),
        (("--at-tokens", "e", "zzzz"), "no single token 'zzzz' in the vocabulary of"),
        (("--top-p", "0"), "top-p is 0.0; give a probability above 0 and at most 1"),
        (("--temperature", "-1"), "the temperature is -1.0; give 0 or more"),
        (("--prompt", "e " * 40), "exceed the 32 tokens of"),
    ],
)
def test_the_command_names_what_is_wrong_and_keeps_nothing(
    run: Run, live: list[int], options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.path / "steering.jsonl"
    before = path.read_text() if path.exists() else ""
    with pytest.raises(SystemExit):
        steer(run, "--feature", str(live[0]), "--strength", "1", *options)
    assert said in capsys.readouterr().err
    assert (path.read_text() if path.exists() else "") == before


def test_a_run_of_another_model_is_refused_beside_the_first(
    run: Run, live: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(run.store_path / "runs/labels", tmp_path / "other/runs/foreign")
    record = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(record | {"model_fingerprint": "0" * 16, "model_id": "another"}))
    with pytest.raises(SystemExit):
        steer(run, "--feature", str(live[0]), "--strength", "1", "--also", f"{other}:0:1")
    assert "run 'foreign' was trained on 'another', not on these weights of" in capsys.readouterr().err


def test_a_dead_feature_is_refused_by_strength_and_by_effect(
    run: Run, tmp_path: Path, live: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scales = steerer_module.feature_scales(run)
    scales[live[0]] = 0
    monkeypatch.setattr(steerer_module, "feature_scales", lambda run: scales)
    for options in (("--strength", "1"), ("--kl", "0.1"), ("--kl", "0.1", "--mode", "scale")):
        with pytest.raises(SystemExit):
            steer(run, "--feature", str(live[0]), *options)
        assert f"feature {live[0]} never fires on its store" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- the page


@pytest.mark.parametrize("mode", ["clamp", "scale", "ablate"])
def test_the_page_steers_labels_in_every_mode_to_an_effect(
    labels: Run, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features of a supervised run are steered as any others."""
    monkeypatch.setenv(WORKSPACE_VARIABLE, str(labels.store_path.parent))
    if not labels.index_path.exists():
        build_index(labels, config=IndexConfig(n_top=5, n_sample=64))
    page = AppTest.from_string("from app.views import steer\nsteer.show()", default_timeout=60)
    page.query_params.update({"run": "tiny/labels", "steered": "1", "prompt": "def e"})
    page.run()
    for group, value in (("Set by", "KL target"), ("Mode", mode)):
        next(each for each in page.get("button_group") if each.label == group).set_value(value).run()
    next(box for box in page.number_input if box.label == "Tokens each").set_value(2)
    next(box for box in page.number_input if box.label == "KL target, nats per token").set_value(0.02)
    next(button for button in page.button if button.label == "Generate").click().run()
    page.session_state["steer_job"].wait()
    page.run()
    assert not page.exception
    assert not page.error
    [columns] = [each.proto.body for each in page.html if re.search(f"{mode}: feature 1 ", each.proto.body, re.I)]
    kl = re.search(r"KL <b>([0-9.]+)</b>", columns)
    assert kl is not None
    assert float(kl[1]) > 0
