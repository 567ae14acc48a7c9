"""z = relu(the k largest entries of each row of pre); arXiv 1312.5663 and 2406.04093."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.sae.kernels import largest_of_rows
from interp.decomposers.sae.variants.base import Selection, Variant


class TopK(Variant):
    """The k largest of each row."""

    name = "topk"
    has_k = True

    def select(self, pre: Float[Tensor, "n n_features"]) -> Selection:
        return Selection(largest_of_rows(pre, self.k))

    @classmethod
    def cut(cls, tensors: Mapping[str, Tensor], least: float) -> dict[str, Tensor]:
        """Nothing: k is obeyed without training."""
        return {}

    @classmethod
    def codes(
        cls, pre: Float[Tensor, "n n_features"], k: int, tensors: Mapping[str, Tensor]
    ) -> Float[Tensor, "n n_features"]:
        values, indices = pre.topk(k, dim=1, sorted=False)
        return torch.zeros_like(pre).scatter_(1, indices, values.relu())
