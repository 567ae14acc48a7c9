"""What can be done for features that have not fired for long: an auxiliary loss, or a new direction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.records import check_options

RESAMPLED_NORM = 0.2
"""Norm of a resampled encoder row, in mean norms of those of features that fire; so small that it disturbs little."""


@dataclass(frozen=True)
class DeadFeatures:
    """When a feature counts as dead, and what is done about it."""

    dead_after: int = 0
    """Tokens without firing after which a feature counts as dead; 0 means a fiftieth of the tokens trained on, at least 20 000
    and at most 10 million."""
    aux_k: int = 512
    """Dead features that reconstruct the error of each token in an auxiliary loss (arXiv 2406.04093, appendix A.2), at most; 0:
    none. At an attention output of the bundled model (a million tokens, one seed) it left 13 % of the features dead, not 26."""
    aux_weight: float = 1 / 32
    """Weight of that loss."""
    resample_every: int = 0
    """Tokens from one resampling to the next: dead features are replaced by tokens that are reconstructed badly; 0: never."""

    def __post_init__(self) -> None:
        check_options(self)
        if min(self.dead_after, self.aux_k, self.aux_weight, self.resample_every) < 0:
            raise InputError("dead-after, aux-k, aux-weight and resample-every must not be negative; 0 turns each off")


def auxiliary_error(
    centred: Float[Tensor, "n d_in"],
    error: Float[Tensor, "n d_in"],
    parameters: Mapping[str, Tensor],
    dead: Int[Tensor, " n_dead"],
    k: int,
) -> Float[Tensor, ""]:
    """|error - error^|^2 summed over the rows, where error^ is what the k largest codes of dead features make of a row.

    ``centred`` is x - b_dec and ``error`` x - x^, both without a graph: the loss moves dead features alone.
    """
    pre = torch.addmm(parameters["b_enc"][dead], centred, parameters["W_enc"][dead].T)
    values, indices = pre.topk(min(k, len(dead)), dim=1, sorted=False)
    z = torch.zeros_like(pre).scatter(1, indices, values.relu())
    return (error - z @ parameters["W_dec"][dead]).square().sum()


def dead_after(options: DeadFeatures, tokens: int) -> int:
    """Tokens without firing after which a feature counts as dead in a training on ``tokens``."""
    return options.dead_after or min(max(tokens // 50, 20_000), 10_000_000)


@torch.no_grad()
def resample(
    parameters: Mapping[str, Tensor],
    optimizers: list[torch.optim.Optimizer],
    is_dead: Bool[Tensor, " n_features"],
    rows: Float[Tensor, "n_dead d_in"],
) -> None:
    """Replace dead features by the directions of ``rows``, with their optimiser's state cleared."""
    directions = F.normalize(rows, dim=1)
    alive = parameters["W_enc"][~is_dead]
    norm = alive.norm(dim=1).mean() if len(alive) else 1 / RESAMPLED_NORM
    parameters["W_dec"][is_dead] = directions
    parameters["W_enc"][is_dead] = RESAMPLED_NORM * norm * directions
    parameters["b_enc"][is_dead] = 0
    for optimizer in optimizers:
        for name in ("W_enc", "b_enc", "W_dec"):
            for value in optimizer.state[parameters[name]].values() if parameters[name] in optimizer.state else ():
                if value.shape == parameters[name].shape:
                    value[is_dead] = 0
