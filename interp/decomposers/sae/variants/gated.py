"""Gated sparse autoencoders; arXiv 2404.16014. A gate chooses the active features, a magnitude of its own says how much:

    pi_gate = pre = (x - b_dec) W_enc^T + b_enc
    pi_mag  = exp(r_mag) * (pre - b_enc) + b_mag           the gate's weights, scaled by feature (section 3.2, equation 6)
    z       = [pi_gate > 0] relu(pi_mag)                   equation 5
    penalty = coefficient * sum_i relu(pi_gate)_i          equation 8, whose
              + |x - (relu(pi_gate) W_dec + b_dec)|^2       last term leaves W_dec and b_dec as they are

The step of the gate has no gradient, so the gate learns from the penalty alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.sae.variants.base import Batch, Selection, Variant


class Gated(Variant):
    """Features are chosen by a gate, so that keeping them few does not shrink their codes."""

    name = "gated"
    has_penalty = True

    def __init__(self, **given: Any):
        super().__init__(**given)
        nothing = torch.zeros_like(given["pre"][0])
        self.parameters = {name: nothing.clone().requires_grad_() for name in ("r_mag", "b_mag")}

    def select(self, pre: Float[Tensor, "n n_features"]) -> Selection:
        return self.above(pre, 1e-30)

    def activate(self, batch: Batch) -> Float[Tensor, "*_"]:
        p = batch.parameters
        without_bias = batch.pre - batch.of_features(p["b_enc"])
        magnitude = batch.of_features(p["r_mag"].exp()) * without_bias + batch.of_features(p["b_mag"])
        return (batch.pre.detach() > 0) * magnitude.relu()

    def penalty(self, z: Float[Tensor, "*_"], batch: Batch) -> Float[Tensor, ""]:
        gate = batch.pre.relu()
        by_gate = batch.decoded(gate, batch.parameters["W_dec"].detach())
        return self.control.coefficient * gate.sum() + (batch.centred - by_gate).square().sum()

    def saved(self, scale: float = 1.0) -> dict[str, Tensor]:
        return {"r_mag": self.parameters["r_mag"].detach(), "b_mag": self.parameters["b_mag"].detach() / scale}

    @classmethod
    def codes(
        cls, pre: Float[Tensor, "n n_features"], k: int, tensors: Mapping[str, Tensor]
    ) -> Float[Tensor, "n n_features"]:
        magnitude = tensors["r_mag"].exp() * (pre - tensors["b_enc"]) + tensors["b_mag"]
        return (pre > 0) * magnitude.relu()
