"""A sparse autoencoder in training: its loss, the sphere its decoder's rows stay on, and what is logged of it.

    loss = mean over tokens of |x - x^|^2, summed over d_in   + the variant's penalty per token   + the auxiliary loss

Activations are multiplied by one factor, so that their mean norm is sqrt(d_in); the factor is folded into the finished
weights, which work on raw activations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.decomposers.base import checked_moments
from interp.decomposers.sae.config import SparseConfig
from interp.decomposers.sae.dead_features import auxiliary_error, dead_after, resample
from interp.decomposers.sae.initialisation import best_scale
from interp.decomposers.sae.kernels import encode_all, encode_pairs, has_fast_bfloat16, pre_activations
from interp.decomposers.sae.l0_control import L0Control
from interp.decomposers.sae.row_sparse_adam import RowSparseAdam
from interp.decomposers.sae.variants import VARIANTS
from interp.decomposers.sae.variants.base import Batch, Selection
from interp.distributed import world
from interp.records import Notes
from interp.store.source import ActivationSource

CHUNK = 512
"""Rows measured at a time."""
N_WORST = 256
"""Rows of a batch, those with the largest error, that dead features may be replaced by."""
OWN_RATE = 10
"""Rate of a variant's own parameters, in rates of the weights: logarithms go far, and Adam moves by one rate a step."""
ROWS_TO_BEGIN = 2048
"""Rows that the encoder's scale and a variant's own parameters begin by."""
ROWS_TO_COUNT = 16_384
"""Rows that features must fire on before the first step not to be called silent. Of 8192 features with a k of 8 one fires on
16 of them on average: of features that fire alike, none would be silent by chance."""


def rows_to_begin(source: ActivationSource, seed: int, at_most: int = ROWS_TO_BEGIN) -> Float[Tensor, "n d_in"]:
    """Some rows drawn at random, in the source's order."""
    some = np.random.default_rng(seed).choice(len(source), min(len(source), at_most), replace=False)
    return source.rows(np.sort(some))


@dataclass(frozen=True)
class SeenByStep:
    """What the loss of a batch saw, for the counters that are changed after the step."""

    selection: Selection
    fired: Int[Tensor, " n_features"]
    """Rows of this process's share of the batch on which each feature fired."""
    n_rows: int
    worst: Float[Tensor, "n d_in"] | None
    """Where dead features are resampled: the centred rows of largest error."""


class TrainableSAE:
    """The parameters in training, for activations scaled by ``scale``; on the GPU where there is one.

    The encoder begins as ``directions`` times ``encoder_scale``; auto is the scale at which some rows are reconstructed best.
    A frozen decoder keeps ``directions``, unit rows, to the bit: it has no gradient and belongs to no optimiser.
    """

    def __init__(
        self,
        source: ActivationSource,
        config: SparseConfig,
        directions: Float[Tensor, "n_features d_in"],
        *,
        encoder_scale: float | Literal["auto"],
        is_decoder_frozen: bool = False,
        notes: Notes | None = None,
        kept: dict[str, Tensor] | None = None,
    ):
        moments = checked_moments(source)
        n = config.n_features
        self.config, self._kept = config, kept or {}
        self.scale = math.sqrt(source.d_in) / moments.mean_norm
        rows = rows_to_begin(source, config.seed)
        self.device = torch.device("cuda") if torch.cuda.is_available() else rows.device
        self._bfloat16 = config.arithmetic.encoder == "bfloat16" and has_fast_bfloat16(self.device)
        b_dec = torch.from_numpy(moments.mean).float() * self.scale
        if encoder_scale == "auto":
            encoder_scale = best_scale(self.scale * rows.cpu() - b_dec, directions, config.target_l0 or config.k)
        weights = {
            "W_enc": encoder_scale * directions,
            "b_enc": torch.zeros(n),
            "W_dec": directions,
            "b_dec": b_dec,
        }
        self.parameters = {name: tensor.to(self.device).requires_grad_() for name, tensor in weights.items()}
        self._is_decoder_frozen = is_decoder_frozen
        self.parameters["W_dec"].requires_grad_(not is_decoder_frozen)
        self._control: L0Control | None = None
        if VARIANTS[config.variant].has_penalty:
            fixed = config.variant_options.coefficient or 1.0
            self._control = L0Control(target=config.target_l0, fixed=fixed)
        self.variant = VARIANTS[config.variant](
            n_features=n,
            k=config.k,
            options=config.variant_options,
            control=self._control,
            pre=self._pre_activations(self._centred(rows.to(self.device))),
        )
        self.parameters |= self.variant.parameters
        self.state = {
            "tokens_since_fired": torch.zeros(n, dtype=torch.int64, device=self.device),
            "steps": torch.zeros((), dtype=torch.int64),
            **self.variant.state,
            **(self._control.state if self._control else {}),
        }
        self._dead_after = dead_after(config.dead_features, config.tokens)
        self._optimizers: list[torch.optim.Optimizer] = []
        self._workspace: Tensor | None = None
        self.notes: Notes = {"encoder_scale": round(encoder_scale, 4), **(notes or {})}

    @torch.no_grad()
    def note_start(self, source: ActivationSource) -> None:
        """Note first which share of the features is silent before the first step: fires on none of some rows."""
        rows = rows_to_begin(source, self.config.seed, ROWS_TO_COUNT).to(self.device)
        n_fired = torch.zeros(self.config.n_features, dtype=torch.int64, device=self.device)
        for some in rows.split(ROWS_TO_BEGIN):
            centred = self._centred(some)
            _, batch, z = self._codes(centred, self._pre_activations(centred))
            n_fired += self._n_fired(batch, z)
        self.notes = {"silent_at_start": round(float((n_fired == 0).float().mean()), 4), **self.notes}

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam; the variant's own parameters at ``OWN_RATE`` times the rate."""
        learned_by_row = ("W_enc", "b_enc") if self._is_decoder_frozen else ("W_enc", "b_enc", "W_dec")
        by_row = [self.parameters[name] for name in learned_by_row]
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

    def loss(self, x: Float[Tensor, "batch d_in"]) -> tuple[Float[Tensor, ""], SeenByStep]:
        """Mean loss over the rows, and what is counted of them. Changes nothing but a buffer."""
        p, n = self.parameters, self.config.n_features
        centred = self._centred(x.to(self.device))
        if self._workspace is None or len(self._workspace) != len(x):
            self._workspace = torch.empty(len(x), n, device=self.device)
        pre = self._pre_activations(centred, out=self._workspace, bfloat16=self._bfloat16)
        selection, batch, z = self._codes(centred, pre)
        # x^ and x are compared with b_dec taken off both; what is added is zero, with the gradient of b_dec
        decoded = self.variant.decode(z, batch) + (p["b_dec"] - p["b_dec"].detach())
        loss = F.mse_loss(decoded, centred.expand_as(decoded), reduction="sum") / (decoded.numel() // x.numel())
        worst, options = None, self.config.dead_features
        if options.aux_k or options.resample_every:
            error = centred - decoded.detach().view(-1, *x.shape)[-1]
            if options.resample_every:
                worst = centred[error.square().sum(1).topk(min(len(error), N_WORST)).indices]
            loss = loss + self._auxiliary_loss(centred, error)
        penalty = self.variant.penalty(z, batch)
        if penalty is not None:
            loss = loss + penalty
        return loss / len(x), SeenByStep(selection, self._n_fired(batch, z), len(x), worst)

    def _codes(
        self, centred: Float[Tensor, "n d_in"], pre: Float[Tensor, "n n_features"]
    ) -> tuple[Selection, Batch, Float[Tensor, "*_"]]:
        """(what was selected, what the variant sees, codes of the shape of ``Batch.pre``), of rows in training."""
        p, selection = self.parameters, self.variant.select(pre)
        if selection.entries is None:
            batch = Batch(centred, p, encode_all(centred, p["W_enc"], p["b_enc"], p["b_dec"], pre), None)
        else:
            pairs = self.variant.pairs(selection.entries, len(centred))
            values = encode_pairs(centred, p["W_enc"], p["b_enc"], p["b_dec"], pre, pairs)
            batch = Batch(centred, p, values, pairs)
        return selection, batch, self.variant.activate(batch)

    def _n_fired(self, batch: Batch, z: Float[Tensor, "*_"]) -> Int[Tensor, " n_features"]:
        """Rows of the batch on which each feature fires."""
        is_active = z.detach() > 0
        if batch.pairs is None:
            return is_active.sum(0)
        return torch.bincount(batch.pairs.feature[is_active], minlength=self.config.n_features)

    def _auxiliary_loss(
        self, centred: Float[Tensor, "n d_in"], error: Float[Tensor, "n d_in"]
    ) -> Float[Tensor, ""] | float:
        """Of the dead features, summed over the batch."""
        options, dead = self.config.dead_features, self._is_dead().nonzero().squeeze(1)
        if not options.aux_k or not len(dead):
            return 0.0
        return options.aux_weight * auxiliary_error(centred, error, self.parameters, dead, options.aux_k)

    def before_step(self) -> None:
        """Take the part of the decoder's gradient along each row off: it would only change the row's norm."""
        if self._is_decoder_frozen:
            return
        rows, gradient = self.parameters["W_dec"].detach(), self.parameters["W_dec"].grad
        assert gradient is not None
        gradient.addcmul_(torch.linalg.vecdot(gradient, rows)[:, None], rows, value=-1)

    def after_step(self, seen: SeenByStep) -> None:
        """Count what fired in the whole batch, and put the decoder's rows back on the sphere."""
        processes = world()
        processes.sum(seen.fired)
        n_rows = seen.n_rows * processes.size
        self.state["tokens_since_fired"] += n_rows
        self.state["tokens_since_fired"][seen.fired > 0] = 0
        if self._control:
            self._control.update(float(seen.fired.sum()) / n_rows)
        if not self._is_decoder_frozen:
            rows = self.parameters["W_dec"]
            rows /= rows.norm(dim=1, keepdim=True)
        self.variant.after_step(seen.selection)
        self.state["steps"] += 1
        steps, every = int(self.state["steps"]), self.config.dead_features.resample_every // self.config.batch
        if every and steps % every == 0 and seen.worst is not None:
            self._resample(seen.worst)
        if self._control and steps == round(self.config.steps * (1 - self.config.schedule.cooldown)):
            self._control.check_reach(steps)

    def _is_dead(self) -> Bool[Tensor, " n_features"]:
        return self.state["tokens_since_fired"] >= self._dead_after

    def _resample(self, worst: Float[Tensor, "n d_in"]) -> None:
        is_dead = self._is_dead()
        n_dead = int(is_dead.sum())
        if n_dead == 0:
            return
        rows = worst[torch.arange(n_dead, device=self.device) % len(worst)]
        world().broadcast(rows)
        resample(self.parameters, self._optimizers, is_dead, rows)
        self.state["tokens_since_fired"][is_dead] = 0

    @torch.no_grad()
    def measure(self, x: Float[Tensor, "n d_in"]) -> dict[str, float]:
        """Of the codes at inference: FVU, L0, the share of codes that are active; and of the training, the features dead."""
        x = self._centred(x.to(self.device))
        tensors = {**self.parameters, **{name: t.to(self.device) for name, t in self.variant.saved().items()}}
        error = active = 0.0
        for rows in x.split(CHUNK):
            z = self.variant.codes(self._pre_activations(rows), self.config.k, tensors)
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
        return {
            "W_enc": p["W_enc"].T.contiguous(),
            "b_enc": p["b_enc"] / self.scale,
            "W_dec": p["W_dec"],
            "b_dec": p["b_dec"] / self.scale,
            **{name: tensor.cpu() for name, tensor in self.variant.saved(self.scale).items()},
            **self._kept,
        }

    def _centred(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_in"]:
        """Scaled rows less b_dec, in one pass, without a graph."""
        return torch.add(-self.parameters["b_dec"].detach(), x, alpha=self.scale)

    def _pre_activations(
        self,
        centred: Float[Tensor, "n d_in"],
        *,
        out: Float[Tensor, "n n_features"] | None = None,
        bfloat16: bool = False,
    ) -> Float[Tensor, "n n_features"]:
        p = self.parameters
        return pre_activations(centred, p["W_enc"], p["b_enc"], out=out, bfloat16=bfloat16)
