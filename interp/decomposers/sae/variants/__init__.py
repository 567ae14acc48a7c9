"""The variants of the sparse autoencoder, a file each; adding one is its file and a line here.

A variant with options of its own adds their dataclass to the bases of ``VariantOptions``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from interp.decomposers.sae.variants.base import PenaltyOptions, Variant
from interp.decomposers.sae.variants.batchtopk import BatchTopK
from interp.decomposers.sae.variants.gated import Gated
from interp.decomposers.sae.variants.jumprelu import JumpReLU, JumpReLUOptions
from interp.decomposers.sae.variants.matryoshka import Matryoshka, MatryoshkaOptions
from interp.decomposers.sae.variants.relu import ReLU
from interp.decomposers.sae.variants.topk import TopK
from interp.records import check_options

VARIANTS: dict[str, type[Variant]] = {
    variant.name: variant
    for variant in (
        TopK,
        BatchTopK,
        ReLU,
        JumpReLU,
        Matryoshka,
        Gated,
    )
}
"""Every variant by its name."""

if TYPE_CHECKING:
    VariantName = str
else:
    VariantName = Literal[tuple(VARIANTS)]


@dataclass(frozen=True)
class VariantOptions(MatryoshkaOptions, JumpReLUOptions, PenaltyOptions):
    """Options that one variant or another has."""

    def __post_init__(self) -> None:
        check_options(self)
        for options in VariantOptions.__bases__:
            options.__post_init__(self)  # type: ignore[attr-defined]
