"""Reconstruction: how much of the activations, and of the model's own prediction, a decomposer keeps.

Offline, over rows of a source: FVU, L0, dead and dense features, shrinkage. In the model: the reconstruction replaces the
activation at its site, and the next-token cross-entropy (CE) is measured,

    CE recovered = (CE_ablated - CE_reconstructed) / (CE_ablated - CE_clean),

where the ablation sets the activation to zero, or to its mean. A good reconstruction does not show good features: a
factorisation of full rank scores perfectly and finds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from msgspec import structs
from torch import Tensor

from interp.decomposers import Decomposer, LinearDecomposer
from interp.errors import InputError
from interp.evaluation.results import Reconstruction, SplicedLoss, defined
from interp.metrics import ReconstructionStats, ce_recovered, kl_divergence
from interp.steering.edits import Edit, edit_activations, text_positions
from interp.store.source import ActivationSource

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel

DENSE = 0.1
"""A feature that fires on more than this share of tokens is called dense."""
_FVU_ROWS = 16_384
_LOGITS_PER_BATCH = 2**24  # values held at once per forward pass: 64 MB in float32


@torch.no_grad()
def evaluate_reconstruction(decomposer: Decomposer, source: ActivationSource) -> Reconstruction:
    """Reconstruction metrics over all rows of ``source``, which should hold tokens the decomposer was not fitted on.

    Where codes do not decode to an activation, the method's own FVUs are over at most 16,384 rows drawn at random.
    Raises InputError for a source of another width or without rows.
    """
    if not len(source):
        raise InputError("there are no rows to judge a reconstruction by")
    if decomposer.d_in != source.d_in:
        raise InputError(f"the decomposer is for width {decomposer.d_in}, but the source is {source.d_in} wide")
    if isinstance(decomposer, LinearDecomposer):
        stats = ReconstructionStats()
        for chunk in source.chunks():
            codes = decomposer.encode(chunk)
            stats.add(chunk, decomposer.decode(codes), codes)
        firing = _firing(stats.density, stats.l0, len(source))
        return structs.replace(firing, fvu=defined(stats.fvu), shrinkage=defined(stats.shrinkage))
    fired, n_codes = torch.zeros(decomposer.n_features, dtype=torch.int64), 0
    for chunk in source.chunks():
        on = decomposer.encode(chunk) != 0
        fired += on.sum(0)
        n_codes += int(on.sum())
    drawn = np.random.default_rng(0).choice(len(source), min(_FVU_ROWS, len(source)), replace=False)
    x = source.rows(np.sort(drawn))
    return structs.replace(
        _firing(fired / len(source), n_codes / len(source), len(source)),
        reason=f"codes of '{decomposer.kind}' do not decode to an activation; its FVU is measured in another space",
        fvu_own_target=defined(decomposer.fvu(x)),
        fvu_of_span=defined(decomposer.span_fvu(x)),
    )


def _firing(density: Float[Tensor, " n_features"], l0: float, n_tokens: int) -> Reconstruction:
    """The metrics that need only how often each feature fires."""
    return Reconstruction(
        fvu=None,
        shrinkage=None,
        reason=None,
        fvu_own_target=None,
        fvu_of_span=None,
        l0=float(l0),
        n_dead=int((density == 0).sum()),
        dense_share=float((density > DENSE).double().mean()),
        n_tokens=n_tokens,
    )


@torch.no_grad()
def spliced_loss(
    model: LanguageModel, decomposer: Decomposer, site: str, tokens: Int[Tensor, "n_seq n_pos"]
) -> SplicedLoss:
    """Run the model on ``tokens`` [n_seq, n_pos] (BOS first) with the decomposer's reconstruction at ``site``.

    Raises InputError for a decomposer whose codes do not decode, for a site of another width, for sequences without BOS or
    without text, and for losses that are not finite.
    """
    if not isinstance(decomposer, LinearDecomposer):
        raise InputError(
            f"codes of '{decomposer.kind}' do not decode to an activation, so no reconstruction can be spliced in"
        )
    if model.site(site).d_in != decomposer.d_in:
        raise InputError(f"the decomposer is for width {decomposer.d_in}, but '{site}' is {model.site(site).d_in} wide")
    if not len(tokens) or tokens.shape[1] < 3 or (tokens[:, 0] != model.bos_id).any():
        raise InputError("tokens must be sequences of at least 3 tokens, each beginning with BOS")
    n_tokens = int(text_positions(model, tokens)[:, 1:-1].sum())
    mean = _mean_activation(model, site, tokens)

    def reconstruct(x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).float().cpu()
        return decomposer.decode(decomposer.encode(rows)).to(x).view_as(x)

    edits: dict[str, Edit] = {"zero": torch.zeros_like, "mean": mean.expand_as, "reconstructed": reconstruct}
    totals = dict.fromkeys(("ce_clean", *(f"{what}_{name}" for name in edits for what in ("ce", "kl"))), 0.0)
    for batch in _batches(model, tokens):
        is_text = batch[:, 1:-1] != model.bos_id
        clean = model.logits(batch)[:, 1:-1][is_text]
        targets = batch[:, 2:][is_text]
        totals["ce_clean"] += _summed_ce(clean, targets)
        for name, edit in edits.items():
            with edit_activations(model, site, edit):
                logits = model.logits(batch)[:, 1:-1][is_text]
            totals[f"ce_{name}"] += _summed_ce(logits, targets)
            totals[f"kl_{name}"] += float(kl_divergence(clean, logits).double().sum())
    means = {name: total / n_tokens for name, total in totals.items()}
    if wrong := [name for name, value in means.items() if not math.isfinite(value)]:
        raise InputError(
            f"with '{site}' edited, '{model.id}' predicts nothing finite ({', '.join(wrong)}); give its weights in float32"
        )
    return SplicedLoss(
        **means,
        ce_recovered_zero=defined(ce_recovered(means["ce_clean"], means["ce_zero"], means["ce_reconstructed"])),
        ce_recovered_mean=defined(ce_recovered(means["ce_clean"], means["ce_mean"], means["ce_reconstructed"])),
        kl_recovered_mean=defined(ce_recovered(0.0, means["kl_mean"], means["kl_reconstructed"])),
        n_tokens=n_tokens,
    )


def _summed_ce(logits: Float[Tensor, "n d_vocab"], targets: Int[Tensor, " n"]) -> float:
    """Cross-entropy in nats, summed over tokens."""
    return float(torch.nn.functional.cross_entropy(logits.float(), targets.long(), reduction="none").double().sum())


def _mean_activation(model: LanguageModel, site: str, tokens: Int[Tensor, "n_seq n_pos"]) -> Float[Tensor, " d_in"]:
    """Mean activation at ``site`` over all tokens but BOS and separators."""
    total, count = torch.zeros(model.site(site).d_in, dtype=torch.float64, device=model.device), 0
    for batch in _batches(model, tokens):
        is_text = batch != model.bos_id

        def add(x: Tensor, is_text: Tensor = is_text) -> Tensor:
            total.add_(x[is_text].double().sum(0))
            return x

        with edit_activations(model, site, add):
            model.logits(batch)
        count += int(is_text.sum())
    return (total / max(1, count)).float()


def _batches(model: LanguageModel, tokens: Int[Tensor, "n_seq n_pos"]) -> Iterator[Int[Tensor, "_ n_pos"]]:
    size = max(1, _LOGITS_PER_BATCH // (tokens.shape[1] * model.d_vocab))
    for batch in tokens.split(size):
        yield batch.to(model.device)
