"""Which concepts do a run's features find, how many features can be read, and is that more than chance finds?

The run is compared with the null that does best (``trial`` says which nulls there are) and with simple methods at the same
site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from msgspec import structs
from torch import Tensor

from interp.decomposers import Decomposer
from interp.decomposers.sae.initialisation import random_directions
from interp.evaluation.detection import Detections, normalised_mutual_information
from interp.evaluation.estimates import Estimate
from interp.evaluation.firing_codes import FiringCodes
from interp.evaluation.judged_rows import JudgedRows
from interp.evaluation.readable import LEAST_DOCUMENTS, Readings
from interp.evaluation.resampling import Resamples, estimate, interval_rows, mean_over_concepts, mean_over_features
from interp.evaluation.results import (
    BaselineReport,
    ConceptConfig,
    ConceptReport,
    ConceptResult,
    DepthResult,
    NullReport,
)
from interp.evaluation.site_baselines import baseline_detections
from interp.evaluation.trial import NULLS, RANDOM_DIRECTIONS, Judged, Trial, codes_of, documents_of, encoded, nulls_of
from interp.metrics import auroc, auroc_matrix

N_BEST = 16
"""Features named for each concept, the chosen one first."""
HALF_WAY = 0.5
"""Precision that a feature must have to detect a concept, as a share of the way from the base rate to 1."""


@dataclass(frozen=True)
class FeatureFindings:
    """What was found of each candidate: a feature, or of signed methods a sign of one."""

    codes: FiringCodes
    judged: Judged
    own: Detections
    """Each candidate with the label it detects best on select."""
    excess: Float[np.ndarray, " n_candidates"]
    """F1 less that of the random directions cut to the candidate's rate, each with the label it detects best; mean over
    draws."""
    excess_interval: Float[np.ndarray, "n_candidates 2"]
    detects: Bool[np.ndarray, " n_candidates"]
    readings: Readings


@torch.no_grad()
def evaluate_concepts(
    decomposer: Decomposer,
    rows: JudgedRows,
    config: ConceptConfig,
    *,
    untrained: Callable[[int], Decomposer | None] | None = None,
) -> tuple[ConceptReport, FeatureFindings]:
    """Measure ``decomposer`` on ``rows``: the report, and what was found of each feature.

    ``untrained`` makes the same method untrained, from a seed; None where there is no such thing.
    """
    judged = Judged.of(rows, config)
    codes = codes_of(decomposer, rows, config)
    trial = Trial.of(codes, rows, judged)
    nulls = dict(nulls_of(codes, rows, judged, config, untrained))
    resamples = Resamples.draw(documents_of(rows.is_test, rows), config.seed)
    found, means = _concepts(codes, trial, nulls, rows, resamples, config)
    findings = _findings(codes, judged, trial, nulls, rows, resamples, config.seed)
    dense = _dense_auroc(decomposer, rows, judged.concepts, config) if codes.cut is not None else None
    if dense is not None:
        found = [
            structs.replace(result, auroc=each[0], null_auroc=each[1])
            for result, each in zip(found, dense.T.tolist(), strict=True)
        ]
    readable = {name: [draw.readings.is_readable for draw in nulls[name]] for name in RANDOM_DIRECTIONS}
    best_readable = max(readable, key=lambda name: float(np.mean(readable[name])))
    reports = tuple(
        null_report(name, NULLS[name], draws, rows, resamples, config.seed) for name, draws in nulls.items()
    )
    report = ConceptReport(
        f1=means.f1,
        average_precision=_mean(trial.average_precision),
        mutual_information=_mean([concept.mutual_information for concept in found]),
        best_null=means.best_null,
        null_f1=means.null_f1,
        excess=means.excess,
        readable=mean_over_features(trial.readings.is_readable, config.seed),
        null_readable=float(np.mean(readable[best_readable])),
        # a feature and the random directions at its rate are one unit
        readable_excess=mean_over_features(
            trial.readings.is_readable - np.mean(readable[best_readable], axis=0), config.seed
        ),
        detecting=float(findings.detects.mean()),
        null_detecting=max((null.detecting for null in reports if null.detecting is not None), default=None),
        auroc=_mean(dense[0]) if dense is not None else None,
        null_auroc=_mean(dense[1]) if dense is not None else None,
        nulls=reports,
        baselines=_baselines(trial, rows, resamples, config),
        concepts=tuple(found),
        depths=_depths(codes, trial, nulls["isotropic"], rows, judged),
        left_out=judged.left_out,
        n_rows={"select": int(rows.is_select.sum()), "test": int(rows.is_test.sum())},
        n_documents={
            name: int(documents_of(half, rows).sum())
            for name, half in (("select", rows.is_select), ("test", rows.is_test))
        },
        n_candidates=codes.n_candidates,
        cut=codes.cut,
        seed=config.seed,
    )
    return report, findings


@dataclass(frozen=True)
class _Means:
    f1: Estimate | None = None
    best_null: str | None = None
    null_f1: float | None = None
    excess: Estimate | None = None


def _concepts(
    codes: FiringCodes,
    trial: Trial,
    nulls: Mapping[str, list[Trial]],
    rows: JudgedRows,
    resamples: Resamples,
    config: ConceptConfig,
) -> tuple[list[ConceptResult], _Means]:
    """Each concept's result, and the means over concepts."""
    own, columns = trial.of_concepts, trial.association.columns
    if not len(columns):
        return [], _Means()
    null_f1 = {name: np.mean([draw.of_concepts.f1 for draw in draws], axis=0) for name, draws in nulls.items()}
    best = max(null_f1, key=lambda name: float(null_f1[name].mean()))
    resampled = own.resampled_f1(resamples)
    excess = resampled - _one_draw_each([draw.of_concepts.resampled_f1(resamples) for draw in nulls[best]], config.seed)
    intervals = interval_rows(resampled)
    information = normalised_mutual_information(own, int(rows.is_test.sum()))
    select, test = ((rows.labels[half][:, columns] != 0) for half in (rows.is_select, rows.is_test))
    ranked = np.argsort(-trial.association.f1, axis=0, kind="stable")[:N_BEST]
    results = [
        ConceptResult(
            concept=rows.names[column],
            feature=int(codes.feature[own.candidate[i]]),
            sign=int(codes.sign[own.candidate[i]]),
            f1=Estimate(value=float(own.f1[i]), low=float(intervals[i, 0]), high=float(intervals[i, 1])),
            precision=float(own.precision[i]),
            recall=float(own.recall[i]),
            average_precision=float(trial.average_precision[i]),
            mutual_information=float(information[i]),
            base_rate=float(test[:, i].mean()),
            n_positive_select=int(select[:, i].sum()),
            n_positive_test=int(test[:, i].sum()),
            n_documents=int(own.n_documents[i]),
            null_f1={name: float(values[i]) for name, values in null_f1.items()},
            excess=estimate(float(own.f1[i] - null_f1[best][i]), excess[i]),
            auroc=None,
            null_auroc=None,
            best_features=tuple((int(codes.feature[j]), int(codes.sign[j])) for j in ranked[:, i]),
        )
        for i, column in enumerate(columns)
    ]
    means = _Means(
        f1=mean_over_concepts(own.f1, resampled, config.seed),
        best_null=best,
        null_f1=float(null_f1[best].mean()),
        excess=mean_over_concepts(own.f1 - null_f1[best], excess, config.seed),
    )
    return results, means


def _one_draw_each(resampled: Sequence[Float[np.ndarray, "n n_draws"]], seed: int) -> Float[np.ndarray, "n n_draws"]:
    """One draw of the null for each resample of the documents, so that intervals know that draws differ too."""
    n_draws = resampled[0].shape[1]
    which = np.random.default_rng([seed, 4]).integers(0, len(resampled), size=(n_draws,))
    return np.stack([resampled[draw][:, column] for column, draw in enumerate(which)], axis=1)


def _findings(
    codes: FiringCodes,
    judged: Judged,
    trial: Trial,
    nulls: Mapping[str, list[Trial]],
    rows: JudgedRows,
    resamples: Resamples,
    seed: int,
) -> FeatureFindings:
    """Each candidate, against the kind of random directions that detect more."""
    own = trial.of_candidates
    best = max(RANDOM_DIRECTIONS, key=lambda name: float(np.mean([draw.of_candidates.f1 for draw in nulls[name]])))
    excess, interval = _excess(own, [draw.of_candidates for draw in nulls[best]], resamples, seed)
    return FeatureFindings(
        codes=codes,
        judged=judged,
        own=own,
        excess=excess,
        excess_interval=interval,
        detects=_detects(own, interval, rows),
        readings=trial.readings,
    )


def _excess(
    own: Detections, nulls: Sequence[Detections], resamples: Resamples, seed: int
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n 2"]]:
    """F1 less that of the draws (mean over draws), and its intervals."""
    value = own.f1 - np.mean([null.f1 for null in nulls], axis=0)
    drawn = _one_draw_each([null.resampled_f1(resamples) for null in nulls], seed)
    return value, interval_rows(own.resampled_f1(resamples) - drawn)


def _detects(own: Detections, interval: Float[np.ndarray, "n 2"], rows: JudgedRows) -> Bool[np.ndarray, " n"]:
    base = np.append((rows.labels[rows.is_test] != 0).mean(0), 0.0)[own.label]
    is_precise = own.precision - base >= HALF_WAY * (1 - base)
    return (own.label >= 0) & (interval[:, 0] > 0) & is_precise & (own.n_documents >= LEAST_DOCUMENTS)


def _null_detecting(draws: Sequence[Trial], rows: JudgedRows, resamples: Resamples, seed: int) -> float | None:
    """Share of one draw's candidates that pass the same test against the other draws, mean over draws; None for a single
    draw."""
    found = [draw.of_candidates for draw in draws]
    shares = []
    for i, one in enumerate(found if len(found) > 1 else ()):
        _, interval = _excess(one, found[:i] + found[i + 1 :], resamples, seed)
        shares.append(_detects(one, interval, rows).mean())
    return _mean(shares)


def null_report(
    name: str, what: str, draws: Sequence[Trial], rows: JudgedRows, resamples: Resamples, seed: int
) -> NullReport:
    """What the draws of a null achieve."""
    has_concepts, n_test = len(draws[0].of_concepts.label) > 0, int(rows.is_test.sum())
    f1 = [float(draw.of_concepts.f1.mean()) for draw in draws] if has_concepts else []
    readable = [float(draw.readings.is_readable.mean()) for draw in draws]
    information = [normalised_mutual_information(draw.of_concepts, n_test) for draw in draws]
    return NullReport(
        name=name,
        what=what,
        n_draws=len(draws),
        f1=_mean(f1),
        f1_spread=float(np.std(f1)) if f1 else None,
        average_precision=float(np.mean([draw.average_precision for draw in draws])) if has_concepts else None,
        mutual_information=float(np.mean(information)) if has_concepts else None,
        readable=None if name == "shuffled" else float(np.mean(readable)),
        readable_spread=None if name == "shuffled" else float(np.std(readable)),
        detecting=_null_detecting(draws, rows, resamples, seed) if name in RANDOM_DIRECTIONS else None,
    )


def _baselines(
    trial: Trial, rows: JudgedRows, resamples: Resamples, config: ConceptConfig
) -> tuple[BaselineReport, ...]:
    own, seed = trial.of_concepts, config.seed
    if not len(own.label):
        return ()
    resampled, reports = own.resampled_f1(resamples), []
    for name, (what, found) in baseline_detections(rows, tuple(own.label.tolist()), config.dense_rate).items():
        theirs = found.resampled_f1(resamples)
        f1 = mean_over_concepts(found.f1, theirs, seed)
        difference = mean_over_concepts(own.f1 - found.f1, resampled - theirs, seed)
        assert f1 is not None
        assert difference is not None
        reports.append(BaselineReport(name=name, what=what, f1=f1, difference=difference))
    return tuple(reports)


def _depths(
    codes: FiringCodes, trial: Trial, draws: Sequence[Trial], rows: JudgedRows, judged: Judged
) -> tuple[DepthResult, ...]:
    return tuple(
        DepthResult(
            label=rows.names[column],
            feature=int(codes.feature[candidate]),
            sign=int(sign * codes.sign[candidate]),
            spearman=own,
            null_spearman=float(np.mean([draw.follows[i][2] for draw in draws])),
        )
        for i, (column, (candidate, sign, own)) in enumerate(zip(judged.depths, trial.follows, strict=True))
    )


def _dense_auroc(
    decomposer: Decomposer, rows: JudgedRows, columns: Int[np.ndarray, " c"], config: ConceptConfig
) -> Float[np.ndarray, "2 c"]:
    """AUROC on test of each label's best feature by AUROC on select, and of random directions (mean over draws), both signs."""
    own = _best_auroc(encoded(decomposer, rows), rows, columns)
    null = []
    for draw in range(config.n_draws):
        directions = random_directions(decomposer.n_features, rows.moments, config.seed * 1000 + draw, shaped=True)
        null.append(_best_auroc(rows.x @ directions.T, rows, columns))
    return np.stack([own, np.mean(null, axis=0)])


def _best_auroc(
    scores: Float[Tensor, "n k"], rows: JudgedRows, columns: Int[np.ndarray, " c"]
) -> Float[np.ndarray, " c"]:
    values, labels = scores.numpy(), rows.labels[:, columns] != 0
    found = auroc_matrix(values[rows.is_select], labels[rows.is_select]) - 0.5
    best = np.abs(found).argmax(1)
    signs = np.where(found[np.arange(len(columns)), best] < 0, -1, 1)
    test, has = values[rows.is_test], labels[rows.is_test]
    chosen = enumerate(zip(best, signs, strict=True))
    return np.asarray([auroc(sign * test[:, [feature]], has[:, i])[0] for i, (feature, sign) in chosen])


def _mean(values: Sequence[float] | Float[np.ndarray, " n"]) -> float | None:
    return float(np.mean(values)) if len(values) else None
