"""Sparse autoencoders; those whose directions begin in the subspace that the activations live in; and those whose directions
stay as they began.

    pre = (x - b_dec) W_enc + b_enc
    z   = activation(pre)                          see ``variants``
    x^  = z W_dec + b_dec                          rows of W_dec have unit norm

``training`` has the loss, ``kernels`` the gradients, ``initialisation`` where the directions begin.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.base import LinearDecomposer, checked_moments, register
from interp.decomposers.gradient import GradientDecomposer
from interp.decomposers.sae.config import FrozenSAEConfig, SAEConfig, SparseConfig, SubspaceSAEConfig
from interp.decomposers.sae.initialisation import (
    Initialisation,
    choose_rank,
    initial_directions,
    subspace_directions,
)
from interp.decomposers.sae.kernels import kth_largest
from interp.decomposers.sae.training import TrainableSAE, rows_to_begin
from interp.decomposers.sae.variants import VARIANTS, VariantOptions
from interp.records import Notes
from interp.store.source import ActivationSource

__all__ = [
    "SAE",
    "FrozenSAE",
    "FrozenSAEConfig",
    "SAEConfig",
    "SparseAutoencoder",
    "SubspaceSAE",
    "SubspaceSAEConfig",
    "VariantOptions",
]

S = TypeVar("S", bound="SparseAutoencoder")


class SparseAutoencoder(GradientDecomposer, LinearDecomposer):
    """A trained sparse autoencoder; tensors W_enc [d_in, n_features], W_dec [n_features, d_in], b_enc, b_dec, all for raw
    activations, and what the variant adds to them, such as ``threshold`` [n_features]."""

    config: SparseConfig

    @classmethod
    def untrained(cls: type[S], source: ActivationSource, config: SparseConfig) -> S:
        """As it is before the first step, but firing as often as a trained one: what training would have learned to keep codes
        few by, a threshold or the encoder's bias, is one level for all features, at which rows have the L0 asked for."""
        found = super().untrained(source, config)
        pre = found._pre_activations(rows_to_begin(source, config.seed))
        n_active = min(pre.numel(), round((config.target_l0 or config.k) * len(pre)))
        least = max(kth_largest(pre.flatten(), n_active), 0.0)
        found.tensors |= VARIANTS[config.variant].cut(found.tensors, least)
        return found

    def _encode(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_features"]:
        """Codes, none below zero, on average about k of them above it (for topk at most k) a row."""
        return VARIANTS[self.config.variant].codes(self._pre_activations(x), self.config.k, self.tensors)

    def _pre_activations(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_features"]:
        return torch.addmm(self.tensors["b_enc"], x - self.b_dec, self.tensors["W_enc"])


@register
class SAE(SparseAutoencoder):
    """A sparse autoencoder whose directions begin at random, at rows of the data, or with the data's covariance."""

    kind = "sae"
    config_type = SAEConfig
    config: SAEConfig

    @classmethod
    def trainable(cls, source: ActivationSource, config: SAEConfig) -> TrainableSAE:
        return _from_initialisation(source, config, config.initialisation, is_decoder_frozen=False)


@register
class FrozenSAE(SparseAutoencoder):
    """A sparse autoencoder whose directions stay as they began, by default at random; its encoder and biases alone are trained.

    A baseline (arXiv 2602.14111): what it reaches needs no learned directions.
    """

    kind = "frozen-sae"
    config_type = FrozenSAEConfig
    config: FrozenSAEConfig

    @classmethod
    def trainable(cls, source: ActivationSource, config: FrozenSAEConfig) -> TrainableSAE:
        return _from_initialisation(source, config, config.initialisation, is_decoder_frozen=True)


@register
class SubspaceSAE(SparseAutoencoder):
    """A sparse autoencoder whose directions begin in the leading principal subspace (arXiv 2508.16929).

    It keeps the spectrum that its rank was chosen by as the tensor ``spectrum`` [d_in], and the rank and why in its notes.
    """

    kind = "subspace-sae"
    config_type = SubspaceSAEConfig
    config: SubspaceSAEConfig

    @classmethod
    def trainable(cls, source: ActivationSource, config: SubspaceSAEConfig) -> TrainableSAE:
        moments = checked_moments(source)
        start = config.initialisation
        rank = choose_rank(moments, start.rank)
        generator = torch.Generator().manual_seed(config.seed)
        directions = subspace_directions(moments, config.n_features, rank.rank, start.full_space, generator)
        notes: Notes = rank.as_dict()
        kept = {"spectrum": torch.from_numpy(moments.spectrum[0]).float()}
        return TrainableSAE(source, config, directions, encoder_scale=start.encoder_scale, notes=notes, kept=kept)


def _from_initialisation(
    source: ActivationSource, config: SparseConfig, start: Initialisation, *, is_decoder_frozen: bool
) -> TrainableSAE:
    checked_moments(source)
    generator = torch.Generator().manual_seed(config.seed)
    directions = initial_directions(source, config.n_features, start.start, generator)
    return TrainableSAE(
        source, config, directions, encoder_scale=start.encoder_scale, is_decoder_frozen=is_decoder_frozen
    )
