"""All metrics of one run, on one store, in one file: ``metrics.json``.

The store should hold text the decomposer was not fitted on; the file says whether it does. Steering is evaluated where the
caller gives a steering task.
"""

from __future__ import annotations

from importlib.metadata import version
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import torch
from msgspec import structs

from interp.decomposers import LinearDecomposer
from interp.errors import InputError, unknown_name
from interp.evaluation.concepts import evaluate_concepts
from interp.evaluation.held_out import held_out
from interp.evaluation.reconstruction import evaluate_reconstruction, spliced_loss
from interp.evaluation.results import (
    METRICS_FILE,
    ConceptConfig,
    ConceptReport,
    EvaluationConfig,
    Metrics,
    SteeringEffect,
    SteeringReport,
)
from interp.evaluation.steering_effect import (
    SteeredFeature,
    SteeringTask,
    choose_features,
    random_directions_like,
    steer_concepts,
)
from interp.records import write_record
from interp.steering.steerer import Steerer

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel
    from interp.runs.record import Run
    from interp.store.reader import ActivationStore

_TEXTS_KEPT = 4


def evaluate_run(
    run: Run,
    *,
    model: LanguageModel,
    store: ActivationStore,
    config: EvaluationConfig,
    steering: SteeringTask | None = None,
) -> Metrics:
    """Evaluate ``run`` on ``store`` and write ``metrics.json`` into its folder; returns what was written.

    Concepts are those of the label set that the config names, by default the store's first; the written config names it.
    Raises InputError if the store lacks the run's site or the named label set, was captured from another model than
    ``model``, or has activations of another width than the run's.
    """
    if run.site.read not in store.sites:
        raise unknown_name("hook point", run.site.read, store.sites, f"the store '{store.path}'")
    if store.manifest.model_fingerprint != model.fingerprint:
        raise InputError(
            f"the store '{store.path}' was captured from '{store.manifest.model_id}' with other weights than '{model.id}'; "
            "give the model it was captured from"
        )
    decomposer, source = run.decomposer(), store.site(run.site.read)
    if decomposer.d_in != source.d_in:
        raise InputError(
            f"run '{run.name}' reads activations of width {decomposer.d_in}, but {run.site.read} has {source.d_in} in the "
            f"store '{store.path}'; give a store captured from the model that the run was trained on"
        )
    if store.label_sets or config.concepts.label_set is not None:
        label_set = store.label_set(config.concepts.label_set)
        config = structs.replace(config, concepts=structs.replace(config.concepts, label_set=label_set))
    report, reason = _concepts(run, store, config.concepts)
    spliced, steered = None, None
    if isinstance(decomposer, LinearDecomposer):
        spliced = spliced_loss(model, decomposer, run.site.write, _spread(store.tokens(), config.n_sequences))
    if steering is not None and report is not None and report.concepts and config.n_steered:
        steered = _steering(run, model, report=report, task=steering, n=config.n_steered)
    metrics = Metrics(
        run=run.name,
        kind=run.kind,
        site=str(run.site),
        model=model.id,
        store=store.name,
        store_identity=store.identity,
        held_out=held_out(run, store),
        n_tokens=store.n_rows,
        config=config,
        versions={name: version(name) for name in ("torch", "transformer-lens", "numpy")},
        reconstruction=evaluate_reconstruction(decomposer, source),
        spliced=spliced,
        concepts=report,
        concepts_left_out=reason,
        steering=steered,
    )
    write_record(run.path / METRICS_FILE, metrics)
    return metrics


def _concepts(run: Run, store: ActivationStore, config: ConceptConfig) -> tuple[ConceptReport | None, str | None]:
    """The report, or why there is none: reconstruction and the spliced loss need no labels."""
    positions, (_, document) = store.positions(), store.documents()
    try:
        label_set = store.label_set(config.label_set)
        report = evaluate_concepts(
            run.decomposer(),
            store.site(run.site.read),
            labels=store.labels(label_set),
            names=store.label_sets[label_set],
            documents=document[positions[:, 0], positions[:, 1]],
            config=config,
        )
    except InputError as error:
        return None, str(error)
    return report, None


def _steering(run: Run, model: LanguageModel, *, report: ConceptReport, task: SteeringTask, n: int) -> SteeringReport:
    """Steering of the concepts detected best over the null, each beside a random direction of the same effect."""
    steerer = Steerer.from_run(model, run)
    seen = report.concepts if task.concepts is None else [c for c in report.concepts if c.concept in task.concepts]
    ranked = sorted(seen, key=lambda c: c.null_auroc - c.auroc)
    groups = [
        [SteeredFeature(c.concept, f, sign) for f, sign in c.best_features if not steerer.is_dead[f]] for c in ranked
    ]
    groups = [group[: task.config.n_candidates] for group in groups if group][:n]
    effects: list[SteeringEffect] = []
    null: list[SteeringEffect] = []
    if groups:
        effects = steer_concepts(steerer, choose_features(steerer, groups, task=task), task=task)
        random = random_directions_like(steerer, sum(map(len, groups)), seed=task.config.seed)
        numbers = count()
        null_groups = [[SteeredFeature(choice.concept, next(numbers)) for choice in group] for group in groups]
        null = steer_concepts(random, choose_features(random, null_groups, task=task), task=task)
    return SteeringReport(
        config=task.config,
        n_prompts=len(task.prompts),
        reason=None if groups else "no concept that the judge knows has a feature that fires",
        mean_difference=_mean([effect.difference for effect in effects]),
        mean_null_difference=_mean([effect.difference for effect in null]),
        mean_score=_mean([effect.score for effect in effects]),
        mean_null_score=_mean([effect.score for effect in null]),
        n_unreached=sum(not effect.reached for effect in effects),
        effects=tuple(map(_shortened, effects)),
        null=tuple(map(_shortened, null)),
    )


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _shortened(effect: SteeringEffect) -> SteeringEffect:
    """The effect with the first few of its texts."""
    return structs.replace(effect, texts=effect.texts[:_TEXTS_KEPT], baseline_texts=effect.baseline_texts[:_TEXTS_KEPT])


def _spread(tokens: np.ndarray, n: int) -> torch.Tensor:
    """``n`` sequences evenly spaced over the store, so that they come from many documents."""
    chosen = np.unique(np.linspace(0, len(tokens) - 1, min(n, len(tokens))).round().astype(int))
    return torch.from_numpy(tokens[chosen].astype(np.int64))
