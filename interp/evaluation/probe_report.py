"""Reading concepts with a few features at once: k-sparse probes, what few coordinates do instead, and what is absorbed.

What the probes are is in ``probes``; here they are judged like single features: F1 on test, intervals over documents and
concepts.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from interp.decomposers import Decomposer, LinearDecomposer
from interp.evaluation.absorption import absorption, nested_pairs
from interp.evaluation.concepts import FeatureFindings
from interp.evaluation.judged_rows import JudgedRows
from interp.evaluation.probes import KS, FullProbe, SparseProbes, full_probe, sparse_probes
from interp.evaluation.resampling import Resamples, mean_over_concepts
from interp.evaluation.results import Absorption, ProbeReport, defined
from interp.evaluation.trial import documents_of, encoded
from interp.metrics import f1_of_counts

_OWN = 5
"""Features that are taken for a concept's own when absorption is measured. With one, a concept that is split into several
features would count as absorbed."""


def probe_report(
    decomposer: Decomposer, findings: FeatureFindings, rows: JudgedRows, seed: int
) -> tuple[ProbeReport, SparseProbes]:
    """F1 of probes on the run's features, on as many coordinates and principal directions, and on everything; and the
    first."""
    columns = tuple(findings.judged.concepts.tolist())
    codes: Any = findings.codes.codes
    if findings.codes.cut is not None:  # a regression reads signed codes as they are
        codes = encoded(decomposer, rows).numpy()
    own = sparse_probes(codes, _labels(rows, columns), rows.is_test)
    coordinates, principal, whole = site_probes(rows, columns)
    resamples = Resamples.draw(documents_of(rows.is_test, rows), seed)
    features, ahead, others = [], [], []
    for i in range(len(KS)):
        f1, resampled = _f1(own.predicted[:, i], rows, columns, resamples)
        rivals = [_f1(probes.predicted[:, i], rows, columns, resamples) for probes in (coordinates, principal)]
        best = max(rivals, key=lambda rival: float(rival[0].mean()))
        features.append(mean_over_concepts(f1, resampled, seed))
        ahead.append(mean_over_concepts(f1 - best[0], resampled - best[1], seed))
        others.append([float(rival[0].mean()) for rival in rivals])
    report = ProbeReport(
        k=KS,
        features=tuple(each for each in features if each),
        coordinates=tuple(each[0] for each in others),
        principal=tuple(each[1] for each in others),
        ahead=tuple(each for each in ahead if each),
        whole=float(_f1(whole.predicted, rows, columns, resamples)[0].mean()),
    )
    return report, own


@lru_cache(maxsize=1)
def site_probes(rows: JudgedRows, columns: tuple[int, ...]) -> tuple[SparseProbes, SparseProbes, FullProbe]:
    """Probes on coordinates, on principal directions and on the whole activation; runs at one site share them."""
    labels, x = _labels(rows, columns), rows.x.numpy()
    principal = (rows.x @ torch.from_numpy(rows.moments.spectrum[1]).float().T).numpy()
    coordinates, directions = (sparse_probes(each, labels, rows.is_test) for each in (x, principal))
    return coordinates, directions, full_probe(x, labels, rows.is_test)


def absorptions(
    decomposer: Decomposer, findings: FeatureFindings, rows: JudgedRows, own: SparseProbes
) -> tuple[Absorption, ...]:
    """What is absorbed where one concept lies within another; none for codes that do not decode or have no firing of their
    own."""
    if not isinstance(decomposer, LinearDecomposer) or findings.codes.cut is not None:
        return ()
    columns = tuple(findings.judged.concepts.tolist())
    labels, test = _labels(rows, columns), rows.is_test
    pairs = nested_pairs(labels, test)
    whole = site_probes(rows, columns)[2]
    found = absorption(
        pairs,
        x=rows.x.numpy()[test] - decomposer.b_dec.numpy(),
        codes=findings.codes.codes[test],
        labels=labels[test],
        predicted=whole.predicted,
        directions=whole.directions,
        features=own.features[:, :_OWN],
        write=decomposer.W_dec.numpy(),
    )
    names = [rows.names[column] for column in columns]
    return tuple(
        Absorption(
            inner=names[each.inner],
            outer=names[each.outer],
            share=each.fraction,
            share_elsewhere=defined(each.rest_fraction),
            n_tokens=each.n_tokens,
        )
        for each in found
        if each.n_tokens
    )


def _labels(rows: JudgedRows, columns: tuple[int, ...]) -> Bool[np.ndarray, "n n_concepts"]:
    return rows.labels[:, list(columns)] != 0


def _f1(
    predicted: Bool[np.ndarray, "n_concepts n_test"],
    rows: JudgedRows,
    columns: tuple[int, ...],
    resamples: Resamples,
) -> tuple[Float[np.ndarray, " n_concepts"], Float[np.ndarray, "n_concepts n_draws"]]:
    """F1 on test of each concept's prediction, and of each resample of the documents."""
    labels, document = _labels(rows, columns)[rows.is_test].T, rows.document[rows.is_test]

    def by_document(is_counted: Bool[np.ndarray, "n_concepts n_test"]) -> Int[np.ndarray, "n_concepts n_documents"]:
        return np.stack([np.bincount(document[each], minlength=rows.n_documents) for each in is_counted])

    counts = [by_document(each) for each in (predicted & labels, predicted, labels)]
    return f1_of_counts(*(each.sum(1) for each in counts)), f1_of_counts(*map(resamples.sums, counts))
