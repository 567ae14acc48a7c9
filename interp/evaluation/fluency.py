"""How well a steered model still writes: figures of single texts, and of how they are traded against what they say.

    fluency        min(1, exp(-(NLL_steered - NLL_baseline))), nats per token under the model without steering
    distinct-2     ``interp.metrics.distinct_n``
    repetition     share of a text's 4-grams of tokens that occurred before in it
    harmonic mean  2 share fluency / (share + fluency): high only where both are

The baseline of a fluency is the mean NLL of all unsteered continuations of the same prompt, since the likelihood of a single
text is mostly luck. So an unsteered text has a fluency of its own, the mean of which is below 1: quote both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from interp.metrics import distinct_n

REPEATED = 4
"""Tokens of the n-grams that ``repetition`` looks for: shorter ones come back in good text, too."""


def fluency(
    nll: Float[np.ndarray, "*shape"], baseline_nll: Float[np.ndarray, "*shape"] | float
) -> Float[np.ndarray, "*shape"]:
    """Fluency of texts, 0 to 1, from their mean NLL and that of their prompt's baseline, nats per token.

    0 where it is no number: a text on which the activations of the model overflow.
    """
    return np.nan_to_num(np.exp(np.minimum(0.0, baseline_nll - nll)), nan=0.0)


def repetition(tokens: Sequence[int] | Int[np.ndarray, " n_tokens"]) -> float:
    """Share of the 4-grams of a text that occurred before in it: 0 if none repeats, near 1 for a loop.

    NaN for fewer than four tokens.
    """
    return 1.0 - distinct_n(tokens, n=REPEATED)


def harmonic_mean(left: Float[np.ndarray, "*shape"], right: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """2 left right / (left + right) of figures from 0 to 1; 0 where both are 0."""
    total = np.asarray(left + right, np.float64)
    return np.divide(2 * left * right, total, out=np.zeros_like(total), where=total > 0)
