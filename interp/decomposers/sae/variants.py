"""The activations of sparse autoencoders: which codes are active, what their values are, and what keeps them few.

    relu        z = relu(pre)                                 L1: coefficient * sum_i z_i |W_dec_i|, whose norms are 1
    topk        z = relu(the k largest of each row)           arXiv 1312.5663, 2406.04093
    batchtopk   z = relu(the k n largest of n rows)           arXiv 2412.06410
    matryoshka  batchtopk, whose nested prefixes of features each reconstruct    arXiv 2503.17547
    jumprelu    z = pre where pre > threshold, else 0         L0: coefficient * number of z > 0; arXiv 2407.14435

A batch's choice cannot be made for a row alone, so batchtopk and matryoshka keep one threshold for use: the mean over batches
of the least active value, exponentially weighted (2412.06410, equation 4, takes the plain mean).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.decomposers.sae.config import SparseConfig, VariantName
from interp.decomposers.sae.l0_control import L0Control
from interp.decomposers.sae.selection import above, kth_largest, largest_of_batch, largest_of_rows
from interp.distributed import world

SPARSE_BELOW = 0.06
"""Density of codes below which pairs are faster than dense products."""
LEAST_THRESHOLD = 1e-3
"""Least threshold that jumprelu begins with."""
LEVEL = 0.05
"""What the logarithms of jumprelu's thresholds move by in a step, in logarithms of L0 / target."""
THRESHOLD_DECAY = 0.99
"""Weight that the threshold for use keeps from batch to batch."""


class Variant(ABC):
    """One activation in training. ``parameters`` and ``state`` are its own, beside the autoencoder's.

    It is made with the pre-activations of some rows, before the first step.
    """

    def __init__(self, config: SparseConfig, control: L0Control | None, pre: Float[Tensor, "n n_features"]):
        self.n_features, self.k, self.control = config.n_features, config.k, control
        self.parameters: dict[str, Tensor] = {}
        self.state: dict[str, Tensor] = {}

    @abstractmethod
    def select(self, pre: Float[Tensor, "n n_features"]) -> Int[Tensor, " n_pairs"] | None:
        """Entries of ``pre`` that can have a gradient, by number; None where there are too many for pairs to pay."""

    def activate(self, pre: Tensor, feature: Int[Tensor, " n_pairs"] | None) -> Tensor:
        """Codes from pre-activations: of pairs, whose features are given, or of [n, n_features]."""
        return pre.relu()

    def penalty(self, z: Tensor, pre: Tensor, feature: Int[Tensor, " n_pairs"] | None) -> Tensor | None:
        """What is added to the loss, summed over the rows."""
        return None

    def after_step(self) -> None:  # noqa: B027  most variants have nothing to change
        """Change what is the variant's own after a step of the optimisers."""

    def threshold(self) -> Float[Tensor, " n_features"] | None:
        """Above what a code is active in use, at the scale of the training; None where no threshold says so."""
        return None


class ReLU(Variant):
    """Codes are kept few by their sum."""

    def select(self, pre: Tensor) -> Tensor | None:
        return above(pre, 1e-30, at_most=int(SPARSE_BELOW * pre.numel()))

    def penalty(self, z: Tensor, pre: Tensor, feature: Tensor | None) -> Tensor:
        assert self.control
        return self.control.coefficient * z.sum()


class TopK(Variant):
    """The k largest of each row."""

    def select(self, pre: Tensor) -> Tensor:
        return largest_of_rows(pre, self.k)


class BatchTopK(Variant):
    """As many as k a row, the largest of the batch; over all processes where there are several."""

    def __init__(self, config: SparseConfig, control: L0Control | None, pre: Tensor):
        super().__init__(config, control, pre)
        # the least active value of the last batch; the threshold for use, and how much of it has been seen
        self.state |= {"last_least": torch.zeros(()), "least": torch.zeros(()), "least_weight": torch.zeros(())}

    def select(self, pre: Tensor) -> Tensor:
        peers, n_active = world(), self.k * len(pre)
        flat, least = largest_of_batch(pre, n_active * peers.size, 0.9 * float(self.state["last_least"]))
        if peers.size > 1:  # every process knows its own largest, so together they know those of the whole batch
            values = torch.zeros(peers.size, len(flat), device=pre.device)
            values[peers.rank] = pre.view(-1)[flat]
            peers.sum(values)
            least = kth_largest(values.flatten(), n_active * peers.size)
            flat = flat[pre.view(-1)[flat] >= least]
        least = max(least, 0.0)
        self.state["last_least"].fill_(least)
        self.state["least"].lerp_(torch.tensor(least), 1 - THRESHOLD_DECAY)
        self.state["least_weight"].lerp_(torch.ones(()), 1 - THRESHOLD_DECAY)
        return flat

    def threshold(self) -> Tensor:
        return (self.state["least"] / self.state["least_weight"].clamp_min(1e-30)).repeat(self.n_features)


class JumpReLU(Variant):
    """A threshold for each feature, learned through straight-through estimates (2407.14435, equations 11 and 12).

    The thresholds begin where the rows given have the target's number of active codes, so that the first steps are
    already those of a sparse autoencoder. They are learned as logarithms: always positive, moved by shares of themselves.
    A target L0 also moves them all together: of a coefficient that is steered alone they answer too late, and where the
    error without any penalty makes fewer codes active than wanted, not at all.
    """

    def __init__(self, config: SparseConfig, control: L0Control | None, pre: Tensor):
        super().__init__(config, control, pre)
        assert control
        n_active = max(1, min(pre.numel(), round((control.target or self.k) * len(pre))))
        least = max(kth_largest(pre.flatten(), n_active), LEAST_THRESHOLD)
        self.bandwidth: float = config.variant_options.bandwidth
        self.parameters = {"log_threshold": torch.full_like(pre[0], math.log(least)).requires_grad_()}

    def select(self, pre: Tensor) -> Tensor | None:
        reach = (self.parameters["log_threshold"].detach().exp() - self.bandwidth / 2).clamp_min(0)
        return above(pre, reach, at_most=int(SPARSE_BELOW * pre.numel()))

    def activate(self, pre: Tensor, feature: Tensor | None) -> Tensor:
        return _Jump.apply(pre, self._thresholds(feature), self.bandwidth)

    def penalty(self, z: Tensor, pre: Tensor, feature: Tensor | None) -> Tensor:
        assert self.control
        active = _Step.apply(pre.detach(), self._thresholds(feature), self.bandwidth)
        return self.control.coefficient * active.sum()

    def after_step(self) -> None:
        assert self.control
        self.parameters["log_threshold"] += LEVEL * self.control.error

    def threshold(self) -> Tensor:
        return self.parameters["log_threshold"].detach().exp()

    def _thresholds(self, feature: Tensor | None) -> Tensor:
        thresholds = self.parameters["log_threshold"].exp()
        return thresholds if feature is None else thresholds[feature]


class _Jump(torch.autograd.Function):
    """v where v > t, else 0. Straight through: d/dt = -t / bandwidth where |v - t| < bandwidth / 2."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, t: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(v, t)
        ctx.bandwidth = bandwidth
        return v * (v > t)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        v, t = ctx.saved_tensors
        near = (v - t).abs() < ctx.bandwidth / 2
        return grad * (v > t), _like(-grad * near * t / ctx.bandwidth, t), None


class _Step(torch.autograd.Function):
    """1 where v > t, else 0. Straight through: d/dt = -1 / bandwidth where |v - t| < bandwidth / 2."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, t: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(v, t)
        ctx.bandwidth = bandwidth
        return (v > t).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        v, t = ctx.saved_tensors
        near = (v - t).abs() < ctx.bandwidth / 2
        return None, _like(-grad * near / ctx.bandwidth, t), None


def _like(grad: Tensor, t: Tensor) -> Tensor:
    """The gradient of thresholds [n_features] from that of all entries [n, n_features]; that of pairs as it is."""
    return grad.sum(0) if grad.ndim > t.ndim else grad


VARIANTS: dict[VariantName, type[Variant]] = {
    "topk": TopK,
    "batchtopk": BatchTopK,
    "relu": ReLU,
    "jumprelu": JumpReLU,
    "matryoshka": BatchTopK,  # what is nested is the loss, see ``prefix_groups``
}
"""Every activation by its name."""


def prefix_groups(n_features: int, n_prefixes: int) -> Int[Tensor, " n_features"]:
    """Of each feature the first of the nested prefixes that holds it; each prefix is twice as long as the one before."""
    ends = [n_features >> (n_prefixes - 1 - i) for i in range(n_prefixes)]
    return torch.bucketize(torch.arange(n_features), torch.tensor(ends), right=True)


def codes_in_use(
    pre: Float[Tensor, "n n_features"], variant: VariantName, k: int, threshold: Float[Tensor, " n_features"] | None
) -> Float[Tensor, "n n_features"]:
    """The codes of rows one by one, as the trained autoencoder gives them: no row depends on the rows beside it."""
    if variant == "topk":
        values, indices = pre.topk(k, dim=1, sorted=False)
        return torch.zeros_like(pre).scatter_(1, indices, values.relu())
    return pre.relu() if threshold is None else pre * (pre > threshold)
