"""All metrics of one run, on one store: ``metrics.json``, and what was found of each feature: ``evidence.json``.

The store should hold text the decomposer was not fitted on; the file says whether it does. Whatever can be refused is
refused before anything is computed. The files are written after every suite, so an evaluation that was interrupted goes on
where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from msgspec import structs

from interp.decomposers import Decomposer, LinearDecomposer
from interp.errors import InputError, unknown_name
from interp.evaluation.ablation import AblationTarget, LabelledText, ablate_features
from interp.evaluation.ablation_results import AblationConfig
from interp.evaluation.concepts import evaluate_concepts
from interp.evaluation.evidence import read_evidence
from interp.evaluation.feature_evidence import gather_evidence, mean_effect, steering_tests, write_tests
from interp.evaluation.held_out import held_out
from interp.evaluation.judged_rows import JudgedRows, token_windows
from interp.evaluation.probe_report import absorptions, probe_report
from interp.evaluation.reconstruction import evaluate_reconstruction, spliced_loss
from interp.evaluation.results import (
    METRICS_FILE,
    ConceptConfig,
    EvaluationConfig,
    Metrics,
    SteeringEffect,
    SteeringReport,
    read_metrics,
)
from interp.evaluation.steering_effect import (
    SteeredFeature,
    SteeringTask,
    check_task,
    choose_features,
    random_directions_like,
    steer_concepts,
)
from interp.progress import progress
from interp.records import write_record
from interp.steering.steerer import Steerer
from interp.store.reader import ActivationStore

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel
    from interp.runs.record import Run

_TEXTS_KEPT = 4


def evaluate_run(
    run: Run,
    *,
    model: LanguageModel,
    store: ActivationStore,
    config: EvaluationConfig,
    steering: SteeringTask | None = None,
) -> Metrics:
    """Evaluate ``run`` on ``store`` and keep metrics and evidence in its folder; returns the metrics.

    Concepts are those of the label set that the config names, by default the store's first; the written config names it. An
    evaluation of the same run, store and config that was interrupted goes on after the last suite that it finished. Raises
    InputError if the store lacks the run's site or the named label set, was captured from another model than ``model``, or
    has activations of another width than the run's.
    """
    if steering is not None and config.n_steered:
        check_task(steering, model)
    judged = _Judged(run, model, store, _checked(run, model, store, config), steering)
    metrics = _begun(judged)
    suites = {name: suite for name, suite in judged.suites.items() if name not in metrics.done}
    for name, suite in progress(suites.items(), total=len(suites), what=run.name, unit="suite"):
        metrics = structs.replace(metrics, **suite(metrics), done=(*metrics.done, name))
        write_record(run.path / METRICS_FILE, metrics)
    metrics = structs.replace(metrics, complete=True)
    write_record(run.path / METRICS_FILE, metrics)
    return metrics


def _checked(run: Run, model: LanguageModel, store: ActivationStore, config: EvaluationConfig) -> EvaluationConfig:
    """The config with its label set named."""
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
    return config


def _begun(judged: _Judged) -> Metrics:
    """What an interrupted evaluation of the same request left, or nothing yet."""
    run, store = judged.run, judged.store
    new = Metrics(
        run=run.name,
        run_identity=run.identity,
        kind=run.kind,
        site=str(run.site),
        n_features=judged.decomposer.n_features,
        model=judged.model.id,
        store=store.name,
        store_identity=store.identity,
        held_out=held_out(run, store),
        n_tokens=store.n_rows,
        config=judged.config,
        versions={name: version(name) for name in ("torch", "transformer-lens", "numpy")},
        done=(),
        complete=False,
    )
    try:
        kept = read_metrics(run)
    except InputError:  # none, or of another version
        return new
    same = ("run_identity", "store_identity", "config", "versions", "held_out")
    is_same = not kept.complete and all(getattr(kept, name) == getattr(new, name) for name in same)
    return kept if is_same else new


@dataclass(frozen=True)
class _Judged:
    """A run and what it is judged by; each suite returns fields of ``Metrics``."""

    run: Run
    model: LanguageModel
    store: ActivationStore
    config: EvaluationConfig
    steering: SteeringTask | None

    @property
    def suites(self) -> dict[str, Callable[[Metrics], dict[str, Any]]]:
        """Those that the run can have, in order."""
        suites: dict[str, Callable[[Metrics], dict[str, Any]]] = {"reconstruction": self.reconstruction}
        if isinstance(self.decomposer, LinearDecomposer):
            suites["spliced"] = self.spliced
        suites["concepts"] = self.concepts
        if isinstance(self.decomposer, LinearDecomposer) and self.config.n_ablated:
            suites["ablation"] = self.ablation
        if self.steering is not None and self.config.n_steered:
            suites["steering"] = self.steer
        return suites

    @property
    def decomposer(self) -> Decomposer:
        return self.run.decomposer()

    def reconstruction(self, metrics: Metrics) -> dict[str, Any]:
        source = self.store.site(self.run.site.read)
        return {"reconstruction": evaluate_reconstruction(self.decomposer, source, self.store.row_documents())}

    def spliced(self, metrics: Metrics) -> dict[str, Any]:
        tokens = _spread(self.store.tokens(), self.config.n_sequences)
        return {"spliced": spliced_loss(self.model, self.decomposer, self.run.site.write, tokens)}

    def concepts(self, metrics: Metrics) -> dict[str, Any]:
        """Everything that is read from codes and labels, or why there is none."""
        try:
            rows = judged_rows(self.store, self.run.site.read, self.config.concepts)
        except InputError as error:
            return {"concepts_left_out": str(error)}
        report, findings = evaluate_concepts(self.decomposer, rows, self.config.concepts, untrained=self._untrained)
        found: dict[str, Any] = {"concepts": report}
        if report.concepts:
            found["probes"], own = probe_report(self.decomposer, findings, rows, self.config.concepts.seed)
            found["absorption"] = absorptions(self.decomposer, findings, rows, own)
        found["simulability"] = gather_evidence(
            self.run, self.store, findings, rows, self.model.token_strings(), self.config.concepts.seed
        )
        return found

    def _untrained(self, seed: int) -> Decomposer | None:
        """The run's method untrained, on the store that the run was trained on; None where there is no such thing or store."""
        try:
            source = self.run.store().site(self.run.site.read)
            return type(self.decomposer).untrained(source, replace(self.decomposer.config, seed=seed))
        except InputError:  # the store has changed since, or was made by another tool
            return None

    def ablation(self, metrics: Metrics) -> dict[str, Any]:
        """The features of the concepts found best over the null are taken out, on the text of test."""
        evidence = read_evidence(self.run)
        if metrics.concepts is None or not metrics.concepts.concepts or evidence is None:
            return {}
        rows = judged_rows(self.store, self.run.site.read, self.config.concepts)
        best = metrics.concepts.best_first[: self.config.n_ablated]
        targets = []
        for concept in best:
            threshold = evidence.features[concept.feature].threshold
            targets.append(AblationTarget(concept.concept, concept.feature, concept.sign, threshold))
            detected = evidence.features[concept.feature].detected
            if detected is not None and detected.concept != concept.concept:  # no further pass: the same feature
                targets.append(AblationTarget(detected.concept, concept.feature, concept.sign, threshold))
        names = sorted({target.concept for target in targets})
        text = _labelled_text(self.store, self.config.concepts, rows, names)
        config = AblationConfig(seed=self.config.concepts.seed)
        found = ablate_features(
            self.model, self.decomposer, site=self.run.site, text=text, targets=targets, config=config
        )
        write_tests(self.run, ablation=found)
        return {"ablation": found}

    def steer(self, metrics: Metrics) -> dict[str, Any]:
        """Steering of the concepts detected best over the null, each beside a random direction of the same effect."""
        assert self.steering is not None
        if metrics.concepts is None or not metrics.concepts.concepts:
            return {}
        report = _steering(self.run, self.model, metrics=metrics, task=self.steering, n=self.config.n_steered)
        write_tests(self.run, steering=report)
        return {"steering": report}


def judged_rows(store: ActivationStore, site: str, config: ConceptConfig) -> JudgedRows:
    """The rows that runs at ``site`` are judged on; those asked for last stay in memory.

    Raises InputError for a store without labels or with fewer than two documents.
    """
    return _judged_rows(store.path.resolve(), store.identity, site, store.label_set(config.label_set), config)


@lru_cache(maxsize=1)
def _judged_rows(path: Any, identity: str, site: str, label_set: str, config: ConceptConfig) -> JudgedRows:
    store = ActivationStore(path)
    positions, (_, document) = store.positions(), store.documents()
    return JudgedRows.draw(
        store.site(site),
        labels=store.labels(label_set),
        names=store.label_sets[label_set],
        documents=store.row_documents(),
        windows=token_windows(store.tokens(), positions, document, bos_id=store.manifest.bos_id),
        max_rows=config.max_rows,
        seed=config.seed,
    )


def _labelled_text(store: ActivationStore, config: ConceptConfig, rows: JudgedRows, names: list[str]) -> LabelledText:
    """The store's sequences with the labels ``names``; what is not in a document of test is marked -1."""
    sequence, position = store.positions().T
    label_set = store.label_set(config.label_set)
    columns = [store.label_sets[label_set].index(name) for name in names]
    tokens, (_, document) = store.tokens(), store.documents()
    documents = np.where(np.isin(document, rows.test_documents), document, -1)
    labels = {}
    for name, values in zip(names, (store.labels(label_set)[:, columns] != 0).T, strict=True):
        labels[name] = np.zeros(tokens.shape, dtype=bool)
        labels[name][sequence, position] = values
    has_test = (documents >= 0).any(1)
    return LabelledText(
        tokens=tokens[has_test].astype(np.int64),
        documents=documents[has_test],
        labels={name: values[has_test] for name, values in labels.items()},
    )


def _steering(run: Run, model: LanguageModel, *, metrics: Metrics, task: SteeringTask, n: int) -> SteeringReport:
    """Steering of the concepts detected best over the null, each beside a random direction of the same effect."""
    assert metrics.concepts is not None
    steerer, ranked = Steerer.from_run(model, run), metrics.concepts.best_first
    if task.concepts is not None:
        ranked = [c for c in ranked if c.concept in task.concepts]
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
    report = SteeringReport(
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
    return structs.replace(report, excess=mean_effect([test.effect for _, _, test in steering_tests(report)]))


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _shortened(effect: SteeringEffect) -> SteeringEffect:
    """The effect with the first few of its texts."""
    return structs.replace(effect, texts=effect.texts[:_TEXTS_KEPT], baseline_texts=effect.baseline_texts[:_TEXTS_KEPT])


def _spread(tokens: np.ndarray, n: int) -> torch.Tensor:
    """``n`` sequences evenly spaced over the store, so that they come from many documents."""
    chosen = np.unique(np.linspace(0, len(tokens) - 1, min(n, len(tokens))).round().astype(int))
    return torch.from_numpy(tokens[chosen].astype(np.int64))
