"""All metrics of one run, on one store: ``metrics.json``, and what was found of each feature: ``evidence.json``.

The store should hold text the decomposer was not fitted on; the file says whether it does. Whatever can be refused is
refused before anything is computed. The files are written after every suite, so an evaluation that was interrupted goes on
where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
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
from interp.evaluation.feature_evidence import gather_evidence, write_tests
from interp.evaluation.held_out import held_out
from interp.evaluation.judged_rows import JudgedRows, judged_rows
from interp.evaluation.outputs import ConceptOutputs, concept_outputs
from interp.evaluation.probe_report import absorptions, probe_report
from interp.evaluation.reconstruction import evaluate_reconstruction, spliced_loss
from interp.evaluation.results import METRICS_FILE, ConceptConfig, EvaluationConfig, Metrics, read_metrics
from interp.evaluation.steering_effect import SteeringTask, check_task, evaluate_steering
from interp.progress import progress
from interp.records import write_record
from interp.store.reader import ActivationStore

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel
    from interp.runs.record import Run


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
            self.run,
            self.store,
            findings,
            rows,
            self.model.token_strings(),
            self.config.concepts.seed,
            outputs=self._outputs(),
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
        """Steering of the concepts that a feature is estimated to write most, each beside its controls."""
        assert self.steering is not None
        if metrics.concepts is None:
            return {}
        outputs = self._outputs()
        if outputs is None:
            return {}
        report = evaluate_steering(
            self.run,
            self.model,
            self.store,
            rows=judged_rows(self.store, self.run.site.read, self.config.concepts),
            outputs=outputs,
            detecting={concept.concept: concept.best_features for concept in metrics.concepts.concepts},
            task=self.steering,
            n_concepts=self.config.n_steered,
        )
        write_tests(self.run, steering=report)
        return {"steering": report}

    def _outputs(self) -> ConceptOutputs | None:
        """Which concepts any direction at the run's site makes the model write."""
        return concept_outputs(self.model, self.store, self.run.site, self.config.concepts)


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


def _spread(tokens: np.ndarray, n: int) -> torch.Tensor:
    """``n`` sequences evenly spaced over the store, so that they come from many documents."""
    chosen = np.unique(np.linspace(0, len(tokens) - 1, min(n, len(tokens))).round().astype(int))
    return torch.from_numpy(tokens[chosen].astype(np.int64))
