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
from jaxtyping import Bool, Float, Int
from msgspec import structs
from torch import Tensor

from interp.decomposers import Decomposer, LinearDecomposer
from interp.errors import InputError
from interp.evaluation.resampling import Resamples, interval_rows
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
def evaluate_reconstruction(
    decomposer: Decomposer, source: ActivationSource, documents: Int[np.ndarray, " n_rows"] | None = None
) -> Reconstruction:
    """Reconstruction metrics over all rows of ``source``, which should hold tokens the decomposer was not fitted on.

    ``documents`` are the document numbers of the rows, for the interval of the FVU. Where codes do not decode to an activation,
    the method's own FVUs are over at most 16,384 rows drawn at random. Raises InputError for a source of another width or
    without rows.
    """
    if not len(source):
        raise InputError("there are no rows to judge a reconstruction by")
    if decomposer.d_in != source.d_in:
        raise InputError(f"the decomposer is for width {decomposer.d_in}, but the source is {source.d_in} wide")
    if isinstance(decomposer, LinearDecomposer):
        stats = ReconstructionStats()
        mean, squares = torch.from_numpy(source.moments().mean).float(), []
        for chunk in source.chunks():
            codes = decomposer.encode(chunk)
            decoded = decomposer.decode(codes)
            stats.add(chunk, decoded, codes)
            squares.append(torch.stack([(chunk - decoded).square().sum(1), (chunk - mean).square().sum(1)]))
        return structs.replace(
            _firing(decomposer, stats.density, stats.l0, len(source)),
            fvu=defined(stats.fvu),
            shrinkage=defined(stats.shrinkage),
            fvu_interval=None
            if documents is None
            else _ratio_interval(torch.cat(squares, 1).double().numpy(), documents),
        )
    fired, n_codes = torch.zeros(decomposer.n_features, dtype=torch.int64), 0
    for chunk in source.chunks():
        on = decomposer.encode(chunk) != 0
        fired += on.sum(0)
        n_codes += int(on.sum())
    drawn = np.random.default_rng(0).choice(len(source), min(_FVU_ROWS, len(source)), replace=False)
    x = source.rows(np.sort(drawn))
    return structs.replace(
        _firing(decomposer, fired / len(source), n_codes / len(source), len(source)),
        reason=f"codes of '{decomposer.kind}' do not decode to an activation; its FVU is measured in another space",
        fvu_own_target=defined(decomposer.fvu(x)),
        fvu_of_span=defined(decomposer.span_fvu(x)),
    )


def _ratio_interval(sums: Float[np.ndarray, "2 n"], groups: Int[np.ndarray, " n"]) -> tuple[float, float] | None:
    """The interval of sum(sums[0]) / sum(sums[1]) over resamples of the groups; None for a single group or no denominator."""
    _, group = np.unique(groups, return_inverse=True)
    if group.max() == 0 or not sums[1].any():
        return None
    above, below = (np.bincount(group, weights=values) for values in sums)
    resamples = Resamples.draw(np.ones(len(above), bool), seed=0)
    low, high = interval_rows((resamples.sums(above) / resamples.sums(below))[None])[0]
    return float(low), float(high)


def _firing(decomposer: Decomposer, density: Float[Tensor, " n_features"], l0: float, n_tokens: int) -> Reconstruction:
    """The metrics that need only how often each feature fires."""
    median = float(density.double().median())
    return Reconstruction(
        fvu=None,
        shrinkage=None,
        reason=None,
        fvu_own_target=None,
        fvu_of_span=None,
        l0=float(l0),
        n_dead=int((density == 0).sum()),
        dense_share=float((density > DENSE).double().mean()),
        median_rate=median,
        fires=not decomposer.signed_codes and median <= 0.5,
        fvu_interval=None,
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
    losses = ("ce_clean", *(f"{what}_{name}" for name in edits for what in ("ce", "kl")))
    sums: dict[str, list[Tensor]] = {name: [] for name in losses}
    for batch in _batches(model, tokens):
        is_text = batch[:, 1:-1] != model.bos_id
        clean, targets = model.logits(batch)[:, 1:-1], batch[:, 2:]
        sums["ce_clean"].append(_summed(_cross_entropy(clean, targets), is_text))
        for name, edit in edits.items():
            with edit_activations(model, site, edit):
                logits = model.logits(batch)[:, 1:-1]
            sums[f"ce_{name}"].append(_summed(_cross_entropy(logits, targets), is_text))
            sums[f"kl_{name}"].append(_summed(kl_divergence(clean, logits), is_text))
    each = {name: torch.cat(parts).cpu().numpy() for name, parts in sums.items()}
    means = {name: float(values.sum()) / n_tokens for name, values in each.items()}
    if wrong := [name for name, value in means.items() if not math.isfinite(value)]:
        raise InputError(
            f"with '{site}' edited, '{model.id}' predicts nothing finite ({', '.join(wrong)}); give its weights in float32"
        )
    kept = np.stack([each["ce_mean"] - each["ce_reconstructed"], each["ce_mean"] - each["ce_clean"]])
    recovered = defined(ce_recovered(means["ce_clean"], means["ce_mean"], means["ce_reconstructed"]))
    return SplicedLoss(
        **means,
        ce_recovered_zero=defined(ce_recovered(means["ce_clean"], means["ce_zero"], means["ce_reconstructed"])),
        ce_recovered_mean=recovered,
        ce_recovered_interval=None if recovered is None else _ratio_interval(kept, np.arange(len(tokens))),
        kl_recovered_mean=defined(ce_recovered(0.0, means["kl_mean"], means["kl_reconstructed"])),
        n_tokens=n_tokens,
    )


def _cross_entropy(
    logits: Float[Tensor, "n_seq n_pos d_vocab"], targets: Int[Tensor, "n_seq n_pos"]
) -> Float[Tensor, "n_seq n_pos"]:
    """In nats."""
    return torch.nn.functional.cross_entropy(logits.float().mT, targets.long(), reduction="none")


def _summed(values: Float[Tensor, "n_seq n_pos"], is_text: Bool[Tensor, "n_seq n_pos"]) -> Float[Tensor, " n_seq"]:
    """Sum over the text of each sequence, in float64."""
    return torch.where(is_text, values, 0).double().sum(1)


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
