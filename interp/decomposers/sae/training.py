"""A sparse autoencoder in training: its loss, the sphere its decoder's rows stay on, and what is logged of it.

    loss = mean over tokens of |x - x^|^2, summed over d_in   + the variant's penalty per token   + the auxiliary loss

For matryoshka |x - x^|^2 is the mean over the nested prefixes of the features (2503.17547 takes the sum; the mean has the
scale of the other variants). Activations are multiplied by one factor, so that their mean norm is sqrt(d_in); the factor is
folded into the finished weights, which work on raw activations.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.decomposers.base import moments_to_learn
from interp.decomposers.sae.config import STEERED, SparseConfig
from interp.decomposers.sae.dead_features import auxiliary_error, resample
from interp.decomposers.sae.kernels import (
    Pairs,
    decode_pairs,
    encode_all,
    encode_pairs,
    has_fast_bfloat16,
    pre_activations,
)
from interp.decomposers.sae.l0_control import L0Control
from interp.decomposers.sae.row_sparse_adam import RowSparseAdam
from interp.decomposers.sae.variants import VARIANTS, codes_in_use, prefix_groups
from interp.distributed import world
from interp.store.source import ActivationSource

CHUNK = 512
"""Rows measured at a time."""
N_WORST = 256
"""Rows of a batch that dead features may begin anew at, those with the largest error."""
OWN_RATE = 10
"""Rate of thresholds, in rates of the weights: their logarithms have some way to go, and Adam moves by a rate a step."""
ROWS_TO_BEGIN = 2048
"""Rows that first thresholds are set by."""


class SparseTrainee:
    """The parameters in training, for activations scaled by ``scale``; on the GPU where there is one."""

    def __init__(
        self,
        source: ActivationSource,
        config: SparseConfig,
        directions: Float[Tensor, "n_features d_in"],
        *,
        encoder_scale: float,
        notes: dict[str, Any] | None = None,
        kept: dict[str, Tensor] | None = None,
    ):
        moments = moments_to_learn(source)
        n = config.n_features
        self.config, self.notes, self._kept = config, notes or {}, kept or {}
        self.scale = math.sqrt(source.d_in) / moments.mean_norm
        some = np.random.default_rng(config.seed).choice(len(source), min(len(source), ROWS_TO_BEGIN), replace=False)
        rows = source.rows(np.sort(some))
        self.device = torch.device("cuda") if torch.cuda.is_available() else rows.device
        self._bfloat16 = config.arithmetic.encoder == "bfloat16" and has_fast_bfloat16(self.device)
        weights = {
            "W_enc": encoder_scale * directions,
            "b_enc": torch.zeros(n),
            "W_dec": directions,
            "b_dec": torch.from_numpy(moments.mean).float() * self.scale,
        }
        self.parameters = {name: tensor.to(self.device).requires_grad_() for name, tensor in weights.items()}
        self._control = _control(config)
        self.variant = VARIANTS[config.variant](
            config, self._control, self._pre_activations(self._centred(rows.to(self.device)))
        )
        self.parameters |= self.variant.parameters
        self.state = {
            "silent_for": torch.zeros(n, dtype=torch.int64, device=self.device),  # tokens since each feature fired
            "steps": torch.zeros((), dtype=torch.int64),
            **self.variant.state,
            **(self._control.state if self._control else {}),
        }
        self._dead_after = config.revival.dead_after or min(len(source), 10_000_000)
        self._groups: Int[Tensor, " n_features"] | None = None
        if config.variant == "matryoshka":
            self._groups = prefix_groups(n, config.variant_options.prefixes).to(self.device)
        self._optimizers: list[torch.optim.Optimizer] = []
        self._workspace: Tensor | None = None
        self._worst: Tensor | None = None

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam; the variant's own parameters at ``OWN_RATE`` times the rate."""
        by_row = [self.parameters[name] for name in ("W_enc", "b_enc", "W_dec")]
        others: list[dict[str, Any]] = [{"params": [self.parameters["b_dec"]]}]
        if self.variant.parameters:
            own = [self.parameters[name] for name in self.variant.parameters]
            others.append({"params": own, "lr": OWN_RATE * self.config.lr})
        if self.config.arithmetic.adam == "dense":
            groups = [{"params": by_row}, *others]
            self._optimizers = [torch.optim.Adam(groups, lr=self.config.lr, fused=True)]
        else:
            adam = torch.optim.Adam(others, lr=self.config.lr, fused=True)
            self._optimizers = [RowSparseAdam(by_row, lr=self.config.lr), adam]
        return self._optimizers

    def loss(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, ""]:
        centred = self._centred(x.to(self.device))
        if self._workspace is None or len(self._workspace) != len(x):
            self._workspace = torch.empty(len(x), self.config.n_features, device=self.device)
        pre = self._pre_activations(centred, out=self._workspace, bfloat16=self._bfloat16)
        flat = self.variant.select(pre)
        decoded, penalty, fired = self._dense(centred, pre) if flat is None else self._sparse(centred, pre, flat)
        loss = F.mse_loss(decoded, centred.expand_as(decoded), reduction="sum") / (decoded.numel() // x.numel())
        if self.config.revival.aux_k or self.config.revival.resample_every:
            loss = loss + self._revive(centred, centred - decoded.detach().view(-1, *x.shape)[-1])
        if penalty is not None:
            loss = loss + penalty
        self._take_notice(fired, len(x))
        return loss / len(x)

    def _sparse(self, centred: Tensor, pre: Tensor, flat: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """(x^ - b_dec, or one for each prefix; the penalty summed over the batch; how often each feature fired)."""
        p, n = self.parameters, self.config.n_features
        pairs = Pairs.of_rows(flat, len(centred), n)
        if self._groups is not None:
            pairs = pairs.grouped(self._groups, self.config.variant_options.prefixes)
        values = encode_pairs(centred, p["W_enc"], p["b_enc"], p["b_dec"], pre, pairs)
        z = self.variant.activate(values, pairs.feature)
        sums = decode_pairs(z, p["W_dec"], pairs)
        if self._groups is not None:
            sums = sums.view(-1, *centred.shape).cumsum(0)
        fired = torch.bincount(pairs.feature[z.detach() > 0], minlength=n)
        return sums + self._zero(), self.variant.penalty(z, values, pairs.feature), fired

    def _dense(self, centred: Tensor, pre: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """The same with all products in full."""
        p = self.parameters
        values = encode_all(centred, p["W_enc"], p["b_enc"], p["b_dec"], pre)
        z = self.variant.activate(values, None)
        return torch.addmm(self._zero(), z, p["W_dec"]), self.variant.penalty(z, values, None), (z > 0).sum(0)

    def _zero(self) -> Float[Tensor, " d_in"]:
        """Zeros with the gradient of b_dec: x^ and x are compared with b_dec taken off both."""
        b_dec = self.parameters["b_dec"]
        return b_dec - b_dec.detach()

    def _centred(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_in"]:
        """Scaled rows less b_dec, in one pass, without a graph."""
        return torch.add(-self.parameters["b_dec"].detach(), x, alpha=self.scale)

    def _revive(self, centred: Tensor, error: Tensor) -> Tensor | float:
        """The auxiliary loss summed over the batch, and a note of the rows that dead features may begin anew at."""
        revival = self.config.revival
        if revival.resample_every:
            self._worst = centred[error.square().sum(1).topk(min(len(error), N_WORST)).indices]
        dead = self._is_dead().nonzero().squeeze(1)
        if not revival.aux_k or not len(dead):
            return 0.0
        return revival.aux_weight * auxiliary_error(centred, error, self.parameters, dead, revival.aux_k)

    def _take_notice(self, fired: Int[Tensor, " n_features"], n_rows: int) -> None:
        """Count the tokens that each feature has been silent for, and let the variant see the L0, both of the whole batch."""
        peers = world()
        peers.sum(fired)
        self.state["silent_for"] += n_rows * peers.size
        self.state["silent_for"][fired > 0] = 0
        if self._control:
            self._control.update(float(fired.sum()) / (n_rows * peers.size))

    def _is_dead(self) -> Bool[Tensor, " n_features"]:
        return self.state["silent_for"] >= self._dead_after

    def before_step(self) -> None:
        """Take the part of the decoder's gradient along each row off: it would only change the row's norm."""
        rows, gradient = self.parameters["W_dec"].detach(), self.parameters["W_dec"].grad
        assert gradient is not None
        gradient.addcmul_(torch.linalg.vecdot(gradient, rows)[:, None], rows, value=-1)

    def after_step(self) -> None:
        rows = self.parameters["W_dec"]
        rows /= rows.norm(dim=1, keepdim=True)
        self.variant.after_step()
        self.state["steps"] += 1
        steps, every = int(self.state["steps"]), self.config.revival.resample_every // self.config.batch
        if every and steps % every == 0:
            self._resample()
        if self._control and steps == round(self.config.steps * (1 - self.config.schedule.cooldown)):
            self._control.check_reach(steps)

    def _resample(self) -> None:
        is_dead = self._is_dead()
        n_dead = int(is_dead.sum())
        if n_dead == 0 or self._worst is None:
            return
        rows = self._worst[torch.arange(n_dead, device=self.device) % len(self._worst)]
        world().share(rows)
        resample(self.parameters, self._optimizers, is_dead, rows)
        self.state["silent_for"][is_dead] = 0

    @torch.no_grad()
    def measure(self, x: Float[Tensor, "n d_in"]) -> dict[str, float]:
        """Of the codes in use: FVU, L0, the share of codes that are active; and of the training, the features dead."""
        x = self._centred(x.to(self.device))
        threshold = self.variant.threshold()
        error = active = 0.0
        for rows in x.split(CHUNK):
            z = codes_in_use(self._pre_activations(rows), self.config.variant, self.config.k, threshold)
            error += float((z @ self.parameters["W_dec"] - rows).square().sum())
            active += float((z > 0).sum())
        l0 = active / len(x)
        measured = {"fvu": error / float((x - x.mean(0)).square().sum()), "l0": l0}
        measured |= {"density": l0 / self.config.n_features}
        measured |= {"dead": int(self._is_dead().sum())}
        return measured | ({"coefficient": self._control.coefficient} if self._control else {})

    def finished(self) -> dict[str, Tensor]:
        """The weights for raw activations: codes come out in raw units, so that W_dec keeps unit rows."""
        p = {name: tensor.detach().cpu().clone() for name, tensor in self.parameters.items()}
        threshold = self.variant.threshold()
        return {
            "W_enc": p["W_enc"].T.contiguous(),
            "b_enc": p["b_enc"] / self.scale,
            "W_dec": p["W_dec"],
            "b_dec": p["b_dec"] / self.scale,
            **({} if threshold is None else {"threshold": threshold.cpu() / self.scale}),
            **self._kept,
        }

    def _pre_activations(self, centred: Tensor, *, out: Tensor | None = None, bfloat16: bool = False) -> Tensor:
        p = self.parameters
        return pre_activations(centred, p["W_enc"], p["b_enc"], out=out, bfloat16=bfloat16)


def _control(config: SparseConfig) -> L0Control | None:
    """What holds the L0 of relu and jumprelu."""
    if config.variant not in STEERED:
        return None
    return L0Control(target=config.target_l0, fixed=config.variant_options.coefficient or 1.0)
