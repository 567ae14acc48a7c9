"""z = relu(the k n largest entries of the pre-activations of n rows); arXiv 2412.06410.

A batch's choice cannot be made for a row alone, so one inference threshold is kept: the mean over batches of the least active
value, exponentially weighted (equation 4 takes the plain mean).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.sae.kernels import kth_largest, largest_of_batch
from interp.decomposers.sae.variants.base import Selection, Variant, inference_threshold_codes
from interp.distributed import world

THRESHOLD_DECAY = 0.99
"""Weight that the inference threshold keeps from batch to batch."""


class BatchTopK(Variant):
    """As many as k a row, the largest of the batch; over all processes where there are several."""

    name = "batchtopk"
    has_k = True

    def __init__(self, **given: Any):
        super().__init__(**given)
        # the least active value of the last batch; the inference threshold, and how much of it has been seen
        self.state |= {"last_least": torch.zeros(()), "least": torch.zeros(()), "least_weight": torch.zeros(())}

    def select(self, pre: Float[Tensor, "n n_features"]) -> Selection:
        processes, n_active = world(), self.k * len(pre)
        entries, least = largest_of_batch(pre, n_active * processes.size, 0.9 * float(self.state["last_least"]))
        if processes.size > 1:  # every process knows its own largest, so together they know those of the whole batch
            values = torch.zeros(processes.size, len(entries), device=pre.device)
            values[processes.rank] = pre.view(-1)[entries]
            processes.sum(values)
            least = kth_largest(values.flatten(), n_active * processes.size)
            entries = entries[pre.view(-1)[entries] >= least]
        return Selection(entries, max(least, 0.0))

    def after_step(self, selection: Selection) -> None:
        self.state["last_least"].fill_(selection.least)
        self.state["least"].lerp_(torch.tensor(selection.least), 1 - THRESHOLD_DECAY)
        self.state["least_weight"].lerp_(torch.ones(()), 1 - THRESHOLD_DECAY)

    def saved(self, scale: float = 1.0) -> dict[str, Tensor]:
        least = self.state["least"] / self.state["least_weight"].clamp_min(1e-30)
        return {"threshold": least.repeat(self.n_features) / scale}

    @classmethod
    def cut(cls, tensors: Mapping[str, Tensor], least: float) -> dict[str, Tensor]:
        return {"threshold": torch.full_like(tensors["threshold"], least)}

    @classmethod
    def codes(
        cls, pre: Float[Tensor, "n n_features"], k: int, tensors: Mapping[str, Tensor]
    ) -> Float[Tensor, "n n_features"]:
        return inference_threshold_codes(pre, tensors["threshold"])
