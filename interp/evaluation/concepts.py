"""Concept detection: does one feature say of a token what its label says?

Tokens are split by document into three parts: on *select* the best feature (and sign, where codes are signed) of each
concept is chosen by AUROC; on *test* that choice is judged; *judge* is left untouched, for training judges of steering.

Choosing the best of many features finds good ones among random directions too, so every figure stands beside a null that
is chosen in the same way: as many random unit directions in activation space, read by their raw projections with sign.
(Centring would change no projection's AUROC, and a ReLU would only weaken the null.) Raw neurons and the supervised
difference of class means, fitted on select, stand beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from interp.decomposers import Decomposer
from interp.errors import InputError
from interp.evaluation.selection import (
    SELECT,
    TEST,
    Candidates,
    LabelledRows,
    auroc_about_half,
    choose,
    difference_in_means,
    random_candidates,
    spearman_matrix,
)
from interp.metrics import auroc, average_precision, best_threshold_f1, bootstrap_interval, f1_at
from interp.store.source import ActivationSource

N_BEST = 8
"""Features named for each concept, the chosen one first."""


@dataclass(frozen=True)
class ConceptConfig:
    """Options of concept detection."""

    label_set: str | None = None
    """Label set of the store, by default its first. Labels whose name ends in ``_depth`` are integers and are correlated,
    not detected."""
    max_rows: int = 60_000
    """Rows judged at most, drawn evenly at random over the store: with 50 positives the standard error of an AUROC is
    about .03, and more rows cost time in proportion."""
    min_positives: int = 50
    """Concepts with fewer positive (or negative) tokens in select or test are left out, by name."""
    seed: int = 0
    """Seed of the row sample, the random directions and the bootstrap."""


@dataclass(frozen=True)
class ConceptResult:
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
    """Fires when sign * code >= threshold."""
    base_rate: float
    """Share of test tokens that have the concept: the average precision of a feature that knows nothing."""
    n_positive_select: int
    n_positive_test: int
    null_auroc: float
    """Best of as many random directions, chosen on select."""
    neuron_auroc: float
    """Best single coordinate of the activation, chosen on select."""
    diff_means_auroc: float
    """Difference of class means fitted on select: a supervised reference."""
    best_features: tuple[tuple[int, int], ...] = ()
    """(feature, sign) of the ``N_BEST`` best on select, the chosen one first: whoever steers may choose among them."""


@dataclass(frozen=True)
class DepthResult:
    """How well one feature follows an integer label, by Spearman's rank correlation on test."""

    label: str
    feature: int
    sign: int
    spearman: float
    """sign * rank correlation."""
    null_spearman: float
    """The same of the best of as many random directions."""


@dataclass(frozen=True)
class ConceptReport:
    """Detection of every concept of a label set, with its null."""

    concepts: tuple[ConceptResult, ...]
    depths: tuple[DepthResult, ...]
    left_out: dict[str, str]
    """Label to the reason why it is not judged."""
    n_rows: dict[str, int]
    """Tokens in select, test and judge."""
    n_documents: dict[str, int]
    n_features: int
    signed: bool
    """Whether the decomposer's features were tried with both signs, which doubles its choice."""
    seed: int

    def mean(self, field: str) -> float | None:
        """Mean over concepts of a field of ConceptResult; None when no concept is left."""
        return float(np.mean([getattr(c, field) for c in self.concepts])) if self.concepts else None

    def interval(self, field: str, *, minus: str | None = None) -> tuple[float, float] | None:
        """95 % bootstrap interval over concepts of the mean of ``field`` (less the field ``minus``)."""
        values = [getattr(c, field) - (getattr(c, minus) if minus else 0.0) for c in self.concepts]
        if len(values) < 2:
            return None
        low, high = bootstrap_interval(np.asarray(values), seed=self.seed)
        return float(low), float(high)

    def as_dict(self) -> dict[str, Any]:
        """Everything, with means over concepts and their intervals, ready for JSON."""
        fields = ("auroc", "average_precision", "f1", "null_auroc", "neuron_auroc", "diff_means_auroc")
        means: dict[str, Any] = {f"mean_{field}": self.mean(field) for field in fields}
        null, own = means["mean_null_auroc"], means["mean_auroc"]
        means |= {
            "mean_auroc_interval": self.interval("auroc"),
            "mean_excess_over_null": None if own is None or null is None else own - null,
            "mean_excess_interval": self.interval("auroc", minus="null_auroc"),
            "null": f"best of {self.n_features} random unit directions, raw projections, both signs",
        }
        return means | asdict(self)


@torch.no_grad()
def evaluate_concepts(
    decomposer: Decomposer,
    source: ActivationSource,
    *,
    labels: UInt8[np.ndarray, "n_rows n_labels"],
    names: Sequence[str],
    documents: Int[np.ndarray, " n_rows"],
    config: ConceptConfig,
) -> ConceptReport:
    """Judge the best feature of ``decomposer`` for each label of ``source``'s rows.

    ``documents`` is the document number of each row. Raises InputError when the counts of rows and names do not fit.
    """
    if not len(source) == len(labels) == len(documents) or labels.shape[1] != len(names):
        raise InputError(
            f"{len(source)} rows, labels {labels.shape} with {len(names)} names and {len(documents)} document numbers "
            "do not fit together; give one label row and one document number per activation row"
        )
    data = LabelledRows.draw(source, labels, documents, max_rows=config.max_rows, seed=config.seed)
    own = Candidates(decomposer.encode, decomposer.n_features, decomposer.signed_codes)
    null = random_candidates(source.d_in, decomposer.n_features, config.seed)
    names = list(names)
    is_depth = [name.endswith("_depth") for name in names]
    left_out = {
        name: why for i, name in enumerate(names) if (why := data.unusable(i, is_depth[i], config.min_positives))
    }
    concepts = [i for i, name in enumerate(names) if name not in left_out and not is_depth[i]]
    depths = [i for i, name in enumerate(names) if name not in left_out and is_depth[i]]
    return ConceptReport(
        concepts=tuple(_detect(data, own, null, columns=concepts, names=names)),
        depths=tuple(_correlate(data, own, null, columns=depths, names=names)),
        left_out=left_out,
        n_rows=data.sizes(),
        n_documents=data.n_documents,
        n_features=decomposer.n_features,
        signed=decomposer.signed_codes,
        seed=config.seed,
    )


def _detect(
    data: LabelledRows, own: Candidates, null: Candidates, *, columns: list[int], names: list[str]
) -> Iterator[ConceptResult]:
    if not columns:
        return
    chosen, random = (choose(data, candidates, columns, auroc_about_half) for candidates in (own, null))
    neurons = Candidates(lambda x: x, data.source.d_in, signed=True)
    neuron = choose(data, neurons, columns, auroc_about_half)
    means = difference_in_means(data, columns)
    select, test = data.of(SELECT, columns) != 0, data.of(TEST, columns) != 0
    for c, column in enumerate(columns):
        threshold = float(best_threshold_f1(chosen.select[c][:, None], select[:, c])[0][0])
        yield ConceptResult(
            concept=names[column],
            feature=int(chosen.features[c]),
            sign=int(chosen.signs[c]),
            auroc=_auroc(chosen.test[c], test[:, c]),
            average_precision=float(average_precision(chosen.test[c][:, None], test[:, c])[0]),
            f1=float(f1_at(chosen.test[c][:, None], test[:, c], threshold)[0]),
            threshold=threshold,
            base_rate=float(test[:, c].mean()),
            n_positive_select=int(select[:, c].sum()),
            n_positive_test=int(test[:, c].sum()),
            null_auroc=_auroc(random.test[c], test[:, c]),
            neuron_auroc=_auroc(neuron.test[c], test[:, c]),
            diff_means_auroc=_auroc(means[:, c], test[:, c]),
            best_features=_best(chosen.association[c], signed=own.signed),
        )


def _best(association: Float[np.ndarray, " n_features"], *, signed: bool) -> tuple[tuple[int, int], ...]:
    strength = np.abs(association) if signed else association
    features = np.argsort(-strength, kind="stable")[:N_BEST]
    return tuple((int(f), -1 if signed and association[f] < 0 else 1) for f in features)


def _correlate(
    data: LabelledRows, own: Candidates, null: Candidates, *, columns: list[int], names: list[str]
) -> Iterator[DepthResult]:
    if not columns:
        return
    chosen, random = (choose(data, candidates, columns, spearman_matrix) for candidates in (own, null))
    test = data.of(TEST, columns)
    for c, column in enumerate(columns):
        own_rho, null_rho = (float(spearman_matrix(x.test[c][:, None], test[:, [c]])[0, 0]) for x in (chosen, random))
        yield DepthResult(names[column], int(chosen.features[c]), int(chosen.signs[c]), own_rho, null_rho)


def _auroc(scores: Float[np.ndarray, " n"], is_positive: Bool[np.ndarray, " n"]) -> float:
    return float(auroc(scores[:, None], is_positive)[0])
