"""What an evaluation of one run found: the records of ``metrics.json``. Needs neither torch nor the stores.

Undefined numbers (the FVU of rows that do not vary, cross-entropy recovered where ablation changes nothing) are None, since
JSON has no NaN.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from interp.records import FileRecord, Record, read_record

if TYPE_CHECKING:
    from interp.runs.record import Run

METRICS_FILE = "metrics.json"


class ConceptConfig(Record, frozen=True):
    """Options of concept detection."""

    label_set: str | None = None
    """Label set of the store, by default its first. Labels whose name ends in ``_depth`` are integers and are correlated,
    not detected."""
    max_rows: int = 60_000
    """Rows used at most, drawn evenly at random over the store: with 50 positives the standard error of an AUROC is
    about .03, and more rows cost time in proportion."""
    min_positives: int = 50
    """Concepts with fewer positive (or negative) tokens in select or test are left out, and the report names them."""
    seed: int = 0
    """Seed of the row sample, the random directions and the bootstrap."""


class SteeringConfig(Record, frozen=True):
    """Options of the steering evaluation."""

    target_kl: float = 0.2
    """Effect on neutral text in nats per token; from about 0.6 on a model's fluency breaks."""
    n_samples: int = 16
    """Texts per prompt. The share of a text that is a comment varies so much that 32 texts in all measured a baseline of .10
    as .23."""
    n_tokens: int = 48
    """Tokens per text."""
    temperature: float = 1.0
    """Sampling temperature."""
    seed: int = 0
    """Seed of the sampling noise, the random directions and the bootstrap."""
    n_candidates: int = 6
    """Features tried per concept, on texts of another seed; the one that adds most of the concept is evaluated. The null
    is a random direction, chosen among as many in the same way."""


class EvaluationConfig(Record, frozen=True):
    """Options of ``interp evaluate``."""

    n_sequences: int = 32
    """Sequences for the spliced loss (five forward passes each)."""
    n_steered: int = 4
    """Concepts to steer, those detected best over the null; 0 for none. Only for label sets that can say how much of a
    written text is a concept. Takes some twenty seconds a concept on the bundled model, most of an evaluation."""
    concepts: ConceptConfig = ConceptConfig()
    """Options of concept detection, skipped where the store has no such label set."""


class HeldOut(Record, frozen=True):
    """Whether the evaluated text is new to the run."""

    is_held_out: bool | None
    """Whether no document of the evaluated store is in the store the run was trained on. None where that is unknown: the
    run's own store has changed since, or was captured with another tokenizer."""
    n_documents: int
    """Documents of the evaluated store."""
    n_trained_on: int | None
    """How many of them are also in the store the run was trained on."""


class Reconstruction(Record, frozen=True):
    """What the codes keep of the activations, over all rows of a store."""

    fvu: float | None
    """sum |x - x^|^2 / sum |x - mean|^2, the mean over the whole store. None where codes do not decode to an activation."""
    shrinkage: float | None
    """Mean of |x^| / |x|; None where ``fvu`` is None."""
    reason: str | None
    """Why there is no ``fvu``."""
    fvu_own_target: float | None
    """Where codes do not decode: the FVU of what the method does reconstruct, which is measured in another space."""
    fvu_of_span: float | None
    """Where codes do not decode: the share of the variance of x outside the span of the latents active on each token."""
    l0: float
    """Codes that are not zero, mean per token."""
    n_dead: int
    """Features that fire on none of the tokens."""
    dense_share: float
    """Share of features that fire on more than 10 % of tokens."""
    n_tokens: int
    """Rows of the store."""


class SplicedLoss(Record, frozen=True):
    """The model's next-token loss with a site's activation as it is, ablated, and reconstructed.

    Cross-entropies and divergences are means in nats per token over the predictions made at edited positions: all but
    BOS and separators, which are left as they are since no decomposer is fitted on them.
    """

    ce_clean: float
    """The model as it is."""
    ce_zero: float
    """Activation set to zero."""
    ce_mean: float
    """Activation set to its mean over the same tokens."""
    ce_reconstructed: float
    """Activation replaced by its reconstruction."""
    ce_recovered_zero: float | None
    """1 = nothing lost, 0 = as bad as zero."""
    ce_recovered_mean: float | None
    """1 = nothing lost, 0 = as bad as the mean. The stricter of the two: zero is far from any real activation."""
    kl_zero: float
    """KL(clean || zero)."""
    kl_mean: float
    """KL(clean || mean)."""
    kl_reconstructed: float
    """KL(clean || reconstructed)."""
    kl_recovered_mean: float | None
    """1 - KL(clean || reconstructed) / KL(clean || mean)."""
    n_tokens: int
    """Predictions the means are over."""


class ConceptResult(Record, frozen=True):
    """How well one feature detects one concept; everything but ``threshold`` is measured on test."""

    concept: str
    feature: int
    """Chosen on select."""
    sign: int
    """-1 when the feature's absence, or its negative codes, mean the concept; always 1 for non-negative codes."""
    auroc: float
    average_precision: float
    f1: float
    """At the threshold that is best on select."""
    threshold: float
    """The concept is predicted where sign * code >= threshold."""
    base_rate: float
    """Share of test tokens that have the concept: the average precision of random scores."""
    n_positive_select: int
    n_positive_test: int
    null_auroc: float
    """Best of as many random directions, chosen on select."""
    neuron_auroc: float
    """Best single coordinate of the activation, chosen on select."""
    diff_means_auroc: float
    """Difference of class means fitted on select: a supervised reference."""
    best_features: tuple[tuple[int, int], ...]
    """(feature, sign) of the best few on select, the chosen one first; steering tries several of them."""


class DepthResult(Record, frozen=True):
    """How well one feature follows an integer label, by Spearman's rank correlation on test."""

    label: str
    feature: int
    sign: int
    spearman: float
    """sign * rank correlation."""
    null_spearman: float
    """The same of the best of as many random directions."""


class ConceptReport(Record, frozen=True):
    """Detection of every concept of a label set, with its null.

    Means are over concepts, and None when no concept is left; intervals are 95 % bootstrap intervals over concepts, and
    None for fewer than two.
    """

    mean_auroc: float | None
    mean_average_precision: float | None
    mean_f1: float | None
    mean_null_auroc: float | None
    mean_neuron_auroc: float | None
    mean_diff_means_auroc: float | None
    mean_auroc_interval: tuple[float, float] | None
    mean_excess_over_null: float | None
    """mean_auroc - mean_null_auroc."""
    mean_excess_interval: tuple[float, float] | None
    null: str
    """What the null is."""
    concepts: tuple[ConceptResult, ...]
    depths: tuple[DepthResult, ...]
    left_out: dict[str, str]
    """The reason for each label that is left out."""
    n_rows: dict[str, int]
    """Tokens in select, test and reserved."""
    n_documents: dict[str, int]
    """Documents in select, test and reserved."""
    n_features: int
    signed: bool
    """Whether each feature was tried with both signs, which doubles the number of candidates."""
    seed: int


class SteeringEffect(Record, frozen=True):
    """What steering one feature did to the texts, compared with texts written without steering from the same noise."""

    concept: str
    feature: int
    strength: float
    """In multiples of the feature's maximum."""
    kl: float
    """Effect on neutral text at that strength, nats per token."""
    reached: bool
    """Whether ``kl`` is within 5 % of the target."""
    baseline_share: float
    """Share of what was written without steering that is the concept, mean over samples."""
    steered_share: float
    """The same with steering."""
    difference: float
    """steered_share - baseline_share."""
    interval: tuple[float, float]
    """95 % bootstrap interval over samples of the difference (samples are paired by their noise)."""
    fluency: float
    """Mean over samples, 0 to 1."""
    score: float
    """Mean over samples of the harmonic mean of share and fluency."""
    distinct_2: float | None
    """Different token pairs over all token pairs of a steered text, mean over texts; falls when steering makes it repeat."""
    baseline_distinct_2: float | None
    """The same without steering."""
    texts: tuple[str, ...]
    """Steered continuations, prompts in order, samples of a prompt side by side."""
    baseline_texts: tuple[str, ...]
    """Continuations without steering from the same noise."""


class SteeringReport(Record, frozen=True):
    """Steering of several concepts, each beside a random direction of the same effect. Means are over concepts."""

    config: SteeringConfig
    n_prompts: int
    """Prompts that were continued."""
    reason: str | None
    """Why nothing was steered; then there are no effects and no means."""
    mean_difference: float | None
    mean_null_difference: float | None
    mean_score: float | None
    mean_null_score: float | None
    n_unreached: int
    """Concepts whose feature did not reach the target effect."""
    effects: tuple[SteeringEffect, ...]
    null: tuple[SteeringEffect, ...]
    """The same of the random directions."""


class Metrics(FileRecord, frozen=True):
    """``metrics.json``: everything measured of one run on one store."""

    SCHEMA: ClassVar[str] = "interp-metrics"
    VERSION: ClassVar[int] = 2

    run: str
    kind: str
    site: str
    model: str
    store: str
    """Name of the evaluated store."""
    store_identity: str
    held_out: HeldOut
    n_tokens: int
    """Rows of the evaluated store."""
    config: EvaluationConfig
    versions: dict[str, str]
    """Package versions."""
    reconstruction: Reconstruction
    spliced: SplicedLoss | None
    """None where codes do not decode to an activation."""
    concepts: ConceptReport | None
    concepts_left_out: str | None
    """Why there are no concepts."""
    steering: SteeringReport | None
    """None where steering was not evaluated."""


def read_metrics(run: Run) -> Metrics:
    """The run's metrics, checked. Raises InputError if the run was not evaluated, or by another version of the tool."""
    absent = f"run '{run.name}' has no metrics yet; run: interp evaluate {run.path}"
    return read_record(run.path / METRICS_FILE, Metrics, absent)


def defined(value: float | None) -> float | None:
    """A Python float, or None for what is not a finite number."""
    return float(value) if value is not None and math.isfinite(value) else None
