"""What steering with a run's features does: what is planted is found, what is not is no better than its controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from torch import Tensor

from interp.capturing.to_store import CaptureConfig, capture
from interp.corpora.documents import Corpus, Document, LabelSet
from interp.errors import InputError
from interp.evaluation import steering_effect
from interp.evaluation.fluency import harmonic_mean
from interp.evaluation.judged_rows import JudgedRows, judged_rows
from interp.evaluation.outputs import ConceptOutputs, concept_outputs, concept_tokens, sequences_of
from interp.evaluation.resampling import over_prompts
from interp.evaluation.results import ConceptConfig
from interp.evaluation.steering_choice import Choice, Pool, Trial, by_output
from interp.evaluation.steering_effect import (
    SteeringTask,
    evaluate_steering,
    steering_task,
)
from interp.evaluation.steering_results import SteeringConfig, SteeringEffect, SteeringReport
from interp.evaluation.steering_text import changed_texts, steering_lines
from interp.evaluation.written import Writer, Written
from interp.model.language_model import LanguageModel
from interp.model.sites import Site
from interp.records import from_json, to_json
from interp.steering.output import OutputEffects
from interp.store.reader import ActivationStore

SITE = "blocks.1.hook_resid_post"
CONFIG = SteeringConfig(
    target_kl=0.5, n_candidates=6, n_written=3, n_draws=3, n_samples=6, max_rounds=2, n_tokens=10, precision=0
)
JUDGE = ConceptConfig(min_positives=5, min_documents=2)


@pytest.fixture(scope="module")
def model(byte_model: LanguageModel) -> LanguageModel:
    return byte_model


@pytest.fixture(scope="module")
def store(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    """Random text; the letters a and b are concepts, and so are x and y together."""
    random = np.random.default_rng(0)
    documents = [Document(f"text-{i}", "".join(random.choice(list("abcdxy 01"), 400))) for i in range(12)]

    def label(document: Document, spans: np.ndarray) -> np.ndarray:
        first = [document.text[start] for start, _ in spans]
        return np.asarray([[c == "a", c == "b", c in "xy"] for c in first], dtype=np.uint8)

    labels = LabelSet("letters", {"a": "the letter a", "b": "the letter b", "xy": "x or y"}, label)
    config = CaptureConfig(sites=(SITE,), tokens=4000, dtype="float32")
    return capture(model, Corpus("letters", documents, (labels,)), config, tmp_path_factory.mktemp("s") / "text")


@pytest.fixture(scope="module")
def rows(store: ActivationStore) -> JudgedRows:
    return judged_rows(store, SITE, JUDGE)


@pytest.fixture(scope="module")
def outputs(model: LanguageModel, store: ActivationStore) -> ConceptOutputs:
    found = concept_outputs(model, store, Site.of(SITE), JUDGE)
    assert found is not None
    return found


@pytest.fixture
def task() -> SteeringTask:
    return SteeringTask(("x = ", "def ", "a", "0 1"), ("b = ", "y"), share_of_letters, CONFIG, ("a", "b"))


def share_of_letters(text: str, *, start: int) -> dict[str, float]:
    written = text[start:]
    return {name: sum(c in name for c in written) / max(1, len(written)) for name in ("a", "b", "xy")}


def writes(model: LanguageModel, letters: str) -> Tensor:
    """Directions at the last layer that write letters."""
    return model.bridge.W_U[:, [model.tokenizer.convert_tokens_to_ids(letter) for letter in letters]].T


def replace_effects(report: SteeringReport, *effects: SteeringEffect) -> SteeringReport:
    return structs.replace(report, effects=effects)


def random_rows(n: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n, 32, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.fixture
def steer(
    model: LanguageModel,
    store: ActivationStore,
    rows: JudgedRows,
    outputs: ConceptOutputs,
    task: SteeringTask,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Evaluates a run with these directions."""

    def evaluate(
        directions: Tensor, task: SteeringTask = task, detecting: Any = None, n: int = 9, **options: Any
    ) -> SteeringReport:
        unit = torch.nn.functional.normalize(directions, dim=1)
        decomposer = SimpleNamespace(write_directions=lambda: unit, signed_codes=options.get("signed", False))
        run: Any = SimpleNamespace(site=Site.of(SITE), decomposer=lambda: decomposer, can=lambda capability: False)
        monkeypatch.setattr(steering_effect, "feature_scales", lambda run: np.full(len(unit), 2.0))
        monkeypatch.setattr(steering_effect, "_SEQUENCES", 3)
        return evaluate_steering(
            run, model, store, rows=rows, outputs=outputs, detecting=detecting or {}, task=task, n_concepts=n
        )

    return evaluate


def test_what_writes_a_concept_is_chosen_and_more_than_every_control(steer: Any, model: LanguageModel) -> None:
    report = steer(torch.cat([random_rows(12), writes(model, "ba"), torch.zeros(1, 32)]))
    effects = {effect.concept: effect for effect in report.effects}
    assert set(effects) == {"a", "b"}, "xy may not be steered"
    for concept, feature in (("a", 13), ("b", 12)):
        effect = effects[concept]
        assert effect.feature == feature
        assert effect.is_above_controls
        assert effect.reached
        assert effect.kl == pytest.approx(0.5, rel=0.05)
        assert effect.difference.value == pytest.approx(effect.steered_share - effect.baseline_share)
        assert effect.written[concept] == pytest.approx(effect.difference.value)
        assert effect.tried[0].feature == feature
        assert [tried.gain is not None for tried in effect.tried] == [True] * 3 + [False] * 3
        assert effect.n_texts == 2 * 4 * 6
        assert 0 < effect.fluency <= 1
        for control in effect.controls:
            assert control.excess.value == pytest.approx(effect.difference.value - control.difference.value)
            assert control.excess.low < control.excess.value < control.excess.high
    assert report.n_above_controls == 2
    assert report.mean_difference == pytest.approx(np.mean([e.difference.value for e in report.effects]))
    assert report.mean_null_difference == pytest.approx(np.mean([e.best_null.difference.value for e in report.effects]))
    assert from_json(to_json(report), SteeringReport, "the report") == report
    lines = list(steering_lines("r", report))
    assert "more than chance for 2 of 2 concepts" in lines[0]
    assert "features " in lines[2]
    assert len(list(changed_texts(report))) == 8
    effect = effects["a"]
    shares = [share_of_letters(text, start=0)["a"] for text in (*effect.texts, *effect.baseline_texts)]
    assert effect.gains == pytest.approx(np.subtract(shares[:4], shares[4:]))
    most = effect.texts[int(np.argmax(effect.gains))]
    assert next(changed_texts(replace_effects(report, effect))).startswith(
        "--- a, where it changed most: without feature"
    )
    assert list(changed_texts(replace_effects(report, effect)))[3].endswith(most.rstrip())


def test_of_the_candidates_the_one_whose_texts_gain_most_is_chosen(
    steer: Any, model: LanguageModel, task: SteeringTask
) -> None:
    """A judge to whom the letter b is "a": what makes the letter a likelier writes less of what is judged."""
    swapped = replace(
        task, judge=lambda text, *, start: {"a": share_of_letters(text, start=start)["b"]}, concepts=("a",)
    )
    (effect,) = steer(writes(model, "ab"), swapped).effects
    assert effect.feature == 1
    by_feature = {tried.feature: tried for tried in effect.tried}
    assert by_feature[0].lift > by_feature[1].lift
    assert by_feature[0].gain < by_feature[1].gain


@pytest.mark.parametrize("seed", range(3))
def test_where_nothing_is_planted_nothing_is_more_than_every_control(steer: Any, task: SteeringTask, seed: int) -> None:
    task = replace(task, config=structs.replace(CONFIG, seed=seed))
    report = steer(random_rows(24, seed=100 + seed), task)
    assert report.n_above_controls == 0
    assert "no more than" in list(steering_lines("r", report))[1]


def test_a_direction_against_which_the_concept_lies_is_found_where_codes_are_signed(
    steer: Any, model: LanguageModel
) -> None:
    planted = torch.cat([random_rows(5), -writes(model, "a")])
    (effect,) = [e for e in steer(planted, signed=True).effects if e.concept == "a"]
    assert (effect.feature, effect.sign) == (5, -1)
    assert effect.strength < 0
    assert next(e for e in steer(planted).effects if e.concept == "a").feature != 5


def test_controls_have_as_many_candidates_and_the_same_trial_and_are_drawn_anew(
    steer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials: list[tuple[Pool, Mapping[str, Any]]] = []
    choose = Trial.choose

    def watched(self: Trial, pool: Pool, candidates: Any) -> dict[str, Choice]:
        trials.append((pool, candidates))
        return choose(self, pool, candidates)

    monkeypatch.setattr(Trial, "choose", watched)
    steer(random_rows(40))
    own, *controls = trials
    features = [trial for trial in controls if trial[0] is own[0]]
    random = [trial for trial in controls if trial[0] is not own[0] and len(trial[0].directions) == 40]
    assert len(features) == len(random) == CONFIG.n_draws
    assert {len(each["a"]) for _, each in (own, *features, *random)} == {CONFIG.n_candidates}
    assert len({tuple(sorted(each["a"])) for _, each in features}) == CONFIG.n_draws
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(random[one][0].directions, random[other][0].directions)
    (means, one_each), (principal, _) = [trial for trial in controls if len(trial[0].directions) in (2, 64)]
    assert [len(each) for each in one_each.values()] == [1, 1], "nothing is chosen where it is supervised"
    assert len(means.directions) == 2
    assert len(principal.directions) == 64


def test_random_directions_are_found_by_the_same_estimate(outputs: ConceptOutputs) -> None:
    pool = Pool.of(torch.cat([random_rows(30), torch.zeros(1, 32)]), is_signed=True)
    found = by_output(outputs, pool, "b", 5)
    lifts = outputs.lifts(pool.directions)[1]
    assert found == np.argsort(-lifts)[:5].tolist()
    assert len(by_output(outputs, pool, "b", 99)) == 60, "dead features are left out"


def test_no_prompt_and_no_noise_of_the_trials_judges(steer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen and judged on the same texts, the best of many would win by luck."""
    calls: list[tuple[tuple[str, ...], int]] = []
    write = Writer.write

    def watched(self: Writer, vectors: Tensor, prompts: Any, *, n_texts: int, seed: int) -> Written:
        calls.append((tuple(prompts), seed))
        return write(self, vectors, prompts, n_texts=n_texts, seed=seed)

    monkeypatch.setattr(Writer, "write", watched)
    steer(random_rows(10))
    trials = {seed + i for prompts, seed in calls if prompts == ("b = ", "y") for i in range(2)}
    judged = [seed for prompts, seed in calls if prompts == ("x = ", "def ", "a", "0 1")]
    assert len(judged) == 2
    assert len(trials) == 2
    assert not trials & {seed + i for seed in judged for i in range(4)}
    assert len({seed + i for seed in judged for i in range(4)}) == 8


def test_effects_are_matched_on_text_that_chose_nothing(
    store: ActivationStore, rows: JudgedRows, steer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, document = store.documents()
    seen = []
    monkeypatch.setattr(
        steering_effect,
        "sequences_of",
        lambda *args, is_test, **options: (seen.append(is_test), sequences_of(*args, is_test=is_test, **options))[1],
    )
    steer(random_rows(8))
    assert seen == [False, True]
    test = set(rows.test_documents.tolist())
    first = {tuple(row): i for i, row in enumerate(store.tokens()[:, :20].tolist())}
    for is_test in (False, True):
        for row in sequences_of(store, rows, is_test=is_test, n=3, length=20):
            of = set(document[first[tuple(row.tolist())], 1:20].tolist())
            assert of <= test if is_test else not of & test


def test_texts_take_turns_between_the_draws_of_a_null(steer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors: list[Tensor] = []
    write = Writer.write

    def watched(self: Writer, each: Tensor, prompts: Any, **options: Any) -> Written:
        vectors.append(each)
        return write(self, each, prompts, **options)

    monkeypatch.setattr(Writer, "write", watched)
    report = steer(random_rows(30))
    n_controls = 4
    rounds = vectors[-2:]
    assert all(len(each) == 2 * (1 + n_controls) for each in rounds)
    own, features = (torch.cat([each[i] for each in rounds]) for i in (0, 1))
    assert len(own.unique(dim=0)) == 1
    used = features.unique(dim=0, return_counts=True)[1].tolist()
    assert 1 < len(used) <= 3
    assert all(each.spread is not None for e in report.effects for each in e.controls if each.name == "random")
    assert all(each.spread is None for e in report.effects for each in e.controls if each.name.startswith("differ"))


@pytest.mark.parametrize("way", ["detection", "both"])
def test_candidates_are_found_in_the_way_asked_for(
    steer: Any, model: LanguageModel, task: SteeringTask, way: Any
) -> None:
    planted = torch.cat([random_rows(12), writes(model, "ba"), torch.zeros(1, 32)])
    detecting = {"a": [(14, 1), (3, 1), (13, 1), (5, 1), (1, -1)], "b": [(14, 1)]}
    task = replace(task, config=structs.replace(CONFIG, way=way))
    (effect,) = steer(planted, task, detecting).effects
    assert (effect.concept, effect.way) == ("a", way), "no live feature detects b"
    assert {tried.feature for tried in effect.tried} == {3, 13, 5}
    assert effect.feature == 13


def test_a_concept_is_written_until_its_gain_is_known(steer: Any, task: SteeringTask) -> None:
    task = replace(task, config=structs.replace(CONFIG, max_rounds=5, precision=0.03))
    even = replace(task, judge=lambda text, *, start: {"a": 0.5, "b": len(text) % 7 / 7, "xy": 0.0})
    effects = {effect.concept: effect for effect in steer(random_rows(8), even).effects}
    assert effects["a"].n_texts == 4 * 6
    assert effects["a"].difference.value == 0
    assert not effects["a"].is_above_controls
    assert effects["b"].n_texts == 5 * 4 * 6
    vague = replace(task, config=structs.replace(task.config, precision=1.0))
    assert {effect.n_texts for effect in steer(random_rows(8), vague).effects} == {4 * 6}


def test_only_as_many_concepts_as_asked_for_those_that_are_written_most(steer: Any, model: LanguageModel) -> None:
    (effect,) = steer(torch.cat([random_rows(3), writes(model, "b")]), n=1).effects
    assert effect.concept == "b"


def test_where_nothing_is_alive_the_report_says_why(steer: Any) -> None:
    report = steer(torch.zeros(4, 32))
    assert report.effects == ()
    assert report.reason == "no concept that the judge knows has a feature that could write it"
    assert report.mean_difference is None


def test_an_effect_that_is_out_of_reach_is_reported(steer: Any, model: LanguageModel, task: SteeringTask) -> None:
    task = replace(task, config=structs.replace(CONFIG, target_kl=500.0, max_rounds=1))
    report = steer(torch.cat([random_rows(3), writes(model, "a")]), task)
    assert report.n_unreached == len(report.effects) == 2
    assert all(effect.kl < 500 for effect in report.effects)


def test_the_same_seed_writes_the_same(steer: Any, task: SteeringTask) -> None:
    one, two = (steer(random_rows(8), task) for _ in range(2))
    assert one == two
    other = steer(random_rows(8), replace(task, config=structs.replace(CONFIG, seed=1)))
    assert other.effects[0].texts != one.effects[0].texts


# ------------------------------------------------------------------------------------------------------------ measures


def test_fluency_and_score_are_worked_by_hand() -> None:
    """Fluency stands against the mean baseline of a prompt, 2 nats for both here; the score is a harmonic mean."""
    nll = np.array([[[1.0, 3.0], [2.5, 1.5]], [[2 + np.log(2), 2 + np.log(4)], [1.0, 2.0]]])
    written = Written(np.zeros((2, 2, 2, 1)), nll, nll, nll, ())
    assert written.fluencies[1].ravel() == pytest.approx([1 / 2, 1 / 4, 1, 1])
    share = np.array([1 / 2, 1, 1 / 2, 0])
    found = harmonic_mean(share, written.fluencies[1].ravel())
    assert found == pytest.approx([1 / 2, 2 * 1 / 4 / (5 / 4), 2 * 1 / 2 / (3 / 2), 0])
    assert harmonic_mean(np.zeros(1), np.zeros(1)) == 0
    overflowing = replace(written, nll=np.array([nll[0], [[np.nan, np.inf], [np.nan, 2.0]]]))
    assert overflowing.fluencies[1].ravel() == pytest.approx([0, 0, 0, 1])


def test_texts_without_steering_are_those_of_the_same_noise(model: LanguageModel) -> None:
    writer = Writer(model, SITE, share_of_letters, ("a", "b"), CONFIG)
    vectors = torch.stack([torch.zeros(2, 32), 9.0 * writes(model, "a").expand(2, -1)])
    written = writer.write(vectors, ("x = ", "def "), n_texts=3, seed=4)
    assert written.shares.shape == (3, 2, 3, 2)
    assert written.texts[0] == written.texts[1] != written.texts[2]
    assert np.array_equal(written.shares[0], written.shares[1])
    assert (written.shares[2, ..., 0] > written.shares[0, ..., 0]).mean() > 0.8
    alone = writer.write(vectors[1:], ("x = ", "def "), n_texts=3, seed=4)
    assert alone.texts[1] == written.texts[2]
    both = written.of([0, 2]).more(written.of([0, 2]))
    assert both.shares.shape == (2, 2, 6, 2)


def test_texts_of_a_prompt_are_alike_and_the_interval_knows() -> None:
    """Ten prompts whose gains differ and whose texts agree are ten samples, not a thousand."""
    random = np.random.default_rng(0)
    of_prompt = random.normal(0, 1, 10)
    alike = over_prompts(np.repeat(of_prompt[:, None], 100, axis=1), seed=0)
    assert alike.value == pytest.approx(of_prompt.mean())
    assert (alike.high - alike.low) / 2 == pytest.approx(1.96 * of_prompt.std() / 10**0.5, rel=0.15)
    free = over_prompts(random.normal(0, 1, (10, 100)), seed=0)
    assert (free.high - free.low) / 2 == pytest.approx(1.96 / 1000**0.5 * 2**0.5, rel=0.3)
    flat = over_prompts(np.full((3, 4), 0.25), seed=0)
    assert (flat.value, flat.low, flat.high) == (0.25, 0.25, 0.25)


# ------------------------------------------------------------------------------------------------------------- outputs


def test_tokens_of_a_concept_are_frequent_where_it_begins_and_rare_elsewhere() -> None:
    token = np.array([1] * 40 + [2] * 30 + [3] * 5 + [4] * 25)
    begins = np.zeros(100, dtype=bool)
    begins[:2] = begins[40:60] = begins[70:75] = True  # 2 of 40, 20 of 30, 5 of 5, 0 of 25
    assert concept_tokens(token, begins, 8).tolist() == [2, 3]
    assert concept_tokens(token, np.ones(100, dtype=bool), 8).tolist()[0] == 1


def test_the_tokens_of_letters_are_the_letters(outputs: ConceptOutputs, model: LanguageModel) -> None:
    assert outputs.concepts == ("a", "b", "xy")
    found = [{model.tokenizer.decode([token]) for token in tokens.tolist()} for tokens in outputs.tokens]
    assert found == [{"a"}, {"b"}, {"x", "y"}]


def test_outputs_name_the_concept_that_is_raised_and_what_chance_raises(
    outputs: ConceptOutputs, model: LanguageModel
) -> None:
    unit = torch.nn.functional.normalize(torch.cat([writes(model, "ab"), -writes(model, "b")]), dim=1)
    first, second, third = outputs.outputs(unit, is_signed=False)
    assert (first.concept, second.concept) == ("a", "b")
    assert min(first.lift, second.lift) > first.chance > 0
    assert third.concept != "b"
    signed = outputs.outputs(unit, is_signed=True)[2]
    assert (signed.concept, signed.sign) == ("b", -1)
    assert signed.lift == pytest.approx(second.lift)
    random = random_rows(400, seed=5)
    above = np.mean([each.lift > each.chance for each in outputs.outputs(random, is_signed=False)])
    assert above < 0.15


def test_estimates_are_in_deviations_over_random_directions(outputs: ConceptOutputs) -> None:
    assert outputs.lifts(outputs.random).std(1) == pytest.approx(np.ones(3), rel=1e-3)
    louder = replace(outputs, effects=OutputEffects(3 * outputs.effects.gradient, outputs.effects.scores))
    assert louder.lifts(outputs.random[:5]) == pytest.approx(outputs.lifts(outputs.random[:5]), rel=1e-4)


# ---------------------------------------------------------------------------------------------------------------- task


def test_every_fourth_prompt_is_for_the_trials_alone() -> None:
    labels = LabelSet("l", {"a": ""}, lambda d, s: np.zeros((len(s), 1)), share_of_letters, tuple("abcdef"))
    task = steering_task(labels, concepts=("a",))
    assert (task.trial_prompts, task.prompts) == (("a", "e"), ("b", "c", "d", "f"))
    with pytest.raises(
        InputError, match="'l' has 1 prompts; give two at least, since those that features are tried on"
    ):
        steering_task(replace(labels, prompts=("a",)))
    with pytest.raises(InputError, match="'l' cannot judge what a model writes"):
        steering_task(replace(labels, judge=None))


def test_the_named_label_sets_have_enough_prompts_to_judge_by() -> None:
    from interp.corpora.labels.registry import LABEL_SETS

    for label_set in LABEL_SETS.values():
        assert len(steering_task(label_set).prompts) >= 12
