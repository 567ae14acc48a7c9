"""Find the strength at which a feature has a given effect on neutral text, for many features at once.

The effect of a small strength s is quadratic in it (KL = s^2 d^T F d / 2, F the Fisher information of the predictions in the
activation), so each feature's next strength is read off a line in log KL against log s, kept inside of the bracket that is
known so far. An effect that is not finite, such as of activations that overflow, counts as above every target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.capturing.forward import FastestForward, logits_of_versions
from interp.errors import InputError
from interp.metrics import kl_of_log_probabilities
from interp.steering.edits import text_positions

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel

LARGEST_STRENGTH = 50.0
"""In multiples of a feature's maximum: what has no effect there is out of reach."""
FIRST_STRENGTH = 0.3
"""Tried first where nothing better is known."""
KL_TOLERANCE = 0.05
"""A target counts as reached when the KL differs from it by at most this share of it."""
_PRECISION = 0.01
"""The search of a feature ends when its KL differs from the target by at most this share of it."""
_AT_MOST = 20
"""Strengths tried of a feature."""
_STEP = 4.0
"""A strength is raised by this factor at most, so that the first crossing of the target is found, and lowered by its square."""
_LOGITS_PER_PASS = 2**24  # values held at once per forward pass: 64 MB in float32


@dataclass(frozen=True)
class StrengthSearch:
    """The strength of one feature whose effect on neutral text is nearest to a target."""

    strength: float
    """Signed, in multiples of the feature's maximum."""
    kl: float
    """Effect at that strength: mean KL(p_0 || p_s) in nats per token."""
    reached: bool
    """Whether ``kl`` is within 5 % of the target; report a False, do not drop it."""
    feature: int
    """Feature number."""
    target: float
    """The effect asked for, in nats per token."""


def search_strengths(
    effect: Callable[[np.ndarray, np.ndarray], np.ndarray],
    n: int,
    target: float,
    *,
    start: Float[np.ndarray, " n"] | None = None,
    largest: float = LARGEST_STRENGTH,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """(strengths, effects) nearest to ``target`` of ``n`` features; ``effect(rows, strengths)`` measures many at once.

    ``start`` are the strengths tried first. Where no effect is nearer than none at all, both are 0.
    """
    strength = np.clip(np.full(n, FIRST_STRENGTH) if start is None else start, 1e-6, largest)
    low, low_value = np.zeros(n), np.zeros(n)
    high, high_value = np.full(n, np.inf), np.full(n, np.inf)
    best, best_value, going = np.zeros(n), np.zeros(n), np.arange(n)
    for _ in range(_AT_MOST):
        if not len(going):
            break
        tried = strength[going]
        found = effect(going, tried)
        value = np.where(np.isfinite(found), found, np.inf)
        better = np.abs(value - target) < np.abs(best_value[going] - target)
        best[going[better]], best_value[going[better]] = tried[better], value[better]
        above = value >= target
        high[going[above]], high_value[going[above]] = tried[above], value[above]
        low[going[~above]], low_value[going[~above]] = tried[~above], value[~above]
        is_done = (np.abs(value - target) <= _PRECISION * target) | (~above & (tried >= largest))
        going = going[~is_done]
        strength[going] = [
            min(largest, _next(target, low[i], low_value[i], high[i], high_value[i])) for i in going.tolist()
        ]
    return best, best_value


def _next(target: float, low: float, low_value: float, high: float, high_value: float) -> float:
    """The strength to try next, between what is known to be too weak and too strong."""
    if low == 0.0:
        share = np.sqrt(target / high_value) if np.isfinite(high_value) else 0.0
        return high * max(share, _STEP**-2)
    if not np.isfinite(high):
        share = np.sqrt(target / low_value) if low_value > 0 else np.inf
        return low * float(np.clip(share, 1 + _PRECISION, _STEP))
    place = 0.5
    if np.isfinite(high_value) and low_value > 0:
        place = np.log(target / low_value) / np.log(high_value / low_value)
    return low * (high / low) ** float(np.clip(place, 0.1, 0.9))


class EffectOfVectors:
    """Mean KL on fixed tokens when a vector is added at a site, for many vectors, several in one forward pass.

    Raises InputError for tokens without text and where the model predicts nothing finite.
    """

    def __init__(self, model: LanguageModel, site: str, tokens: Int[Tensor, "n_seq n_pos"]):
        self.model, self.site, self.tokens = model, site, tokens.to(model.device)
        self.is_text = text_positions(model, self.tokens)
        self.forward = FastestForward(model, model.sites([site]), self.tokens[:1])
        nothing = torch.zeros(1, self.forward.sites[0].d_in, device=model.device)
        self.clean = [log_p[0] for log_p in self._log_probs(nothing)]
        if not all(log_p.isfinite().all() for log_p in self.clean):
            raise InputError(
                f"'{model.id}' predicts nothing finite on the neutral text, so no effect can be measured; "
                "give its weights in float32"
            )

    def __call__(self, added: Float[Tensor, "n d_in"]) -> Float[np.ndarray, " n"]:
        """Mean of KL(p_0 || p) over the tokens of text for each row of ``added``, nats per token."""
        return self.measure(added)[0]

    @torch.no_grad()
    def measure(
        self, added: Float[Tensor, "n d_in"], token_sets: Sequence[Int[Tensor, " _"]] = ()
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n_sets n"]]:
        """(KL, lift of each set of tokens) for each row of ``added``: means over the tokens of text, in nats.

        The lift of a set is the gain in the log-probability that the next token is one of it.
        """
        found = []
        for some in added.split(rows_per_pass(self.model, self.tokens.shape[1])):
            total = torch.zeros(1 + len(token_sets), len(some), dtype=torch.float64, device=added.device)
            for clean, log_p in zip(self.clean, self._log_probs(some), strict=True):
                total[0] += kl_of_log_probabilities(clean, log_p).double().sum(-1)
                for row, tokens in zip(total[1:], token_sets, strict=True):
                    row += (log_p[..., tokens].logsumexp(-1) - clean[:, tokens].logsumexp(-1)).double().sum(-1)
            found.append(total / int(self.is_text.sum()))
        kl, *lifts = torch.cat(found, dim=1).cpu().numpy()
        return kl, np.asarray(lifts).reshape(len(token_sets), len(added))

    def _log_probs(self, added: Float[Tensor, "n d_in"]) -> Iterator[Float[Tensor, "n k d_vocab"]]:
        """Of each sequence, the log-probabilities predicted at its k tokens of text, once for each row of ``added``."""
        with self.forward.kernels():
            for tokens, is_text in zip(self.tokens, self.is_text, strict=True):
                versions = partial(_plus, added[:, None] * is_text[:, None])
                logits = logits_of_versions(self.model, self.site, tokens, versions, is_text.nonzero().squeeze(1))
                yield logits.float().log_softmax(-1)


def _plus(added: Float[Tensor, "n n_pos d_in"], x: Float[Tensor, "n_pos d_in"]) -> Float[Tensor, "n n_pos d_in"]:
    return x + added.to(x.dtype)


def rows_per_pass(model: LanguageModel, n_pos: int) -> int:
    """Sequences of ``n_pos`` tokens whose logits are held at once."""
    return max(1, _LOGITS_PER_PASS // (n_pos * model.d_vocab))
