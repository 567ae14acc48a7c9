"""Controls that cost a training each: what the method finds where there is nothing learned to find.

    frozen decoder     the same autoencoder, trained with directions that stay at random (arXiv 2602.14111)
    untrained model    the same method fitted to the same text in a copy of the model whose weights are shuffled, tensor by
                       tensor (arXiv 2501.17727); a random network keeps much of what its input tokens are

Both are judged like the run: the same tokens, labels, halves and candidates. A dictionary that does no better shows the tokens,
not what the model has learned.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from msgspec import structs
from torch import Tensor

from interp.capturing.forward import forward
from interp.decomposers import Decomposer
from interp.decomposers.sae.autoencoder import FrozenSAE
from interp.decomposers.sae.config import SparseConfig
from interp.evaluation.concepts import null_report
from interp.evaluation.judged_rows import JudgedRows, judged_rows
from interp.evaluation.resampling import Resamples
from interp.evaluation.results import METRICS_FILE, ConceptConfig, Metrics, NullReport
from interp.evaluation.trial import Judged, Trial, codes_of, documents_of
from interp.model.language_model import LanguageModel, shuffled_copy
from interp.progress import progress
from interp.records import write_record
from interp.store.source import ArraySource

if TYPE_CHECKING:
    from interp.runs.record import Run
    from interp.store.reader import ActivationStore

MAX_ROWS = 200_000
"""Rows of the shuffled model that the method is fitted to at most; they are held in memory."""
_SEQUENCES = 32


def judge_controls(run: Run, metrics: Metrics, *, model: LanguageModel, store: ActivationStore) -> Metrics:
    """Fit and judge both controls, and keep them in the run's metrics; a control that the method cannot have is left out.

    Raises InputError where the run's own store has changed.
    """
    if metrics.concepts is None:
        return metrics
    config = metrics.config.concepts
    rows = judged_rows(store, run.site.read, config)
    reports = []
    if (frozen := _frozen(run)) is not None:
        reports.append(_report("frozen decoder", "the same autoencoder with random directions", frozen, rows, config))
    shuffled = shuffled_copy(model, seed=config.seed)
    source = ArraySource(_activations(shuffled, run.site.read, run.store(), most=MAX_ROWS))
    fitted = type(run.decomposer()).fit(source, run.decomposer().config)
    held_out = _activations(shuffled, run.site.read, store)
    moments = ArraySource(held_out).moments()
    elsewhere = replace(rows, x=held_out[torch.from_numpy(rows.numbers)], moments=moments)
    what = "the same method fitted to a copy of the model with shuffled weights"
    reports.append(_report("untrained model", what, fitted, elsewhere, config))
    metrics = structs.replace(metrics, controls=tuple(reports))
    write_record(run.path / METRICS_FILE, metrics)
    return metrics


def _frozen(run: Run) -> Decomposer | None:
    """The run's autoencoder trained with a frozen decoder, on the same rows; None for other methods."""
    config: Any = run.decomposer().config
    if not isinstance(config, SparseConfig):
        return None
    options = {each.name: getattr(config, each.name) for each in fields(FrozenSAE.config_type)}
    options["initialisation"] = type(FrozenSAE.config_type().initialisation)()
    options["dead_features"] = replace(config.dead_features, resample_every=0)
    return FrozenSAE.fit(run.store().site(run.site.read), FrozenSAE.config_type(**options))


def _report(name: str, what: str, decomposer: Decomposer, rows: JudgedRows, config: ConceptConfig) -> NullReport:
    judged = Judged.of(rows, config)
    found = Trial.of(codes_of(decomposer, rows, config), rows, judged)
    resamples = Resamples.draw(documents_of(rows.is_test, rows), config.seed)
    return null_report(name, what, [found], rows, resamples, config.seed)


@torch.no_grad()
def _activations(
    model: LanguageModel, site: str, store: ActivationStore, most: int | None = None
) -> Float[Tensor, "n d_in"]:
    """The model's activations at ``site`` on the store's tokens, row by row as in the store, at most ``most`` rows."""
    sites, tokens = model.sites([site]), store.tokens()
    sequence, position = store.positions()[:most].T
    last = int(sequence[-1]) + 1
    found = torch.empty(len(sequence), sites[0].d_in)
    for first in progress(
        range(0, last, _SEQUENCES), total=-(-last // _SEQUENCES), what="shuffled model", unit="batch"
    ):
        batch = torch.from_numpy(tokens[first : min(first + _SEQUENCES, last)].astype(np.int64))
        values = forward(model, sites, batch)[sites[0].name]
        here = np.flatnonzero((sequence >= first) & (sequence < first + _SEQUENCES))
        at = (torch.from_numpy(sequence[here] - first), torch.from_numpy(position[here].astype(np.int64)))
        found[torch.from_numpy(here)] = values[at].float().cpu()
    return found
