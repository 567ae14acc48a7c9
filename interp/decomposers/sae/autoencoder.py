"""Sparse autoencoders, and those whose directions begin in the subspace that the activations live in.

    pre = (x - b_dec) W_enc + b_enc
    z   = activation(pre)                          see ``variants``
    x^  = z W_dec + b_dec                          rows of W_dec have unit norm

``training`` has the loss, ``kernels`` the gradients, ``initialisation`` where the directions begin.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.base import LinearDecomposer, checked_moments, register
from interp.decomposers.gradient import GradientDecomposer
from interp.decomposers.sae.config import SAEConfig, SparseConfig, SubspaceSAEConfig
from interp.decomposers.sae.initialisation import choose_rank, initial_directions, subspace_directions
from interp.decomposers.sae.training import TrainableSAE
from interp.decomposers.sae.variants import VARIANTS, VariantOptions
from interp.records import Notes
from interp.store.source import ActivationSource

__all__ = ["SAE", "SAEConfig", "SparseAutoencoder", "SubspaceSAE", "SubspaceSAEConfig", "VariantOptions"]


class SparseAutoencoder(GradientDecomposer, LinearDecomposer):
    """A trained sparse autoencoder; tensors W_enc [d_in, n_features], W_dec [n_features, d_in], b_enc, b_dec, all for raw
    activations, and what the variant adds to them, such as ``threshold`` [n_features]."""

    config: SparseConfig

    def encode(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_features"]:
        """Codes, none below zero, on average about k of them above it (for topk at most k) a row."""
        pre = torch.addmm(self.tensors["b_enc"], x - self.b_dec, self.tensors["W_enc"])
        return VARIANTS[self.config.variant].codes(pre, self.config.k, self.tensors)


@register
class SAE(SparseAutoencoder):
    """A sparse autoencoder whose directions begin at random, at rows of the data, or with the data's covariance."""

    kind = "sae"
    config_type = SAEConfig
    config: SAEConfig

    @classmethod
    def trainable(cls, source: ActivationSource, config: SAEConfig) -> TrainableSAE:
        checked_moments(source)
        start = config.initialisation
        generator = torch.Generator().manual_seed(config.seed)
        directions = initial_directions(source, config.n_features, start.start, generator)
        return TrainableSAE(source, config, directions, encoder_scale=start.encoder_scale)


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
