"""Choosing what to steer a concept with: the same trial for a run's features and for every control.

Candidates are unit vectors at one site, from a pool. Of each concept's candidates

    1. all are tried by forward passes at about the target effect: by how much is the concept's next token made likelier?
    2. the best few are brought to the target effect exactly and write short texts, from prompts used for nothing else
    3. the one whose texts gain most of the concept is chosen.

The feature that detects a concept best need not write it: a feature of prose fires in every comment, but writes docstrings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.evaluation.outputs import ConceptOutputs
from interp.evaluation.steering_results import SteeringConfig, TriedFeature
from interp.evaluation.written import Writer
from interp.model.language_model import LanguageModel
from interp.steering.search import KL_TOLERANCE, EffectOfVectors, search_strengths

TRIAL_SEED = 10_007  # far from the seeds of the evaluation, which count up from the config's
_FURTHEST = 4.0
"""Times its estimated length that a vector may be to have the target effect."""


@dataclass(frozen=True)
class Pool:
    """Unit vectors to choose from; both signs of a signed feature are two."""

    directions: Float[Tensor, "n d_in"]
    feature: Int[np.ndarray, " n"]
    sign: Int[np.ndarray, " n"]

    @classmethod
    def of(cls, directions: Float[Tensor, "n d_in"], *, is_signed: bool) -> Pool:
        """The directions, and where they are signed their opposites after them. All-zero rows stay, and are never chosen."""
        n = np.arange(len(directions))
        if not is_signed:
            return cls(directions, n, np.ones(len(n), np.int64))
        return cls(torch.cat([directions, -directions]), np.tile(n, 2), np.repeat([1, -1], len(n)))


@dataclass(frozen=True)
class Choice:
    """What was chosen of a pool for a concept."""

    candidate: int
    """Row of the pool."""
    vector: Float[Tensor, " d_in"]
    """What is added at the target effect."""
    kl: float
    reached: bool
    tried: tuple[TriedFeature, ...]
    """All candidates, best first."""


@dataclass(frozen=True)
class Trial:
    """How candidates are tried: the same for every pool."""

    model: LanguageModel
    site: str
    outputs: ConceptOutputs
    writer: Writer
    prompts: tuple[str, ...]
    effect: EffectOfVectors
    """On text of select: step 1."""
    target: EffectOfVectors
    """On text of test, where effects are matched."""
    config: SteeringConfig

    def choose(self, pool: Pool, candidates: Mapping[str, Sequence[int]]) -> dict[str, Choice]:
        """The choice for each concept among its candidates, rows of ``pool``; concepts without candidates are left out."""
        candidates = {concept: rows for concept, rows in candidates.items() if len(rows)}
        rows = np.unique(np.concatenate([[], *candidates.values()])).astype(int)
        if not len(rows):
            return {}
        directions = pool.directions[torch.from_numpy(rows)].to(self.outputs.random)
        length = self._estimated_length(directions)
        lifts = self._lifts(directions, length)
        best = {c: self._best(rows, lifts[self._set(c)], candidates[c]) for c in candidates}
        written = np.unique(np.concatenate(list(best.values()))).astype(int)
        at = np.searchsorted(rows, written)
        vectors, kls = self.at_target(directions[at])
        gains = self._gains(vectors)
        estimates = self.outputs.lifts(directions)
        chosen = {}
        for concept, wanted in best.items():
            column = self.writer.concepts.index(concept)
            gain = {row: float(gains[i, column]) for i, row in enumerate(written.tolist())}
            row = max(wanted, key=lambda row: gain[row])
            i = int(np.searchsorted(written, row))
            kl = float(kls[i])
            chosen[concept] = Choice(
                candidate=row,
                vector=vectors[i],
                kl=kl,
                reached=abs(kl - self.config.target_kl) <= KL_TOLERANCE * self.config.target_kl,
                tried=self._tried(pool, rows, candidates[concept], wanted, estimates, lifts, gain, concept),
            )
        return chosen

    def at_target(self, directions: Float[Tensor, "n d_in"]) -> tuple[Float[Tensor, "n d_in"], Float[np.ndarray, " n"]]:
        """(vectors along unit directions, their effects), nearest to the target effect; strengths are searched in estimated
        lengths."""
        start = self._estimated_length(directions)
        unit = torch.from_numpy(np.where(np.isfinite(start), start, 0.0)).to(directions)[:, None] * directions

        def kl_of(active: np.ndarray, strengths: np.ndarray) -> np.ndarray:
            return self.target(unit[torch.from_numpy(active)] * torch.from_numpy(strengths).to(unit)[:, None])

        first, n = np.ones(len(start)), len(start)
        strengths, kls = search_strengths(kl_of, n, self.config.target_kl, start=first, largest=_FURTHEST)
        return unit * torch.from_numpy(strengths).to(unit)[:, None], kls

    def _set(self, concept: str) -> int:
        return self.outputs.concepts.index(concept)

    def _estimated_length(self, directions: Float[Tensor, "n d_in"]) -> Float[np.ndarray, " n"]:
        found = self.outputs.effects.length(directions, self.config.target_kl)
        return torch.where(directions.any(1), found, torch.inf).cpu().double().numpy()

    def _lifts(
        self, directions: Float[Tensor, "n d_in"], length: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n_sets n"]:
        """Gain of each concept at the estimated length, brought to the target effect as if it grew with the length; nats."""
        finite = np.isfinite(length)
        found = np.full((len(self.outputs.tokens), len(length)), -np.inf)
        if finite.any():
            vectors = directions[finite] * torch.from_numpy(length[finite]).to(directions)[:, None]
            kl, lifts = self.effect.measure(vectors, self.outputs.tokens)
            usable = np.isfinite(kl) & (kl > 0) & np.isfinite(lifts).all(0)
            factor = np.sqrt(self.config.target_kl / np.where(usable, kl, 1.0))
            found[:, finite] = np.where(usable, lifts * np.clip(factor, 1 / _FURTHEST, _FURTHEST), -np.inf)
        return found

    def _best(
        self, rows: Int[np.ndarray, " n"], lifts: Float[np.ndarray, " n"], candidates: Sequence[int]
    ) -> list[int]:
        wanted = np.asarray(sorted(candidates))
        ranked = np.argsort(-lifts[np.searchsorted(rows, wanted)], kind="stable")
        return [int(row) for row in wanted[ranked[: self.config.n_written]]]

    def _gains(self, vectors: Float[Tensor, "n d_in"]) -> Float[np.ndarray, "n n_concepts"]:
        """Of the short texts, the mean share of each concept less that without steering."""
        each = vectors[:, None].expand(-1, len(self.prompts), -1)
        seed = self.config.seed + TRIAL_SEED
        found = self.writer.write(each, self.prompts, n_texts=self.config.n_samples, seed=seed).shares.mean((1, 2))
        return found[1:] - found[0]

    def _tried(
        self,
        pool: Pool,
        rows: Int[np.ndarray, " n"],
        candidates: Sequence[int],
        wanted: Sequence[int],
        estimates: Float[np.ndarray, "n_sets n"],
        lifts: Float[np.ndarray, "n_sets n"],
        gain: Mapping[int, float],
        concept: str,
    ) -> tuple[TriedFeature, ...]:
        column = self._set(concept)
        found = []
        for row in candidates:
            at = int(np.searchsorted(rows, row))
            lift = float(lifts[column, at])
            if np.isfinite(lift):
                found.append(
                    TriedFeature(
                        feature=int(pool.feature[row]),
                        sign=int(pool.sign[row]),
                        estimate=float(estimates[column, at]),
                        lift=lift,
                        gain=gain[row] if row in wanted else None,
                    )
                )
        return tuple(sorted(found, key=lambda each: (each.gain is None, -(each.gain or 0.0), -each.lift)))


def by_output(outputs: ConceptOutputs, pool: Pool, concept: str, n: int) -> list[int]:
    """The ``n`` rows of a pool that are estimated to raise the concept's tokens most."""
    found = outputs.lifts(pool.directions)[outputs.concepts.index(concept)]
    found = np.where(pool.directions.any(1).cpu().numpy(), found, -np.inf)
    ranked = np.argsort(-found, kind="stable")
    return [int(row) for row in ranked[:n] if np.isfinite(found[row])]
