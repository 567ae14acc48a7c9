"""Making evidence.json: what was found of each candidate, its simulability, its counterparts in other runs, its causal
tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
from jaxtyping import Float, Int
from msgspec import structs

from interp.errors import InputError
from interp.evaluation.ablation_results import ConceptAblation
from interp.evaluation.concepts import FeatureFindings
from interp.evaluation.estimates import Estimate
from interp.evaluation.evidence import (
    EVIDENCE_FILE,
    N_TOKENS,
    CausalTest,
    Counterpart,
    Detected,
    Evidence,
    FeatureEvidence,
    Reading,
    read_evidence,
)
from interp.evaluation.firing_codes import FiringCodes, random_codes
from interp.evaluation.judged_rows import JudgedRows
from interp.evaluation.matching import Pairing, best_matches
from interp.evaluation.outputs import ConceptOutputs
from interp.evaluation.readable import LABEL, NOTHING, TOKEN
from interp.evaluation.resampling import mean_over_features
from interp.evaluation.results import SimulabilityReport
from interp.evaluation.simulability import simulability
from interp.evaluation.steering_results import SteeringReport
from interp.records import write_record
from interp.runs.record import Run, find_runs
from interp.runs.seeds import siblings
from interp.store.reader import ActivationStore

_SIMULATED_NULLS = 256
"""Random directions that simulability is compared with: those of as many features, drawn evenly at random."""


def gather_evidence(
    run: Run,
    store: ActivationStore,
    findings: FeatureFindings,
    rows: JudgedRows,
    token_strings: Sequence[str],
    seed: int,
    *,
    outputs: ConceptOutputs | None,
) -> SimulabilityReport | None:
    """Write what was found of each feature of ``run``, and what ``outputs`` estimates that it makes the model write.

    Returns how well features are simulated, None where too few fire.
    """
    chosen = _better_signs(findings, run.decomposer().n_features)
    auroc = simulability(rows.windows, findings.codes.codes[:, chosen], rows.is_test)
    counterparts = _counterparts(run)
    decomposer = run.decomposer()
    is_signed = decomposer.signed_codes or run.can("forms")
    written = outputs.outputs(decomposer.write_directions(), is_signed=is_signed) if outputs is not None else None
    n_fires = findings.own.fires.sum(1) + findings.codes.n_fire_select(rows)
    features = tuple(
        FeatureEvidence(
            feature=feature,
            sign=int(findings.codes.sign[candidate]),
            threshold=float(findings.codes.threshold[candidate]),
            n_fires=int(n_fires[candidate]),
            detected=_detected(findings, int(candidate), rows),
            reading=_reading(findings, int(candidate), rows, token_strings),
            tokens=_tokens(findings.readings.strongest[candidate], rows, token_strings),
            simulability=float(auroc[feature]) if np.isfinite(auroc[feature]) else None,
            seeds=tuple(each[feature] for each in counterparts[0] if each[feature].feature >= 0),
            methods=tuple(each[feature] for each in counterparts[1] if each[feature].feature >= 0),
            output=written[feature] if written is not None else None,
        )
        for feature, candidate in enumerate(chosen)
    )
    evidence = Evidence(run_identity=run.identity, store_identity=store.identity, features=features)
    write_record(run.path / EVIDENCE_FILE, evidence)
    return simulability_report(findings.codes, chosen, auroc, rows, seed)


def write_tests(run: Run, *, ablation: Sequence[ConceptAblation] = (), steering: SteeringReport | None = None) -> None:
    """Add causal tests to the evidence of a run, in place of earlier ones of the same kind."""
    evidence = read_evidence(run)
    if evidence is None:
        return
    by: Literal["ablation", "steering"] = "ablation" if steering is None else "steering"
    found = ablation_tests(ablation) if steering is None else steering_tests(steering)
    features = tuple(
        structs.replace(
            each,
            tests=(
                *(test for test in each.tests if test.by != by),
                *(test for feature, sign, test in found if (feature, sign) == (each.feature, each.sign)),
            ),
        )
        for each in evidence.features
    )
    write_record(run.path / EVIDENCE_FILE, structs.replace(evidence, features=features))


def ablation_tests(found: Sequence[ConceptAblation]) -> list[tuple[int, int, CausalTest]]:
    """(feature, sign, test): how much less likely the concept's tokens become than with the control that does most, in nats."""
    tests = []
    for each in found:
        effects = [
            Estimate(value=-control.difference.specific, low=-interval[1], high=-interval[0])
            for control in each.controls
            if control.difference.specific is not None
            and (interval := control.difference.specific_interval) is not None
        ]
        if effects:
            weakest = min(effects, key=lambda effect: effect.value)
            tests.append((each.feature, each.sign, CausalTest(by="ablation", concept=each.concept, effect=weakest)))
    return tests


def steering_tests(report: SteeringReport) -> list[tuple[int, int, CausalTest]]:
    """(feature, sign, test): share of the text that steering adds, less what the null adds that adds most."""
    return [
        (own.feature, own.sign, CausalTest(by="steering", concept=own.concept, effect=own.best_null.excess))
        for own in report.effects
        if own.best_null is not None
    ]


def mean_effect(effects: Sequence[Estimate]) -> Estimate | None:
    """The mean of independent effects, half-widths of their intervals added in quadrature; None of none."""
    if not effects:
        return None
    value = float(np.mean([effect.value for effect in effects]))
    below = np.sqrt(sum((effect.value - effect.low) ** 2 for effect in effects)) / len(effects)
    above = np.sqrt(sum((effect.high - effect.value) ** 2 for effect in effects)) / len(effects)
    return Estimate(value=value, low=float(value - below), high=float(value + above))


def _better_signs(findings: FeatureFindings, n_features: int) -> Int[np.ndarray, " n_features"]:
    """Of each feature, the candidate that detects a concept, or of two that do or do not, the one with the greater excess."""
    order = np.lexsort((findings.excess, findings.detects))
    chosen = np.zeros(n_features, np.int64)
    chosen[findings.codes.feature[order]] = order
    return chosen


def _detected(findings: FeatureFindings, candidate: int, rows: JudgedRows) -> Detected | None:
    own = findings.own
    if own.label[candidate] < 0:
        return None
    low, high = findings.excess_interval[candidate]
    return Detected(
        concept=rows.names[own.label[candidate]],
        f1=float(own.f1[candidate]),
        precision=float(own.precision[candidate]),
        recall=float(own.recall[candidate]),
        excess=Estimate(value=float(findings.excess[candidate]), low=float(low), high=float(high)),
        n_documents=int(own.n_documents[candidate]),
        is_detected=bool(findings.detects[candidate]),
    )


def _reading(
    findings: FeatureFindings, candidate: int, rows: JudgedRows, token_strings: Sequence[str]
) -> Reading | None:
    found = findings.readings
    kind, value = found.kind[candidate], int(found.value[candidate])
    if kind == NOTHING or (kind != LABEL and value < 0):
        return None
    name = "label" if kind == LABEL else "token" if kind == TOKEN else "token before"
    return Reading(
        kind=cast(Literal["label", "token", "token before"], name),
        value=rows.names[value] if kind == LABEL else token_strings[value],
        purity_select=float(found.purity_select[candidate]),
        purity_test=float(found.purity_test[candidate]),
        is_readable=bool(found.is_readable[candidate]),
    )


def _tokens(strongest: Int[np.ndarray, " k"], rows: JudgedRows, token_strings: Sequence[str]) -> tuple[str, ...]:
    tokens = rows.windows[strongest[strongest >= 0], 0]
    return tuple(token_strings[token] for token in list(dict.fromkeys(tokens.tolist()))[:N_TOKENS] if token >= 0)


def simulability_report(
    codes: FiringCodes,
    chosen: Int[np.ndarray, " n_features"],
    auroc: Float[np.ndarray, " n_features"],
    rows: JudgedRows,
    seed: int,
) -> SimulabilityReport | None:
    """The mean of the features' ``auroc``, beside random directions that fire as often; None where too few features fire."""
    judged = np.flatnonzero(np.isfinite(auroc))
    if not len(judged):
        return None
    drawn = judged
    if len(judged) > _SIMULATED_NULLS:
        drawn = np.sort(np.random.default_rng([seed, 5]).choice(judged, _SIMULATED_NULLS, replace=False))
    null = simulability(
        rows.windows, random_codes(codes.of(chosen[drawn]), rows, seed, shaped=True).codes, rows.is_test
    )
    both = np.isfinite(null)
    if not both.any():
        return None
    return SimulabilityReport(
        auroc=mean_over_features(auroc[judged], seed),
        null_auroc=float(null[both].mean()),
        difference=mean_over_features(auroc[drawn][both] - null[both], seed),
        n_features=len(judged),
    )


def _counterparts(run: Run) -> tuple[list[list[Counterpart]], list[list[Counterpart]]]:
    """Of each feature: in runs of other seeds, and in the runs of other methods at the site; lists over runs."""
    seeds = siblings(run)
    names = {each.name for each in seeds}
    others = [
        each
        for each in find_runs(run.store_path.parent)
        if each.store_path == run.store_path
        and each.site.read == run.site.read
        and each.name not in names | {run.name}
        and each.kind != run.kind
    ]
    return _matched(run, seeds, "one-to-one"), _matched(run, others, "greatest")


def _matched(run: Run, others: Sequence[Run], pairing: Pairing) -> list[list[Counterpart]]:
    try:
        found = best_matches(run, others, pairing=pairing) if others else []
    except InputError:  # the run's own store has changed since
        return []
    return [
        [
            Counterpart(run=each.run.name, feature=int(feature), cosine=float(cosine), chance=float(chance))
            for feature, cosine, chance in zip(each.features, each.cosines, each.chance, strict=True)
        ]
        for each in found
    ]
