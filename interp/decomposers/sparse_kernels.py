"""A TopK autoencoder whose backward pass touches only the active codes.

    pre = (x - b_dec) W_enc^T + b_enc        z = relu(the k largest entries of each row of pre)        x^ = z W_dec + b_dec

Plain autograd makes the gradient of ``pre`` dense, n x n_features values of which n x k are not zero, and multiplies it
twice. Here the active (token, feature) pairs are sorted by feature once, and the gradients of both weight matrices are
weighted sums over each feature's tokens (``embedding_bag``). Of five matrix products one is left, the encoder's.

Process CPU time of a whole training step, one thread, batch 1024, 2048 features, k 32, both in alternation: 69 -> 42 ms at
width 256, 198 -> 117 ms at width 1024 (medians; the backward pass 35 -> 8 and 109 -> 33).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def topk_autoencode(
    x: Float[Tensor, "n d_in"],
    W_enc: Float[Tensor, "n_features d_in"],
    b_enc: Float[Tensor, " n_features"],
    W_dec: Float[Tensor, "n_features d_in"],
    b_dec: Float[Tensor, " d_in"],
    k: int,
) -> tuple[Float[Tensor, "n d_in"], Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """(x^, values of the codes, their features). Differentiable in all tensors, through x^ and through the values.

    A row of ``W_enc`` is one feature, as in ``W_dec``: the gradients come out in this layout.
    """
    return _TopKAutoencode.apply(x, W_enc, b_enc, W_dec, b_dec, k)


def top_k(pre: Float[Tensor, "n n_features"], k: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """(values clamped at zero, feature indices) of the k largest entries of each row."""
    values, indices = pre.topk(k, dim=1, sorted=False)
    return values.relu(), indices


class _TopKAutoencode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, k: int) -> Any:
        centred = x - b_dec
        values, indices = top_k(torch.addmm(b_enc, centred, W_enc.T), k)
        # A graph of its own from the values to the sum: its backward is the one fast way to the gradient of the values.
        with torch.enable_grad():
            ctx.leaf = values.detach().requires_grad_()
            ctx.summed = F.embedding_bag(indices, W_dec.detach(), per_sample_weights=ctx.leaf, mode="sum")
        ctx.save_for_backward(centred, W_enc, values, indices)
        ctx.mark_non_differentiable(indices)
        return ctx.summed.detach() + b_dec, values, indices

    @staticmethod
    def backward(ctx: Any, grad_decoded: Tensor, grad_values: Tensor, _: Tensor) -> Any:
        centred, W_enc, values, indices = ctx.saved_tensors
        grad_decoded = grad_decoded.contiguous()
        (grad_pre,) = torch.autograd.grad(ctx.summed, ctx.leaf, grad_decoded)
        grad_pre = (grad_pre + grad_values) * (values > 0)
        by_feature = _ByFeature(indices, len(W_enc))
        grad_b_enc = torch.zeros_like(W_enc[:, 0]).index_add_(0, indices.flatten(), grad_pre.flatten())
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = F.embedding_bag(indices, W_enc, per_sample_weights=grad_pre, mode="sum")
        return (
            grad_x,
            by_feature.weighted_sums(centred, grad_pre),
            grad_b_enc,
            by_feature.weighted_sums(grad_decoded, values),
            grad_decoded.sum(0) - grad_b_enc @ W_enc,
            None,
        )


class _ByFeature:
    """The active (token, feature) pairs in the order of their features."""

    def __init__(self, indices: Int[Tensor, "n k"], n_features: int):
        features = indices.flatten()
        # 16-bit numbers are sorted by radix, five times as fast.
        small = torch.int16 if n_features <= 2**15 else torch.int32
        self.order = torch.sort(features.to(small), stable=True).indices
        self.tokens = self.order // indices.shape[1]
        self.starts = F.pad(torch.bincount(features, minlength=n_features).cumsum(0), (1, 0))

    def weighted_sums(self, rows: Float[Tensor, "n d"], weights: Float[Tensor, "n k"]) -> Float[Tensor, "n_features d"]:
        """For each feature the sum of its tokens' rows, each times its weight."""
        return F.embedding_bag(
            self.tokens,
            rows,
            self.starts,
            mode="sum",
            per_sample_weights=weights.flatten()[self.order],
            include_last_offset=True,
        )
