"""Clusters (mini-batch k-means; Sculley 2010)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.base import LinearDecomposer, register
from interp.decomposers.baselines.sample import SampledConfig, log_reconstruction, sampled_rows
from interp.store.source import ActivationSource
from interp.training.protocol import Recorder


@dataclass(frozen=True)
class KMeansConfig(SampledConfig):
    """Options of k-means."""

    n_features: int = 256
    """Number of clusters."""
    rows: int = 50_000
    """Rows to learn from, drawn at random by the seed; all of them where the store has no more."""


@register
class KMeans(LinearDecomposer):
    """scikit-learn's mini-batch k-means from k-means++ centres. The code of the nearest centre is 1, all others are 0.

    b_dec is the mean of the sampled rows and W_dec the centres less it, so that codes decode to the centre and a feature's
    direction is where its cluster lies from the mean.
    """

    kind = "kmeans"
    config_type = KMeansConfig

    @classmethod
    def _fit(cls, source: ActivationSource, config: KMeansConfig, recorder: Recorder | None) -> KMeans:
        """Cluster a sample of the rows. Raises InputError for too few of them."""
        from sklearn.cluster import MiniBatchKMeans  # deferred: slow

        x = sampled_rows(source, config)
        mean = x.mean(0)
        # a batch holds all centres' worth of rows, so that hardly any goes without one
        batch = max(1024, 2 * config.n_features)
        clusters = MiniBatchKMeans(config.n_features, batch_size=batch, n_init=1, random_state=config.seed)
        clusters.fit((x - mean).numpy())  # about the mean float32 has the most digits for distances
        centres = torch.from_numpy(clusters.cluster_centers_).float()
        found = cls(config, {"W_dec": centres, "b_dec": mean}, {"rows": len(x), "passes": int(clusters.n_iter_)})
        log_reconstruction(recorder, found, x, len(x))
        return found

    def _encode(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_features"]:
        nearest = ((x - self.b_dec) @ self.W_dec.T - self.W_dec.square().sum(1) / 2).argmax(1)
        return torch.nn.functional.one_hot(nearest, len(self.W_dec)).float()
