"""What taking features out of the model changed: the records of an ablation. Needs neither torch nor the stores.

Undefined numbers (a mean over no prediction, an interval over one document) are None, since JSON has no NaN.
"""

from __future__ import annotations

from typing import Literal

from interp.records import Record

Kind = Literal["features", "random"]
"""Which directions are a control: write directions of the features of the dictionary whose firing rates are nearest, or random
unit directions."""


class AblationConfig(Record, frozen=True):
    """Options of the ablation of features."""

    n_sequences: int = 16
    """Sequences at most in which a feature is taken out. On the bundled model, 16 sequences of 256 tokens take about two
    seconds of CPU time a feature, controls included."""
    n_draws: int = 5
    """Control directions of each kind."""
    min_predictions: int = 10
    """A mean over fewer predictions is left out, and the record says so."""
    seed: int = 0
    """Seed of the control directions and the bootstrap."""


class AblationEffect(Record, frozen=True):
    """Means over the predictions made where the feature fires, in nats a prediction.

    Intervals are 95 % bootstrap intervals over documents, None for fewer than two documents.
    """

    with_concept: float | None
    """Change of the log-probability of the next token, over the predictions whose next token has the concept: negative
    where the ablation makes the concept's tokens less likely, so that the feature acts for its concept."""
    without_concept: float | None
    """The same over the predictions whose next token has not the concept."""
    specific: float | None
    """with_concept - without_concept: what is left once harm to any next token is taken off."""
    kl: float
    """KL(clean || ablated): whether the feature does anything at all."""
    with_concept_interval: tuple[float, float] | None
    specific_interval: tuple[float, float] | None
    kl_interval: tuple[float, float] | None


class AblationControl(Record, frozen=True):
    """The same amounts taken out at the same positions, along other directions."""

    directions: Kind
    n_draws: int
    """Directions that the mean is over."""
    mean: AblationEffect
    """Of the mean over the directions."""
    with_concept_spread: float | None
    """Standard deviation over the directions; this and the next two are None for fewer than two of them."""
    specific_spread: float | None
    kl_spread: float | None
    difference: AblationEffect
    """The feature's own effect minus the mean, prediction by prediction: its intervals are paired."""


class ConceptAblation(Record, frozen=True):
    """One feature taken out of the model, judged by the tokens of one concept."""

    concept: str
    feature: int
    sign: int
    """The sign of the feature's codes that means the concept."""
    threshold: float
    """The feature fires where sign times its code is greater than this."""
    n_sequences: int
    """Sequences in which it was taken out."""
    n_documents: int
    """Documents of its predictions."""
    n_predictions: int
    """Predictions made where it fires."""
    n_with_concept: int
    """Of these, the ones whose next token has the concept."""
    reason: str | None
    """Why something was not measured; None where everything was."""
    own: AblationEffect | None
    """None where nothing was measured."""
    controls: tuple[AblationControl, ...]
