"""Concepts to steer towards: for each the feature that is estimated, or was found by a trial, to make the model write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interp.corpora.labels.registry import LABEL_SETS
from interp.errors import InputError
from interp.evaluation.estimates import Estimate
from interp.evaluation.evidence import FeatureEvidence
from interp.evaluation.number_text import percent, short
from interp.evaluation.results import read_metrics
from interp.evaluation.steering_results import NULLS, SteeringControl, SteeringEffect

if TYPE_CHECKING:
    from interp.runs.record import Run

TARGET_KL = 0.2
"""Effect that a concept is steered with at first, nats per token: strong but fluent."""
_NULLS = {
    "features": "the best of as many features drawn at random",
    "random": "the best of as many random directions",
    "other concepts": "the features chosen for the other concepts",
}


@dataclass(frozen=True)
class ConceptChoice:
    """A concept, and what to steer towards it with."""

    concept: str
    feature: int | None
    """None where no feature is estimated to write it; its share of the texts can be judged all the same."""
    sign: int
    """-1 where adding the opposite of the feature writes it."""
    sentence: str
    """Why this feature, and how it compared with its nulls where it was judged."""

    @property
    def title(self) -> str:
        """As plain text."""
        return (
            f"{self.concept} · feature {self.feature}" if self.feature is not None else f"{self.concept} · no feature"
        )

    @property
    def effect(self) -> float:
        """The effect asked for at first, nats per token; negative against the feature."""
        return self.sign * TARGET_KL


def concept_choices(run: Run, evidence: Sequence[FeatureEvidence]) -> list[ConceptChoice]:
    """Of each concept the feature that was chosen by the trial of the run's evaluation; else the one of the highest output
    score in its evidence. Those that have a feature come first, then those that can only be judged; by name."""
    choices = {concept: _unwritten(concept) for concept in _judged_concepts(run)}
    choices |= {one.output.concept: _unwritten(one.output.concept) for one in evidence if one.output is not None}
    for one in sorted(evidence, key=lambda one: one.output.lift if one.output else 0.0):
        if one.output is not None:
            choices[one.output.concept] = _estimated(one)
    choices |= {effect.concept: _judged(effect) for effect in _effects(run)}
    return sorted(choices.values(), key=lambda each: (each.feature is None, each.concept))


def _judged_concepts(run: Run) -> list[str]:
    judges = (LABEL_SETS[name].judge for name in run.store().label_sets if name in LABEL_SETS)
    return [concept for judge in judges if judge for concept in judge("", start=0)]


def _effects(run: Run) -> Sequence[SteeringEffect]:
    try:
        report = read_metrics(run).steering
    except InputError:  # not evaluated, or by another version
        return ()
    return report.effects if report else ()


def _unwritten(concept: str) -> ConceptChoice:
    sentence = f"No feature of this run is estimated to make the model write {concept} above all other concepts."
    return ConceptChoice(concept, None, 1, sentence)


def _estimated(one: FeatureEvidence) -> ConceptChoice:
    output = one.output
    assert output is not None
    which = "The opposite of feature" if output.sign < 0 else "Feature"
    above = "" if output.lift > output.chance else ", which is no more than chance"
    return ConceptChoice(
        output.concept,
        one.feature,
        output.sign,
        f"{which} {one.feature} has the highest output score for {output.concept}: an estimate, "
        f"{short(output.lift, '%+.1f')} standard deviations over random directions (5 % of these exceed "
        f"{short(output.chance, '%.1f')}){above}. What it writes was not judged when the run was evaluated.",
    )


def _judged(effect: SteeringEffect) -> ConceptChoice:
    which = "The opposite of feature" if effect.sign < 0 else "Feature"
    sentence = (
        f"{which} {effect.feature} was chosen for {effect.concept} by a trial of {len(effect.tried)} candidates when the run "
        f"was evaluated. Over {effect.n_texts} other texts, at {effect.kl:.2g} nats per token, it raises the share of "
        f"{effect.concept} by {_points(effect.difference)}."
    )
    nulls = [control for control in effect.controls if control.name in NULLS]
    if effect.best_null is None:
        return ConceptChoice(effect.concept, effect.feature, effect.sign, f"{sentence} It was compared with no null.")
    listed = "; ".join(f"{_NULLS[null.name]}: {_gain(null)}" for null in nulls)
    verdict = "It is above every null." if effect.is_above_controls else f"It is NOT above every null: {_worst(nulls)}."
    return ConceptChoice(
        effect.concept, effect.feature, effect.sign, f"{sentence} Nulls at the same effect: {listed}. {verdict}"
    )


def _gain(null: SteeringControl) -> str:
    spread = f" ({percent(null.spread)} over draws)" if null.spread is not None else ""
    return f"{percent(null.difference.value)}{spread}"


def _worst(nulls: Sequence[SteeringControl]) -> str:
    worst = min(nulls, key=lambda null: null.excess.low)
    return f"beyond {_NULLS[worst.name]} it adds {_points(worst.excess)}"


def _points(estimate: Estimate) -> str:
    return f"{percent(estimate.value)} points [{percent(estimate.low)}, {percent(estimate.high)}]"
