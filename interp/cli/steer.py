"""``interp steer``: write a feature into the model and read what it does to a text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from interp.cli.judging import judged_lines
from interp.cli.sweep import SweepOptions, run_sweep
from interp.errors import InputError, unknown_feature
from interp.evaluation.results import read_metrics
from interp.model.language_model import load_model
from interp.runs.record import Run, resolve_run
from interp.steering.continuations import (
    SteeringRequest,
    SteeringResult,
    compare_continuations,
    neutral_tokens,
    steering_record,
)
from interp.steering.forms import steerer_type
from interp.steering.records import write_steering_record
from interp.steering.steerer import Steerer

_SIGNED_MODES = ("add", "clamp", "flow")
"""Modes in which --concept turns the strength negative if the feature's negative codes mean the concept. Ablation removes the
component whatever its sign, and a rotation has no sign that means the concept."""


@dataclass(frozen=True)
class Steer:
    """Continue a prompt with and without a feature written into the model, side by side."""

    run_name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(name="run")]
    """Run folder, or the name of a run in the workspace."""
    prompt: str | None = None
    """Text to continue; \\n stands for a new line."""
    feature: int | None = None
    """Number of the feature."""
    concept: str | None = None
    """Instead of --feature: the feature that interp evaluate found for this concept (in the run's metrics.json), the one
    it steered if it steered the concept, else the one that detects the concept best."""
    mode: Literal["add", "clamp", "ablate", "flow", "rotate"] = "add"
    """add, clamp or ablate a direction; for latents of a bilinear run also flow (raise the latent's value) and rotate
    (turn in the plane of its first two axes)."""
    strength: float | None = None
    """In multiples of the feature's maximum on its store; negative suppresses. ablate: the share removed; flow: the time,
    in units of 1 / the largest eigenvalue; rotate: turns of 360 degrees."""
    kl: float | None = None
    """Instead of --strength: the effect on neutral text to aim for, in nats per token; 0.2 is strong but fluent."""
    samples: int = 4
    """Number of continuations."""
    tokens: int = 48
    """Tokens per continuation."""
    temperature: float = 1.0
    """Sampling temperature; 0 takes the likeliest token."""
    seed: int = 0
    """Seed of the sampling noise, which both sides share."""
    judge: str | None = None
    """Judge the texts by a command, such as "python score.py": it is run once for each text, without a shell, with the
    continuation on stdin (not the prompt), and prints one number. Or "tokens": a regression on tokens, trained on the labels
    of the run's store."""
    workspace: Path = Path("activations")
    """Where runs are looked up by name."""
    sweeping: SweepOptions = field(default_factory=SweepOptions)

    def run(self) -> None:
        run = resolve_run(self.run_name, self.workspace)
        if self.sweeping.sweep:
            self._sweep(run)
            return
        self.sweeping.refuse_without_sweep()
        if self.prompt is None:
            raise InputError("give --prompt TEXT to say what to continue")
        feature, sign = self._feature(run)
        steerer = steerer_type(run).from_run(load_model(run.model_id), run)
        neutral = neutral_tokens(run)
        strength = self._strength(steerer, feature, sign, neutral)
        request = SteeringRequest(
            prompt=self.prompt.replace("\\n", "\n"),
            strengths={feature: strength},
            mode=self.mode,
            n_samples=self.samples,
            n_tokens=self.tokens,
            temperature=self.temperature,
            seed=self.seed,
        )
        result = compare_continuations(steerer, request, neutral)
        write_steering_record(run, steering_record(request, result))
        print(_side_by_side(request, result, steerer.units[self.mode]))
        if self.kl is not None and abs(result.kl - self.kl) > 0.1 * self.kl:
            print(f"The target of {self.kl:g} nats per token was not reached; this is the nearest that was found.")
        lines = judged_lines(self.judge, self.concept, run=run, model=steerer.model, request=request, result=result)
        print("\n".join(lines), end="\n" if lines else "")

    def _sweep(self, run: Run) -> None:
        for name in ("prompt", "feature", "concept", "strength", "kl", "seed"):
            if getattr(self, name) != getattr(Steer, name):
                raise InputError(f"--{name} is of a single steering; with --sweep give --{name}s")
        run_sweep(
            run,
            self.sweeping,
            mode=self.mode,
            judge=self.judge,
            n_samples=self.samples,
            n_tokens=self.tokens,
            temperature=self.temperature,
        )

    def _feature(self, run: Run) -> tuple[int, int]:
        if (self.feature is None) == (self.concept is None):
            raise InputError("give either --feature NUMBER or --concept NAME to say what to steer")
        if self.feature is not None:
            n = run.decomposer().n_features
            if not 0 <= self.feature < n:
                raise unknown_feature(self.feature, n)
            return self.feature, 1
        metrics = read_metrics(run)
        for steered in metrics.steering.effects if metrics.steering else ():
            if steered.concept == self.concept:
                return steered.feature, -1 if steered.strength < 0 else 1
        concepts = metrics.concepts.concepts if metrics.concepts else ()
        for found in concepts:
            if found.concept == self.concept:
                return found.feature, found.sign
        known = ", ".join(found.concept for found in concepts) or "none"
        raise InputError(f"the metrics of '{run.name}' have no concept '{self.concept}'; they have {known}")

    def _strength(self, steerer: Steerer, feature: int, sign: int, neutral: Any) -> float:
        if (self.strength is None) == (self.kl is None):
            raise InputError("give either --strength X or --kl NATS to say how strongly to steer")
        if self.strength is not None:
            return sign * self.strength if self.mode in _SIGNED_MODES else self.strength
        assert self.kl is not None
        return steerer.strength_for_kl(feature, self.kl, tokens=neutral, sign=sign, mode=self.mode).strength


def _side_by_side(request: SteeringRequest, result: SteeringResult, unit: str) -> str:
    ((feature, strength),) = request.strengths.items()
    head = f"feature {feature} at {strength:+.2f} {unit}: KL {result.kl:.3f} nats per token on neutral text, "
    lines = [head + f"perplexity x {result.perplexity_ratio:.2f}"]
    for i, (baseline, steered) in enumerate(zip(result.baseline, result.steered, strict=True), start=1):
        lines += [f"--- {i} baseline", baseline.rstrip(), f"--- {i} steered", steered.rstrip()]
    return "\n".join(lines)
