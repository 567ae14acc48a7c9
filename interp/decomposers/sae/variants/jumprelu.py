"""z = pre where pre > threshold, else 0, with the penalty coefficient * number of z > 0; arXiv 2407.14435.

Each feature has a threshold of its own, learned through straight-through estimates (equations 11 and 12). Thresholds begin
where the rows given have the target's number of active codes, so that the first steps are already those of a sparse
autoencoder. They are learned as logarithms: always positive, moved by shares of themselves. A target L0 also moves them all
together: to a coefficient that is controlled alone they answer too late, and where the error without any penalty makes fewer
codes active than wanted, not at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.sae.kernels import kth_largest
from interp.decomposers.sae.variants.base import Batch, Selection, Variant, inference_threshold_codes
from interp.errors import InputError

LEAST_THRESHOLD = 1e-3
"""Least threshold that training begins with."""
LEVEL = 0.05
"""What the logarithms of thresholds move by in a step, in logarithms of L0 / target."""


@dataclass(frozen=True)
class JumpReLUOptions:
    """Options of jumprelu."""

    bandwidth: float = 0.5
    """jumprelu: width of the window in which thresholds feel a gradient, in units of an activation's root mean square."""

    def __post_init__(self) -> None:
        if self.bandwidth <= 0:
            raise InputError("bandwidth must be above 0")


class JumpReLU(Variant):
    """A threshold for each feature."""

    name = "jumprelu"
    has_penalty = True

    def __init__(self, **given: Any):
        super().__init__(**given)
        pre = given["pre"]
        n_active = max(1, min(pre.numel(), round((self.control.target or self.k) * len(pre))))
        least = max(kth_largest(pre.flatten(), n_active), LEAST_THRESHOLD)
        self._bandwidth: float = self.options.bandwidth
        self.parameters = {"log_threshold": torch.full_like(pre[0], math.log(least)).requires_grad_()}

    def select(self, pre: Float[Tensor, "n n_features"]) -> Selection:
        return self.above(pre, (self._threshold().detach() - self._bandwidth / 2).clamp_min(0))

    def activate(self, batch: Batch) -> Float[Tensor, "*_"]:
        return _Jump.apply(batch.pre, batch.of_features(self._threshold()), self._bandwidth)

    def penalty(self, z: Float[Tensor, "*_"], batch: Batch) -> Float[Tensor, ""]:
        active = _Step.apply(batch.pre.detach(), batch.of_features(self._threshold()), self._bandwidth)
        return self.control.coefficient * active.sum()

    def after_step(self, selection: Selection) -> None:
        self.parameters["log_threshold"] += LEVEL * self.control.error

    def saved(self, scale: float = 1.0) -> dict[str, Tensor]:
        return {"threshold": self._threshold().detach() / scale}

    @classmethod
    def cut(cls, tensors: Mapping[str, Tensor], least: float) -> dict[str, Tensor]:
        return {"threshold": torch.full_like(tensors["threshold"], least)}

    @classmethod
    def codes(
        cls, pre: Float[Tensor, "n n_features"], k: int, tensors: Mapping[str, Tensor]
    ) -> Float[Tensor, "n n_features"]:
        return inference_threshold_codes(pre, tensors["threshold"])

    def _threshold(self) -> Float[Tensor, " n_features"]:
        return self.parameters["log_threshold"].exp()


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


def _like(grad: Float[Tensor, "*entries"], t: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """The gradient of thresholds [n_features] from that of all entries [n, n_features]; that of pairs as it is."""
    return grad.sum(0) if grad.ndim > t.ndim else grad
