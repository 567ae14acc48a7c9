"""The coordinates of the activation as they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from interp.decomposers.base import LinearDecomposer, check_enough_rows, checked_moments, register
from interp.store.source import ActivationSource
from interp.training.config import DecomposerConfig
from interp.training.protocol import Recorder


@dataclass(frozen=True)
class NeuronsConfig(DecomposerConfig):
    """Options of the raw coordinates."""

    n_features: int = 4096
    """Most coordinates to take: all of them in their order where the site is no wider, else those of largest variance."""


@register
class Neurons(LinearDecomposer):
    """Each code is a coordinate of the activation, with its sign: nothing is learned.

    They decode to themselves, and to the mean of the rows at the coordinates that were not taken. ``coordinates``
    [n_features] says which coordinate each feature is.
    """

    kind = "neurons"
    config_type = NeuronsConfig
    signed_codes = True

    @classmethod
    def _fit(cls, source: ActivationSource, config: NeuronsConfig, recorder: Recorder | None) -> Neurons:
        """Choose the coordinates by the source's moments. Raises InputError where there are fewer rows than features."""
        moments = checked_moments(source)
        n = min(config.n_features, source.d_in)
        check_enough_rows(source, n)
        variances = np.diag(moments.covariance)
        chosen = np.sort(np.argsort(-variances, kind="stable")[:n])
        others = moments.mean.copy()
        others[chosen] = 0
        if recorder:
            left = float(variances.sum() - variances[chosen].sum())
            recorder.log({"step": 1, "tokens": len(source), "loss": left, "fvu": left / moments.total_variance})
        tensors = {"coordinates": torch.from_numpy(chosen).float(), "b_dec": torch.from_numpy(others).float()}
        return cls(config, tensors)

    @property
    def coordinates(self) -> Int[Tensor, " n_features"]:
        """Which coordinate each feature is, ascending."""
        return self.tensors["coordinates"].long()

    @property
    def W_dec(self) -> Float[Tensor, "n_features d_in"]:
        return F.one_hot(self.coordinates, len(self.b_dec)).float()

    def _encode(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_features"]:
        return x[:, self.coordinates]
