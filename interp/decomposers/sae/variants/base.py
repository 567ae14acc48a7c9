"""What an SAE variant is: everything that makes its codes few, in training and afterwards, in one place.

A training step is the same for all of them:

    pre   = (x - b_dec) W_enc^T + b_enc        one dense product, without a graph
    entries that can have a gradient           ``select``
    z     = ``activate`` (pre at these entries)
    x^    = ``decode`` (z)
    loss  = |x - x^|^2 + ``penalty``

None of these changes anything: what a variant keeps from step to step it changes in ``after_step``. ``saved`` and ``codes`` are
what is left of it in the trained autoencoder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from interp.decomposers.sae.kernels import Pairs, above, decode_pairs
from interp.decomposers.sae.l0_control import L0Control
from interp.errors import InputError

SPARSE_BELOW = 0.06
"""Density of codes below which pairs are faster than dense products."""


@dataclass(frozen=True)
class PenaltyOptions:
    """Options of variants whose codes are kept few by a penalty."""

    target_l0: float | None = None
    """Variants with a penalty: mean number of features firing on a token that its weight is controlled to; by default k."""
    coefficient: float | None = None
    """Variants with a penalty: its weight, held fixed in place of a target."""

    def __post_init__(self) -> None:
        if self.target_l0 is not None and self.coefficient is not None:
            raise InputError("give --target-l0 or --coefficient, not both: a fixed coefficient has the L0 it has")
        if min([value for value in (self.target_l0, self.coefficient) if value is not None], default=1.0) <= 0:
            raise InputError("target-l0 and coefficient must be above 0")


@dataclass(frozen=True)
class Selection:
    """The entries of a batch's pre-activations that can have a gradient."""

    entries: Int[Tensor, " n_pairs"] | None
    """Numbered row * n_features + feature, rows ascending; None where there are too many for pairs to pay."""
    least: float = 0.0
    """batchtopk: the least active pre-activation."""


@dataclass(frozen=True)
class Batch:
    """What a variant sees of one batch: rows, parameters, and pre-activations that gradients flow through."""

    centred: Float[Tensor, "n d_in"]
    """Scaled rows less b_dec, without a graph."""
    parameters: Mapping[str, Tensor]
    """W_enc, W_dec [n_features, d_in], b_enc, b_dec, and the variant's own."""
    pre: Float[Tensor, "*pairs_or_entries"]
    """Pre-activations: of the pairs [n_pairs], or of all entries [n, n_features] where ``pairs`` is None."""
    pairs: Pairs | None

    def of_features(self, values: Float[Tensor, " n_features"]) -> Float[Tensor, "*_"]:
        """One value a feature, brought to the shape of ``pre``."""
        return values if self.pairs is None else values[self.pairs.feature]

    def decoded(self, z: Float[Tensor, "*_"], W_dec: Float[Tensor, "n_features d_in"]) -> Float[Tensor, "n_bags d_in"]:
        """Codes of the shape of ``pre`` times ``W_dec``, summed over each row's features (or over each bag of the pairs)."""
        return z @ W_dec if self.pairs is None else decode_pairs(z, W_dec, self.pairs)


class Variant(ABC):
    """One way to few codes. ``parameters`` are trained beside the autoencoder's, ``state`` is saved with checkpoints.

    It is made with the pre-activations of some rows, before the first step.
    """

    name: ClassVar[str]
    """Name on the command line."""
    has_penalty: ClassVar[bool] = False
    """Whether its L0 is that of a penalty's coefficient; k is then where the coefficient is controlled to."""
    has_k: ClassVar[bool] = False
    """Whether ``k`` features of a token are chosen, exactly or on average."""

    def __init__(
        self, *, n_features: int, k: int, options: Any, control: L0Control | None, pre: Float[Tensor, "n n_features"]
    ):
        self.n_features, self.k, self.options, self._control = n_features, k, options, control
        self.parameters: dict[str, Tensor] = {}
        self.state: dict[str, Tensor] = {}

    @classmethod  # noqa: B027  most variants take any options
    def check(cls, n_features: int, options: Any) -> None:
        """Raises InputError for options that do not suit the number of features."""

    @property
    def control(self) -> L0Control:
        """The control of the penalty's coefficient, of a variant that has one."""
        assert self._control
        return self._control

    @abstractmethod
    def select(self, pre: Float[Tensor, "n n_features"]) -> Selection:
        """The entries of ``pre`` that can have a gradient."""

    def pairs(self, entries: Int[Tensor, " n_pairs"], n_rows: int) -> Pairs:
        """The entries as pairs of row and feature; by default those of a row are summed together."""
        return Pairs.of_rows(entries, n_rows, self.n_features)

    def activate(self, batch: Batch) -> Float[Tensor, "*_"]:
        """Codes, of the shape of ``batch.pre``."""
        return batch.pre.relu()

    def decode(self, z: Float[Tensor, "*_"], batch: Batch) -> Float[Tensor, "*n_reconstructions n d_in"]:
        """x^ - b_dec; several one after the other where each is held against x."""
        return batch.decoded(z, batch.parameters["W_dec"])

    def penalty(self, z: Float[Tensor, "*_"], batch: Batch) -> Float[Tensor, ""] | None:
        """What is added to the loss, summed over the rows."""
        return None

    def after_step(self, selection: Selection) -> None:  # noqa: B027  most variants have nothing to change
        """Change what is the variant's own after a step of the optimisers on the batch of ``selection``."""

    def saved(self, scale: float = 1.0) -> dict[str, Tensor]:
        """Tensors that codes need beside the autoencoder's own, for activations divided by ``scale``."""
        return {}

    @classmethod
    def codes(
        cls, pre: Float[Tensor, "n n_features"], k: int, tensors: Mapping[str, Tensor]
    ) -> Float[Tensor, "n n_features"]:
        """Codes of the trained autoencoder with these ``tensors``: no row depends on the rows beside it."""
        return pre.relu()

    @classmethod
    def cut(cls, tensors: Mapping[str, Tensor], least: float) -> dict[str, Tensor]:
        """The ``tensors`` changed so that codes are active where the pre-activation was above ``least``, which is not negative.

        For an autoencoder that has not been trained to fire as seldom as it should: by default by the encoder's bias.
        """
        return {"b_enc": tensors["b_enc"] - least}

    def above(self, pre: Float[Tensor, "n n_features"], least: float | Tensor) -> Selection:
        """The entries that are at least ``least``, or none where they are so many that dense products are faster."""
        return Selection(above(pre, least, at_most=int(SPARSE_BELOW * pre.numel())))


def inference_threshold_codes(
    pre: Float[Tensor, "n n_features"], threshold: Float[Tensor, " n_features"]
) -> Float[Tensor, "n n_features"]:
    """Pre-activations above each feature's threshold, which is not negative; the rest 0."""
    return pre * (pre > threshold)
