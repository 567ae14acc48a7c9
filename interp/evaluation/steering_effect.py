"""Steering: does writing a concept's feature into the model make it write more of the concept, and still write well?

Features are brought to the same effect on neutral text (KL in nats per token), not to the same coefficient. What a feature adds
to the share of the text that is the concept stands beside controls at the same effect, on the same prompts and noise:

    features               the best of as many features of the same dictionary drawn at random, by the same trial
    random                 the best of as many random directions as there are features, distributed like the activations and
                           found and tried in the same way
    other concepts         what the features chosen for the other concepts add of this one
    difference in means    rows with the concept less rows without it, on select: supervised
    principal directions   the best of the principal directions, found and tried in the same way

The first two are drawn several times; texts take turns between the draws. A concept's text is written until the interval of the
gain is narrow. Nothing that chooses judges: prompts and noise of the trials are others, and their text is of select, while
effects are matched on text of test. If a target effect cannot be reached, the effect that was reached is reported. The judge is
a function of the text alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.corpora.documents import LabelSet, TextJudge
from interp.decomposers.sae.initialisation import random_directions
from interp.errors import InputError, unknown_name
from interp.evaluation.feature_evidence import mean_effect
from interp.evaluation.fluency import harmonic_mean
from interp.evaluation.judged_rows import JudgedRows
from interp.evaluation.outputs import ConceptOutputs, sequences_of
from interp.evaluation.resampling import over_prompts
from interp.evaluation.results import defined
from interp.evaluation.steering_choice import Choice, Pool, Trial, by_output
from interp.evaluation.steering_results import (
    Control,
    SteeringConfig,
    SteeringControl,
    SteeringEffect,
    SteeringReport,
)
from interp.evaluation.written import Writer, Written
from interp.progress import progress
from interp.steering.scales import feature_scales
from interp.steering.search import EffectOfVectors
from interp.store.moments import Moments

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel
    from interp.runs.record import Run
    from interp.store.reader import ActivationStore

_EVERY = 4
"""One prompt of so many is used for the trials alone."""
_SEQUENCES, _LENGTH = 8, 64
"""Text on which effects are measured: 512 tokens give the mean KL to a few per cent."""


@dataclass(frozen=True)
class SteeringTask:
    """Which prompts are continued, who judges the texts and how strong steering is: the same for every run compared."""

    prompts: tuple[str, ...]
    """Texts that the model continues where a feature is judged."""
    trial_prompts: tuple[str, ...]
    """Texts that it continues where features are tried."""
    judge: TextJudge
    """Says what share of a written text is each concept."""
    config: SteeringConfig
    """Target effect, how features are found, and how much is written."""
    concepts: tuple[str, ...] | None = None
    """Concepts that may be steered, all known to the judge; None for all that it knows."""


def steering_task(
    label_set: LabelSet, *, concepts: tuple[str, ...] | None = None, config: SteeringConfig | None = None
) -> SteeringTask:
    """Steering towards labels of a label set, with that set's prompts and judge; every fourth prompt is for the trials alone.

    ``concepts`` are by default all labels that the judge knows. Raises InputError for a label set that cannot judge a text, and
    for one with a single prompt.
    """
    if label_set.judge is None:
        raise InputError(f"the label set '{label_set.name}' cannot judge what a model writes; name one that can")
    if len(label_set.prompts) < 2:
        raise InputError(
            f"the label set '{label_set.name}' has {len(label_set.prompts)} prompts; give two at least, since those that "
            "features are tried on are not those that they are judged on"
        )
    return SteeringTask(
        prompts=tuple(prompt for i, prompt in enumerate(label_set.prompts) if i % _EVERY),
        trial_prompts=label_set.prompts[::_EVERY],
        judge=label_set.judge,
        config=config or SteeringConfig(),
        concepts=concepts,
    )


def check_task(task: SteeringTask, model: LanguageModel) -> None:
    """Refuse before anything is computed what would be refused while texts are written.

    Raises InputError for no prompts, for a prompt that with its text exceeds the model's context, and for concepts the judge
    does not know.
    """
    if not task.prompts or not task.trial_prompts:
        raise InputError("there is no prompt to write from; give at least one to judge by and one for the trials")
    for prompt in (*task.prompts, *task.trial_prompts):
        if (n := len(model.encode(prompt))) + task.config.n_tokens > model.n_ctx:
            raise InputError(
                f"the prompt {prompt[:40]!r} of {n} tokens and {task.config.n_tokens} new ones exceed the {model.n_ctx} tokens "
                f"of '{model.id}'; shorten the prompt or ask for fewer tokens"
            )
    known = task.judge("", start=0)
    for concept in task.concepts or ():
        if concept not in known:
            raise unknown_name("concept", concept, known, "what the judge knows")


@dataclass(frozen=True)
class SteeredSite:
    """What is known of the hook point that a run's features are written at."""

    name: str
    outputs: ConceptOutputs
    rows: JudgedRows
    x: Float[Tensor, "n d_in"] | None
    """Activations there of the judged rows; None where the store does not have them."""
    moments: Moments | None
    """Of all rows there."""

    @classmethod
    def of(cls, run: Run, store: ActivationStore, rows: JudgedRows, outputs: ConceptOutputs) -> SteeredSite:
        """Reads the rows where the run writes another hook point than it reads."""
        if run.site.write == run.site.read:
            return cls(run.site.write, outputs, rows, rows.x, rows.moments)
        if run.site.write not in store.sites:
            return cls(run.site.write, outputs, rows, None, None)
        source = store.site(run.site.write)
        return cls(run.site.write, outputs, rows, source.rows(rows.numbers), source.moments())


def evaluate_steering(
    run: Run,
    model: LanguageModel,
    store: ActivationStore,
    *,
    rows: JudgedRows,
    outputs: ConceptOutputs,
    detecting: Mapping[str, Sequence[tuple[int, int]]],
    task: SteeringTask,
    n_concepts: int,
) -> SteeringReport:
    """Steering with the features of ``run`` at the hook point that they are written at.

    ``outputs`` are estimates at that hook point, ``detecting`` for each concept the (feature, sign) that detect it best on
    select. At most ``n_concepts`` are steered: those that a candidate is estimated to raise most. Raises InputError where the
    model predicts nothing finite.
    """
    known = task.judge("", start=0)
    wanted = [concept for concept in outputs.concepts if concept in (task.concepts or known) and concept in known]
    decomposer, config = run.decomposer(), task.config
    pool = Pool.of(decomposer.write_directions(), is_signed=decomposer.signed_codes or run.can("forms"))
    found = {concept: candidates(pool, concept, outputs, detecting.get(concept, ()), config) for concept in wanted}
    best = {
        concept: float(outputs.lifts(pool.directions[rows])[outputs.concepts.index(concept)].max())
        for concept, rows in found.items()
        if rows
    }
    concepts = sorted(best, key=lambda concept: -best[concept])[:n_concepts]
    if not concepts:
        return _report(config, task, [], "no concept that the judge knows has a feature that could write it")
    site = SteeredSite.of(run, store, rows, outputs)
    writer = Writer(model, site.name, task.judge, concepts, config)
    trial = Trial(
        model=model,
        site=site.name,
        outputs=outputs,
        writer=writer,
        prompts=task.trial_prompts,
        effect=EffectOfVectors(model, site.name, neutral_text(store, rows, is_test=False)),
        target=EffectOfVectors(model, site.name, neutral_text(store, rows, is_test=True)),
        config=config,
    )
    own = trial.choose(pool, {concept: found[concept] for concept in concepts})
    controls = chosen_controls(trial, site, pool, list(own))
    judged = _Judging(task, writer, own, controls).run()
    scales = feature_scales(run)
    effects = [_effect(concept, judged, own, pool, scales, config) for concept in own]
    return _report(config, task, effects, None)


def candidates(
    pool: Pool,
    concept: str,
    outputs: ConceptOutputs,
    detecting: Sequence[tuple[int, int]],
    config: SteeringConfig,
) -> list[int]:
    """Rows of the pool that are tried for a concept, found in the way that the config names; ``detecting`` are (feature, sign)
    by how well they detect it, best first."""
    row_of = {(int(f), int(s)): row for row, (f, s) in enumerate(zip(pool.feature, pool.sign, strict=True))}
    is_alive = pool.directions.any(1).tolist()
    detect = [row_of[each] for each in detecting if each in row_of and is_alive[row_of[each]]]
    if config.way == "detection":
        return detect[: config.n_candidates]
    output = by_output(outputs, pool, concept, len(pool.feature))
    if config.way == "output":
        return output[: config.n_candidates]
    rank = {row: place for place, row in enumerate(output)}
    return sorted(detect, key=lambda row: detect.index(row) + rank[row])[: config.n_candidates]


def neutral_text(store: ActivationStore, rows: JudgedRows, *, is_test: bool) -> Int[Tensor, "n_seq n_pos"]:
    """Sequences on which effects are measured, of documents of test or of select."""
    return sequences_of(store, rows, is_test=is_test, n=_SEQUENCES, length=_LENGTH)


def chosen_controls(
    trial: Trial, site: SteeredSite, pool: Pool, concepts: Sequence[str]
) -> dict[Control, dict[str, list[Choice]]]:
    """Of each control the choice of every draw for each concept; those that cannot be had at the site are left out."""
    config, found = trial.config, dict[Control, dict[str, list[Choice]]]()
    alive = np.flatnonzero(pool.directions.any(1).cpu().numpy())
    features, random = [], []
    for draw in range(config.n_draws):
        generator = np.random.default_rng([config.seed, 7, draw])
        some = generator.choice(alive, min(config.n_candidates, len(alive)), replace=False).tolist()
        features.append(trial.choose(pool, dict.fromkeys(concepts, some)))
        if site.moments is not None:
            drawn = random_directions(len(pool.feature), site.moments, config.seed * 1000 + draw, shaped=True)
            random.append(best_by_output(trial, Pool.of(drawn, is_signed=False), concepts))
    found["features"] = _by_concept(features)
    if random:
        found["random"] = _by_concept(random)
    if site.x is not None and site.moments is not None:
        found["difference in means"] = _by_concept([differences(trial, site, concepts)])
        principal = torch.from_numpy(site.moments.spectrum[1][: len(pool.feature)]).float()
        found["principal directions"] = _by_concept(
            [best_by_output(trial, Pool.of(principal, is_signed=True), concepts)]
        )
    return found


def _by_concept(draws: Sequence[dict[str, Choice]]) -> dict[str, list[Choice]]:
    return {concept: [draw[concept] for draw in draws if concept in draw] for concept in draws[0]}


def best_by_output(trial: Trial, pool: Pool, concepts: Sequence[str]) -> dict[str, Choice]:
    """The choice of each concept among the rows of a pool that are estimated to write it."""
    n = trial.config.n_candidates
    return trial.choose(pool, {concept: by_output(trial.outputs, pool, concept, n) for concept in concepts})


def differences(trial: Trial, site: SteeredSite, concepts: Sequence[str]) -> dict[str, Choice]:
    """Differences of class means on select: one candidate a concept, so that nothing is chosen. Needs the site's rows."""
    assert site.x is not None
    select = torch.from_numpy(site.rows.is_select)
    x, labels = site.x[select], torch.from_numpy(site.rows.labels)[select] != 0
    columns = [labels[:, site.rows.names.index(concept)] for concept in concepts]
    means = torch.stack([x[has].mean(0) - x[~has].mean(0) for has in columns])
    pool = Pool.of(torch.nn.functional.normalize(means, dim=1), is_signed=False)
    return trial.choose(pool, {concept: [row] for row, concept in enumerate(concepts)})


@dataclass(frozen=True)
class _OfConcept:
    """What was written for one concept; steerings are none, the feature, and the controls in their order."""

    written: Written
    draw: Int[np.ndarray, "n_prompts n_texts"]
    """Number of the text, over prompts and rounds: which draw of a null wrote it."""


@dataclass(frozen=True)
class _Judging:
    """Writes the texts of every concept until each gain is known closely enough."""

    task: SteeringTask
    writer: Writer
    own: Mapping[str, Choice]
    controls: Mapping[Control, Mapping[str, list[Choice]]]

    def run(self) -> _Judged:
        found: dict[str, _OfConcept] = {}
        left, config = list(self.own), self.task.config
        for turn in progress(range(config.max_rounds), total=config.max_rounds, what="steer", unit="round"):
            for concept, more in self._round(left, turn).items():
                before = found.get(concept)
                found[concept] = more if before is None else _joined(before, more)
            left = [concept for concept in left if not self._is_known(concept, found[concept])]
            if not left:
                break
        return _Judged(self.task, self.writer, self.controls, found)

    def _round(self, concepts: Sequence[str], turn: int) -> dict[str, _OfConcept]:
        """A few texts of each prompt for each concept, all in shared batches."""
        prompts, config = self.task.prompts, self.task.config
        number = turn * len(prompts) + np.arange(len(prompts))
        vectors: list[Tensor] = []
        places: dict[str, list[int]] = {}
        for concept in concepts:
            steerings = [[self.own[concept]], *(of[concept] for of in self.controls.values() if of.get(concept))]
            places[concept] = [0, *(1 + len(vectors) + i for i in range(len(steerings)))]
            vectors += [torch.stack([draws[i % len(draws)].vector for i in number]) for draws in steerings]
        # far from the trials' noise, which is another stream
        seed = int(np.random.SeedSequence([config.seed, 1, turn]).generate_state(1)[0])
        written = self.writer.write(torch.stack(vectors), prompts, n_texts=config.n_samples, seed=seed)
        draw = np.repeat(number[:, None], config.n_samples, axis=1)
        return {concept: _OfConcept(written.of(place), draw) for concept, place in places.items()}

    def _is_known(self, concept: str, found: _OfConcept) -> bool:
        column = self.writer.concepts.index(concept)
        gain = found.written.shares[1, ..., column] - found.written.shares[0, ..., column]
        known = over_prompts(gain, seed=self.task.config.seed)
        return max(known.high - known.value, known.value - known.low) <= self.task.config.precision


def _joined(one: _OfConcept, other: _OfConcept) -> _OfConcept:
    return _OfConcept(one.written.more(other.written), np.concatenate([one.draw, other.draw], axis=1))


@dataclass(frozen=True)
class _Judged:
    """All that was written."""

    task: SteeringTask
    writer: Writer
    controls: Mapping[Control, Mapping[str, list[Choice]]]
    found: Mapping[str, _OfConcept]

    def gains(self, of: str, concept: str) -> Float[np.ndarray, "n_steerings n_prompts n_texts"]:
        """What each steering towards ``of`` adds to the share of ``concept``, text by text."""
        shares = self.found[of].written.shares[..., self.writer.concepts.index(concept)]
        return shares[1:] - shares[0]


def _effect(
    concept: str,
    judged: _Judged,
    own: Mapping[str, Choice],
    pool: Pool,
    scales: Float[np.ndarray, " n_features"],
    config: SteeringConfig,
) -> SteeringEffect:
    found, choice = judged.found[concept], own[concept]
    written, gains = found.written, judged.gains(concept, concept)
    feature, sign = int(pool.feature[choice.candidate]), int(pool.sign[choice.candidate])
    share = written.shares[:2, ..., judged.writer.concepts.index(concept)]
    fluency, scale = written.fluencies, float(scales[feature])
    return SteeringEffect(
        concept=concept,
        way=config.way,
        feature=feature,
        sign=sign,
        strength=sign * float(choice.vector.norm()) / scale if scale else 0.0,
        kl=choice.kl,
        reached=choice.reached,
        n_texts=int(gains[0].size),
        baseline_share=float(share[0].mean()),
        steered_share=float(share[1].mean()),
        difference=over_prompts(gains[0], seed=config.seed),
        fluency=float(fluency[1].mean()),
        score=float(harmonic_mean(share[1], fluency[1]).mean()),
        distinct_2=defined(written.distinct_2[1].mean()),
        baseline_distinct_2=defined(written.distinct_2[0].mean()),
        repetition=float(written.repetition[1].mean()),
        controls=tuple(_controls(concept, judged, gains, fluency[1:])),
        written={other: float(judged.gains(concept, other)[0].mean()) for other in own},
        tried=choice.tried,
        texts=written.texts[1],
        baseline_texts=written.texts[0],
        prompts=judged.task.prompts,
        gains=tuple(gains[0][:, 0].tolist()),
    )


def _controls(
    concept: str,
    judged: _Judged,
    gains: Float[np.ndarray, "n_steerings n_prompts n_texts"],
    fluency: Float[np.ndarray, "n_steerings n_prompts n_texts"],
) -> list[SteeringControl]:
    seed, draw = judged.task.config.seed, judged.found[concept].draw
    names = [name for name, of in judged.controls.items() if of.get(concept)]
    found = []
    for name, gain, fluent in zip(names, gains[1:], fluency[1:], strict=True):
        n_draws = len(judged.controls[name][concept])
        means = [gain[draw % n_draws == i].mean() for i in range(n_draws) if (draw % n_draws == i).any()]
        found.append(
            SteeringControl(
                name=name,
                difference=over_prompts(gain, seed=seed),
                excess=over_prompts(gains[0] - gain, seed=seed),
                spread=float(np.std(means, ddof=1)) if len(means) > 1 else None,
                fluency=float(fluent.mean()),
            )
        )
    others = [other for other in judged.found if other != concept]
    if others:
        n = min(judged.found[each].draw.shape[1] for each in (concept, *others))
        each = np.stack([judged.gains(other, concept)[0][:, :n] for other in others])
        fluent = np.mean([judged.found[other].written.fluencies[1].mean() for other in others])
        found.append(
            SteeringControl(
                name="other concepts",
                difference=over_prompts(each.mean(0), seed=seed),
                excess=over_prompts(gains[0][:, :n] - each.mean(0), seed=seed),
                spread=float(np.std(each.mean((1, 2)), ddof=1)) if len(others) > 1 else None,
                fluency=float(fluent),
            )
        )
    return found


def _report(
    config: SteeringConfig, task: SteeringTask, effects: Sequence[SteeringEffect], reason: str | None
) -> SteeringReport:
    nulls = [effect.best_null for effect in effects]
    excess = mean_effect([null.excess for null in nulls if null is not None])
    return SteeringReport(
        config=config,
        n_prompts=len(task.prompts),
        reason=reason,
        mean_difference=_mean([effect.difference.value for effect in effects]),
        mean_null_difference=_mean([null.difference.value for null in nulls if null is not None]),
        mean_score=_mean([effect.score for effect in effects]),
        n_unreached=sum(not effect.reached for effect in effects),
        n_above_controls=sum(effect.is_above_controls for effect in effects),
        effects=tuple(effects),
        excess=excess,
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
