"""The decomposers. Importing a method's module registers it; adding a method is one file and one line here."""

from interp.decomposers.base import Decomposer, LinearDecomposer, kind_of, kinds, load, read_config, registry
from interp.decomposers.baselines import pca
from interp.decomposers.bilinear import autoencoder as bilinear
from interp.decomposers.gradient import GradientDecomposer
from interp.decomposers.sae import autoencoder as sae
from interp.decomposers.semi_nmf import decomposer as semi_nmf

__all__ = [
    "Decomposer",
    "GradientDecomposer",
    "LinearDecomposer",
    "bilinear",
    "kind_of",
    "kinds",
    "load",
    "pca",
    "read_config",
    "registry",
    "sae",
    "semi_nmf",
]
