"""Steering: does writing a concept's feature into the model make it write more of the concept, and still write well?

Features are brought to the same effect on neutral text (KL in nats per token), not the same coefficient, and each stands
beside a random direction of the same effect. Per sample, with baseline and steered text drawn from the same noise,

    share    = share of the continuation's characters that are the concept, by a judge of written text
    fluency  = min(1, exp(-(NLL_steered - NLL_baseline))), NLL per token under the model without steering
    score    = harmonic mean of share and fluency

If a target effect cannot be reached, the effect that was reached is reported. The judge is a function of the text alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from msgspec import structs
from torch import Tensor

from interp.corpora.documents import LabelSet, TextJudge
from interp.errors import InputError, unknown_name
from interp.evaluation.results import SteeringConfig, SteeringEffect, defined
from interp.metrics import bootstrap_interval, distinct_n
from interp.steering.continuations import neutral_tokens
from interp.steering.search import StrengthSearch
from interp.steering.steerer import Steerer

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel
    from interp.runs.record import Run

_TRIAL_SEED = 10_007  # far from the seeds of the evaluation, which count up from the config's
_ROWS_PER_PASS = 128  # texts written at once: the per-step overhead is spread, the key-value cache stays small


@dataclass(frozen=True)
class SteeringTask:
    """Which prompts are continued, who judges the texts and how strong steering is: the same for every feature compared."""

    prompts: tuple[str, ...]
    """Texts that the model continues."""
    judge: TextJudge
    """Says what share of a written text is each concept."""
    neutral: Int[Tensor, "n_seq n_pos"]
    """Sequences (BOS first) on which the effect is matched."""
    config: SteeringConfig
    """Target effect, and how much is written."""
    concepts: tuple[str, ...] | None = None
    """Concepts that may be steered, all known to the judge; None for all that are detected."""


def steering_task(
    run: Run,
    label_set: LabelSet,
    *,
    concepts: tuple[str, ...] | None = None,
    config: SteeringConfig | None = None,
) -> SteeringTask:
    """Steering ``run`` towards labels of a label set, with that set's prompts and judge.

    ``concepts`` are by default all labels that the judge knows. The effect is matched on 512 tokens of the run's own store.
    Raises InputError for a label set that cannot judge a text.
    """
    if label_set.judge is None:
        raise InputError(f"the label set '{label_set.name}' cannot judge what a model writes; name one that can")
    return SteeringTask(
        prompts=label_set.prompts,
        judge=label_set.judge,
        neutral=neutral_tokens(run, n_sequences=8, n_tokens=64),
        config=config or SteeringConfig(),
        concepts=concepts or tuple(label_set.judge("", start=0)),
    )


@dataclass(frozen=True)
class SteeredFeature:
    """A feature to steer towards a concept, with the sign in which it means the concept."""

    concept: str
    feature: int
    sign: int = 1


def check_task(task: SteeringTask, model: LanguageModel) -> None:
    """Refuse before anything is computed what would be refused while texts are written.

    Raises InputError for no prompts, for a prompt that with its text exceeds the model's context, and for concepts the judge
    does not know.
    """
    if not task.prompts:
        raise InputError("there is no prompt to write from; give at least one")
    for prompt in task.prompts:
        if (n := len(model.encode(prompt))) + task.config.n_tokens > model.n_ctx:
            raise InputError(
                f"the prompt {prompt[:40]!r} of {n} tokens and {task.config.n_tokens} new ones exceed the {model.n_ctx} tokens "
                f"of '{model.id}'; shorten the prompt or ask for fewer tokens"
            )
    known = task.judge("", start=0)
    for concept in task.concepts or ():
        if concept not in known:
            raise unknown_name("concept", concept, known, "what the judge knows")


def steer_concept(steerer: Steerer, feature: int, *, concept: str, task: SteeringTask, sign: int = 1) -> SteeringEffect:
    """What steering one feature to the task's effect does to how much of ``concept`` is written."""
    return steer_concepts(steerer, [SteeredFeature(concept, feature, sign)], task=task)[0]


def steer_concepts(steerer: Steerer, choices: Sequence[SteeredFeature], *, task: SteeringTask) -> list[SteeringEffect]:
    """What steering each of several features does; their texts are written in shared batches.

    Raises InputError for a concept the judge does not know and where prompt and text exceed the model's context.
    """
    if not task.prompts:
        raise InputError("there is no prompt to write from; give at least one")
    found = _strengths(steerer, choices, task)
    steered: list[dict[int, float]] = [{} if steerer.is_dead[s.feature] else {s.feature: s.strength} for s in found]
    baseline, *written = _write(steerer, [{}, *steered], task)
    return [
        _compare(choice, search, texts, baseline, task)
        for choice, search, texts in zip(choices, found, written, strict=True)
    ]


def choose_features(
    steerer: Steerer, candidates: Sequence[Sequence[SteeredFeature]], *, task: SteeringTask
) -> list[SteeredFeature]:
    """Of each concept's candidates, the one that adds most of the concept to a few texts of a seed used for nothing else.

    The feature that detects a concept best need not write it: a feature of prose fires in every comment, but writes
    docstrings. So each candidate is tried.
    """
    n_samples, seed = min(4, task.config.n_samples), task.config.seed + _TRIAL_SEED
    short = structs.replace(task.config, n_samples=n_samples, seed=seed)
    flat = [choice for group in candidates for choice in group]
    effects = steer_concepts(steerer, flat, task=replace(task, config=short))
    gain = dict(zip(flat, (effect.difference for effect in effects), strict=True))
    return [max(group, key=lambda choice: gain[choice]) for group in candidates]


def random_directions_like(steerer: Steerer, n: int, *, seed: int) -> Steerer:
    """A steerer of ``n`` random unit directions at the same site: the null of a steering result.

    Their scale is the median of the steerer's own over features that fire; matching the effect makes it immaterial.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(n, steerer.site.d_in, generator=generator), dim=1)
    scale = float(steerer.scales[steerer.scales > 0].median())
    return Steerer(steerer.model, steerer.site.name, directions, torch.full((n,), scale))


@dataclass(frozen=True)
class _Texts:
    """Continuations of all prompts under one steering."""

    prompts: tuple[str, ...]
    """The prompt of each text."""
    texts: tuple[str, ...]
    tokens: Int[np.ndarray, "n n_tokens"]
    nll: Float[np.ndarray, " n"]
    """Nats per token under the model without steering."""


def _strengths(steerer: Steerer, choices: Sequence[SteeredFeature], task: SteeringTask) -> list[StrengthSearch]:
    """The strength of each choice that has the target effect, found together for all of one sign."""
    found: dict[tuple[int, int], StrengthSearch] = {}
    for sign in (1, -1):
        features = sorted({choice.feature for choice in choices if choice.sign == sign})
        if features:
            searches = steerer.strengths_for_kl(features, task.config.target_kl, tokens=task.neutral, sign=sign)
            found |= {(search.feature, sign): search for search in searches}
    return [found[choice.feature, choice.sign] for choice in choices]


def _write(steerer: Steerer, variants: Sequence[dict[int, float]], task: SteeringTask) -> list[_Texts]:
    """Each variant's continuations; the noise depends only on the seed and the prompt's place in the list."""
    config, per_pass = task.config, max(1, _ROWS_PER_PASS // task.config.n_samples)
    parts: list[list[_Texts]] = [[] for _ in variants]
    for i, prompt in enumerate(task.prompts):
        start = steerer.model.encode(prompt)
        prompts = start.repeat(config.n_samples, 1)
        for first in range(0, len(variants), per_pass):
            group = variants[first : first + per_pass]
            new = steerer.sample_each(
                prompts, group, n_tokens=config.n_tokens, temperature=config.temperature, seed=config.seed + i
            )
            for offset, tokens in enumerate(new):
                log_probs = steerer.log_probs(torch.cat([prompts, tokens], dim=1), n_prompt=len(start))
                texts = tuple(steerer.continuation_text(start, row) for row in tokens)
                parts[first + offset].append(
                    _Texts((prompt,) * len(texts), texts, tokens.cpu().numpy(), -log_probs.mean(1).cpu().numpy())
                )
    return [_joined(part) for part in parts]


def _joined(parts: Sequence[_Texts]) -> _Texts:
    prompts = tuple(prompt for part in parts for prompt in part.prompts)
    texts = tuple(text for part in parts for text in part.texts)
    return _Texts(prompts, texts, np.concatenate([p.tokens for p in parts]), np.concatenate([p.nll for p in parts]))


def _compare(
    choice: SteeredFeature, search: StrengthSearch, steered: _Texts, baseline: _Texts, task: SteeringTask
) -> SteeringEffect:
    before, after = (_shares(texts, choice.concept, task.judge) for texts in (baseline, steered))
    # Compared with the mean baseline of the prompt, since the likelihood of a single text is mostly luck.
    usual = baseline.nll.reshape(len(task.prompts), -1).mean(1).repeat(task.config.n_samples)
    # A text whose likelihood is no number, under a model whose activations overflow on it, has no fluency.
    fluency = np.nan_to_num(np.exp(np.minimum(0.0, usual - steered.nll)), nan=0.0)
    return SteeringEffect(
        concept=choice.concept,
        feature=choice.feature,
        sign=choice.sign,
        strength=search.strength,
        kl=search.kl,
        reached=search.reached,
        baseline_share=float(before.mean()),
        steered_share=float(after.mean()),
        difference=float((after - before).mean()),
        interval=bootstrap_interval(after - before, seed=task.config.seed),
        fluency=float(fluency.mean()),
        score=float((2 * after * fluency / np.maximum(after + fluency, 1e-12)).mean()),
        distinct_2=defined(_distinct_2(steered)),
        baseline_distinct_2=defined(_distinct_2(baseline)),
        texts=steered.texts,
        baseline_texts=baseline.texts,
    )


def _shares(texts: _Texts, concept: str, judge: TextJudge) -> Float[np.ndarray, " n"]:
    """Share of each continuation that is the concept."""
    shares = [judge(prompt + text, start=len(prompt)) for prompt, text in zip(texts.prompts, texts.texts, strict=True)]
    if concept not in shares[0]:
        raise unknown_name("concept", concept, shares[0], "what the judge knows")
    return np.asarray([share[concept] for share in shares])


def _distinct_2(texts: _Texts) -> float:
    return float(np.mean([distinct_n(tokens, n=2) for tokens in texts.tokens]))
