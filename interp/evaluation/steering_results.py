"""Options and records of the steering evaluation; what is measured is said in ``steering_effect``."""

from __future__ import annotations

from typing import Literal

from interp.evaluation.estimates import Estimate
from interp.records import Record

Way = Literal["detection", "output", "both"]
"""How the features that are tried for a concept are found: those that detect it best, those that are estimated to write it, or
those of the best sum of both ranks."""
Control = Literal["features", "random", "other concepts", "difference in means", "principal directions"]
NULLS: tuple[Control, ...] = ("features", "random", "other concepts")
"""The controls that a feature must be better than; the others are methods of their own."""


class SteeringConfig(Record, frozen=True):
    """Options of the steering evaluation."""

    target_kl: float = 0.2
    """Effect on neutral text in nats per token; from about 0.6 on a model's fluency breaks."""
    way: Way = "output"
    """How features are found for a concept: by detection, output, or both."""
    n_candidates: int = 16
    """Features of each concept that are tried by forward passes."""
    n_written: int = 4
    """The best of these, which are tried by short texts from prompts of their own. The best one is judged."""
    n_draws: int = 5
    """Draws of each null, which has as many candidates and is tried in the same way."""
    precision: float = 0.03
    """Texts are written until the interval of the gain is at most this far from it on either side."""
    n_samples: int = 4
    """Texts for each prompt and round."""
    max_rounds: int = 8
    """Rounds at most."""
    n_tokens: int = 48
    """Tokens per text."""
    temperature: float = 1.0
    """Sampling temperature."""
    seed: int = 0
    """Seed of the sampling noise, the random directions and the bootstrap."""


class SteeringControl(Record, frozen=True):
    """The same concept steered by something else at the same effect, on the same prompts and noise."""

    name: Control
    difference: Estimate
    """Share of its texts that is the concept less that without steering; of a null the mean over draws."""
    excess: Estimate
    """What the feature adds beyond it, paired text by text."""
    spread: float | None
    """Standard deviation of the difference over draws; None where there is one."""
    fluency: float


class TriedFeature(Record, frozen=True):
    """A feature that was tried for a concept."""

    feature: int
    sign: int
    estimate: float
    """Estimated gain in log-probability of the concept's tokens, standard deviations over random directions."""
    lift: float
    """Gain measured by forward passes, nats, at the target effect."""
    gain: float | None
    """Share of the short texts that is the concept less that without steering; None where none were written."""


class SteeringEffect(Record, frozen=True):
    """What steering one feature did to the texts, compared with texts written without steering from the same noise.

    Intervals are over prompts and the texts of a prompt.
    """

    concept: str
    way: Way
    feature: int
    sign: int
    """-1 where it was steered towards low codes."""
    strength: float
    """Signed, in multiples of the feature's maximum."""
    kl: float
    """Effect on neutral text at that strength, nats per token."""
    reached: bool
    """Whether ``kl`` is within 5 % of the target."""
    n_texts: int
    baseline_share: float
    """Share of what was written without steering that is the concept, mean over texts."""
    steered_share: float
    """The same with steering."""
    difference: Estimate
    """steered_share - baseline_share."""
    fluency: float
    """Mean over texts, 0 to 1."""
    score: float
    """Mean over texts of the harmonic mean of share and fluency."""
    distinct_2: float | None
    """Different token pairs over all token pairs of a steered text, mean over texts; falls when steering makes it repeat."""
    baseline_distinct_2: float | None
    """The same without steering."""
    repetition: float
    """Share of a steered text's token 4-grams that stood in it before, mean over texts."""
    controls: tuple[SteeringControl, ...]
    written: dict[str, float]
    """Of every concept that was steered, what steering this one adds to its share."""
    tried: tuple[TriedFeature, ...]
    """The candidates, best first."""
    texts: tuple[str, ...]
    """A few steered continuations, one of each prompt."""
    baseline_texts: tuple[str, ...]
    """Continuations without steering from the same noise."""
    prompts: tuple[str, ...]
    """Their prompts."""
    gains: tuple[float, ...]
    """Share of each of these texts that is the concept, less that of its text without steering."""

    @property
    def best_null(self) -> SteeringControl | None:
        """The null that adds most."""
        nulls = [control for control in self.controls if control.name in NULLS]
        return max(nulls, key=lambda control: control.difference.value, default=None)

    @property
    def is_above_controls(self) -> bool:
        """Whether the feature adds something, and more than every null does, with whole intervals."""
        nulls = [control for control in self.controls if control.name in NULLS]
        return self.difference.is_above_zero and all(control.excess.is_above_zero for control in nulls)


class SteeringReport(Record, frozen=True):
    """Steering of several concepts, each beside its controls. Means are over concepts."""

    config: SteeringConfig
    n_prompts: int
    """Prompts that were continued; those of the trials are others."""
    reason: str | None
    """Why nothing was steered; then there are no effects and no means."""
    mean_difference: float | None
    mean_null_difference: float | None
    """Of each concept's best null."""
    mean_score: float | None
    n_unreached: int
    """Concepts whose feature did not reach the target effect."""
    n_above_controls: int
    """Concepts whose feature adds more than every null does."""
    effects: tuple[SteeringEffect, ...]
    excess: Estimate | None = None
    """mean_difference - mean_null_difference; intervals of the concepts are added in quadrature."""
