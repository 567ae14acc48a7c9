"""Principal components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.base import LinearDecomposer, checked_moments, register
from interp.errors import InputError
from interp.records import Notes
from interp.store.moments import Moments
from interp.store.source import ActivationSource
from interp.training.config import DecomposerConfig
from interp.training.protocol import Recorder


@dataclass(frozen=True)
class PCAConfig(DecomposerConfig):
    """Options of principal component analysis."""

    n_features: int = 100
    """Number of components, at most the width of the site; the default is less where the site is narrower."""


@register
class PCA(LinearDecomposer):
    """The leading eigenvectors of the covariance; codes are signed projections of the centred row.

    Each is turned so that its entry of largest magnitude is positive: an eigenvector has no sign of its own, and this one
    is the same on every machine.
    """

    kind = "pca"
    config_type = PCAConfig
    signed_codes = True

    @classmethod
    def _fit(cls, source: ActivationSource, config: PCAConfig, recorder: Recorder | None) -> PCA:
        """Exact, from the source's moments.

        Raises InputError when there are more components than dimensions that the rows can differ in.
        """
        moments, n = components_of(source, config)
        values, vectors = moments.spectrum
        vectors = vectors[:n]
        largest = np.abs(vectors).argmax(1)
        vectors = vectors * np.sign(vectors[np.arange(len(vectors)), largest])[:, None]
        if recorder:
            fvu = float(1 - values[:n].sum() / values.sum())
            recorder.log({"step": 1, "tokens": len(source), "loss": fvu * moments.total_variance, "fvu": fvu})
        tensors = {"W_dec": torch.from_numpy(vectors).float(), "b_dec": torch.from_numpy(moments.mean).float()}
        exact: Notes = {
            "reconstruction": f"exact, since all {n} dimensions of the site are kept; its FVU of 0 says nothing"
        }
        return cls(config, tensors, exact if n == source.d_in else None)

    def _encode(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_features"]:
        return (x - self.b_dec) @ self.W_dec.T


def components_of(source: ActivationSource, config: DecomposerConfig) -> tuple[Moments, int]:
    """The moments of a source, and how many components are asked for: where none are, the default or the source's width.

    Raises InputError for more than the dimensions that its rows may differ in.
    """
    n = config.n_features
    if n == type(config).n_features:
        n = min(n, source.d_in)
    if n > source.d_in:
        raise InputError(f"{n} components were asked for, but the site is {source.d_in} wide")
    moments = checked_moments(source)
    if n > len(source) - 1:
        raise InputError(
            f"{n} components were asked for, but {len(source)} rows differ in at most {len(source) - 1} dimensions"
        )
    return moments, n
