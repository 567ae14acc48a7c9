"""Intervals that know which tokens are alike: the bootstrap over documents, and over concepts where a figure is a mean of
concepts.

Tokens of one document resemble each other, so an interval over tokens is far too narrow. Documents are drawn with
replacement, as many as there are, and every figure is computed again from the counts of the drawn ones (the cluster
bootstrap; Cameron, Gelbach and Miller 2008, Rev. Econ. Stat. 90:414). All figures of a run use the same draws, so
differences are paired.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from interp.evaluation.estimates import Estimate
from interp.metrics import bootstrap_interval

N_DRAWS = 400
LEVEL = 0.95


@dataclass(frozen=True)
class Resamples:
    """Drawn sets of documents."""

    weights: Float[np.ndarray, "n_draws n_documents"]
    """How often each document is in each draw."""

    @classmethod
    def draw(cls, is_drawn: Bool[np.ndarray, " n_documents"], seed: int, n: int = N_DRAWS) -> Resamples:
        """``n`` draws among the documents that ``is_drawn`` marks."""
        weights = np.zeros((n, len(is_drawn)))
        marked = np.flatnonzero(is_drawn)
        random = np.random.default_rng([seed, 1])
        weights[:, marked] = random.multinomial(len(marked), np.full(len(marked), 1 / len(marked)), size=n)
        return cls(weights)

    def sums(self, counts: Num[np.ndarray, "*shape n_documents"]) -> Float[np.ndarray, "*shape n_draws"]:
        """Sums over the documents of each draw."""
        return counts @ self.weights.T


def drawn_concepts(n_concepts: int, n_draws: int, seed: int) -> Int[np.ndarray, "n_draws n_concepts"]:
    """Numbers of the concepts in each draw, drawn with replacement."""
    return np.random.default_rng([seed, 2]).integers(0, n_concepts, (n_draws, n_concepts))


def mean_over_concepts(
    values: Float[np.ndarray, " n_concepts"], resampled: Float[np.ndarray, "n_concepts n_draws"], seed: int
) -> Estimate | None:
    """The mean over concepts, its interval over documents and concepts; None without concepts."""
    if not len(values):
        return None
    drawn = drawn_concepts(len(values), resampled.shape[1], seed)
    means = np.take_along_axis(resampled.T, drawn, axis=1).mean(1)
    return estimate(float(np.mean(values)), means)


def mean_over_features(values: Float[np.ndarray, " n"] | Bool[np.ndarray, " n"], seed: int) -> Estimate:
    """The mean over features, its interval over features."""
    low, high = bootstrap_interval(np.asarray(values, np.float64), seed=seed)
    return Estimate(value=float(np.mean(values)), low=low, high=high)


def over_prompts(values: Float[np.ndarray, "n_prompts n_texts"], *, seed: int) -> Estimate:
    """The mean of texts, with its interval over prompts and the texts of a prompt, which are alike: prompts are drawn with
    replacement, and of each drawn prompt its texts (Davison and Hinkley 1997, section 3.8). One text has an interval of no
    width."""
    random, (n_prompts, n_texts) = np.random.default_rng([seed, 6]), values.shape
    prompts = random.integers(0, n_prompts, (N_DRAWS, n_prompts, 1))
    texts = random.integers(0, n_texts, (N_DRAWS, n_prompts, n_texts))
    return estimate(float(values.mean()), values[prompts, texts].mean((1, 2)))


def estimate(value: float, resampled: Float[np.ndarray, " n_draws"]) -> Estimate:
    """A value with the percentile interval of its resamples; those that are undefined (NaN) are left out."""
    low, high = interval_rows(resampled[None])[0]
    return Estimate(value=value, low=float(low), high=float(high))


def interval_rows(resampled: Float[np.ndarray, "n n_draws"]) -> Float[np.ndarray, "n 2"]:
    """(low, high) of each row."""
    edges = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    quantile = np.nanquantile if np.isnan(resampled).any() else np.quantile
    return quantile(resampled, edges, axis=1).T
