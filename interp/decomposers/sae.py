"""Sparse autoencoder with a TopK activation (Makhzani and Frey 2013, arXiv 1312.5663; Gao et al. 2024, arXiv 2406.04093).

    pre = (x - b_dec) W_enc + b_enc
    z   = relu(the k largest entries of each row of pre, the rest zero)
    x^  = z W_dec + b_dec                          rows of W_dec have unit norm
    loss = mean over tokens of |x - x^|^2, summed over d_in

Training sees activations multiplied by one factor, so that their mean norm is sqrt(d_in); the factor is folded into the saved
weights, which work on raw activations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.base import LinearDecomposer, moments_to_learn, register
from interp.decomposers.sparse_kernels import top_k, topk_autoencode
from interp.errors import InputError
from interp.fitting import Recorder, Silent
from interp.store import ActivationSource
from interp.training import GradientConfig, train


@dataclass(frozen=True)
class SAEConfig(GradientConfig):
    """Options of the TopK sparse autoencoder."""

    n_features: int = 2048
    """Number of features; 8 times the width of the bundled model's residual stream."""
    k: int = 32
    """Features allowed to fire on one token."""
    lr: float = 1e-3
    """Adam's learning rate at its height, for activations scaled to a mean norm of sqrt(d_in)."""
    # Measured at blocks.2.hook_resid_post of the bundled model (17 000 rows; FVU on 3 000 others / features that never fire):
    # 300 000 tokens: 1e-3 .149 / 0 %, 2e-3 .134 / 4 %, 3e-3 .129 / 16 %, 6e-3 .124 / 51 %; 800 000 tokens: 1e-3 .133 / 0 %,
    # 2e-3 .131 / 5 %. The gain of a higher rate shrinks with the length of the training, the dead features stay.

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.k <= self.n_features:
            raise InputError(f"k is {self.k}, but it must lie between 1 and the number of features, {self.n_features}")


@register
class SAE(LinearDecomposer):
    """A trained TopK sparse autoencoder; tensors W_enc [d_in, n_features], W_dec [n_features, d_in], b_enc, b_dec."""

    kind = "sae"
    config_type = SAEConfig
    config: SAEConfig

    @classmethod
    def fit(cls, source: ActivationSource, config: SAEConfig, recorder: Recorder | None = None) -> SAE:
        """Train by gradient descent; see ``interp.training.train``."""
        trainee = _Trainee(source, config)
        train(trainee, source, config, recorder or Silent())
        return cls(config, trainee.folded())

    def encode(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_features"]:
        """Codes with at most k entries above zero a row."""
        pre = torch.addmm(self.tensors["b_enc"], x - self.b_dec, self.tensors["W_enc"])
        values, indices = top_k(pre, self.config.k)
        return torch.zeros_like(pre).scatter_(1, indices, values)


class _Trainee:
    """The parameters in training, for activations scaled by ``scale``."""

    def __init__(self, source: ActivationSource, config: SAEConfig):
        moments = moments_to_learn(source)
        d_in = source.d_in
        self.k = config.k
        self.scale = math.sqrt(d_in) / moments.mean_norm
        self.variance = moments.total_variance * self.scale**2
        generator = torch.Generator().manual_seed(config.seed)
        W_dec = F.normalize(torch.randn(config.n_features, d_in, generator=generator), dim=1)
        self.parameters = {
            "W_enc": W_dec.clone().requires_grad_(),
            "b_enc": torch.zeros(config.n_features, requires_grad=True),
            "W_dec": W_dec.requires_grad_(),
            "b_dec": (torch.from_numpy(moments.mean).float() * self.scale).requires_grad_(),
        }
        # tokens since each feature last fired: a feature silent for a pass over the store is counted dead
        self.state = {"silent_for": torch.zeros(config.n_features, dtype=torch.int64)}
        self._dead_after = min(len(source), 10_000_000)
        self._error = self._l0 = 0.0

    def loss(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, ""]:
        x = x * self.scale
        p = self.parameters
        decoded, values, indices = topk_autoencode(x, p["W_enc"], p["b_enc"], p["W_dec"], p["b_dec"], self.k)
        with torch.no_grad():
            fired = indices[values > 0]
            self.state["silent_for"] += len(x)
            self.state["silent_for"][fired] = 0
            self._l0 = len(fired) / len(x)
        loss = (decoded - x).square().sum() / len(x)
        self._error = float(loss.detach())
        return loss

    def before_step(self) -> None:
        """Take the part of the decoder's gradient along each row off: it would only change the row's norm."""
        rows, gradient = self.parameters["W_dec"].detach(), self.parameters["W_dec"].grad
        assert gradient is not None
        gradient.addcmul_(torch.linalg.vecdot(gradient, rows)[:, None], rows, value=-1)

    def after_step(self) -> None:
        rows = self.parameters["W_dec"]
        rows /= rows.norm(dim=1, keepdim=True)

    def measure(self, x: Float[Tensor, "batch d_in"]) -> dict[str, float]:
        dead = int((self.state["silent_for"] >= self._dead_after).sum())
        return {"fvu": self._error / self.variance, "l0": self._l0, "dead": dead}

    def folded(self) -> dict[str, Tensor]:
        """The weights for raw activations: codes come out in raw units, so that W_dec keeps unit rows."""
        p = {name: tensor.detach().clone() for name, tensor in self.parameters.items()}
        return {
            "W_enc": p["W_enc"].T.contiguous(),
            "b_enc": p["b_enc"] / self.scale,
            "W_dec": p["W_dec"],
            "b_dec": p["b_dec"] / self.scale,
        }
