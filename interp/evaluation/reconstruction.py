"""Reconstruction: how much of the activations, and of the model's own prediction, a decomposer keeps.

Offline, over rows of a source: FVU, L0, dead and dense features, shrinkage. In the model: the reconstruction replaces the
activation at its site, and the next-token cross-entropy (CE) is measured,

    CE recovered = (CE_ablated - CE_reconstructed) / (CE_ablated - CE_clean),

where the ablation sets the activation to zero, or to its mean. A good reconstruction does not show good features: a
factorisation of full rank scores perfectly and finds nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from msgspec import structs
from torch import Tensor

from interp.capturing.forward import FastestForward, logits_of_versions
from interp.decomposers import Decomposer, LinearDecomposer
from interp.errors import InputError
from interp.evaluation.resampling import Resamples, interval_rows
from interp.evaluation.results import Reconstruction, SplicedLoss, defined
from interp.metrics import ReconstructionStats, ce_recovered, kl_of_log_probabilities
from interp.store.source import ActivationSource

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel

DENSE = 0.1
"""A feature that fires on more than this share of tokens is called dense."""
_FVU_ROWS = 16_384
_TOKENS_PER_FORWARD = 4096
_VERSIONS = ("clean", "zero", "mean", "reconstructed")


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
    is_text = (tokens != model.bos_id)[:, 1:-1]
    n_tokens = int(is_text.sum())
    if not n_tokens:
        raise InputError("the sequences hold nothing but BOS and separators; give text")
    forward = FastestForward(model, model.sites([site]), tokens[:1])
    mean = _mean_activation(forward, tokens)

    def versions(x: Float[Tensor, "n_pos d_in"]) -> Float[Tensor, "4 n_pos d_in"]:
        reconstructed = decomposer.decode(decomposer.encode(x.float().cpu())).to(x)
        edited = torch.stack([x, torch.zeros_like(x), mean.to(x).expand_as(x), reconstructed])
        return torch.where(of_text[:, None], edited, x)

    positions = torch.arange(1, tokens.shape[1] - 1, device=model.device)
    sums = []
    with forward.kernels():
        for sequence in tokens.to(model.device):
            of_text = sequence != model.bos_id
            log_p = logits_of_versions(model, site, sequence, versions, positions).float().log_softmax(-1)
            loss = -log_p[:, positions - 1, sequence[2:]]
            divergence = torch.stack([kl_of_log_probabilities(log_p[0], each) for each in log_p])
            sums.append(torch.stack([loss, divergence])[..., of_text[1:-1]].double().sum(2))
    ce, kl = torch.stack(sums, dim=2).cpu().numpy()  # [4, n_seq], versions in their order
    means = {f"ce_{name}": float(values.sum()) / n_tokens for name, values in zip(_VERSIONS, ce, strict=True)}
    means |= {f"kl_{name}": float(values.sum()) / n_tokens for name, values in zip(_VERSIONS[1:], kl[1:], strict=True)}
    if wrong := [name for name, value in means.items() if not math.isfinite(value)]:
        raise InputError(
            f"with '{site}' edited, '{model.id}' predicts nothing finite ({', '.join(wrong)}); give its weights in float32"
        )
    kept = np.stack([ce[2] - ce[3], ce[2] - ce[0]])
    recovered = defined(ce_recovered(means["ce_clean"], means["ce_mean"], means["ce_reconstructed"]))
    return SplicedLoss(
        **means,
        ce_recovered_zero=defined(ce_recovered(means["ce_clean"], means["ce_zero"], means["ce_reconstructed"])),
        ce_recovered_mean=recovered,
        ce_recovered_interval=None if recovered is None else _ratio_interval(kept, np.arange(len(tokens))),
        kl_recovered_mean=defined(ce_recovered(0.0, means["kl_mean"], means["kl_reconstructed"])),
        n_tokens=n_tokens,
    )


def _mean_activation(forward: FastestForward, tokens: Int[Tensor, "n_seq n_pos"]) -> Float[Tensor, " d_in"]:
    """Mean activation at the site over all tokens but BOS and separators."""
    (site,) = forward.sites
    total, count = torch.zeros(site.d_in, dtype=torch.float64, device=forward.model.device), 0
    for batch in tokens.split(max(1, _TOKENS_PER_FORWARD // tokens.shape[1])):
        is_text = (batch != forward.model.bos_id).to(total.device)
        total += forward(batch)[site.name][is_text].double().sum(0)
        count += int(is_text.sum())
    return (total / max(1, count)).float()
