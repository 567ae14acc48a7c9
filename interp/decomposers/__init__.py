"""The decomposers. Importing a method's class registers it; adding a method is its folder and one line here."""

from interp.decomposers.base import Decomposer, LinearDecomposer, kind_of, kinds, load, read_config, registry
from interp.decomposers.baselines.pca import PCA
from interp.decomposers.bilinear.autoencoder import Bilinear
from interp.decomposers.gradient import GradientDecomposer
from interp.decomposers.sae.autoencoder import SAE, SubspaceSAE
from interp.decomposers.semi_nmf.decomposer import SemiNMF

__all__ = [
    "PCA",
    "SAE",
    "Bilinear",
    "Decomposer",
    "GradientDecomposer",
    "LinearDecomposer",
    "SemiNMF",
    "SubspaceSAE",
    "kind_of",
    "kinds",
    "load",
    "read_config",
    "registry",
]
