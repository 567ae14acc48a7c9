"""What steering costs: how much of a concept a feature writes against its effect on neutral text, and against fluency.

Every figure of a feature at one strength is a mean over prompts and samples, with an interval over both. The best strength is
the one with the largest mean harmonic mean of share and fluency. It is chosen on the texts it is shown with, so its figures
flatter it: write fresh texts (other seeds and prompts) to say how good it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from interp.errors import unknown_name
from interp.evaluation.estimates import Estimate
from interp.evaluation.fluency import harmonic_mean
from interp.evaluation.resampling import over_prompts
from interp.evaluation.sweep_table import BASELINE, SHARE, SweepTable

_SHOWN = 4


@dataclass(frozen=True)
class FrontierPoint:
    """One feature at one strength, and how much of one concept it writes."""

    feature: int
    strength: float
    """In the unit of the mode."""
    kl: float
    """Effect on neutral text, nats per token."""
    reached: bool
    """False if another effect was aimed for."""
    share: Estimate
    """Of the continuations, the concept; of a judge of one's own, its number."""
    baseline_share: Estimate
    gain: Estimate
    """Share less the baseline's, paired by text."""
    fluency: Estimate
    baseline_fluency: Estimate
    score: Estimate | None
    """Harmonic mean of share and fluency of each text; None if a judge of one's own gives numbers that are no shares."""
    is_best: bool
    """Whether no other strength of the feature has a larger score, or share if there is no score."""


def frontier(table: SweepTable, concept: str, *, seed: int = 0) -> dict[int, list[FrontierPoint]]:
    """The strengths of each feature, smallest effect first. Raises InputError for a concept that was not judged."""
    if concept not in table.concepts:
        raise unknown_name("concept", concept, table.concepts, "this sweep")
    shares = table.values(SHARE + concept), table.values(BASELINE + SHARE + concept)
    are_shares = all(((values >= 0) & (values <= 1)).all() for values in shares)
    found: dict[int, list[FrontierPoint]] = {}
    for rows in table.steerings():
        point = _point(table, rows, shares[0][rows], shares[1][rows], seed, are_shares=are_shares)
        found.setdefault(point.feature, []).append(point)
    return {feature: _marked(points) for feature, points in found.items()}


def leading_concepts(table: SweepTable, n: int = _SHOWN) -> list[str]:
    """The concepts asked for; or, where all that the judge knows were, those that a feature added most of, largest first."""
    if table.request.concepts:
        return table.concepts
    steerings = table.steerings()
    gains = {}
    for concept in table.concepts:
        difference = table.values(SHARE + concept) - table.values(BASELINE + SHARE + concept)
        gains[concept] = max(difference[rows].mean() for rows in steerings)
    return sorted(gains, key=lambda concept: -gains[concept])[:n]


def _point(
    table: SweepTable,
    rows: Bool[np.ndarray, " n"],
    share: Float[np.ndarray, " n_texts"],
    baseline: Float[np.ndarray, " n_texts"],
    seed: int,
    *,
    are_shares: bool,
) -> FrontierPoint:
    first = int(np.argmax(rows))

    def mean(values: Float[np.ndarray, " n_texts"]) -> Estimate:
        return over_prompts(values.reshape(len(table.request.prompts), -1), seed=seed)

    fluency = table.values("fluency")[rows]
    return FrontierPoint(
        feature=table.columns["feature"][first],
        strength=table.columns["strength"][first],
        kl=table.columns["kl"][first],
        reached=table.columns["reached"][first] is not False,
        share=mean(share),
        baseline_share=mean(baseline),
        gain=mean(share - baseline),
        fluency=mean(fluency),
        baseline_fluency=mean(table.values("baseline_fluency")[rows]),
        score=mean(harmonic_mean(share, fluency)) if are_shares else None,
        is_best=False,
    )


def _marked(points: list[FrontierPoint]) -> list[FrontierPoint]:
    best = max(points, key=lambda point: (point.score or point.share).value)
    ordered = sorted(points, key=lambda point: (point.kl, abs(point.strength)))
    return [replace(point, is_best=point is best) for point in ordered]
