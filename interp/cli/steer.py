"""``interp steer``: write a feature into the model and read what it does to a text."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

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
    out_of_reach,
    parse_also,
    steerer_for,
    steering_record,
    unit_of,
)
from interp.steering.edits import Positions
from interp.steering.records import write_steering_record
from interp.steering.sampling import Sampling
from interp.steering.scales import Unit

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
    """Instead of --feature: the feature that was fitted to this label, if the method learns from labels; else the one that
    interp evaluate found for this concept (in the run's metrics.json), the one it steered if it steered the concept, or
    the one that detects the concept best."""
    mode: Literal["add", "clamp", "scale", "ablate", "flow", "rotate"] = "add"
    """add a feature, clamp what it contributes, scale it, or ablate it; for latents of a bilinear run also flow (raise the
    latent's value) and rotate (turn in the plane of its first two axes)."""
    strength: float | None = None
    """In multiples of the feature's maximum on its store; negative suppresses. scale: times what it contributes; ablate:
    the share removed; flow: the time, in units of 1 / the largest eigenvalue; rotate: turns of 360 degrees."""
    unit: Unit = "maximum"
    """Of the strength of add and clamp: the feature's maximum on its store, or the mean norm of the site's rows."""
    kl: float | None = None
    """Instead of --strength: the effect on neutral text to aim for, in nats per token; 0.2 is strong but fluent."""
    positions: Positions = field(default_factory=Positions)
    at_residual: bool = False
    """Write features of MLP neurons or attention heads behind the layer's output matrix, into the residual stream."""
    also: tuple[str, ...] = ()
    """Features of other runs of the same model that are written as well, in the same mode, each as RUN:FEATURE:STRENGTH;
    such as other-run:17:1.5 third-run:4:2. --kl is the effect of the first feature alone."""
    samples: int = 4
    """Number of continuations."""
    tokens: int = 48
    """Tokens per continuation."""
    temperature: float = 1.0
    """Sampling temperature; 0 takes the likeliest token."""
    top_k: int = 0
    """Draw from this many of the likeliest tokens; 0 draws from all."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability; 1 draws from all."""
    repetition_penalty: float = 1.0
    """Makes tokens that the text has already less likely; 1.2 is usual, 1 none."""
    seed: int = 0
    """Seed of the sampling noise, which both sides share."""
    show_tokens: bool = False
    """Print what steering does to the likelihood of each token, in nats, and the likeliest next tokens."""
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
        request = self._request(self.prompt, feature, sign)
        other_runs = {name: resolve_run(name, self.workspace) for name in request.also}
        model = load_model(run.model_id)
        steerer = steerer_for(model, run, request)
        others = {
            name: steerer_for(model, each, replace(request, at_residual=False)) for name, each in other_runs.items()
        }
        neutral, note = neutral_tokens(run), None
        if self.kl is not None:
            search = steerer.strength_for_kl(feature, self.kl, tokens=neutral, sign=sign, mode=self.mode)
            request, note = replace(request, strengths={feature: search.strength}), out_of_reach(search)
        result = compare_continuations(steerer, request, neutral, others=others)
        write_steering_record(run, steering_record(request, result))
        print(_side_by_side(request, result, unit_of(run, request)))
        if self.show_tokens:
            print(_tokens(result))
        if note:
            print(note)
        lines = judged_lines(self.judge, self.concept, run=run, model=model, request=request, result=result)
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

    def _request(self, prompt: str, feature: int, sign: int) -> SteeringRequest:
        """What is asked for; with --kl, the strength has to be found first."""
        if (self.strength is None) == (self.kl is None):
            raise InputError("give either --strength X or --kl NATS to say how strongly to steer")
        strengths = {}
        if self.strength is not None:
            strengths = {feature: sign * self.strength if self.mode in _SIGNED_MODES else self.strength}
        at_tokens = tuple(text.replace("\\n", "\n") for text in self.positions.at_tokens)
        return SteeringRequest(
            prompt=prompt.replace("\\n", "\n"),
            strengths=strengths,
            mode=self.mode,
            unit=self.unit,
            positions=replace(self.positions, at_tokens=at_tokens),
            at_residual=self.at_residual,
            also=parse_also(self.also, "--also"),
            n_samples=self.samples,
            n_tokens=self.tokens,
            sampling=Sampling(self.temperature, self.top_k, self.top_p, self.repetition_penalty),
            seed=self.seed,
        )

    def _feature(self, run: Run) -> tuple[int, int]:
        if (self.feature is None) == (self.concept is None):
            raise InputError("give either --feature NUMBER or --concept NAME to say what to steer")
        if self.feature is not None:
            n = run.decomposer().n_features
            if not 0 <= self.feature < n:
                raise unknown_feature(self.feature, n)
            return self.feature, 1
        assert self.concept is not None
        told = run.decomposer().concepts
        if self.concept in told:
            return told[self.concept], 1
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


def _side_by_side(request: SteeringRequest, result: SteeringResult, unit: str) -> str:
    ((feature, strength),) = request.strengths.items()
    head = f"feature {feature} at {strength:+.2f} {unit}"
    head += "".join(
        f", feature {f} of {name} at {s:+.2f}" for name, also in request.also.items() for f, s in also.items()
    )
    lines = [f"{head}: KL {result.kl:.3f} nats per token on neutral text, perplexity x {result.perplexity_ratio:.2f}"]
    for i, (baseline, steered) in enumerate(zip(result.baseline, result.steered, strict=True), start=1):
        lines += [f"--- {i} baseline", baseline.rstrip(), f"--- {i} steered", steered.rstrip()]
    return "\n".join(lines)


def _tokens(result: SteeringResult) -> str:
    """The change of each token's log-probability, a line each, and the likeliest next tokens."""
    lines = []
    for name, changes in [("prompt", result.prompt_changes), *enumerate(result.changes, start=1)]:
        lines.append(f"--- {name}: change of each token's log-probability, nats")
        lines += [f"{token.change:+8.2f}  {token.text!r}" for token in changes]
    lines.append("--- next token after the prompt: probability without and with steering")
    lines += [f"{token.baseline:8.1%} {token.steered:8.1%}  {token.text!r}" for token in result.next_tokens]
    return "\n".join(lines)
