"""Concept detection: does one feature say of a token what its label says?

Tokens are split by document into three parts: on *select* the best feature (and sign, where codes are signed) of each
concept is chosen by AUROC; on *test* that choice is measured; *reserved* is left untouched, for work that needs unseen text.

The best of many random directions looks good too, so every figure stands beside a null: the best of as many random unit
directions in activation space, chosen in the same way and read by their raw projections with sign. (Centring would change no
projection's AUROC, and a ReLU would only weaken the null.) The best raw neuron, and a supervised reference, the difference
of class means fitted on select, are reported too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from interp.decomposers import Decomposer
from interp.errors import InputError
from interp.evaluation.results import ConceptConfig, ConceptReport, ConceptResult, DepthResult
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
    """Measure the best feature of ``decomposer`` for each label of ``source``'s rows.

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
    found = tuple(_detect(data, own, null, columns=concepts, names=names))
    mean_auroc, mean_null = _mean(found, "auroc"), _mean(found, "null_auroc")
    return ConceptReport(
        mean_auroc=mean_auroc,
        mean_average_precision=_mean(found, "average_precision"),
        mean_f1=_mean(found, "f1"),
        mean_null_auroc=mean_null,
        mean_neuron_auroc=_mean(found, "neuron_auroc"),
        mean_diff_means_auroc=_mean(found, "diff_means_auroc"),
        mean_auroc_interval=_interval([c.auroc for c in found], config.seed),
        mean_excess_over_null=None if mean_auroc is None or mean_null is None else mean_auroc - mean_null,
        mean_excess_interval=_interval([c.auroc - c.null_auroc for c in found], config.seed),
        null=f"best of {decomposer.n_features} random unit directions, raw projections, both signs",
        concepts=found,
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
        yield DepthResult(
            label=names[column],
            feature=int(chosen.features[c]),
            sign=int(chosen.signs[c]),
            spearman=own_rho,
            null_spearman=null_rho,
        )


def _mean(concepts: Sequence[ConceptResult], field: str) -> float | None:
    return float(np.mean([getattr(concept, field) for concept in concepts])) if concepts else None


def _interval(values: Sequence[float], seed: int) -> tuple[float, float] | None:
    return bootstrap_interval(np.asarray(values), seed=seed) if len(values) > 1 else None


def _auroc(scores: Float[np.ndarray, " n"], is_positive: Bool[np.ndarray, " n"]) -> float:
    return float(auroc(scores[:, None], is_positive)[0])
