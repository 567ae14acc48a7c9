"""z = relu(pre), with the penalty coefficient * sum_i z_i |W_dec_i|; the rows of W_dec have norm 1."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from interp.decomposers.sae.variants.base import Batch, Selection, Variant


class ReLU(Variant):
    """Codes are kept few by their sum."""

    name = "relu"
    has_penalty = True

    def select(self, pre: Float[Tensor, "n n_features"]) -> Selection:
        return self.above(pre, 1e-30)

    def penalty(self, z: Float[Tensor, "*_"], batch: Batch) -> Float[Tensor, ""]:
        return self.control.coefficient * z.sum()
