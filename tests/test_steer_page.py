"""What the Steer page is made of: settings and address, the steps of steering, kept results; and the page without a browser."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from dashboard_workspace import SITE, DashboardWorkspace, make_workspace
from streamlit.testing.v1 import AppTest

from app.models import ModelTurn
from app.steer_job import SteerJob
from interp.browse import steering
from interp.browse.kept_steering import delete_kept, keep, kept_texts, open_kept
from interp.browse.steer_concepts import concept_choices
from interp.browse.steer_settings import SteerSettings, setting_readers, settings_of
from interp.browse.steered_page import colour_class, columns_html, escaped_text, outcome, tokens_html
from interp.browse.steering import Progress, SteeredText, steer_text
from interp.errors import InputError
from interp.evaluation.estimates import Estimate
from interp.evaluation.evidence import FeatureEvidence, Output
from interp.evaluation.steering_results import SteeringControl, SteeringEffect
from interp.model import threads
from interp.model.language_model import LanguageModel, load_model
from interp.model.threads import fitting_threads
from interp.runs.record import Run
from interp.steering.continuations import compare_continuations, neutral_tokens
from interp.steering.control import control_steerer
from interp.steering.effects import EffectOnText
from interp.steering.steerer import Steerer

PAGE = "from app.views import steer\nsteer.show()\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DashboardWorkspace:
    return make_workspace(tmp_path_factory.mktemp("steer"))


@pytest.fixture(scope="module")
def model(made: DashboardWorkspace) -> LanguageModel:
    return load_model(made.run.model_id)


@pytest.fixture(scope="module")
def strongest(made: DashboardWorkspace, model: LanguageModel) -> list[int]:
    """Features by how much strength 1 adds, most first."""
    return [int(f) for f in np.argsort(-Steerer.from_run(model, made.run).scales.numpy())]


def settings(features: dict[int, float], **others: Any) -> SteerSettings:
    return SteerSettings(features=features, **({"prompt": "def f", "n_samples": 2, "n_tokens": 4} | others))


# ------------------------------------------------------------------------------------------------ settings and address


def test_every_setting_is_in_the_address_and_comes_back_from_it() -> None:
    given = SteerSettings(
        prompt="a\n <b>", features={5: -1.25, 40: 0.1}, set_by="effect", mode="clamp", unit="norm", concept="comment",
        n_samples=2, n_tokens=9, temperature=0.35, top_k=7, top_p=0.9, repetition_penalty=1.15, seed=2_147_483_647, at="end",
        at_tokens="def\n  x", at_residual=True, also="s/r:3:-0.5",
    )  # fmt: skip
    default = SteerSettings()
    for name in SteerSettings.__struct_fields__:
        assert getattr(given, name) != getattr(default, name), f"{name} is not tried"
    address = given.address()
    assert len(address) == len(SteerSettings.__struct_fields__)
    values = {name: read(address.get(name)) for name, read in setting_readers().items()}
    assert settings_of(values, values["steered"]) == given
    assert SteerSettings().address() == {}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("samples", "9", 3),
        ("samples", "2.5", 3),
        ("samples", "x", 3),
        ("temperature", "nan", 0.7),
        ("temperature", "2", 2.0),
        ("seed", "-1", 0),
        ("mode", "explode", "add"),
        ("residual", "yes", False),
        ("steered", "5:2,²,40,x:1,7:inf,8:99", {5: 2.0, 40: None, 7: None, 8: None}),
        ("prompt", "", ""),
    ],
)
def test_what_an_address_cannot_mean_is_the_default(name: str, text: str, expected: Any) -> None:
    assert setting_readers()[name](text) == expected


def test_differences_name_what_is_set_in_another_way() -> None:
    one = settings({3: 1.0})
    assert one.differences(settings({3: 2.0}, seed=4)) == ["strength", "seed"]
    assert one.differences(settings({4: 1.0}, at_tokens="x")) == ["features", "tokens written at"]
    assert one.differences(settings({3: 1.0})) == []


def test_features_of_other_runs_that_cannot_be_read_are_named() -> None:
    assert settings({3: 1.0}, also=" s/r:3:-0.5\n\ns/r:4:1").request.also == {"s/r": {3: -0.5, 4: 1.0}}
    with pytest.raises(InputError, match=r"the line 's/r 3' names no feature; write RUN:FEATURE:STRENGTH"):
        _ = settings({3: 1.0}, also="s/r 3").request


# ---------------------------------------------------------------------------------------------------- the steps of steering


def test_texts_come_first_then_the_effect_then_the_control_then_the_sweep(
    made: DashboardWorkspace, model: LanguageModel, strongest: list[int]
) -> None:
    told: list[tuple[SteeredText, Progress]] = []
    shown = steer_text(
        model, made.run, settings({strongest[0]: 4.0}), tell=lambda text, progress: told.append((text, progress))
    )

    def first(holds: Any) -> int:
        return next(i for i, (text, _) in enumerate(told) if holds(text))

    n_written = [len(text.columns[0].texts[0]) if text.columns else 0 for text, _ in told]
    assert [progress.doing for _, progress in told[:4]] == [f"Writing: token {i} of 4" for i in (1, 2, 3, 4)]
    assert n_written[:4] == sorted(n_written[:4])
    order = [
        first(lambda text: text.column("steered")),
        first(lambda text: text.column("steered") and text.column("steered").kl is not None),
        first(lambda text: text.column("steered") and text.column("steered").changes),
        first(lambda text: text.column("control") and text.column("control").texts),
        first(lambda text: len(text.sweep) == 3),
        first(lambda text: len(text.sweep) == 7),
    ]
    assert order == sorted(set(order)), "each is shown before the next begins"
    assert all(0 <= progress.share <= 1 for _, progress in told)
    assert shown.is_whole
    assert not any(text.is_whole for text, _ in told)


def test_the_columns_are_what_the_steering_room_computes(
    made: DashboardWorkspace, model: LanguageModel, strongest: list[int]
) -> None:
    feature, neutral = strongest[0], neutral_tokens(made.run)
    given = settings({feature: 4.0}, seed=3)
    shown = steer_text(model, made.run, given)
    steerer = Steerer.from_run(model, made.run)
    expected = compare_continuations(steerer, given.request, neutral)
    baseline, steered, control = shown.columns
    assert list(baseline.texts) == expected.baseline
    assert list(steered.texts) == expected.steered
    assert (steered.kl, steered.perplexity_ratio) == pytest.approx((expected.kl, expected.perplexity_ratio))
    for line, other in zip(steered.changes, expected.changes, strict=True):
        assert [each[0] for each in line] == [each.text for each in other]
        assert [each[1] for each in line] == pytest.approx([each.change for each in other], abs=1e-5)
    random = control_steerer(model, made.run, seed=3)
    assert control.kl == pytest.approx(random.kl(neutral, {0: shown.control_strength}))
    by_itself = random.generate("def f", {0: shown.control_strength}, n_samples=2, n_tokens=4, temperature=0.7, seed=3)
    assert list(control.texts) == by_itself, "its texts grew from the same noise"
    strengths, kls = zip(*shown.sweep, strict=True)
    assert strengths == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    assert kls == pytest.approx([steerer.kl(neutral, {feature: strength}) for strength in strengths])
    again = steer_text(model, made.run, given)
    assert msgspec.structs.replace(again, time=shown.time) == shown
    other = steer_text(model, made.run, settings({feature: 4.0}, seed=4))
    assert other.control_strength != shown.control_strength, "the seed draws the control"


def test_the_control_has_the_effect_of_the_steering_and_is_like_the_activations(
    made: DashboardWorkspace, model: LanguageModel, strongest: list[int]
) -> None:
    shown = steer_text(model, made.run, settings({strongest[0]: 8.0, strongest[1]: -8.0}))
    steered, control = shown.column("steered"), shown.column("control")
    assert steered.kl > 0
    assert control.kl == pytest.approx(steered.kl, rel=0.05)
    assert shown.notes == ()
    assert shown.sweep == (), "of one feature alone"
    moments = made.run.store().site(SITE).moments()
    drawn = torch.cat([control_steerer(model, made.run, seed=seed).directions for seed in range(200)]).double().numpy()
    shares = np.einsum("nd,de,ne->n", drawn, moments.covariance, drawn)
    isotropic = moments.covariance.trace() / len(moments.mean)
    assert shares.mean() > 1.5 * isotropic, "it points where the activations vary"


def test_without_an_effect_or_the_sites_activations_there_is_no_control_and_it_is_said(
    made: DashboardWorkspace, model: LanguageModel, strongest: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = steer_text(model, made.run, settings({strongest[0]: 0.0}))
    assert nothing.column("baseline").texts == nothing.column("steered").texts
    assert nothing.column("control") is None
    assert nothing.notes == ("There is no control: this steering changes nothing.",)

    def refuse(*_: Any, **__: Any) -> None:
        raise InputError("the store lacks it")

    monkeypatch.setattr(steering, "control_steerer", refuse)
    shown = steer_text(model, made.run, settings({strongest[0]: 4.0}))
    assert shown.notes == ("There is no control: the store lacks it.",)
    assert shown.column("control") is None
    assert len(shown.sweep) == 7, "the rest is measured"


@pytest.mark.parametrize("set_by", ["strength", "effect"])
def test_the_model_itself_is_run_on_the_neutral_text_once(
    made: DashboardWorkspace, model: LanguageModel, strongest: list[int], monkeypatch: pytest.MonkeyPatch, set_by: Any
) -> None:
    made_of: list[tuple[int, ...]] = []
    begin = EffectOnText.__init__
    monkeypatch.setattr(
        EffectOnText,
        "__init__",
        lambda self, model, tokens: (made_of.append(tokens.shape), begin(self, model, tokens))[1],
    )
    monkeypatch.setattr(Steerer, "strengths_for_kl", None)  # runs the model on the text by itself
    clean: list[tuple[int, ...]] = []
    logits = LanguageModel.logits
    monkeypatch.setattr(
        LanguageModel, "logits", lambda self, tokens: (clean.append(tuple(tokens.shape)), logits(self, tokens))[1]
    )
    neutral = neutral_tokens(made.run, n_sequences=3, n_tokens=20)
    shown = steer_text(model, made.run, settings({strongest[0]: 0.001}, set_by=set_by), neutral=neutral)
    assert shown.is_whole
    assert made_of == [neutral.shape]
    n_steered = clean.count((3, 20)) - 1
    assert n_steered >= 6, "one clean, the others steered"


def test_stopping_ends_the_work_at_the_next_token_and_leaves_nothing_on_the_model(
    made: DashboardWorkspace, model: LanguageModel, strongest: list[int]
) -> None:
    class StopError(Exception):
        pass

    for wanted in (
        "Writing: token 3 of 4",
        "Finding the strength of the control",
        "Measuring the effect against the strength",
    ):
        told: list[SteeredText] = []

        def tell(text: SteeredText, progress: Progress, wanted: str = wanted, told: list[SteeredText] = told) -> None:
            told.append(text)
            if progress.doing == wanted:
                raise StopError

        before = model.logits(torch.tensor([[0, 5, 6]]))
        with pytest.raises(StopError):
            steer_text(model, made.run, settings({strongest[0]: 4.0}), tell=tell)
        assert torch.equal(model.logits(torch.tensor([[0, 5, 6]])), before)
        assert not told[-1].is_whole
        if wanted.startswith("Writing"):
            assert len(told) == 3


def test_an_effect_asked_for_sets_the_strength_against_the_feature_where_it_is_negative(
    made: DashboardWorkspace, model: LanguageModel, strongest: list[int]
) -> None:
    steerer, neutral = Steerer.from_run(model, made.run), neutral_tokens(made.run, n_sequences=2, n_tokens=16)
    feature, other = strongest[:2]
    target = steerer.kl(neutral, {feature: -2.0})
    shown = steer_text(model, made.run, settings({feature: -target}, set_by="effect"), neutral=neutral)
    assert shown.strengths == {feature: pytest.approx(-2.0, rel=0.05)}
    assert shown.column("steered").kl == pytest.approx(target, rel=0.05)
    share = steerer.kl(neutral, {feature: 0.5}, mode="ablate")
    given = settings({feature: share, other: 9.0}, set_by="effect", mode="ablate")
    shown = steer_text(model, made.run, given, neutral=neutral)
    assert shown.strengths == {feature: pytest.approx(0.5, rel=0.05), other: 1.0}
    nearest = steerer.kl(neutral, {other: 1.0}, mode="ablate")
    assert shown.notes[0].startswith(
        f"Feature {other} does not reach 9 nats per token at any strength tried; the nearest is "
    )
    assert shown.notes[0].endswith(f" {nearest:.3g}, at strength 1.")


@pytest.mark.parametrize(
    ("mode", "strength", "ends"), [("add", 0.1, (0.0, 1.0)), ("scale", 3.0, (1.0, 4.0)), ("ablate", 1.0, (0.0, 1.0))]
)
def test_the_sweep_goes_beyond_the_strength_in_use_but_not_beyond_the_modes_end(
    made: DashboardWorkspace,
    model: LanguageModel,
    strongest: list[int],
    mode: Any,
    strength: float,
    ends: tuple[float, ...],
) -> None:
    neutral = neutral_tokens(made.run, n_sequences=2, n_tokens=16)
    shown = steer_text(model, made.run, settings({strongest[0]: strength}, mode=mode), neutral=neutral)
    assert (shown.sweep[0][0], shown.sweep[-1][0]) == ends


def test_the_share_of_the_concept_is_judged_in_every_column_and_gains_are_paired(
    made: DashboardWorkspace, model: LanguageModel, strongest: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(text: str, *, start: int) -> dict[str, float]:
        return {"vowels": sum(letter in "aeiou" for letter in text[start:]) / max(1, len(text[start:]))}

    monkeypatch.setattr(steering, "judge_of", lambda concept, sets: judge if concept == "vowels" else None)
    shown = steer_text(model, made.run, settings({strongest[0]: 40.0}, concept="vowels", n_samples=4, n_tokens=8))
    by_hand = {c.name: np.array([judge("def f" + text, start=5)["vowels"] for text in c.texts]) for c in shown.columns}
    for column in shown.columns:
        assert column.share.value == pytest.approx(by_hand[column.name].mean())
        assert column.share.low <= column.share.value <= column.share.high
    assert shown.column("baseline").gain is None
    assert shown.column("steered").gain.value == pytest.approx((by_hand["steered"] - by_hand["baseline"]).mean())
    assert shown.excess.value == pytest.approx((by_hand["steered"] - by_hand["control"]).mean())
    assert steer_text(model, made.run, settings({strongest[0]: 4.0}, concept="other")).column("steered").share is None


def test_several_layers_and_the_residual_stream_are_steered(
    made: DashboardWorkspace, model: LanguageModel, strongest: list[int]
) -> None:
    one, two = strongest[:2]
    both = steer_text(model, made.run, settings({one: 4.0}, also=f"other:{two}:3"), other_runs={"other": made.run})
    together = steer_text(model, made.run, settings({one: 4.0, two: 3.0}))
    assert both.column("steered").kl == pytest.approx(together.column("steered").kl, rel=1e-3)
    assert both.sweep == ()
    behind = steer_text(model, made.run, settings({one: 4.0}, at_residual=True))
    steerer = Steerer.from_run(model, made.run, at="residual")
    assert behind.column("steered").kl == pytest.approx(steerer.kl(neutral_tokens(made.run), {one: 4.0}))
    assert behind.column("control").kl == pytest.approx(behind.column("steered").kl, rel=0.05)


def test_small_models_are_run_with_one_thread_and_the_number_is_set_back(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(2)
    try:
        with fitting_threads(model):
            assert torch.get_num_threads() == 1
        with pytest.raises(KeyError), fitting_threads(model):
            raise KeyError
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(threads, "SMALL", 10)
        with fitting_threads(model):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_who_gives_its_turn_and_asks_at_once_comes_after_who_waits(model: LanguageModel) -> None:
    order, begun, turn = [], threading.Event(), ModelTurn(model)

    def other() -> None:
        begun.set()
        with ModelTurn(model):
            order.append("other")

    with turn:
        waiting = threading.Thread(target=other)
        waiting.start()
        begun.wait()
        for _ in range(1000):
            if ModelTurn._waiting.locked():
                break
            time.sleep(0.005)
        turn.__exit__()
        turn.__enter__()
        order.append("first again")
    waiting.join()
    assert order == ["other", "first again"]


def test_a_stopped_job_ends_at_its_next_step_with_what_was_there(
    made: DashboardWorkspace, model: LanguageModel, strongest: list[int]
) -> None:
    given, first = settings({strongest[0]: 4.0}), threading.Event()

    def work(tell: Any) -> SteeredText:
        for i in range(2000):
            tell(shown, Progress(f"step {i}", 0.0))
            first.set()
            time.sleep(0.005)
        return shown

    shown = SteeredText(time="", run_identity="", settings=given, strengths={}, unit="")
    job = SteerJob(made.name, given, model, work)
    assert first.wait(30)
    job.stop()
    job.wait()
    assert (job.shown, job.error, job.was_stopped) == (shown, None, True)
    assert job.progress.doing != "step 1999"
    with ModelTurn(model):
        pass  # its turn was given back


# ------------------------------------------------------------------------------------------------------------ kept results


@pytest.fixture
def own(made: DashboardWorkspace, tmp_path: Path) -> Run:
    """A run of the test's own."""
    return Run.load(shutil.copytree(made.run.store_path, tmp_path / "tiny") / "runs/sae")


def test_kept_results_come_back_whole_newest_first_and_are_deleted(
    own: Run, model: LanguageModel, strongest: list[int]
) -> None:
    assert kept_texts(own) == []
    first = steer_text(model, own, settings({strongest[0]: 4.0}))
    later = msgspec.structs.replace(
        steer_text(model, own, settings({strongest[1]: 2.0})), time="2999-01-01T00:00:00+00:00"
    )
    names = [keep(own, first), keep(own, later), keep(own, first)]
    assert names[0] == names[2], "the same result is kept once"
    assert [each.name for each in kept_texts(own)] == [names[1], names[0]]
    assert f"add {strongest[0]} at +4" in kept_texts(own)[1].title
    assert open_kept(own, names[0]) == first
    (own.path / "steering" / f"{names[1]}.json").write_text('{"schema": "interp.steered-text"')
    assert [each.is_readable for each in kept_texts(own)] == [False, True]
    with pytest.raises(InputError, match="is damaged: it is not valid JSON"):
        open_kept(own, names[1])
    delete_kept(own, names[1])
    delete_kept(own, names[1])
    assert [each.name for each in kept_texts(own)] == [names[0]]
    with pytest.raises(InputError, match=f"no kept result '{names[1]}'; it was deleted"):
        open_kept(own, names[1])


@pytest.mark.parametrize("name", ["../run", "..", "20261122T051631-05f0d6d0/../../run", ""])
def test_only_names_of_kept_results_lead_to_files(own: Run, name: str) -> None:
    with pytest.raises(InputError, match="has no kept result"):
        open_kept(own, name)
    before = sorted(path.name for path in own.path.iterdir())
    delete_kept(own, name)
    assert sorted(path.name for path in own.path.iterdir()) == before


def test_nothing_is_half_kept(
    own: Run, model: LanguageModel, strongest: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = steer_text(model, own, settings({strongest[0]: 4.0}))
    with pytest.raises(InputError, match="not whole; generate it to the end"):
        keep(own, msgspec.structs.replace(shown, is_whole=False))

    def die(path: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(InputError, match="free some space"):
            keep(own, shown)
    assert list((own.path / "steering").iterdir()) == []
    assert kept_texts(own) == []


# ---------------------------------------------------------------------------------------------------------------- as HTML


def test_all_text_is_escaped_and_hidden_signs_are_shown_by_number(
    made: DashboardWorkspace, model: LanguageModel, strongest: list[int]
) -> None:
    shown = steer_text(model, made.run, settings({strongest[0]: 4.0}, prompt="<script>x</script> & <b>"))
    assert "<script>" not in columns_html(shown)
    assert "<b>x" not in columns_html(shown)
    texts = tuple(msgspec.structs.replace(c, texts=("<img src=x>", "&"), changes=()) for c in shown.columns)
    written = columns_html(msgspec.structs.replace(shown, columns=texts, prompt_changes=()))
    assert written.count("&lt;img src=x&gt;") == 3
    assert "&lt;script&gt;" in written
    assert escaped_text("a\u202e\x00\ud800\n") == 'a\\u{202e}\\u{0}\\u{d800}<span class="ws">⏎</span>\n'
    assert tokens_html([("<b>", 4.0)]) == '<span class="p12" title="+4.00 nats">&lt;b&gt;</span>'


def test_changes_are_coloured_by_sign_and_size() -> None:
    changes = [0.0, 0.05, -0.2, 1.0, 4.0, 99.0, -99.0, float("nan")]
    assert [colour_class(change) for change in changes] == ["", "", "n1", "p3", "p12", "p12", "n12", ""]


@pytest.mark.parametrize(
    ("low", "n", "expected"),
    [(0.05, 3, "more than this control"), (-0.05, 3, "NOT clearly more"), (0.1, 1, "One text has no interval")],
)
def test_the_outcome_says_where_steering_is_not_above_its_control(
    made: DashboardWorkspace, model: LanguageModel, strongest: list[int], low: float, n: int, expected: str
) -> None:
    shown = steer_text(model, made.run, settings({strongest[0]: 4.0}, n_samples=n))
    assert outcome(shown) == ""
    found = Estimate(value=0.3, low=low, high=0.5)
    columns = tuple(msgspec.structs.replace(column, gain=found, share=found) for column in shown.columns)
    assert expected in outcome(msgspec.structs.replace(shown, columns=columns, excess=found))


# ------------------------------------------------------------------------------------------------------- towards a concept


def evidence_of(*outputs: tuple[str, int, float]) -> list[FeatureEvidence]:
    return [
        FeatureEvidence(feature=f, sign=1, n_fires=9, output=Output(concept=c, sign=sign, lift=lift, chance=2.5))
        for f, (c, sign, lift) in enumerate(outputs)
    ]


def effect_of(concept: str, feature: int, excess: float) -> SteeringEffect:
    def about(value: float) -> Estimate:
        return Estimate(value=value, low=value - 0.05, high=value + 0.05)

    nulls = [("features", 0.1, 0.2), ("random", 0.3 - excess, excess)]
    controls = tuple(
        SteeringControl(name=name, difference=about(d), excess=about(e), spread=0.04, fluency=1.0)
        for name, d, e in nulls
    )
    numbers = dict.fromkeys(("baseline_share", "steered_share", "fluency", "score", "repetition"), 0.5)
    return SteeringEffect(
        concept=concept, way="output", feature=feature, sign=-1, strength=-1.0, kl=0.2, reached=True, n_texts=48,
        difference=about(0.3), distinct_2=None, baseline_distinct_2=None, controls=controls, written={}, tried=(), texts=(),
        baseline_texts=(), prompts=(), gains=(), **numbers,
    )  # fmt: skip


def test_a_run_without_evidence_and_labels_has_no_concepts(made: DashboardWorkspace) -> None:
    assert concept_choices(made.run, ()) == []


def test_a_concept_takes_the_feature_of_the_highest_output_score(made: DashboardWorkspace) -> None:
    evidence = evidence_of(("comment", 1, 3.0), ("comment", -1, 7.0), ("number", 1, 2.0))
    comment, number = concept_choices(made.run, evidence)
    assert (comment.feature, comment.sign, comment.effect) == (1, -1, -0.2)
    assert "The opposite of feature 1 has the highest output score for comment" in comment.sentence
    assert (
        "+7.0 standard deviations over random directions (5 % of these exceed 2.5). What it writes was not"
        in comment.sentence
    )
    assert number.feature == 2
    assert ", which is no more than chance." in number.sentence


def test_where_a_run_was_judged_its_trial_chooses_and_the_nulls_are_told(
    made: DashboardWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp.browse import steer_concepts

    effects = (effect_of("comment", 9, 0.15), effect_of("number", 8, 0.01))
    monkeypatch.setattr(steer_concepts, "_effects", lambda run: effects)
    comment, number = concept_choices(made.run, evidence_of(("comment", 1, 3.0)))
    assert (comment.feature, comment.effect) == (9, -0.2)
    assert (
        "Over 48 other texts, at 0.2 nats per token, it raises the share of comment by 30 points [25, 35]"
        in comment.sentence
    )
    assert "the best of as many random directions: 15 (4 over draws). It is above every null." in comment.sentence
    assert (
        "It is NOT above every null: beyond the best of as many random directions it adds 1 points [-4, 6]"
        in number.sentence
    )


# -------------------------------------------------------------------------------------------------- the page, no browser


@pytest.fixture
def served(copied: DashboardWorkspace) -> DashboardWorkspace:
    return copied


@pytest.fixture
def page(served: DashboardWorkspace) -> Iterator[AppTest]:
    opened = AppTest.from_string(PAGE, default_timeout=60)
    opened.query_params["run"] = served.name
    yield opened
    if "steer_job" in opened.session_state:
        opened.session_state["steer_job"].stop()
        opened.session_state["steer_job"].wait()


def press(page: AppTest, label: str) -> None:
    next(button for button in page.button if button.label == label).click().run()


def until_done(page: AppTest) -> None:
    page.session_state["steer_job"].wait()
    page.run()
    assert not page.exception


def shown_texts(page: AppTest) -> list[str]:
    return [each.proto.body for each in page.html if "columns" in each.proto.body and "<style>" not in each.proto.body]


def test_generating_marking_old_and_coming_back(page: AppTest, strongest: list[int]) -> None:
    page.query_params.update({"steered": f"{strongest[0]}:4", "prompt": "def <b>x", "tokens": "4", "samples": "2"})
    page.run()
    assert not page.exception
    assert shown_texts(page) == []
    assert "result" not in page.query_params
    press(page, "Generate")
    until_done(page)
    [fresh] = shown_texts(page)
    assert "&lt;b&gt;" in fresh
    assert page.query_params["result"] in ("1", ["1"])
    assert not page.warning

    page.slider[0].set_value(5.0).run()
    assert page.warning[0].value == (
        "Old result: it was made with other settings (strength). Generate to run the present ones."
    )
    assert shown_texts(page) == [fresh], "it is still there to be read"
    assert "result" not in page.query_params
    page.slider[0].set_value(4.0).run()
    assert not page.warning, "the settings of the result are back"
    assert page.query_params["result"] in ("1", ["1"])


def test_a_link_to_a_result_makes_the_same_texts_again(
    page: AppTest, served: DashboardWorkspace, strongest: list[int]
) -> None:
    page.query_params.update({"steered": f"{strongest[0]}:4", "tokens": "4", "seed": "7", "temperature": "1.3"})
    page.run()
    press(page, "Generate")
    until_done(page)
    link = {name: value[0] if isinstance(value, list) else value for name, value in page.query_params.items()}
    other = AppTest.from_string(PAGE, default_timeout=60)
    other.query_params.update(link)
    other.run()
    until_done(other)
    assert shown_texts(other) == shown_texts(page)
    assert len(shown_texts(other)) == 1


def test_what_cannot_be_steered_is_said_and_does_not_stay(page: AppTest, strongest: list[int]) -> None:
    page.query_params.update({"steered": f"{strongest[0]}:4", "tokens": "4", "only": "def\n <b>\nx"})
    page.run()
    press(page, "Generate")
    until_done(page)
    assert r"no single token \' \<b\>\' in the vocabulary" in page.error[0].value
    next(box for box in page.text_area if box.label == "Only at these tokens").set_value("def\n<b>\nx").run()
    assert not page.error
    next(box for box in page.text_area if box.label == "With features of other runs").set_value("tiny/sae 3").run()
    press(page, "Generate")
    assert "names no feature" in page.error[0].value


def test_results_are_kept_reopened_and_deleted(page: AppTest, served: DashboardWorkspace, strongest: list[int]) -> None:
    page.query_params.update({"steered": f"{strongest[0]}:4", "tokens": "4"})
    page.run()
    press(page, "Generate")
    until_done(page)
    press(page, "Keep with the run")
    assert [each.label for each in page.expander if each.label.startswith("Kept")] == ["Kept results (1)"]
    [name] = [each.name for each in kept_texts(served.run)]
    record = json.loads((served.run.path / "steering" / f"{name}.json").read_text())
    assert record["settings"]["n_tokens"] == 4

    other = AppTest.from_string(PAGE, default_timeout=60)
    other.query_params.update({"run": served.name, **open_kept(served.run, name).settings.address(), "saved": name})
    other.run()
    assert not other.exception
    assert "steer_job" not in other.session_state, "nothing is computed"
    assert shown_texts(other) == shown_texts(page)
    assert other.query_params["saved"] in (name, [name])
    next(button for button in other.button if button.label == "Delete for good").click().run()
    assert kept_texts(served.run) == []


def test_a_card_joins_its_feature_and_leaves_the_other_settings(page: AppTest, served: DashboardWorkspace) -> None:
    page.query_params.update({"steered": "5:3", "tokens": "9", "prompt": "x ="})
    page.run()
    page.query_params.clear()
    page.query_params.update({"run": served.name, "f": "7"})
    page.run()
    assert not page.exception
    address = {name: value[0] if isinstance(value, list) else value for name, value in page.query_params.items()}
    assert address == {"run": served.name, "steered": "5:3,7:2", "tokens": "9", "prompt": "x ="}
