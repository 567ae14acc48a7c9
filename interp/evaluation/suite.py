"""All metrics of one run, on one store, in one file: ``metrics.json``.

The store should hold text the decomposer was not fitted on; the file says whether it did. Steering is judged where the
caller brings a judge.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from interp.decomposers import LinearDecomposer
from interp.errors import InputError, unknown_name
from interp.evaluation.concepts import ConceptConfig, ConceptReport, evaluate_concepts
from interp.evaluation.reconstruction import evaluate_reconstruction, spliced_loss
from interp.evaluation.steering_effect import (
    Choice,
    SteeringTask,
    choose_steerers,
    random_directions_like,
    steer_concepts,
)
from interp.evaluation.table import METRICS_FILE, SCHEMA, VERSION
from interp.records import write_json
from interp.steering.steerer import Steerer

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel
    from interp.runs.record import Run
    from interp.store.reader import ActivationStore

_TEXTS_KEPT = 4


@dataclass(frozen=True)
class EvaluationConfig:
    """Options of ``interp evaluate``."""

    n_sequences: int = 32
    """Sequences for the spliced loss (five forward passes each)."""
    n_steered: int = 4
    """Concepts that are steered, those detected best over the null; 0 for none. Needs a judge, and on the bundled model
    some twenty seconds each, most of the time of a run's evaluation."""
    concepts: ConceptConfig = field(default_factory=ConceptConfig)
    """Options of concept detection, which is left out where the store has no labels."""


def evaluate_run(
    run: Run,
    *,
    model: LanguageModel,
    store: ActivationStore,
    config: EvaluationConfig,
    steering: SteeringTask | None = None,
) -> dict[str, Any]:
    """Judge ``run`` on ``store`` and write ``metrics.json`` into its folder, in one step; returns what was written.

    Concepts are those of the label set that the config names, by default of the store's first one; what is written names it.

    Raises InputError when the store lacks the run's site or the label set that is named, was captured from another model than
    ``model``, or has activations of another width than the run reads.
    """
    if run.site not in store.sites:
        raise unknown_name("hook point", run.site, store.sites, f"the store '{store.path}'")
    if store.manifest.model_fingerprint != model.fingerprint:
        raise InputError(
            f"the store '{store.path}' was captured from '{store.manifest.model_id}' with other weights than '{model.id}'; "
            "give the model it was captured from"
        )
    decomposer, source = run.decomposer(), store.site(run.site)
    if decomposer.d_in != source.d_in:
        raise InputError(
            f"run '{run.name}' reads activations of width {decomposer.d_in}, but {run.site} has {source.d_in} in the store "
            f"'{store.path}'; give a store captured from the model that the run was trained on"
        )
    if store.label_sets or config.concepts.label_set is not None:
        label_set = store.label_set(config.concepts.label_set)
        config = replace(config, concepts=replace(config.concepts, label_set=label_set))
    report, reason = _concepts(run, store, config.concepts)
    facts = _provenance(run, model=model, store=store, config=config) | {
        "reconstruction": evaluate_reconstruction(decomposer, source),
        "spliced": None,
        "concepts": report.as_dict() if report else None,
        "concepts_left_out": reason,
        "steering": None,
    }
    if isinstance(decomposer, LinearDecomposer):
        tokens = _spread(store.tokens(), config.n_sequences)
        facts["spliced"] = spliced_loss(model, decomposer, run.site, tokens).as_dict()
    if steering is not None and report is not None and report.concepts and config.n_steered:
        facts["steering"] = _steering(run, model, report=report, task=steering, n=config.n_steered)
    write_json(run.path / METRICS_FILE, facts)
    return facts


def _provenance(run: Run, *, model: LanguageModel, store: ActivationStore, config: EvaluationConfig) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "run": run.name,
        "kind": run.kind,
        "site": run.site,
        "model": model.id,
        "store": store.name,
        "store_identity": store.identity,
        "is_held_out": store.identity != run.store_identity,
        "n_shared_documents": _n_shared_documents(run, store),
        "n_tokens": store.n_rows,
        "config": asdict(config),
        "versions": {name: version(name) for name in ("torch", "transformer-lens", "numpy")},
    }


def _n_shared_documents(run: Run, store: ActivationStore) -> int | None:
    """Names of documents that both stores have: another store of the same text is not held out. None if unknown."""
    try:
        return len(set(run.store().documents()[0]) & set(store.documents()[0]) - {""})
    except InputError:  # the run's own store has changed since
        return None


def _concepts(run: Run, store: ActivationStore, config: ConceptConfig) -> tuple[ConceptReport | None, str | None]:
    """The report, or why there is none: reconstruction and the spliced loss can be judged without labels."""
    positions, (_, document) = store.positions(), store.documents()
    try:
        label_set = store.label_set(config.label_set)
        report = evaluate_concepts(
            run.decomposer(),
            store.site(run.site),
            labels=store.labels(label_set),
            names=store.label_sets[label_set],
            documents=document[positions[:, 0], positions[:, 1]],
            config=config,
        )
    except InputError as error:
        return None, str(error)
    return report, None


def _steering(run: Run, model: LanguageModel, *, report: ConceptReport, task: SteeringTask, n: int) -> dict[str, Any]:
    """Steering of the concepts detected best over the null, each beside a random direction of the same effect."""
    steerer = Steerer.from_run(model, run)
    seen = report.concepts if task.concepts is None else [c for c in report.concepts if c.concept in task.concepts]
    ranked = sorted(seen, key=lambda c: c.null_auroc - c.auroc)
    groups = [[Choice(c.concept, f, sign) for f, sign in c.best_features if not steerer.is_dead[f]] for c in ranked]
    groups = [group[: task.config.n_candidates] for group in groups if group][:n]
    if not groups:
        return {"reason": "no concept the judge can see has a feature that fires", "effects": [], "null": []}
    effects = steer_concepts(steerer, choose_steerers(steerer, groups, task=task), task=task)
    random = random_directions_like(steerer, sum(map(len, groups)), seed=task.config.seed)
    numbers = count()
    null_groups = [[Choice(choice.concept, next(numbers)) for choice in group] for group in groups]
    null = steer_concepts(random, choose_steerers(random, null_groups, task=task), task=task)
    return {
        "config": asdict(task.config),
        "n_prompts": len(task.prompts),
        "mean_difference": float(np.mean([effect.difference for effect in effects])),
        "mean_null_difference": float(np.mean([effect.difference for effect in null])),
        "mean_score": float(np.mean([effect.score for effect in effects])),
        "mean_null_score": float(np.mean([effect.score for effect in null])),
        "n_unreached": sum(not effect.reached for effect in effects),
        "effects": [effect.as_dict(n_texts=_TEXTS_KEPT) for effect in effects],
        "null": [effect.as_dict(n_texts=_TEXTS_KEPT) for effect in null],
    }


def _spread(tokens: np.ndarray, n: int) -> torch.Tensor:
    """``n`` sequences evenly spaced over the store, so that they come from many documents."""
    chosen = np.unique(np.linspace(0, len(tokens) - 1, min(n, len(tokens))).round().astype(int))
    return torch.from_numpy(tokens[chosen].astype(np.int64))
