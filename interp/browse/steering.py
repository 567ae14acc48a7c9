"""What the Steer page shows: a prompt continued by the model as it is, steered, and with a control of the same effect.

The steps, each of which is shown as soon as it is there:

    1. the strengths, where effects are asked for
    2. baseline and steered texts, token by token, from the same noise
    3. the effect on neutral text: KL and perplexity; the share of the texts that is the concept
    4. what steering does to the likelihood of each token
    5. the control: its strength, its texts from the same noise, its effect
    6. the effect against the strength, point by point

The model itself is run once on the neutral text, and every effect is measured against that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.browse.steer_settings import SteerSettings
from interp.corpora.labels.registry import judge_of
from interp.errors import InputError
from interp.evaluation.estimates import Estimate
from interp.evaluation.resampling import over_prompts
from interp.records import FileRecord, Record
from interp.steering.continuations import (
    SteeringRequest,
    edits_of,
    neutral_tokens,
    out_of_reach,
    steerer_for,
    unit_of,
)
from interp.steering.control import control_steerer
from interp.steering.edits import SiteEdit
from interp.steering.effects import Effect, EffectOnText, next_tokens, token_changes
from interp.steering.sampling import sample_tokens
from interp.steering.search import KL_TOLERANCE

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel
    from interp.runs.record import Run

ColumnName = Literal["baseline", "steered", "control"]
_TRIES = 8
"""Strengths that a search tries, about."""


class SteeredColumn(Record, frozen=True):
    """The texts written in one way. What is not measured yet, or cannot be, is None or empty."""

    name: ColumnName
    texts: tuple[str, ...] = ()
    """Continuations, without the prompt; those of the same place in other columns grew from the same noise."""
    changes: tuple[tuple[tuple[str, float], ...], ...] = ()
    """Of each text its tokens, and by how much the log-probability of each rises with the steering, nats. In the control
    column with the control; in the others with the features."""
    kl: float | None = None
    """Effect on neutral text, nats per token."""
    perplexity_ratio: float | None = None
    """Perplexity of neutral text, times that of the model itself."""
    share: Estimate | None = None
    """Share of the non-blank characters of its texts that is the concept; interval over the texts."""
    gain: Estimate | None = None
    """The same less that of the baseline, paired text by text."""


class SteeredText(FileRecord, frozen=True):
    """What was made of the settings of the Steer page, as far as it is there; a file of the folder ``steering`` of a run."""

    SCHEMA = "interp.steered-text"
    VERSION = 1

    time: str
    """UTC, ISO 8601."""
    run_identity: str
    settings: SteerSettings
    strengths: dict[int, float]
    """In use: those set, or those that have the effects asked for."""
    unit: str
    """Of the strengths, as printed after the number."""
    columns: tuple[SteeredColumn, ...] = ()
    prompt_changes: tuple[tuple[str, float], ...] = ()
    """The prompt's tokens, as in the steered column."""
    next_tokens: tuple[tuple[str, float, float], ...] = ()
    """Tokens that may follow the prompt, with their probability without and with steering."""
    control_strength: float | None = None
    """Length of what the control adds, times the mean norm of the site's rows."""
    excess: Estimate | None = None
    """Share of the concept in the steered texts less that in the control's, paired text by text."""
    sweep: tuple[tuple[float, float], ...] = ()
    """(strength, effect in nats per token), of a single feature: from the strength that changes nothing to beyond the one in
    use."""
    notes: tuple[str, ...] = ()
    """A sentence for everything that could not be done as asked."""
    is_whole: bool = False
    """Whether all of it is there."""

    def column(self, name: ColumnName) -> SteeredColumn | None:
        """The column of this name, if it has been begun."""
        return next((column for column in self.columns if column.name == name), None)


class Progress(NamedTuple):
    """What is being done."""

    doing: str
    """In a few words."""
    share: float
    """Of that which is done, 0 to 1."""


Tell = Callable[[SteeredText, Progress], None]


def steer_text(
    model: LanguageModel,
    run: Run,
    settings: SteerSettings,
    *,
    other_runs: Mapping[str, Run] | None = None,
    neutral: Int[Tensor, "n_seq n_pos"] | None = None,
    tell: Tell = lambda shown, progress: None,
) -> SteeredText:
    """Continue the prompt without and with the features, and with a control, and measure their effects on ``neutral`` text.

    ``other_runs`` are those of ``settings.also`` by name; ``neutral`` is by default of the run's own store. ``tell`` is called
    before every token and every forward pass of the measurement with what is there; an exception that it raises ends the work,
    and nothing of it is left on the model. Raises InputError for what cannot be steered, as ``steerer_for`` and
    ``Steerer.edits`` do, and for predictions that are not finite.
    """
    work = _Work(model, run, settings, other_runs or {}, neutral, tell)
    if settings.set_by == "effect":
        work.find_strengths()
    work.write_texts()
    work.measure()
    work.compare_tokens()
    work.write_control()
    work.sweep()
    return work.finish()


class _Work:
    """The steps of ``steer_text``, in order, and what they have made."""

    def __init__(
        self,
        model: LanguageModel,
        run: Run,
        settings: SteerSettings,
        other_runs: Mapping[str, Run],
        neutral: Tensor | None,
        tell: Tell,
    ):
        self.model, self.run, self.settings, self.tell = model, run, settings, tell
        self.request: SteeringRequest = settings.request
        self.steerer = steerer_for(model, run, self.request)
        self.others = {
            name: steerer_for(model, each, replace(self.request, at_residual=False))
            for name, each in other_runs.items()
        }
        self.neutral = neutral_tokens(run) if neutral is None else neutral
        self.prompt = model.encode(settings.prompt)
        self.tokens: dict[str, Tensor] = {}
        self.judge = judge_of(settings.concept, run.store().label_sets) if settings.concept else None
        self.shares: dict[str, np.ndarray] = {}
        self._effect: _WatchedEffect | None = None
        self.progress = Progress("Beginning", 0.0)
        self.shown = SteeredText(
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            run_identity=run.identity,
            settings=settings,
            strengths=dict(self.request.strengths),
            unit=unit_of(run, self.request),
        )

    def edits(self) -> list[SiteEdit]:
        return edits_of(self.steerer, self.request, self.others)

    def find_strengths(self) -> None:
        """Of each feature alone, the strength that has the effect asked for."""
        strengths, notes = {}, []
        for feature, wanted in self.settings.features.items():
            self._do(f"Finding the strength of feature {feature}", 0.0)
            search = self.steerer.strength_for_kl(
                feature,
                abs(wanted),
                tokens=self._watched_effect(),
                sign=-1 if wanted < 0 else 1,
                mode=self.request.mode,
            )
            strengths[feature] = search.strength
            if note := out_of_reach(search):
                notes.append(note[:1].upper() + note[1:])
        self.request = replace(self.request, strengths=strengths)
        self._show(strengths=strengths, notes=tuple(notes))

    def write_texts(self) -> None:
        edits = self.edits()
        self._write({"baseline": [], "steered": edits} if edits else {"baseline": []}, "Writing")
        if not edits:  # steering that writes nothing gives exactly the baseline
            self.tokens["steered"] = self.tokens["baseline"]
            self._column("steered", texts=self._texts("baseline"))
        self._judge("baseline", "steered")

    def measure(self) -> None:
        self._do("Measuring the effect on neutral text", 0.0)
        effect = self._watched_effect()(self.edits())
        _check(effect, self.model)
        self._column("steered", kl=effect.kl, perplexity_ratio=effect.perplexity_ratio)

    def compare_tokens(self) -> None:
        self._do("Comparing the likelihood of every token", 0.0)
        n_given = len(self.prompt) - 1
        changes = self._changes(self.edits(), "baseline", "steered")
        half = len(changes) // 2
        following = next_tokens(self.model, self.edits(), self.prompt, n_prompt=len(self.prompt))
        self._column("baseline", changes=tuple(line[n_given:] for line in changes[:half]))
        self._column("steered", changes=tuple(line[n_given:] for line in changes[half:]))
        self._show(prompt_changes=changes[0][:n_given], next_tokens=tuple(tuple(each) for each in following))

    def write_control(self) -> None:
        """A random direction with the effect of the steering, added at the same tokens."""
        kl = self._kl("steered")
        if kl <= 0:
            self._note("There is no control: this steering changes nothing.")
            return
        self._do("Finding the strength of the control", 0.0)
        at_residual, positions = self.request.at_residual, self.request.positions
        try:
            control = control_steerer(
                self.model, self.run, seed=self.settings.seed, at_residual=at_residual, positions=positions
            )
        except InputError as error:
            self._note(f"There is no control: {error}.")
            return
        found = control.strength_for_kl(0, kl, tokens=self._watched_effect())
        edits = control.edits({0: found.strength})
        effect = self._watched_effect()(edits)
        self._show(control_strength=found.strength)
        self._column("control", kl=effect.kl, perplexity_ratio=effect.perplexity_ratio)
        if abs(effect.kl - kl) > KL_TOLERANCE * kl:
            self._note(f"The control does not reach {kl:.3g} nats per token; the nearest is {effect.kl:.3g}.")
        self._write({"control": edits}, "Writing the control")
        self._judge("control")
        changes = self._changes(edits, "control")
        self._column("control", changes=tuple(line[len(self.prompt) - 1 :] for line in changes))

    def sweep(self) -> None:
        """Effect of a single feature against its strength: 1.5 times as far as the one in use is from the one that changes
        nothing, and at least 1, but not beyond the mode's end."""
        if len(self.request.strengths) != 1 or self.request.also:
            return
        ((feature, strength),) = self.request.strengths.items()
        mode, steerer = self.request.mode, self.steerer
        start, end = steerer.neutral.get(mode, 0.0), steerer.ends.get(mode, math.inf)
        reach = math.copysign(min(max(abs(strength - start) * 1.5, 1.0), end), strength - start)
        for step in range(7):
            self._do("Measuring the effect against the strength", step / 7)
            each = start + reach * step / 6
            if math.isclose(each, strength):
                kl = self._kl("steered")
            else:
                kl = self._watched_effect()(steerer.edits({feature: each}, mode=mode)).kl
            if math.isfinite(kl):
                self._show(sweep=(*self.shown.sweep, (each, kl)))

    def finish(self) -> SteeredText:
        self._do("Done", 1.0)
        self._show(is_whole=True)
        return self.shown

    def _write(self, variants: Mapping[ColumnName, Sequence[SiteEdit]], doing: str) -> None:
        """The texts of these columns, token by token; the seed's noise is the same whichever columns are written together."""
        n = self.settings.n_tokens
        steps = sample_tokens(
            self.model,
            list(variants.values()),
            self.prompt.repeat(self.settings.n_samples, 1),
            n_tokens=n,
            sampling=self.request.sampling,
            seed=self.settings.seed,
        )
        self._do(f"{doing}: token 1 of {n}", 0.0)
        for i, tokens in enumerate(steps, start=1):
            self.tokens.update(zip(variants, tokens, strict=True))
            for name in variants:
                self._column(name, texts=self._texts(name))
            if i < n:
                self._do(f"{doing}: token {i + 1} of {n}", i / n)

    def _texts(self, name: ColumnName) -> tuple[str, ...]:
        return tuple(self.steerer.continuation_text(self.prompt, row) for row in self.tokens[name])

    def _changes(self, edits: Sequence[SiteEdit], *names: ColumnName) -> list[tuple[tuple[str, float], ...]]:
        """Of the prompt with each text of these columns."""
        new = torch.cat([self.tokens[name] for name in names])
        texts = torch.cat([self.prompt.repeat(len(new), 1), new], dim=1)
        found = token_changes(self.model, edits, texts, n_prompt=len(self.prompt))
        return [
            tuple((each.text, each.change if math.isfinite(each.change) else 0.0) for each in line) for line in found
        ]

    def _judge(self, *names: ColumnName) -> None:
        """The share of the concept in these columns, where a judge knows it."""
        concept, prompt = self.settings.concept, self.settings.prompt
        if self.judge is None:
            return
        for name in names:
            texts = self._texts(name)
            self.shares[name] = np.array([[self.judge(prompt + text, start=len(prompt))[concept] for text in texts]])
            gain = None if name == "baseline" else self._estimate(self.shares[name] - self.shares["baseline"])
            self._column(name, share=self._estimate(self.shares[name]), gain=gain)
        if "control" in names:
            self._show(excess=self._estimate(self.shares["steered"] - self.shares["control"]))

    def _estimate(self, values: np.ndarray) -> Estimate:
        return over_prompts(values, seed=self.settings.seed)

    def _kl(self, name: ColumnName) -> float:
        column = self.shown.column(name)
        assert column is not None
        assert column.kl is not None
        return column.kl

    def _watched_effect(self) -> EffectOnText:
        """The effect on neutral text, with the model itself run on it once; every measurement of it is told of."""
        if self._effect is None:
            self._effect = _WatchedEffect(self.model, self.neutral, self._tell_of_try)
        return self._effect

    def _tell_of_try(self, n_before: int) -> None:
        doing, share = self.progress
        if doing.startswith("Finding"):
            share = min(1.0, n_before / _TRIES)
        self.tell(self.shown, Progress(doing, share))

    def _do(self, doing: str, share: float) -> None:
        if self._effect is not None:
            self._effect.n_measured = 0
        self.progress = Progress(doing, share)
        self.tell(self.shown, self.progress)

    def _show(self, **changes: Any) -> None:
        self.shown = msgspec.structs.replace(self.shown, **changes)

    def _note(self, sentence: str) -> None:
        self._show(notes=(*self.shown.notes, sentence))

    def _column(self, name: ColumnName, **changes: Any) -> None:
        held = self.shown.column(name)
        if held is None:
            self._show(columns=(*self.shown.columns, SteeredColumn(name=name, **changes)))
            return
        new = msgspec.structs.replace(held, **changes)
        self._show(columns=tuple(new if column is held else column for column in self.shown.columns))


class _WatchedEffect(EffectOnText):
    """An effect on text that calls ``before`` with the number of its measurements so far, before each."""

    def __init__(self, model: LanguageModel, tokens: Tensor, before: Callable[[int], None]):
        super().__init__(model, tokens)
        self.before, self.n_measured = before, 0

    def __call__(self, edits: Sequence[SiteEdit]) -> Effect:
        self.before(self.n_measured)
        self.n_measured += 1
        return super().__call__(edits)


def _check(effect: Effect, model: LanguageModel) -> None:
    if not (math.isfinite(effect.kl) and math.isfinite(effect.perplexity_ratio)):
        raise InputError(
            "steered like this, the model's predictions on neutral text are not finite; steer less strongly, or give the "
            f"weights of '{model.id}' in float32"
        )
