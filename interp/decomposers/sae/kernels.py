"""An autoencoder whose steps touch only the active codes: encode, decode, and every gradient of both.

    pre = (x - b_dec) W_enc^T + b_enc        z = activation(pre)        x^ = z W_dec + b_dec

Of z only a share of a percent is not zero. Plain autograd nevertheless makes z and its gradient dense and multiplies them:
six matrix products a step. Here one is left, the encoder's. The active (row, feature) pairs are sorted by feature once, and
the gradients of both weight matrices are weighted sums over each feature's rows (``embedding_bag``); that of b_dec
through the encoder is -(sum over rows of the gradient of pre) W_enc, a matrix times a vector.

An activation is a choice of pairs and a function of their values, so that every variant is built from ``encode_pairs``
and ``decode_pairs``, with plain autograd between them. Row by row, ``W_enc`` and ``W_dec`` are both [n_features, d_in].
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
        return grad_values, ctx.pairs.sums_by_feature(ctx.pairs.bag, grad, ctx.leaf.detach()), None


def _starts(keys: Int[Tensor, " n"], n_keys: int) -> Int[Tensor, " n_keys_and_1"]:
    """Where the numbers 0 to n_keys begin in ``keys`` once sorted."""
    return F.pad(torch.bincount(keys, minlength=n_keys).cumsum(0), (1, 0))
