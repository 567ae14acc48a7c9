"""A prompt continued with and without features written into the model, and the effect of that on neutral text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.steering.edits import Mode
from interp.steering.forms import QuadraticMode
from interp.steering.records import SteeringRecord
from interp.steering.steerer import Steerer

if TYPE_CHECKING:
    from interp.runs.record import Run


@dataclass(frozen=True)
class SteeringRequest:
    """A prompt to continue, with and without some features written in."""

    prompt: str
    strengths: Mapping[int, float]
    """Strength of each feature, in multiples of its maximum on the store (mode "ablate": the share removed)."""
    mode: Mode | QuadraticMode = "add"
    """How features are written in; see ``interp.steering``, and ``interp.steering.forms`` for flow and rotate."""
    n_samples: int = 3
    """Continuations of each kind."""
    n_tokens: int = 48
    """Length of a continuation."""
    temperature: float = 0.7
    """0 takes the likeliest token."""
    seed: int = 0
    """Seed of the sampling noise, which baseline and steered text share."""


@dataclass(frozen=True)
class SteeringResult:
    """The texts written for a request, and the effect of its steering."""

    baseline: list[str]
    steered: list[str]
    kl: float
    """Effect on neutral text: mean KL(p_0 || p_steered), nats per token."""
    perplexity_ratio: float
    """Perplexity of neutral text under the steered model over that under the model itself (1 = no harm)."""


def neutral_tokens(run: Run, *, n_sequences: int = 8, n_tokens: int = 128) -> Int[Tensor, "n_sequences n_tokens"]:
    """Text of the run's own store on which the effect of steering is measured: its sequences, evenly spaced, BOS first.

    1024 tokens give the mean KL to a few per cent within a second on a small model.
    """
    tokens = run.store().tokens()
    rows = np.unique(np.linspace(0, len(tokens) - 1, n_sequences).astype(int))
    return torch.from_numpy(tokens[rows, :n_tokens].astype(np.int64))


def compare_continuations(
    steerer: Steerer, request: SteeringRequest, neutral: Int[Tensor, "n_seq n_pos"]
) -> SteeringResult:
    """Continue the prompt with and without steering, from the same noise, and measure the effect on ``neutral`` text.

    Raises InputError for dead features, unknown modes, and prompts that do not fit the model.
    """
    strengths = dict(request.strengths)
    generate = partial(
        steerer.generate,
        request.prompt,
        n_samples=request.n_samples,
        n_tokens=request.n_tokens,
        temperature=request.temperature,
        seed=request.seed,
    )
    return SteeringResult(
        baseline=generate({}),
        steered=generate(strengths, mode=request.mode),
        kl=steerer.kl(neutral, strengths, mode=request.mode),
        perplexity_ratio=steerer.perplexity_ratio(neutral, strengths, mode=request.mode),
    )


def steering_record(request: SteeringRequest, result: SteeringResult) -> SteeringRecord:
    """Request, result and the present time as one record of ``steering.jsonl``."""
    return SteeringRecord(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        kind="continuations",
        prompt=request.prompt,
        strengths=dict(request.strengths),
        mode=request.mode,
        temperature=request.temperature,
        seed=request.seed,
        kl=result.kl,
        perplexity_ratio=result.perplexity_ratio,
        baseline=result.baseline,
        steered=result.steered,
    )


def sweep_strength(
    steerer: Steerer,
    feature: int,
    neutral: Int[Tensor, "n_seq n_pos"],
    strengths: Sequence[float],
    *,
    mode: str = "add",
) -> list[float]:
    """Effect (nats per token on ``neutral``) of one feature at each strength."""
    return [steerer.kl(neutral, {feature: strength}, mode=mode) for strength in strengths]
