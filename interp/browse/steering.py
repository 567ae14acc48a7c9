"""What the Steer page shows: a prompt continued with features written in, at given strengths or with a given effect."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from jaxtyping import Int
from torch import Tensor

from interp.steering.continuations import SteeringRequest, SteeringResult, compare_continuations, sweep_strength
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
    """(strengths, effect of each in nats per token), from 0 to 1.5 times the strength in use."""


def steer_text(
    steerer: Steerer,
    request: SteeringRequest,
    neutral: Int[Tensor, "n_seq n_pos"],
    *,
    targets: Mapping[int, float] | None = None,
) -> SteeredText:
    """Continue the prompt with and without the features, and measure the effect on ``neutral`` text.

    ``targets`` asks for an effect of each feature alone, in nats per token, instead of the request's strengths. Raises
    InputError for dead features, unknown modes, and prompts that do not fit the model.
    """
    notes: list[str] = []
    if targets is not None:
        found = [steerer.strength_for_kl(f, kl, tokens=neutral, mode=request.mode) for f, kl in targets.items()]
        request = replace(request, strengths={search.feature: search.strength for search in found})
        notes = [
            f"feature {search.feature} does not reach {search.target:.3g} nats per token at any strength tried; the "
            f"nearest is {search.kl:.3g}."
            for search in found
            if not search.reached
        ]
    result = compare_continuations(steerer, request, neutral)
    return SteeredText(request, result, notes, _sweep(steerer, request, neutral))


def _sweep(
    steerer: Steerer, request: SteeringRequest, neutral: Int[Tensor, "n_seq n_pos"]
) -> tuple[list[float], list[float]] | None:
    """Effect against strength, for a single feature in a mode whose effect grows with its strength."""
    if len(request.strengths) != 1 or request.mode not in steerer.modes_by_kl:
        return None
    ((feature, strength),) = request.strengths.items()
    reach = math.copysign(max(abs(strength) * 1.5, 1.0), strength)
    strengths = [reach * step / 6 for step in range(1, 7)]
    return [0.0, *strengths], [0.0, *sweep_strength(steerer, feature, neutral, strengths, mode=request.mode)]
