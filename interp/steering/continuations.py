"""A prompt continued with and without features written into the model, and the effect of that on neutral text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import InputError
from interp.steering.edits import Mode, Positions, SiteEdit
from interp.steering.effects import EffectOnText, NextToken, TokenChange, next_tokens, token_changes
from interp.steering.forms import QuadraticMode, steerer_type
from interp.steering.records import SteeringRecord
from interp.steering.sampling import Sampling, check_fits, sample_tokens
from interp.steering.scales import Unit
from interp.steering.search import StrengthSearch
from interp.steering.steerer import Steerer, WriteAt

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel
    from interp.runs.record import Run


@dataclass(frozen=True)
class SteeringRequest:
    """A prompt to continue, with and without some features written in."""

    prompt: str
    strengths: Mapping[int, float]
    """Strength of each feature, in the mode's unit (``Steerer.units``), which for add and clamp is ``unit``."""
    mode: Mode | QuadraticMode = "add"
    """How features are written in; see ``interp.steering``, and ``interp.steering.forms`` for flow and rotate."""
    unit: Unit = "maximum"
    """What strength 1 adds."""
    positions: Positions = field(default_factory=Positions)
    """At which tokens."""
    at_residual: bool = False
    """Whether features of MLP neurons or heads are written behind the layer's output matrix."""
    also: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """Features of other runs of the same model, written in the same way at their own sites: run to feature to strength."""
    n_samples: int = 3
    """Continuations of each kind."""
    n_tokens: int = 48
    """Length of a continuation."""
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.7))
    seed: int = 0
    """Seed of the sampling noise, which baseline and steered text share."""


@dataclass(frozen=True)
class Continuations:
    """Texts as far as they are written; of a line, both grew from the same noise."""

    baseline: list[str]
    steered: list[str]
    tokens: Int[Tensor, "2 n_samples n_new"]
    """Ids of the baseline and of the steered texts."""


@dataclass(frozen=True)
class SteeringResult:
    """The texts written for a request, and the effect of its steering."""

    baseline: list[str]
    steered: list[str]
    kl: float
    """Effect on neutral text: mean KL(p_0 || p_steered), nats per token."""
    perplexity_ratio: float
    """Perplexity of neutral text under the steered model over that under the model itself (1 = no harm)."""
    prompt_changes: list[TokenChange] = field(default_factory=list)
    """What steering does to the likelihood of each token of the prompt."""
    changes: list[list[TokenChange]] = field(default_factory=list)
    """The same of each token of each steered text, after the prompt and the text before it."""
    next_tokens: list[NextToken] = field(default_factory=list)
    """The likeliest tokens after the prompt, with and without steering."""


def neutral_tokens(run: Run, *, n_sequences: int = 8, n_tokens: int = 128) -> Int[Tensor, "n_sequences n_tokens"]:
    """Text of the run's own store on which the effect of steering is measured: its sequences, evenly spaced, BOS first.

    1024 tokens give the mean KL to a few per cent within a second on a small model.
    """
    tokens = run.store().tokens()
    rows = np.unique(np.linspace(0, len(tokens) - 1, n_sequences).astype(int))
    return torch.from_numpy(tokens[rows, :n_tokens].astype(np.int64))


def steerer_for(model: LanguageModel, run: Run, request: SteeringRequest) -> Steerer:
    """What writes the features of ``run`` as ``request`` asks.

    Raises InputError as ``Steerer.from_run`` does, and for a prompt that with its continuation does not fit the model.
    """
    check_fits(model, len(model.encode(request.prompt)), request.n_tokens)
    at: WriteAt = "residual" if request.at_residual else "site"
    return steerer_type(run).from_run(model, run, at=at, unit=request.unit, positions=request.positions)


def continuations(
    steerer: Steerer, request: SteeringRequest, others: Mapping[str, Steerer] | None = None
) -> Iterator[Continuations]:
    """The texts as they grow, after every token; see ``compare_continuations``.

    Steering that writes nothing gives exactly the baseline.
    """
    model, start = steerer.model, steerer.model.encode(request.prompt)
    edits = edits_of(steerer, request, others)
    steps = sample_tokens(
        model,
        [[], edits] if edits else [[]],
        start.repeat(request.n_samples, 1),
        n_tokens=request.n_tokens,
        sampling=request.sampling,
        seed=request.seed,
    )
    for tokens in steps:
        texts = [[steerer.continuation_text(start, row) for row in variant] for variant in tokens]
        yield Continuations(texts[0], texts[-1], tokens[[0, -1]])


def compare_continuations(
    steerer: Steerer,
    request: SteeringRequest,
    neutral: Int[Tensor, "n_seq n_pos"],
    *,
    others: Mapping[str, Steerer] | None = None,
    show: Callable[[Continuations], None] | None = None,
) -> SteeringResult:
    """Continue the prompt with and without steering, from the same noise, and measure the effect on ``neutral`` text.

    ``others`` are the steerers of the runs in ``request.also``; ``show`` is called with the texts as they grow. Raises
    InputError for dead features, unknown modes, prompts that do not fit the model, and predictions that are not finite.
    """
    written = None
    for written in continuations(steerer, request, others):
        if show:
            show(written)
    assert written is not None
    model, edits, start = steerer.model, edits_of(steerer, request, others), steerer.model.encode(request.prompt)
    effect = EffectOnText(model, neutral)(edits)
    if not (math.isfinite(effect.kl) and math.isfinite(effect.perplexity_ratio)):
        raise InputError(
            "steered like this, the model's predictions on neutral text are not finite; steer less strongly, or give the "
            f"weights of '{model.id}' in float32"
        )
    texts = torch.cat([start.repeat(request.n_samples, 1), written.tokens[1]], dim=1)
    changes, n_given = token_changes(model, edits, texts, n_prompt=len(start)), len(start) - 1
    return SteeringResult(
        baseline=written.baseline,
        steered=written.steered,
        kl=effect.kl,
        perplexity_ratio=effect.perplexity_ratio,
        prompt_changes=changes[0][:n_given],
        changes=[change[n_given:] for change in changes],
        next_tokens=next_tokens(model, edits, start, n_prompt=len(start)),
    )


def edits_of(steerer: Steerer, request: SteeringRequest, others: Mapping[str, Steerer] | None = None) -> list[SiteEdit]:
    """What the request writes; ``others`` are the steerers of the runs in ``request.also``."""
    edits = steerer.edits(dict(request.strengths), mode=request.mode)
    for name, strengths in request.also.items():
        edits += (others or {})[name].edits(dict(strengths), mode=request.mode)
    return edits


def steering_record(request: SteeringRequest, result: SteeringResult) -> SteeringRecord:
    """Request, result and the present time as one record of ``steering.jsonl``."""
    return SteeringRecord(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        kind="continuations",
        prompt=request.prompt,
        strengths=dict(request.strengths),
        mode=request.mode,
        unit=request.unit,
        at=request.positions.at,
        at_tokens=request.positions.at_tokens,
        at_residual=request.at_residual,
        also={name: dict(strengths) for name, strengths in request.also.items()},
        temperature=request.sampling.temperature,
        top_k=request.sampling.top_k,
        top_p=request.sampling.top_p,
        repetition_penalty=request.sampling.repetition_penalty,
        seed=request.seed,
        kl=result.kl,
        perplexity_ratio=result.perplexity_ratio,
        baseline=result.baseline,
        steered=result.steered,
    )


def parse_also(texts: Iterable[str], what: str) -> dict[str, dict[int, float]]:
    """Features of other runs, each as RUN:FEATURE:STRENGTH, by run. Raises InputError calling a text that is none ``what``."""
    also: dict[str, dict[int, float]] = {}
    for text in texts:
        try:
            name, number, strength = text.rsplit(":", 2)
            also.setdefault(name.strip(), {})[int(number)] = float(strength)
        except ValueError:
            raise InputError(
                f"{what} '{text}' names no feature; write RUN:FEATURE:STRENGTH, such as other-run:17:1.5"
            ) from None
    return also


def unit_of(run: Run, request: SteeringRequest) -> str:
    """The unit of the request's strengths, as printed after the number."""
    if request.unit == "norm" and request.mode in ("add", "clamp"):
        return "× the site's mean norm"
    return steerer_type(run).units[request.mode]


def out_of_reach(search: StrengthSearch) -> str | None:
    """The sentence for an effect that no strength has; None where it was reached."""
    if search.reached:
        return None
    return (
        f"feature {search.feature} does not reach {search.target:.3g} nats per token at any strength tried; the nearest is "
        f"{search.kl:.3g}, at strength {search.strength:.3g}."
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
    effect = EffectOnText(steerer.model, neutral)
    return [effect(steerer.edits({feature: strength}, mode=mode)).kl for strength in strengths]
