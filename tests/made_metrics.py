"""Metrics made by hand, and runs that have them, for tests of what is shown of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import structs

from interp.evaluation.estimates import Estimate
from interp.evaluation.results import (
    METRICS_FILE,
    BaselineReport,
    ConceptReport,
    ConceptResult,
    EvaluationConfig,
    HeldOut,
    Metrics,
    NullReport,
    ProbeReport,
    Reconstruction,
    SeedReport,
    SimulabilityReport,
    SplicedLoss,
)
from interp.evaluation.steering_results import SteeringConfig, SteeringEffect, SteeringReport
from interp.records import write_record
from interp.runs.record import RECORD, Run, RunRecord

SITE = "blocks.0.hook_resid_post"


def around(value: float, half: float = 0.05) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half)


def reconstruction(**parts: Any) -> Reconstruction:
    known: dict[str, Any] = {
        "fvu": 0.25, "shrinkage": 1.0, "reason": None, "fvu_own_target": None, "fvu_of_span": None, "l0": 32.0, "n_dead": 3,
        "dense_share": 0.02, "median_rate": 0.004, "fires": True, "fvu_interval": (0.24, 0.26), "n_tokens": 100,
    }  # fmt: skip
    return Reconstruction(**known | parts)


def spliced(recovered: float = 0.95, interval: tuple[float, float] | None = (0.94, 0.96)) -> SplicedLoss:
    return SplicedLoss(
        ce_clean=2.0, ce_zero=9.0, ce_mean=6.0, ce_reconstructed=2.2, ce_recovered_zero=0.97, ce_recovered_mean=recovered,
        kl_zero=7.0, kl_mean=4.0, kl_reconstructed=0.2, kl_recovered_mean=0.95, ce_recovered_interval=interval, n_tokens=50,
    )  # fmt: skip


def concept(name: str, f1: float, null: float = 0.2, half: float = 0.05) -> ConceptResult:
    return ConceptResult(
        concept=name, feature=7, sign=1, f1=around(f1, half), precision=0.6, recall=0.4, average_precision=0.4,
        mutual_information=0.3, base_rate=0.05, n_positive_select=90, n_positive_test=80, n_documents=9,
        null_f1={"isotropic": null / 2, "shaped": null}, excess=around(f1 - null, half), auroc=None, null_auroc=None,
        best_features=((7, 1),),
    )  # fmt: skip


def null(name: str, **parts: Any) -> NullReport:
    known: dict[str, Any] = {
        "name": name, "what": f"{name} directions", "n_draws": 5, "f1": 0.2, "f1_spread": 0.01, "average_precision": 0.15,
        "mutual_information": 0.1, "readable": 0.01, "readable_spread": 0.0, "detecting": 0.02,
    }  # fmt: skip
    return NullReport(**known | parts)


def concepts(**parts: Any) -> ConceptReport:
    known: dict[str, Any] = {
        "f1": Estimate(value=0.44, low=0.37, high=0.51), "average_precision": 0.41, "mutual_information": 0.35,
        "best_null": "shaped", "null_f1": 0.23, "excess": Estimate(value=0.21, low=0.15, high=0.27),
        "readable": Estimate(value=0.25, low=0.21, high=0.29), "null_readable": 0.01, "readable_excess": around(0.24),
        "detecting": 0.3, "null_detecting": 0.02, "auroc": None, "null_auroc": None,
        "nulls": (null("isotropic"), null("shaped", average_precision=0.2)), "baselines": (),
        "concepts": (concept("comment", 0.8), concept("number", 0.22)), "depths": (), "left_out": {},
        "n_rows": {"select": 50, "test": 50}, "n_documents": {"select": 20, "test": 20}, "n_candidates": 256, "cut": None,
        "seed": 0,
    }  # fmt: skip
    return ConceptReport(**known | parts)


def baseline(name: str, f1: float, difference: Estimate) -> BaselineReport:
    return BaselineReport(name=name, what=name, f1=around(f1), difference=difference)


def probes(first: float = 0.4) -> ProbeReport:
    curve = (first, first + 0.1, first + 0.2, first + 0.25)
    return ProbeReport(
        k=(1, 2, 5, 16), features=tuple(map(around, curve)), coordinates=(0.3, 0.35, 0.4, 0.5),
        principal=(0.2, 0.3, 0.45, 0.6), ahead=tuple(around(0.1) for _ in curve), whole=0.9,
    )  # fmt: skip


def simulability() -> SimulabilityReport:
    return SimulabilityReport(auroc=around(0.9, 0.01), null_auroc=0.7, difference=around(0.2), n_features=200)


def seeds(stability: float = 0.8, chance: float = 0.31) -> SeedReport:
    return SeedReport(
        runs=("r", "r-seed1"),
        spread={"fvu": (0.25, 0.002), "concepts": (0.43, 0.01)},
        stability=around(stability, 0.02),
        null_stability=chance,
    )


def steering(difference: float | None = 0.31, null_difference: float | None = 0.02) -> SteeringReport:
    reason = None if difference is not None else "nothing fires"
    return made_steering(reason=reason, mean_difference=difference, mean_null_difference=null_difference)


def made_steering(*effects: SteeringEffect, **parts: Any) -> SteeringReport:
    known: dict[str, Any] = {
        "config": SteeringConfig(), "n_prompts": 2, "reason": None, "mean_difference": 0.31, "mean_null_difference": 0.02,
        "mean_score": 0.5, "n_unreached": 0, "n_above_controls": 0, "effects": effects,
    }  # fmt: skip
    return SteeringReport(**known | parts)


def made_effect(**parts: Any) -> SteeringEffect:
    known: dict[str, Any] = {
        "concept": "comment", "way": "output", "feature": 3, "sign": 1, "strength": 1.5, "kl": 0.2, "reached": True,
        "n_texts": 96, "baseline_share": 0.1, "steered_share": 0.4, "difference": around(0.3), "fluency": 0.6, "score": 0.4,
        "distinct_2": 0.9, "baseline_distinct_2": 0.95, "repetition": 0.02, "controls": (), "written": {}, "tried": (),
        "texts": ("# one",), "baseline_texts": ("x = 1",), "prompts": ("import os",), "gains": (1.0,),
    }  # fmt: skip
    return SteeringEffect(**known | parts)


def made_metrics(name: str = "r", **parts: Any) -> Metrics:
    """Metrics of reconstruction alone unless ``parts`` says otherwise."""
    known: dict[str, Any] = {
        "run": name, "run_identity": "w", "kind": "sae", "site": SITE, "n_features": 256, "model": "tiny",
        "store": "s-held-out", "store_identity": "1",
        "held_out": HeldOut(is_held_out=True, n_documents=12, n_trained_on=0), "n_tokens": 100,
        "config": EvaluationConfig(), "versions": {}, "done": (), "complete": True, "reconstruction": reconstruction(),
    }  # fmt: skip
    return Metrics(**known | parts)


def judged_with(**options: Any) -> EvaluationConfig:
    """An evaluation's options with others for what is measured of features."""
    config = EvaluationConfig()
    return structs.replace(config, concepts=structs.replace(config.concepts, **options))


def made_run(store: Path, metrics: Metrics | None, name: str = "r", **options: Any) -> Run:
    """A run in the folder ``store`` with these metrics and options, and without weights."""
    path = store / "runs" / name
    path.mkdir(parents=True)
    measured = metrics or made_metrics(name)
    record = RunRecord(
        kind=measured.kind,
        site=measured.site,
        d_in=8,
        config={"n_features": measured.n_features, "seed": 0} | options,
        store_name=store.name,
        store_identity="0",
        model_id="tiny",
        model_fingerprint="f",
        capabilities=["decode"],
        versions={},
        seconds=1.0,
        complete=True,
    )
    write_record(path / RECORD, record)
    if metrics is not None:
        write_record(path / METRICS_FILE, metrics)
    return Run.load(path)
