"""A set of candidates put to the test: a run's own features, or a draw of a null, which has as many candidates and the same
freedom.

Every figure of a run stands beside nulls, each drawn several times:

    isotropic    random unit directions
    covariance   random directions distributed like the activations themselves
    untrained    the same method with the weights it starts from
    shuffled     the run's own features, with the labels of each document shifted round it by a random number of tokens

Random directions are cut to fire on as many tokens as the features that they stand beside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy.stats import rankdata
from torch import Tensor

from interp.decomposers import Decomposer
from interp.evaluation.detection import Association, Detections, association
from interp.evaluation.firing_codes import FiringCodes, firing_codes, random_codes
from interp.evaluation.judged_rows import JudgedRows
from interp.evaluation.readable import Readings, read
from interp.evaluation.results import ConceptConfig
from interp.metrics import average_precision

NULLS = {
    "isotropic": "random unit directions, cut to fire as often as the features",
    "covariance": "random directions distributed like the activations, cut to fire as often as the features",
    "untrained": "the same method with the weights it starts from",
    "shuffled": "the run's own features, with each document's labels shifted round it",
}
RANDOM_DIRECTIONS = ("isotropic", "covariance")
_CHUNK = 4096


@dataclass(frozen=True)
class Judged:
    """The labels of a table of rows that can be judged, by their columns."""

    concepts: Int[np.ndarray, " n_concepts"]
    """Labels that are there or not."""
    depths: Int[np.ndarray, " n_depths"]
    """Labels that are whole numbers."""
    left_out: dict[str, str]
    """The reason for each label that cannot be judged."""

    @classmethod
    def of(cls, rows: JudgedRows, config: ConceptConfig) -> Judged:
        """Those with enough positives, in enough documents, on both halves."""
        least = {"min_positives": config.min_positives, "min_documents": config.min_documents}
        left_out = {name: why for i, name in enumerate(rows.names) if (why := rows.why_unusable(i, **least))}
        kept = [i for i, name in enumerate(rows.names) if name not in left_out]
        concepts = np.asarray([i for i in kept if not rows.is_depth(i)], dtype=np.int64)
        return cls(concepts, np.asarray([i for i in kept if rows.is_depth(i)], dtype=np.int64), left_out)


@dataclass(frozen=True)
class Trial:
    """What a set of candidates achieves."""

    association: Association
    of_concepts: Detections
    """Each concept with the candidate that detects it best on select."""
    of_candidates: Detections
    """Each candidate with the concept it detects best on select."""
    average_precision: Float[np.ndarray, " n_concepts"]
    """On test, of the codes of each concept's candidate."""
    readings: Readings
    follows: tuple[tuple[int, int, float], ...]
    """Of each depth: (candidate, sign, Spearman's correlation on test)."""

    @classmethod
    def of(cls, codes: FiringCodes, rows: JudgedRows, judged: Judged) -> Trial:
        """Choose on select, measure on test."""
        found = association(codes, rows, judged.concepts)
        chosen = found.of_labels(codes, rows)
        scores, labels = codes.codes[:, chosen.candidate].toarray()[rows.is_test], rows.labels[rows.is_test] != 0
        precisions = [average_precision(scores[:, [i]], labels[:, c])[0] for i, c in enumerate(judged.concepts)]
        return cls(
            association=found,
            of_concepts=chosen,
            of_candidates=found.of_candidates(codes, rows),
            average_precision=np.asarray(precisions),
            readings=read(codes, rows, judged.concepts),
            follows=tuple(follows(codes, rows, int(column)) for column in judged.depths),
        )


def codes_of(decomposer: Decomposer, rows: JudgedRows, config: ConceptConfig) -> FiringCodes:
    """The firing codes of a decomposer's features."""
    return firing_codes(
        decomposer.encode, decomposer.n_features, rows, signed=decomposer.signed_codes, dense_rate=config.dense_rate
    )


def encoded(decomposer: Decomposer, rows: JudgedRows) -> Float[Tensor, "n n_features"]:
    """The decomposer's codes of all rows, as they are."""
    return torch.cat([decomposer.encode(part) for part in rows.x.split(_CHUNK)])


def nulls_of(
    codes: FiringCodes,
    rows: JudgedRows,
    judged: Judged,
    config: ConceptConfig,
    untrained: Callable[[int], Decomposer | None] | None,
) -> Iterator[tuple[str, list[Trial]]]:
    """(name, draws) of each null; ``untrained`` makes the method untrained from a seed, or None where there is no such
    thing."""
    seeds = [config.seed * 1000 + draw for draw in range(config.n_draws)]
    for name in RANDOM_DIRECTIONS:
        shaped = name == "covariance"
        yield name, [Trial.of(random_codes(codes, rows, seed, shaped=shaped), rows, judged) for seed in seeds]
    starts = [start for seed in seeds if (start := untrained(seed))] if untrained else []
    if starts:
        yield "untrained", [Trial.of(codes_of(start, rows, config), rows, judged) for start in starts]
    yield "shuffled", [Trial.of(codes, replace(rows, labels=shifted_labels(rows, seed)), judged) for seed in seeds]


def shifted_labels(rows: JudgedRows, seed: int) -> UInt8[np.ndarray, "n n_labels"]:
    """Labels with each document's rows turned round by a random number of rows: as frequent and as clustered, but elsewhere."""
    random, labels = np.random.default_rng([seed, 3]), rows.labels.copy()
    order = np.argsort(rows.document, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(rows.document[order])) + 1):
        labels[part] = rows.labels[np.roll(part, random.integers(len(part)))]
    return labels


def follows(codes: FiringCodes, rows: JudgedRows, column: int) -> tuple[int, int, float]:
    """(candidate, sign, Spearman's correlation on test) of the candidate whose codes correlate most with a label's ranks on
    select.

    Signs are free: a candidate may fire where the label is low.
    """
    label, select = rows.labels[:, column].astype(np.float64), rows.is_select
    ranks = np.zeros(len(label))
    ranks[select] = _standard(rankdata(label[select]))
    n, marked = select.sum(), select.astype(np.float64)
    squares = codes.codes.multiply(codes.codes)
    deviation = np.sqrt(np.maximum((marked @ squares) / n - ((marked @ codes.codes) / n) ** 2, 0))
    correlation = np.divide(ranks @ codes.codes / n, deviation, out=np.zeros_like(deviation), where=deviation > 0)
    best = int(np.abs(correlation).argmax())
    sign = -1 if correlation[best] < 0 else 1
    code = sign * codes.codes[:, [best]].toarray()[rows.is_test, 0]
    return best, sign, float(_standard(rankdata(code)) @ _standard(rankdata(label[rows.is_test])) / len(code))


def _standard(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Brought to mean 0 and deviation 1; all 0 for a constant."""
    values = values - values.mean()
    return values / (values.std() or 1.0)


def documents_of(half: Bool[np.ndarray, " n"], rows: JudgedRows) -> Bool[np.ndarray, " n_documents"]:
    """Which documents have rows in a half."""
    return np.bincount(rows.document[half], minlength=rows.n_documents) > 0
