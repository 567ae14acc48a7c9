"""Options of sparse autoencoders."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from interp.decomposers.sae.dead_features import DeadFeatures
from interp.decomposers.sae.initialisation import Initialisation, SubspaceInitialisation
from interp.decomposers.sae.variants import VARIANTS, VariantName, VariantOptions
from interp.errors import InputError
from interp.records import check_options
from interp.training.config import GradientConfig


@dataclass(frozen=True)
class Arithmetic:
    """How a step is computed."""

    adam: Literal["dense", "row-sparse"] = "dense"
    """row-sparse leaves features that do not fire in a batch as they are; dense moves them on by their momentum."""
    encoder: Literal["float32", "bfloat16"] = "float32"
    """Precision of the encoder's product in training. bfloat16 is faster on a GPU and on processors with AMX or AVX512-BF16;
    any other computes in float32, whatever is asked for."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class SparseConfig(GradientConfig):
    """Options of every sparse autoencoder."""

    n_features: int = 2048
    """Number of features; 8 times the width of the bundled model's residual stream."""
    variant: VariantName = "topk"
    """What makes codes sparse: the k largest of a token (topk) or k a token of the batch (batchtopk), an L1 or L0 penalty
    whose coefficient is controlled (relu, gated, jumprelu), or batchtopk with nested dictionaries (matryoshka)."""
    k: int = 32
    """Features firing on one token: exactly (topk), on average (batchtopk, matryoshka), or aimed at (with a penalty)."""
    lr: float = 3e-3
    """Adam's learning rate at its height, for activations scaled to a mean norm of sqrt(d_in)."""
    # On held-out text, one seed, 2048 features, without the auxiliary loss (FVU, F1 of concepts), at 1e-3 : 3e-3:
    # blocks.2.mlp.hook_post, 300 000 tokens: .355, .407 : .298, .439; a million: .269, .456 : .197, .479;
    # blocks.2.hook_attn_out, 300 000: .075, .356 : .061, .387; a million: .056, .395 : .041, .420, with 1 : 26 % of features
    # dead; blocks.2.hook_resid_post, a million: FVU .138 : .110.
    variant_options: VariantOptions = field(default_factory=VariantOptions)
    """Options that one variant or another has."""
    dead_features: DeadFeatures = field(default_factory=DeadFeatures)
    """What is done for features that do not fire."""
    arithmetic: Arithmetic = field(default_factory=Arithmetic)
    """How a step is computed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.k <= self.n_features:
            raise InputError(f"k is {self.k}, but it must lie between 1 and the number of features, {self.n_features}")
        variant, given = VARIANTS[self.variant], self.variant_options
        if not variant.has_penalty and (given.target_l0, given.coefficient) != (None, None):
            *most, last = [name for name, each in VARIANTS.items() if each.has_penalty]
            penalised = f"{', '.join(most)} and {last}"
            raise InputError(f"target-l0 and coefficient are for {penalised}; {self.variant} has the L0 that --k says")
        if given.target_l0 is not None and given.target_l0 >= self.n_features / 2:
            raise InputError(
                f"a target L0 of {given.target_l0:g} is out of reach of {self.n_features} features, of which half fire on a "
                "token without any penalty; give a lower --target-l0"
            )
        variant.check(self.n_features, given)

    @property
    def target_l0(self) -> float | None:
        """Where the coefficient is controlled to; None where there is none, or where it is fixed."""
        if not VARIANTS[self.variant].has_penalty or self.variant_options.coefficient is not None:
            return None
        return self.variant_options.target_l0 or float(self.k)


@dataclass(frozen=True)
class SAEConfig(SparseConfig):
    """Options of the sparse autoencoder."""

    initialisation: Initialisation = field(default_factory=Initialisation)
    """Where the directions begin."""


@dataclass(frozen=True)
class FrozenSAEConfig(SparseConfig):
    """Options of the sparse autoencoder whose decoder is not trained."""

    initialisation: Initialisation = field(default_factory=Initialisation)
    """Where the directions begin, and stay."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dead_features.resample_every:
            raise InputError(
                "resampling gives dead features new directions, but a frozen decoder keeps its own; leave --resample-every out"
            )


@dataclass(frozen=True)
class SubspaceSAEConfig(SparseConfig):
    """Options of the subspace-initialised sparse autoencoder."""

    initialisation: SubspaceInitialisation = field(default_factory=SubspaceInitialisation)
    """In which subspace the directions begin."""
