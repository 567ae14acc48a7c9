"""Streaming mean and covariance of activations, and what follows from them.

Rows are accumulated in float64 after subtracting the first chunk's mean, so that the covariance does not lose its digits
when the mean is large against the spread (Chan, Golub and LeVeque 1983, shifted data).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError


@dataclass(frozen=True)
class Moments:
    """First and second moments of ``n`` rows of width d."""

    n: int
    """Rows seen."""
    mean: Float[np.ndarray, " d"]
    """Mean row, float64."""
    covariance: Float[np.ndarray, "d d"]
    """Population covariance (divided by n), float64."""
    mean_norm: float
    """Mean Euclidean norm of a row."""

    @property
    def total_variance(self) -> float:
        """Trace of the covariance: mean squared distance of a row from the mean row."""
        return float(np.trace(self.covariance))

    @cached_property
    def spectrum(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
        """(eigenvalues, eigenvectors as rows) of the covariance, largest first."""
        values, vectors = np.linalg.eigh(self.covariance)
        return np.maximum(values[::-1], 0.0), vectors[:, ::-1].T.copy()

    def rank_for_variance(self, share: float) -> int:
        """Smallest number of principal directions that hold ``share`` of the variance."""
        held = np.cumsum(self.spectrum[0])
        return int(np.searchsorted(held, share * held[-1]) + 1)


def moments_of(chunks: Iterable[Float[Tensor, "_ d"]]) -> Moments:
    """Moments of all rows of ``chunks``. Raises InputError when there is no row or a value is not finite."""
    n, norm_sum = 0, 0.0
    shift = total = product = torch.zeros(0)
    for chunk in chunks:
        rows = chunk.double()
        if n == 0:
            shift = rows.mean(0)
            total = torch.zeros_like(shift)
            product = torch.zeros(len(shift), len(shift), dtype=torch.float64)
        centred = rows - shift
        total += centred.sum(0)
        product.addmm_(centred.T, centred)
        norm_sum += float(rows.norm(dim=1).sum())
        n += len(rows)
    if n == 0:
        raise InputError("there is no activation to take moments of; the source is empty")
    offset = total / n
    covariance = product / n - torch.outer(offset, offset)
    if not torch.isfinite(covariance).all():
        raise InputError("the activations hold values that are not finite; capture them again with --dtype float32")
    return Moments(n=n, mean=(shift + offset).numpy(), covariance=covariance.numpy(), mean_norm=norm_sum / n)
