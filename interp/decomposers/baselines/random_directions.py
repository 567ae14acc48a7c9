"""Directions drawn at random: what any method has to do better than."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from interp.decomposers.base import check_enough_rows, checked_moments, register
from interp.decomposers.baselines.directions import Directions
from interp.decomposers.sae.initialisation import initial_directions
from interp.store.source import ActivationSource
from interp.training.config import DecomposerConfig
from interp.training.protocol import Recorder


@dataclass(frozen=True)
class RandomConfig(DecomposerConfig):
    """Options of random directions."""

    n_features: int = 2048
    """Number of directions, as many as a sparse autoencoder has by default."""
    shape: Literal["covariance", "isotropic"] = "covariance"
    """Gaussian with the covariance of the activations, which is the harder null to beat, or uniform on the sphere."""


@register
class RandomDirections(Directions):
    """Random unit directions. Codes are signed projections of the centred row, in units of activation; they do not decode
    (``directions`` says why)."""

    kind = "random"
    config_type = RandomConfig

    @classmethod
    def _fit(cls, source: ActivationSource, config: RandomConfig, recorder: Recorder | None) -> RandomDirections:
        """Draw the directions. Raises InputError for fewer rows than features."""
        moments = checked_moments(source)
        check_enough_rows(source, config.n_features)
        generator = torch.Generator().manual_seed(config.seed)
        start: Literal["random", "covariance"] = "random" if config.shape == "isotropic" else "covariance"
        directions = initial_directions(source, config.n_features, start, generator)
        found = cls(config, {"directions": directions, "mean": torch.from_numpy(moments.mean).float()})
        found._log(recorder, moments)
        return found
