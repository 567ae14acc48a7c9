"""What features make the model predict: an estimate for all features of a site at once, from gradients on neutral text.

Let delta be a vector added to the activation of every token of text, log p_C the log-probability that the next token is one of
a set C, and means be over these tokens. At delta = 0

    g_C = mean of d log p_C / d delta
    F   = mean of the Fisher information of the predictions in delta, so that the mean KL is  delta^T F delta / 2

A unit direction d has the effect KL at the length sqrt(2 KL / d^T F d), and there raises log p_C by about

    g_C . d  sqrt(2 KL / d^T F d).

The length makes directions comparable that change predictions more or less. g_C takes one backward pass; F is estimated from
gradients of the log-probability of tokens drawn from the predictions. Features that detect a concept need not write it (Arad,
Mueller and Belinkov 2025, arXiv 2505.20063, who rank features by the logits of their strongest tokens).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.capturing.forward import FastestForward
from interp.steering.edits import text_positions

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel

N_DRAWS = 4
"""Draws of predicted tokens for each sequence: with 16 sequences the length is known to 9 %."""
_LEAST = 1e-12


@dataclass(frozen=True)
class OutputEffects:
    """Gradients at a site, from which the effect of any direction is estimated."""

    gradient: Float[Tensor, "n_sets d_in"]
    """g_C of each set of tokens, nats per unit of activation."""
    scores: Float[Tensor, "n_draws d_in"]
    """Gradients of drawn predictions; the mean of their outer products estimates F."""

    def length(self, directions: Float[Tensor, "n d_in"], kl: float) -> Float[Tensor, " n"]:
        """About how far to go along each unit direction for an effect of ``kl`` nats per token; inf where nothing changes."""
        curvature = (directions @ self.scores.T).square().mean(1)
        return torch.where(curvature > _LEAST, (2 * kl / curvature.clamp_min(_LEAST)).sqrt(), torch.inf)

    def lift(self, directions: Float[Tensor, "n d_in"], kl: float) -> Float[Tensor, "n_sets n"]:
        """About how much each unit direction raises the log-probability of each set at an effect of ``kl``, nats.

        Against the direction it falls by as much. 0 where nothing changes.
        """
        length = self.length(directions, kl)
        return (self.gradient @ directions.T) * torch.where(length.isfinite(), length, 0.0)


@torch.enable_grad()
def output_effects(
    model: LanguageModel,
    site: str,
    tokens: Int[Tensor, "n_seq n_pos"],
    token_sets: Sequence[Int[Tensor, " _"]],
    *,
    seed: int = 0,
) -> OutputEffects:
    """Gradients at ``site`` on ``tokens`` (BOS first); one backward pass for each set and draw, sequence by sequence.

    Raises InputError for tokens without text.
    """
    tokens = tokens.to(model.device)
    is_text = text_positions(model, tokens)
    forward = FastestForward(model, model.sites([site]), tokens[:1])
    d_in, generator = forward.sites[0].d_in, torch.Generator().manual_seed(seed)
    gradient, scores = torch.zeros(len(token_sets), d_in, device=model.device), []
    for sequence, where in zip(tokens, is_text, strict=True):
        delta = torch.zeros(d_in, device=model.device, requires_grad=True)
        added = where[:, None] * delta
        with forward.kernels(), model.bridge.hooks(fwd_hooks=[(site, partial(_plus, added))]):
            log_p = model.bridge(sequence[None])[0, where].float().log_softmax(-1)
        for row, wanted in zip(gradient, token_sets, strict=True):
            row += _gradient(log_p[:, wanted].logsumexp(-1).sum(), delta)
        for _ in range(N_DRAWS):
            # Drawn on the CPU, so that a seed means the same on every device.
            drawn = torch.multinomial(log_p.detach().exp().cpu(), 1, generator=generator).to(model.device)
            scores.append(_gradient(log_p.gather(1, drawn).sum(), delta))
    n = int(is_text.sum())
    return OutputEffects(gradient / n, torch.stack(scores) * (len(tokens) / n) ** 0.5)


def _plus(added: Float[Tensor, "n_pos d_in"], activation: Tensor, hook: object) -> Tensor:
    return activation + added.view(1, -1, *activation.shape[2:]).to(activation.dtype)


def _gradient(value: Float[Tensor, ""], delta: Float[Tensor, " d_in"]) -> Float[Tensor, " d_in"]:
    return torch.autograd.grad(value, delta, retain_graph=True)[0]
