"""Find the strength at which a feature has a given effect on neutral text: a log grid, then bisection, many at once.

An effect that is not finite, such as of activations that overflow, counts as above every target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.metrics import kl_divergence
from interp.steering.edits import edit_activations, text_positions

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel

STRENGTH_GRID = tuple(float(s) for s in np.geomspace(0.02, 50.0, 12))
"""Strengths tried, in multiples of a feature's maximum, before bisection: a factor 2 apart, so that the KL, which grows
with the square of a small strength, grows at most about fourfold between neighbours."""
N_BISECTIONS = 8
"""Halvings of the bracket: the strength is then known to 1 part in 256 of it."""
KL_TOLERANCE = 0.05
"""A target counts as reached when the KL differs from it by at most this share of it."""
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
    effect: Callable[[np.ndarray, np.ndarray], np.ndarray], n: int, target: float
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """(strengths, effects) nearest to ``target`` of ``n`` features; ``effect(rows, strengths)`` measures many at once.

    Where no effect is nearer than none at all, both are 0.
    """
    low, high, value = np.zeros(n), np.full(n, np.nan), np.zeros(n)
    best, best_value = np.zeros(n), np.zeros(n)

    def measure(rows: np.ndarray, strengths: np.ndarray) -> None:
        found = effect(rows, strengths)
        value[rows] = np.where(np.isfinite(found), found, np.inf)
        better = rows[np.abs(value[rows] - target) < np.abs(best_value[rows] - target)]
        best[better], best_value[better] = strengths[np.isin(rows, better)], value[better]

    for strength in STRENGTH_GRID:
        rows = np.flatnonzero(np.isnan(high))
        if not len(rows):
            break
        measure(rows, np.full(len(rows), strength))
        above = value[rows] >= target
        high[rows[above]], low[rows[~above]] = strength, strength
    rows = np.flatnonzero(~np.isnan(high))
    for _ in range(N_BISECTIONS if len(rows) else 0):
        middle = (low[rows] + high[rows]) / 2
        measure(rows, middle)
        above = value[rows] >= target
        high[rows[above]], low[rows[~above]] = middle[above], middle[~above]
    return best, best_value


class EffectOfVectors:
    """Mean KL on fixed tokens when a vector is added at a site, for many vectors, several in one forward pass."""

    def __init__(self, model: LanguageModel, site: str, tokens: Int[Tensor, "n_seq n_pos"]):
        self.model, self.site, self.tokens = model, site, tokens
        self.per_pass = rows_per_pass(model, tokens.shape[1])
        self.is_text = text_positions(model, tokens)[:, 1:]
        self.clean = torch.cat([model.logits(batch)[:, 1:] for batch in tokens.split(self.per_pass)])
        if not self.clean.logsumexp(-1).isfinite().all():
            raise InputError(
                f"'{model.id}' predicts nothing finite on the neutral text, so no effect can be measured; "
                "give its weights in float32"
            )

    def __call__(self, added: Float[Tensor, "n d_in"]) -> Float[np.ndarray, " n"]:
        """Mean of KL(p_0 || p) over the tokens of text for each row of ``added``, nats per token."""
        n_seq, n_pos = self.tokens.shape
        pairs = torch.cartesian_prod(torch.arange(len(added)), torch.arange(n_seq)).to(added.device)
        values = torch.cat([self._pass(added, pair) for pair in pairs.split(self.per_pass)])
        return values.view(len(added), n_seq, n_pos - 1)[:, self.is_text].double().mean(1).cpu().numpy()

    def _pass(self, added: Float[Tensor, "n d_in"], pairs: Int[Tensor, "m 2"]) -> Float[Tensor, "m pos"]:
        vectors, sequences = added[pairs[:, 0], None], pairs[:, 1]
        with edit_activations(self.model, self.site, lambda x: x + vectors.to(x.dtype)):
            steered = self.model.logits(self.tokens[sequences])
        return kl_divergence(self.clean[sequences], steered[:, 1:])


def rows_per_pass(model: LanguageModel, n_pos: int) -> int:
    """Sequences of ``n_pos`` tokens whose logits are held at once."""
    return max(1, _LOGITS_PER_PASS // (n_pos * model.d_vocab))
