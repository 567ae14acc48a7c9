"""What the Steer page shows: a prompt continued with features written in, at given strengths or with a given effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from jaxtyping import Int
from torch import Tensor

from interp.steering.continuations import (
    Continuations,
    SteeringRequest,
    SteeringResult,
    compare_continuations,
    out_of_reach,
    sweep_strength,
)
from interp.steering.steerer import Steerer


@dataclass(frozen=True)
class SteeredText:
    """The result of a request, as the page shows it."""

    request: SteeringRequest
    """With the strengths that were found, if effects were asked for."""
    result: SteeringResult
    notes: list[str]
    """A sentence for every effect that no strength reaches."""
    sweep: tuple[list[float], list[float]] | None
    """(strengths, effect of each in nats per token), from the one that changes nothing to beyond the one in use."""


def steer_text(
    steerer: Steerer,
    request: SteeringRequest,
    neutral: Int[Tensor, "n_seq n_pos"],
    *,
    targets: Mapping[int, float] | None = None,
    show: Callable[[Continuations], None] | None = None,
) -> SteeredText:
    """Continue the prompt with and without the features, and measure the effect on ``neutral`` text.

    ``targets`` asks for an effect of each feature alone, in nats per token, instead of the request's strengths; ``show`` is
    called with the texts as they grow. Raises InputError as ``compare_continuations`` does.
    """
    notes: list[str] = []
    if targets is not None:
        found = [steerer.strength_for_kl(f, kl, tokens=neutral, mode=request.mode) for f, kl in targets.items()]
        request = replace(request, strengths={search.feature: search.strength for search in found})
        notes = [note for search in found if (note := out_of_reach(search))]
    result = compare_continuations(steerer, request, neutral, show=show)
    return SteeredText(request, result, notes, _sweep(steerer, request, neutral))


def _sweep(
    steerer: Steerer, request: SteeringRequest, neutral: Int[Tensor, "n_seq n_pos"]
) -> tuple[list[float], list[float]] | None:
    """Effect of a single feature against its strength: 1.5 times as far as the one in use is from the neutral one, and at
    least 1, but not beyond the mode's end."""
    if len(request.strengths) != 1:
        return None
    ((feature, strength),) = request.strengths.items()
    neutral_strength, end = steerer.neutral.get(request.mode, 0.0), steerer.ends.get(request.mode, math.inf)
    offset = strength - neutral_strength
    reach = math.copysign(min(max(abs(offset) * 1.5, 1.0), end), offset)
    strengths = [neutral_strength + reach * step / 6 for step in range(7)]
    return strengths, sweep_strength(steerer, feature, neutral, strengths, mode=request.mode)
