"""An autoencoder whose steps touch only the active codes: encode, decode, and every gradient of both.

    pre = (x - b_dec) W_enc^T + b_enc        z = activation(pre)        x^ = z W_dec + b_dec

Of z only a share of a percent is not zero. Plain autograd nevertheless makes z and its gradient dense and multiplies them:
six matrix products a step. Here one is left, the encoder's. The active (row, feature) pairs are sorted by feature once, and
the gradients of both weight matrices are weighted sums over each feature's rows (``embedding_bag``); that of b_dec
through the encoder is -(sum over rows of the gradient of pre) W_enc, a matrix times a vector.

An activation is a choice of pairs and a function of their values, so that every variant is built from ``encode_pairs``
and ``decode_pairs``, with plain autograd between them. Row by row, ``W_enc`` and ``W_dec`` are both [n_features, d_in].

The choice is made of a matrix of pre-activations: the largest of each row, of the whole batch, or those above a threshold,
numbered row * n_features + feature in ascending order of rows. Times of it are of one thread of a 2.8 GHz AVX-512 Xeon for
2048 rows of 4096 features, k 32. NumPy finds the entries of a mask six times as fast as ``torch.nonzero`` does (3.4 and 20 ms),
so on a CPU it is NumPy that looks; anywhere else it is torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Pairs:
    """The (row, feature) pairs that take part. Pairs that are summed into one output, a bag, stand together."""

    row: Int[Tensor, " n_pairs"]
    feature: Int[Tensor, " n_pairs"]
    starts: Int[Tensor, " n_bags_and_1"]
    """Where each bag begins, and where the last one ends."""
    bag: Int[Tensor, " n_pairs"]
    """The bag of each pair, ascending."""
    n_features: int

    @classmethod
    def of_rows(cls, flat: Int[Tensor, " n_pairs"], n_rows: int, n_features: int) -> Pairs:
        """Pairs numbered row * n_features + feature, in ascending order of rows; each row is a bag."""
        row = torch.div(flat, n_features, rounding_mode="floor")
        return cls(row, flat - row * n_features, _starts(row, n_rows), row, n_features)

    def grouped(self, group: Int[Tensor, " n_features"], n_groups: int) -> Pairs:
        """The same pairs, for pairs of rows, with a bag for each (group of features, row), groups first."""
        n_rows = len(self.starts) - 1
        bag = group[self.feature] * n_rows + self.row
        order = stable_order(bag, n_groups * n_rows)
        starts = _starts(bag, n_groups * n_rows)
        return Pairs(self.row[order], self.feature[order], starts, bag[order], self.n_features)

    def values(self, matrix: Float[Tensor, "n_rows n_features"]) -> Float[Tensor, " n_pairs"]:
        """The entries of a matrix at the pairs."""
        return matrix.view(-1).index_select(0, self.row * self.n_features + self.feature)

    @cached_property
    def _order(self) -> Int[Tensor, " n_pairs"]:
        return stable_order(self.feature, self.n_features)

    @cached_property
    def _feature_starts(self) -> Int[Tensor, " n_features_and_1"]:
        return _starts(self.feature, self.n_features)

    def sums_by_feature(
        self, index: Int[Tensor, " n_pairs"], rows: Float[Tensor, "n d"], weights: Float[Tensor, " n_pairs"]
    ) -> Float[Tensor, "n_features d"]:
        """For each feature the sum over its pairs of ``rows[index]`` times the pair's weight."""
        order = self._order
        return F.embedding_bag(
            index.index_select(0, order),
            rows,
            self._feature_starts,
            mode="sum",
            per_sample_weights=weights.index_select(0, order),
            include_last_offset=True,
        )


def stable_order(keys: Int[Tensor, " n"], n_keys: int) -> Int[Tensor, " n"]:
    """The stable ascending order of whole numbers in [0, n_keys).

    On a CPU by NumPy's radix sort of 16-bit numbers, a second time for the upper half of larger ones: 0.4 ms for 65 536
    numbers, where ``torch.sort`` of int16 needs 0.5 on one thread, but 15 to 80 on two threads of a busy machine.
    """
    if keys.device.type != "cpu":
        return torch.sort(keys, stable=True).indices
    numbers = keys.numpy()
    order = np.argsort(numbers.astype(np.uint16), kind="stable")
    if n_keys > 2**16:
        order = order[np.argsort((numbers >> 16).astype(np.uint16)[order], kind="stable")]
    return torch.from_numpy(order)


def pre_activations(
    centred: Float[Tensor, "n d_in"],
    W_enc: Float[Tensor, "n_features d_in"],
    b_enc: Float[Tensor, " n_features"],
    *,
    out: Float[Tensor, "n n_features"] | None = None,
    bfloat16: bool = False,
) -> Float[Tensor, "n n_features"]:
    """centred W_enc^T + b_enc, without a graph; into ``out`` where there is one, which saves a tenth of the time.

    With ``bfloat16`` the product has 8 significant bits, so that of nearly equal entries another may be the larger.
    """
    with torch.no_grad():
        if bfloat16:
            return torch.add(centred.bfloat16() @ W_enc.bfloat16().T, b_enc, out=out)
        return torch.addmm(b_enc, centred, W_enc.T, out=out)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a product in bfloat16 is faster than in float32: without instructions for it a CPU takes 4 times as long."""
    if device.type != "cpu":
        return True
    features = torch.cpu.get_capabilities()
    return bool(features.get("amx_bf16") or features.get("avx512_bf16"))


def encode_pairs(
    centred: Float[Tensor, "n d_in"],
    W_enc: Float[Tensor, "n_features d_in"],
    b_enc: Float[Tensor, " n_features"],
    b_dec: Float[Tensor, " d_in"],
    pre: Float[Tensor, "n n_features"],
    pairs: Pairs,
) -> Float[Tensor, " n_pairs"]:
    """Pre-activations of pairs, differentiable in W_enc, b_enc and b_dec.

    ``centred`` is x - b_dec without a graph, and ``pre`` what ``pre_activations`` makes of it; ``pre`` is not kept.
    """
    return _EncodePairs.apply(centred, W_enc, b_enc, b_dec, pairs.values(pre), pairs)


def encode_all(
    centred: Float[Tensor, "n d_in"],
    W_enc: Float[Tensor, "n_features d_in"],
    b_enc: Float[Tensor, " n_features"],
    b_dec: Float[Tensor, " d_in"],
    pre: Float[Tensor, "n n_features"],
) -> Float[Tensor, "n n_features"]:
    """All pre-activations, differentiable like those of pairs: for when too many codes are active for pairs to pay."""
    return _EncodeAll.apply(centred, W_enc, b_enc, b_dec, pre)


def decode_pairs(
    values: Float[Tensor, " n_pairs"], W_dec: Float[Tensor, "n_features d_in"], pairs: Pairs
) -> Float[Tensor, "n_bags d_in"]:
    """For each bag the sum of its features' rows of ``W_dec`` times their values; differentiable in both."""
    return _DecodePairs.apply(values, W_dec, pairs)


class _EncodePairs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, centred: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor, values: Tensor, pairs: Pairs
    ) -> Tensor:
        ctx.save_for_backward(centred, W_enc)
        ctx.pairs = pairs
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        centred, W_enc = ctx.saved_tensors
        pairs: Pairs = ctx.pairs
        grad_b_enc = torch.zeros_like(W_enc[:, 0]).index_add_(0, pairs.feature, grad)
        return None, pairs.sums_by_feature(pairs.row, centred, grad), grad_b_enc, -(grad_b_enc @ W_enc), None, None


class _EncodeAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, centred: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor, pre: Tensor) -> Tensor:
        ctx.save_for_backward(centred, W_enc)
        return pre.view_as(pre)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        centred, W_enc = ctx.saved_tensors
        grad_b_enc = grad.sum(0)
        return None, grad.T @ centred, grad_b_enc, -(grad_b_enc @ W_enc), None


class _DecodePairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, pairs: Pairs) -> Tensor:
        # A graph of its own from the values to the sums: its backward is the one fast way to the gradient of the values.
        with torch.enable_grad():
            ctx.leaf = values.detach().requires_grad_()
            ctx.sums = F.embedding_bag(
                pairs.feature,
                W_dec.detach(),
                pairs.starts,
                mode="sum",
                per_sample_weights=ctx.leaf,
                include_last_offset=True,
            )
        ctx.pairs = pairs
        return ctx.sums.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad = grad.contiguous()
        (grad_values,) = torch.autograd.grad(ctx.sums, ctx.leaf, grad)
        learns_W_dec = ctx.needs_input_grad[1]
        grad_W_dec = ctx.pairs.sums_by_feature(ctx.pairs.bag, grad, ctx.leaf.detach()) if learns_W_dec else None
        return grad_values, grad_W_dec, None


def _starts(keys: Int[Tensor, " n"], n_keys: int) -> Int[Tensor, " n_keys_and_1"]:
    """Where the numbers 0 to n_keys begin in ``keys`` once sorted."""
    return F.pad(torch.bincount(keys, minlength=n_keys).cumsum(0), (1, 0))


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
