"""What an evaluation of one run found: the records of ``metrics.json``. Needs neither torch nor the stores.

Undefined numbers (the FVU of rows that do not vary, cross-entropy recovered where ablation changes nothing) are None, since
JSON has no NaN.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from interp.evaluation.ablation_results import ConceptAblation
from interp.evaluation.estimates import Estimate
from interp.evaluation.steering_results import SteeringReport
from interp.records import FileRecord, Record, read_record

if TYPE_CHECKING:
    from interp.runs.record import Run

METRICS_FILE = "metrics.json"


class ConceptConfig(Record, frozen=True):
    """Options of what is measured of features: concepts, readability, probes."""

    label_set: str | None = None
    """Label set of the store, by default its first. Labels whose name ends in ``_depth`` are integers and are correlated,
    not detected."""
    max_rows: int = 20_000
    """Rows used at most, drawn evenly at random over the store and held in memory: tokens of one document are so alike that
    more rows of the same documents say little more."""
    min_positives: int = 25
    """Concepts with fewer positive (or negative) tokens in select or test are left out, and the report names them. Rare ones
    have wide intervals, which say how little is known of them."""
    min_documents: int = 5
    """Concepts that occur in fewer documents of select or test are left out too."""
    n_draws: int = 5
    """Draws of each null."""
    dense_rate: float = 0.05
    """Share of select on which features fire that have no firing of their own, such as principal components."""
    seed: int = 0
    """Seed of the row sample, the split, the nulls and the bootstrap."""


class EvaluationConfig(Record, frozen=True):
    """Options of ``interp evaluate``."""

    n_sequences: int = 32
    """Sequences for the spliced loss (at most four forward passes each)."""
    n_steered: int = 4
    """Concepts to steer, those that a feature is estimated to write most; 0 for none. Only for label sets that can say how much
    of a written text is a concept. Takes half a minute a concept on the bundled model, most of an evaluation."""
    n_ablated: int = 6
    """Concepts whose feature is taken out of the model, those detected best over the null; 0 for none."""
    concepts: ConceptConfig = ConceptConfig()
    """Options of what is measured of features, skipped where the store has no such label set."""


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
    median_rate: float
    """Share of tokens on which a feature fires, median over features."""
    fires: bool
    """Whether codes are 0 where a feature does not fire: on most tokens, for most features. Where they are not, L0, dead
    features and firing rates mean nothing."""
    fvu_interval: tuple[float, float] | None
    """95 % bootstrap interval of ``fvu`` over documents."""
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
    ce_recovered_interval: tuple[float, float] | None
    """95 % bootstrap interval of ``ce_recovered_mean`` over sequences."""
    n_tokens: int
    """Predictions the means are over."""


class ConceptResult(Record, frozen=True):
    """How well one feature detects one concept by firing; the feature is chosen by F1 on select, all figures are of test."""

    concept: str
    feature: int
    sign: int
    """-1 where low codes mean the concept; always 1 for codes that are not signed."""
    f1: Estimate
    precision: float
    """Share of the tokens it fires on that have the concept."""
    recall: float
    """Share of the concept's tokens that it fires on."""
    average_precision: float
    """Of its codes; does not depend on where a feature begins to fire."""
    mutual_information: float
    """Of firing and concept, over the mean of their entropies, 0 to 1."""
    base_rate: float
    """Share of test tokens that have the concept: the average precision of random scores."""
    n_positive_select: int
    n_positive_test: int
    n_documents: int
    """Documents of test in which the feature fires on the concept."""
    null_f1: dict[str, float]
    """Of each null, mean over its draws: the F1 of the candidate that is best for this concept on select."""
    excess: Estimate | None
    """F1 less that of the best null; None where there is no null."""
    auroc: float | None
    """Of a method without firing of its own: AUROC of the feature that is best by AUROC on select."""
    null_auroc: float | None
    """The same of as many random directions, mean over draws."""
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
    """The same of the best of as many random directions, mean over draws."""


class NullReport(Record, frozen=True):
    """What chance achieves with as many candidates and the same freedom of choice; means over draws, and their spread."""

    name: str
    what: str
    n_draws: int
    f1: float | None
    """Mean over concepts and draws; None where no concept is left."""
    f1_spread: float | None
    """Standard deviation over draws of the mean over concepts."""
    average_precision: float | None
    mutual_information: float | None
    readable: float | None
    """Share of candidates that are readable; None where that is not defined."""
    readable_spread: float | None
    detecting: float | None
    """Share of candidates that pass the test for detecting a concept; of random directions drawn more than once."""


class BaselineReport(Record, frozen=True):
    """A simple method at the same site, judged on the same rows."""

    name: str
    what: str
    f1: Estimate
    difference: Estimate
    """F1 of the run less that of the baseline, paired; intervals over documents and concepts."""


class ConceptReport(Record, frozen=True):
    """What a run's features say of a label set, with nulls and baselines.

    Means are over concepts, None where no concept is left. Intervals are over documents, concepts and draws of the null.
    """

    f1: Estimate | None
    """Concepts found: F1 of each concept's best feature."""
    average_precision: float | None
    mutual_information: float | None
    best_null: str | None
    """Name of the null with the highest F1."""
    null_f1: float | None
    """Its F1."""
    excess: Estimate | None
    """F1 less that of the best null."""
    readable: Estimate
    """Share of features whose strongest tokens have a label or a token in common; each sign of a signed method apart. Intervals
    over features."""
    null_readable: float | None
    """The same of the random directions of which more are readable."""
    readable_excess: Estimate | None
    detecting: float
    """Share of features that detect a concept: F1 above the null's with its whole interval, precision at least half-way from
    the base rate to 1, and hits in at least 5 documents."""
    null_detecting: float | None
    auroc: float | None
    """Of methods without firing of their own: mean over concepts of the best feature's AUROC."""
    null_auroc: float | None
    nulls: tuple[NullReport, ...]
    baselines: tuple[BaselineReport, ...]
    concepts: tuple[ConceptResult, ...]
    depths: tuple[DepthResult, ...]
    left_out: dict[str, str]
    """The reason for each label that is left out."""
    n_rows: dict[str, int]
    """Tokens in select and test."""
    n_documents: dict[str, int]
    """Documents in select and test."""
    n_candidates: int
    """Features, or signs of features, that were chosen from."""
    cut: float | None
    """Share of select that every candidate was cut to fire on; None where codes are 0 where a feature does not fire."""
    seed: int

    @property
    def best_first(self) -> list[ConceptResult]:
        """The concepts by their excess over the best null, greatest first."""
        return sorted(self.concepts, key=lambda concept: -(concept.excess.value if concept.excess else 0.0))

    @property
    def is_above_null(self) -> bool:
        """Whether concepts are found better than by chance."""
        return self.excess is not None and self.excess.is_above_zero


class ProbeReport(Record, frozen=True):
    """F1 of logistic regressions on the k features that differ most between tokens with and without the concept, on select.

    Means over concepts, on test; beside the best k coordinates of the activation, the best k of its principal directions,
    and the regression on the whole activation.
    """

    k: tuple[int, ...]
    features: tuple[Estimate, ...]
    coordinates: tuple[float, ...]
    principal: tuple[float, ...]
    ahead: tuple[Estimate, ...]
    """F1 of the features less that of the better of coordinates and principal directions, paired."""
    whole: float
    """The regression on the whole activation: the ceiling."""


class SimulabilityReport(Record, frozen=True):
    """How well the firing of features is predicted from the tokens around: AUROC of a logistic regression on test."""

    auroc: Estimate
    """Mean over features; interval over features."""
    null_auroc: float
    """The same of random directions distributed like the activations that fire as often."""
    difference: Estimate
    """Paired by firing rate."""
    n_features: int
    """Features that fire often enough to be judged."""


class Absorption(Record, frozen=True):
    """How much of an outer concept's direction is carried, on the tokens of a concept inside it, by features that are not the
    outer concept's own (arXiv 2409.14507, 2503.09532)."""

    inner: str
    outer: str
    share: float
    """On tokens of the inner concept, mean over tokens of test."""
    share_elsewhere: float | None
    """On the outer concept's other tokens: what is usual where nothing is nested."""
    n_tokens: int


class SeedReport(Record, frozen=True):
    """The same request trained from other seeds and judged on the same text."""

    runs: tuple[str, ...]
    """This run and the others."""
    spread: dict[str, tuple[float, float]]
    """(mean, standard deviation) over the runs of each column of the table that all of them have, by its key."""
    stability: Estimate
    """Cosine of each feature with its counterpart in the other runs, paired one to one: mean over features; interval over
    features."""
    null_stability: float
    """The same against as many random directions distributed like the activations."""


class Metrics(FileRecord, frozen=True):
    """``metrics.json``: everything measured of one run on one store."""

    SCHEMA: ClassVar[str] = "interp-metrics"
    VERSION: ClassVar[int] = 4

    run: str
    run_identity: str
    """Identity of the weights that were judged."""
    kind: str
    site: str
    n_features: int
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
    done: tuple[str, ...]
    """Suites that were carried out, in order. An evaluation that was interrupted goes on after the last one."""
    complete: bool
    """Whether every suite that was asked for was carried out."""
    reconstruction: Reconstruction | None = None
    spliced: SplicedLoss | None = None
    """None where codes do not decode to an activation."""
    concepts: ConceptReport | None = None
    concepts_left_out: str | None = None
    """Why there are no concepts."""
    probes: ProbeReport | None = None
    simulability: SimulabilityReport | None = None
    absorption: tuple[Absorption, ...] = ()
    ablation: tuple[ConceptAblation, ...] = ()
    steering: SteeringReport | None = None
    """None where steering was not evaluated."""
    controls: tuple[NullReport, ...] = ()
    """Where they were asked for: the same method with a frozen decoder, and in a copy of the model with shuffled weights."""
    seeds: SeedReport | None = None
    """None where no other seed was asked for."""


def read_metrics(run: Run) -> Metrics:
    """The run's metrics, checked. Raises InputError if the run was not evaluated, or by another version of the tool."""
    absent = f"run '{run.name}' has no metrics yet; run: interp evaluate {run.path}"
    return read_record(run.path / METRICS_FILE, Metrics, absent)


def defined(value: float | None) -> float | None:
    """A Python float, or None for what is not a finite number."""
    return float(value) if value is not None and math.isfinite(value) else None
