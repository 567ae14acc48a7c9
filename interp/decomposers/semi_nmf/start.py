"""What semi-NMF knows before its first pass: what to take off the rows, how large they are, a first guess of the features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from interp.distributed import World
from interp.errors import InputError
from interp.store.moments import Moments, moments_of
from interp.store.source import ActivationSource

CHUNK = 4096
ROWS_PER_CENTRE = 50
OFFSET_ROWS = 4096
"""Rows drawn to see which columns are steady."""
STEADY = 3.0
"""A column is steady whose mean is more than so many standard deviations from zero."""


class Shifted:
    """A source whose every row has had the same offset taken off."""

    def __init__(self, source: ActivationSource, offset: Float[Tensor, " d_in"]):
        self._source, self._offset = source, offset

    @property
    def d_in(self) -> int:
        return self._source.d_in

    def __len__(self) -> int:
        return len(self._source)

    def rows(self, indices: Int[np.ndarray, " n"]) -> Float[Tensor, "n d_in"]:
        return self._source.rows(indices) - self._offset

    def chunks(self, size: int = 8192) -> Iterator[Float[Tensor, "_ d_in"]]:
        for chunk in self._source.chunks(size):
            yield chunk - self._offset

    def moments(self) -> Moments:
        return moments_of(self.chunks())


def steady_offset(source: ActivationSource) -> Float[Tensor, " d_in"]:
    """The mean of every column that is steady, over a sample of the rows; 0 for the others, and where nothing varies.

    Semi-NMF has no offset of its own: it would explain a column that hardly varies by features that fire on every row, as far
    as their few entries reach, and l1, which is in units of the length of a row, would shrink all codes by the column's size.
    Columns of neurons are far from steady (at ``blocks.2.mlp.hook_post`` of the bundled model a mean is at most .6 deviations),
    and taking off the mean of such is worse than not.
    """
    n = len(source)
    drawn = np.random.default_rng(0).choice(n, min(n, OFFSET_ROWS), replace=False)
    x = source.rows(np.sort(drawn)).double()
    mean = x.mean(0)
    variance = (x - mean).square().mean(0)
    is_steady = mean.square() > STEADY**2 * variance
    varies = float(variance.sum()) > 1e-12 * float(x.square().sum(1).mean())
    return torch.where(is_steady & varies, mean, 0.0).float()


def share_of(n: int, processes: World) -> range:
    """The rows of ``n`` that this process keeps: whole chunks, since codes are improved a chunk at a time and would else
    depend a little on how many processes there are."""
    n_chunks = -(-n // CHUNK)
    first, last = (n_chunks * rank // processes.size * CHUNK for rank in (processes.rank, processes.rank + 1))
    return range(min(first, n), min(last, n))


def chunks_of(source: ActivationSource, rows: range, size: int = CHUNK) -> Iterator[tuple[slice, Tensor]]:
    """(places among ``rows``, those rows of the source), in order, ``size`` at a time."""
    if len(rows) == len(source):  # gathering rows by number costs a tenth of a pass
        for i, x in enumerate(source.chunks(size)):
            yield slice(i * size, i * size + len(x)), x
        return
    for first in range(rows.start, rows.stop, size):
        stop = min(first + size, rows.stop)
        yield slice(first - rows.start, stop - rows.start), source.rows(np.arange(first, stop))


@dataclass(frozen=True)
class Totals:
    """Sums over all rows of all processes."""

    n: int
    """Rows."""
    squared_norm: float
    """Sum of squared norms of the rows."""
    variance: float
    """Sum of squared distances of the rows from the mean row."""
    mean_norm: float
    """Mean norm of a row."""


def totals_of(source: ActivationSource, rows: range, world: World) -> Totals:
    """One cheap pass over this process's ``rows``, which ``source.moments()`` with its covariance is not.

    Raises InputError for values that are not finite, and when there is nothing to learn: all rows zero or the same.
    """
    n = len(source)
    shift = source.rows(np.zeros(1, dtype=np.int64))[0].double()
    # Around the first row, so that rows which are all the same have a variance of exactly zero.
    total, scalars = torch.zeros(source.d_in, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for _, x in chunks_of(source, rows):
        x = x.double()
        norms = x.norm(dim=1)
        scalars[0] += norms.sum()
        scalars[1] += norms.square().sum()
        x -= shift
        total += x.sum(0)
        scalars[2] += x.square().sum()
    world.sum(total, scalars)
    norm, squared_norm, around = scalars.tolist()
    variance = around - float(total.square().sum()) / n
    if not np.isfinite(variance):
        raise InputError("the activations hold values that are not finite; capture them again with --dtype float32")
    if norm == 0:
        raise InputError("every activation is zero; there is nothing to learn at this hook point")
    if variance <= 1e-12 * squared_norm:
        raise InputError(f"all {n} rows are the same; capture more text, or choose another hook point")
    return Totals(n, squared_norm, variance, norm / n)


def spherical_centres(source: ActivationSource, k: int, *, seed: int) -> Float[Tensor, "k d_in"]:
    """k-means++ centres (Arthur and Vassilvitskii 2007) of unit-norm rows after five Lloyd steps, on at most 50 k rows."""
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(len(source), min(len(source), ROWS_PER_CENTRE * k), replace=False))
    x = F.normalize(source.rows(sample), dim=1)
    chosen = [int(rng.integers(len(x)))]
    distance = (1 - x @ x[chosen[0]]).clamp_min(0)
    for _ in range(k - 1):
        cumulative = distance.double().cumsum(0).numpy()
        at = int(np.searchsorted(cumulative, rng.random() * cumulative[-1])) if cumulative[-1] > 0 else len(chosen)
        chosen.append(min(at, len(x) - 1))
        distance = torch.minimum(distance, (1 - x @ x[chosen[-1]]).clamp_min(0))
    centres = x[chosen].clone()
    for _ in range(5):
        nearest = (x @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, x)
        centres = torch.where(sums.norm(dim=1, keepdim=True) > 0, F.normalize(sums, dim=1), centres)
    return centres


def random_features(n_features: int, d_in: int, s: int, *, seed: int) -> Float[Tensor, "n_features d_in"]:
    """Unit rows with ``s`` Gaussian entries each, at places drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    entries = torch.randn(n_features, d_in, generator=generator)
    places = torch.rand(n_features, d_in, generator=generator).topk(s, dim=1).indices
    return F.normalize(torch.zeros_like(entries).scatter_(1, places, entries.gather(1, places)), dim=1)


def codes_from_centres(x: Float[Tensor, "n d_in"], centres: Float[Tensor, "K d_in"]) -> Float[Tensor, "n K"]:
    """relu(cosine to a centre)^2 |x|, plus a little so that no code starts stuck at zero."""
    norms = x.norm(dim=1, keepdim=True)
    return ((x / norms.clamp_min(1e-12)) @ centres.T).relu_().square_().add_(1e-6).mul_(norms)
