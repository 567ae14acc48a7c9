"""BatchTopK whose nested prefixes of features each reconstruct the activation; arXiv 2503.17547.

|x - x^|^2 is the mean over the prefixes (the paper takes the sum; the mean has the scale of the other variants).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.decomposers.sae.kernels import Pairs
from interp.decomposers.sae.variants.base import Batch
from interp.decomposers.sae.variants.batchtopk import BatchTopK
from interp.errors import InputError


@dataclass(frozen=True)
class MatryoshkaOptions:
    """Options of matryoshka."""

    prefixes: int = 5
    """matryoshka: nested dictionaries, each twice as large as the one before."""

    def __post_init__(self) -> None:
        if self.prefixes < 1:
            raise InputError("prefixes must be above 0")


class Matryoshka(BatchTopK):
    """The codes of batchtopk; what is nested is the loss."""

    name = "matryoshka"

    def __init__(self, **given: Any):
        super().__init__(**given)
        device = given["pre"].device
        self._groups = prefix_groups(self.n_features, self.options.prefixes).to(device)

    @classmethod
    def check(cls, n_features: int, options: MatryoshkaOptions) -> None:
        if n_features >> (options.prefixes - 1) < 1:
            raise InputError(
                f"{n_features} features cannot be nested in {options.prefixes} prefixes, each half of the next; give fewer "
                "--prefixes"
            )

    def pairs(self, entries: Int[Tensor, " n_pairs"], n_rows: int) -> Pairs:
        return super().pairs(entries, n_rows).grouped(self._groups, self.options.prefixes)

    def decode(self, z: Float[Tensor, "*_"], batch: Batch) -> Float[Tensor, "n_prefixes n d_in"]:
        return super().decode(z, batch).view(-1, *batch.centred.shape).cumsum(0)


def prefix_groups(n_features: int, n_prefixes: int) -> Int[Tensor, " n_features"]:
    """Of each feature the first of the nested prefixes that holds it; each prefix is twice as long as the one before."""
    ends = [n_features >> (n_prefixes - 1 - i) for i in range(n_prefixes)]
    return torch.bucketize(torch.arange(n_features), torch.tensor(ends), right=True)
