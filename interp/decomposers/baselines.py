"""Baselines that every comparison needs: principal components."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.base import LinearDecomposer, register
from interp.errors import InputError
from interp.fitting import DecomposerConfig, Recorder
from interp.store import ActivationSource


@dataclass(frozen=True)
class PCAConfig(DecomposerConfig):
    """Options of principal component analysis."""

    n_features: int = 100
    """Number of components, at most the width of the site."""


@register
class PCA(LinearDecomposer):
    """The leading eigenvectors of the covariance; codes are signed projections of the centred row."""

    kind = "pca"
    config_type = PCAConfig
    signed_codes = True

    @classmethod
    def fit(cls, source: ActivationSource, config: PCAConfig, recorder: Recorder | None = None) -> PCA:
        """Exact, from the source's moments."""
        if config.n_features > source.d_in:
            raise InputError(f"{config.n_features} components were asked for, but the site is {source.d_in} wide")
        moments = source.moments()
        vectors = torch.from_numpy(moments.spectrum[1][: config.n_features].copy()).float()
        pca = cls(config, {"W_dec": vectors, "b_dec": torch.from_numpy(moments.mean).float()})
        if recorder:
            values = moments.spectrum[0]
            fvu = float(1 - values[: config.n_features].sum() / values.sum())
            recorder.log({"step": 1, "tokens": len(source), "loss": fvu * moments.total_variance, "fvu": fvu})
        return pca

    @property
    def W_dec(self) -> Float[Tensor, "n_features d_in"]:
        return self.tensors["W_dec"]

    @property
    def b_dec(self) -> Float[Tensor, " d_in"]:
        return self.tensors["b_dec"]

    def encode(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_features"]:
        return (x - self.b_dec) @ self.W_dec.T
