"""Independent components (FastICA; Hyvarinen and Oja 2000, Independent Component Analysis, section 6)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.base import LinearDecomposer, register
from interp.decomposers.baselines.pca import components_of
from interp.decomposers.baselines.sample import SampledConfig, log_reconstruction, sampled_rows
from interp.errors import InputError
from interp.records import Notes
from interp.store.source import ActivationSource
from interp.training.protocol import Recorder

LEAST_VARIANCE = 1e-10
"""Directions with less than this share of the largest variance are rounding errors, which whitening would blow up."""


@dataclass(frozen=True)
class ICAConfig(SampledConfig):
    """Options of independent component analysis."""

    n_features: int = 100
    """Number of components, at most the width of the site; the default is less where the site is narrower."""
    iterations: int = 200
    """Most iterations; the notes of the run say whether they were enough."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1:
            raise InputError(f"iterations is {self.iterations}; it must be 1 or more")


@register
class ICA(LinearDecomposer):
    """FastICA of scikit-learn, on the leading principal components of a sample of rows, whitened.

    z = (x - b_dec) W_enc has independent columns of variance 1 and mean 0 over the sample, as nearly as a linear map can make
    them; W_dec is its pseudo-inverse, the mixing matrix, so the reconstruction is that of as many principal components.
    Neither order nor sign is the method's own: components stand by the variance that they explain, |row of W_dec|^2, largest
    first, and are turned so that the skewness of their codes is positive.
    """

    kind = "ica"
    config_type = ICAConfig
    signed_codes = True

    @classmethod
    def _fit(cls, source: ActivationSource, config: ICAConfig, recorder: Recorder | None) -> ICA:
        """Unmix a sample of the rows; whether the iterations converged is in the notes.

        Raises InputError when there are more components than dimensions that the rows differ in, and for too small a sample.
        """
        from sklearn.decomposition import FastICA  # deferred: slow
        from sklearn.exceptions import ConvergenceWarning

        moments, n = components_of(source, config)
        values = moments.spectrum[0]
        n_dimensions = int((values > LEAST_VARIANCE * values[0]).sum())
        if n > n_dimensions:
            raise InputError(
                f"{n} components were asked for, but the rows differ in {n_dimensions} dimensions; ask for fewer"
            )
        if config.rows <= n:
            raise InputError(f"{n} components cannot be told from {config.rows} rows; give more --rows")
        x = sampled_rows(source, config)
        ica = FastICA(
            n,
            whiten="unit-variance",
            whiten_solver="eigh",
            max_iter=config.iterations,
            random_state=config.seed,
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")  # coordinates that never vary give one, too, and do no harm
            z = ica.fit_transform(x.double().numpy())
        has_converged = not any(issubclass(each.category, ConvergenceWarning) for each in caught)
        order = np.argsort(-np.square(ica.mixing_).sum(0), kind="stable")
        sign = np.where((z**3).sum(0) < 0, -1.0, 1.0)[order]
        tensors = {
            "W_enc": torch.from_numpy((ica.components_[order] * sign[:, None]).T).float().contiguous(),
            "W_dec": torch.from_numpy((ica.mixing_[:, order] * sign).T).float().contiguous(),
            "b_dec": torch.from_numpy(ica.mean_).float(),
        }
        notes: Notes = {
            "rows": len(x),
            "iterations": int(ica.n_iter_),
            "convergence": "reached" if has_converged else "not reached; more --iterations or --rows may help",
        }
        found = cls(config, tensors, notes)
        log_reconstruction(recorder, found, x, len(x))
        return found

    def _encode(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_features"]:
        return (x - self.b_dec) @ self.tensors["W_enc"]
