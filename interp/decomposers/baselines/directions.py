"""Directions that are read off and written along, without a decoder.

    z = <x - mean, w> / |w|^2

Such codes could be decoded by least squares, but the decoder would say nothing of the directions: any ``d_in`` of them that
are independent reconstruct every row exactly. And what it writes for a feature is not the feature's own direction, which is
what such a method is asked for. So these methods do not decode. Their FVU is that of the best linear decoder.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.base import Decomposer
from interp.store.moments import Moments
from interp.training.protocol import Recorder


class Directions(Decomposer):
    """Tensors ``directions`` [n_features, d_in], w above, and ``mean`` [d_in], of the rows; a zero direction has zero codes."""

    signed_codes = True

    def _encode(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_features"]:
        """Signed: how far a row lies from the mean row along each direction, in lengths of the direction."""
        w = self.tensors["directions"]
        return (x - self.tensors["mean"]) @ (w / w.square().sum(1, keepdim=True).clamp_min(1e-30)).T

    def write_directions(self) -> Float[Tensor, "n_features d_in"]:
        w = self.tensors["directions"]
        return w / w.norm(dim=1, keepdim=True).clamp_min(1e-30)

    def fvu(self, x: Float[Tensor, "n d_in"]) -> float:
        """sum |y - P y|^2 / sum |x - mean(x)|^2, y = x less the mean of the rows learned from, P the projection on the span of
        all directions: no linear decoder of the codes has a smaller one on those rows. NaN if the rows do not vary."""
        y = (x - self.tensors["mean"]).double()
        outside = float((y - y @ self._basis().T @ self._basis()).square().sum())
        variance = float((x - x.mean(0)).double().square().sum())
        return outside / variance if variance else float("nan")

    def span_fvu(self, x: Float[Tensor, "n d_in"]) -> float:
        """As ``fvu``: every direction is active on every row."""
        return self.fvu(x)

    def _basis(self) -> Float[Tensor, "rank d_in"]:
        """Orthonormal rows that span the directions, float64."""
        w = self.write_directions().double()
        _, values, vectors = torch.linalg.svd(w, full_matrices=False)
        return vectors[values > 1e-6 * values[:1]]  # directions are float32: beyond this they differ by rounding

    def _log(self, recorder: Recorder | None, moments: Moments) -> None:
        """The one record of a fit: what of the rows' variance no decoder could explain."""
        if recorder:
            basis = self._basis().numpy()
            inside = float(((basis @ moments.covariance) * basis).sum())
            left = max(0.0, moments.total_variance - inside)
            recorder.log({"step": 1, "tokens": moments.n, "loss": left, "fvu": left / moments.total_variance})
