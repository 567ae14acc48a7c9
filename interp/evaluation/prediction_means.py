"""Means over predictions of what an ablation changed, with intervals that know that tokens of one document are alike.

Documents are resampled with replacement, and every mean of a resample is a ratio of sums over its documents (the percentile
bootstrap of clusters: Davison and Hinkley 1997, Bootstrap Methods and their Application, 2.4 and 3.8).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.evaluation.ablation_results import AblationConfig, AblationControl, AblationEffect, Kind
from interp.evaluation.resampling import interval_rows
from interp.evaluation.results import defined

_N_RESAMPLES = 1000


class PredictionMeans:
    """Means over n predictions: ``has_concept`` of the next token, and the number of the document of each."""

    def __init__(
        self, has_concept: Bool[np.ndarray, " n"], document: Int[np.ndarray, " n"], config: AblationConfig
    ) -> None:
        in_document = document[:, None] == np.unique(document)
        self._sets = [in_document & has_concept[:, None], in_document & ~has_concept[:, None], in_document]
        """Of the predictions with the concept, without it, and of all: the document of each [n, n_documents]."""
        self._least = (config.min_predictions, config.min_predictions, 1)
        n = in_document.shape[1]
        resamples = np.random.default_rng(config.seed).multinomial(n, np.full(n, 1 / n), size=_N_RESAMPLES)
        self._weights = np.concatenate([np.ones((1, n), resamples.dtype), resamples])
        """How often each document counts: once, then in every resample."""

    def effect(self, changes: Float[np.ndarray, "2 n"]) -> AblationEffect:
        """The means of ``changes`` (of log-probability; divergence), with their intervals."""
        values = self._means(changes, self._weights)
        has_with, has_without, has_any = (np.count_nonzero(part.any(0)) > 1 for part in self._sets)
        return AblationEffect(
            with_concept=defined(values[0, 0]),
            without_concept=defined(values[1, 0]),
            specific=defined(values[2, 0]),
            kl=float(values[3, 0]),
            with_concept_interval=_interval(values[0]) if has_with else None,
            specific_interval=_interval(values[2]) if has_with and has_without else None,
            kl_interval=_interval(values[3]) if has_any else None,
        )

    def control(
        self, directions: Kind, own: Float[np.ndarray, "2 n"], drawn: Float[np.ndarray, "2 k n"]
    ) -> AblationControl:
        """The record of k control directions beside the feature's own changes."""
        mean = drawn.mean(1)
        points = np.array([self._means(drawn[:, k], self._weights[:1])[:, 0] for k in range(drawn.shape[1])])
        spread = points.std(0, ddof=1) if len(points) > 1 else np.full(4, np.nan)
        return AblationControl(
            directions=directions,
            n_draws=len(points),
            mean=self.effect(mean),
            with_concept_spread=defined(spread[0]),
            specific_spread=defined(spread[2]),
            kl_spread=defined(spread[3]),
            difference=self.effect(own - mean),
        )

    def _means(
        self, changes: Float[np.ndarray, "2 n"], weights: Int[np.ndarray, "b n_documents"]
    ) -> Float[np.ndarray, "4 b"]:
        """with_concept, without_concept, specific and kl for each row of weights; NaN over too few predictions."""
        found = []
        for values, part, least in zip(changes[[0, 0, 1]], self._sets, self._least, strict=True):
            n, sums = weights @ part.sum(0), weights @ (values @ part)
            is_defined = (n > 0) & (part.sum() >= least)
            found.append(np.divide(sums, n, out=np.full(len(n), np.nan), where=is_defined))
        with_concept, without_concept, divergence = found
        return np.stack([with_concept, without_concept, with_concept - without_concept, divergence])


def _interval(values: Float[np.ndarray, " b"]) -> tuple[float, float] | None:
    """Of a mean and its resamples, those left out in which there is nothing to take the mean over; None for no mean."""
    if not np.isfinite(values[0]):
        return None
    low, high = interval_rows(values[None, 1:])[0]
    return float(low), float(high)
