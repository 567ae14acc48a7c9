"""Which entries of a matrix of pre-activations are active: the largest of each row, of the whole batch, or those above a
threshold. Entries are numbered row * n_features + feature, in ascending order of rows.

Times are of one thread of a 2.8 GHz AVX-512 Xeon for 2048 rows of 4096 features, k 32. NumPy finds the entries of a mask
six times as fast as ``torch.nonzero`` does (3.4 and 20 ms), so on a CPU it is NumPy that looks; anywhere else it is torch.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def above(
    pre: Float[Tensor, "n n_features"], threshold: float | Tensor, *, at_most: int | None = None
) -> Int[Tensor, " n_active"] | None:
    """Entries that are at least ``threshold``, a number, [n_features] or [n, 1]; None where there are more than ``at_most``."""
    mask: np.ndarray | Tensor
    if pre.device.type != "cpu":
        mask = pre >= threshold
        is_many = at_most is not None and int(mask.sum()) > at_most
        return None if is_many else mask.flatten().nonzero().squeeze(1)
    mask = pre.numpy() >= (threshold.numpy() if isinstance(threshold, Tensor) else threshold)
    if at_most is not None and np.count_nonzero(mask) > at_most:
        return None
    return torch.from_numpy(np.flatnonzero(mask))


def largest_of_rows(pre: Float[Tensor, "n n_features"], k: int) -> Int[Tensor, " n_times_k"]:
    """The k largest entries of each row; among equal ones any.

    The k-th largest of the maxima of disjoint groups of a row's features is at most its k-th largest entry, and not much
    less, so only the few entries that reach it are looked at closely: 14 ms instead of the 32 of ``topk``.
    """
    n, n_features = pre.shape
    per_group = min(16, n_features // (8 * k))
    if pre.device.type != "cpu" or per_group < 2:
        columns = pre.topk(k, dim=1, sorted=False).indices
        return (columns + torch.arange(n, device=pre.device)[:, None] * n_features).flatten()
    n_groups = n_features // per_group
    maxima = pre[:, : per_group * n_groups].unflatten(1, (per_group, n_groups)).amax(1)
    bound = np.partition(maxima.numpy(), n_groups - k, axis=1)[:, n_groups - k : n_groups - k + 1]
    flat = above(pre, torch.from_numpy(bound))
    assert flat is not None
    return _trimmed(flat, pre.view(-1).index_select(0, flat), k, n, n_features)


def _trimmed(
    flat: Int[Tensor, " n_active"], values: Float[Tensor, " n_active"], k: int, n: int, n_features: int
) -> Int[Tensor, " n_times_k"]:
    """Of at least k entries of each row its k largest."""
    row = torch.div(flat, n_features, rounding_mode="floor")
    counts = torch.bincount(row, minlength=n)
    first = counts.cumsum(0) - counts
    place = torch.arange(len(flat)) - first[row]
    table = torch.full((n, int(counts.max())), -torch.inf, dtype=values.dtype)
    table[row, place] = values
    chosen = table.topk(k, dim=1, sorted=False).indices
    return flat.index_select(0, (chosen + first[:, None]).flatten())


def largest_of_batch(
    pre: Float[Tensor, "n n_features"], n_active: int, guess: float
) -> tuple[Int[Tensor, " n_active"], float]:
    """(the n_active largest entries of the matrix, the least value among them); among equal ones any.

    ``guess`` is what that value may be, such as that of the last batch: where it is somewhat too low, few entries have to
    be compared; where it is not, all are.
    """
    flat = above(pre, guess, at_most=8 * n_active)
    if flat is None or len(flat) < n_active:
        values, flat = pre.view(-1).topk(n_active, sorted=False)
        return flat.sort().values, float(values.min())
    values = pre.view(-1).index_select(0, flat)
    least = kth_largest(values, n_active)
    is_above = values > least
    ties = (values == least).nonzero().squeeze(1)[: n_active - int(is_above.sum())]
    is_above[ties] = True
    return flat[is_above], least


def kth_largest(values: Float[Tensor, " n"], k: int) -> float:
    """The k-th largest of some numbers."""
    if values.device.type == "cpu":
        return float(np.partition(values.numpy(), len(values) - k)[len(values) - k])
    return float(values.topk(k, sorted=False).values.min())
