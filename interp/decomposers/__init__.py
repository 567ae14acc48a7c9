"""The decomposers. Importing a method's class registers it; adding a method is its folder and one line here."""

from interp.decomposers.base import Decomposer, LinearDecomposer, kind_of, kinds, load, read_config, registry
from interp.decomposers.baselines.diff_means import DiffMeans
from interp.decomposers.baselines.ica import ICA
from interp.decomposers.baselines.kmeans import KMeans
from interp.decomposers.baselines.neurons import Neurons
from interp.decomposers.baselines.nmf import NMF
from interp.decomposers.baselines.pca import PCA
from interp.decomposers.baselines.random_directions import RandomDirections
from interp.decomposers.bilinear.autoencoder import Bilinear
from interp.decomposers.gradient import GradientDecomposer
from interp.decomposers.sae.autoencoder import SAE, FrozenSAE, SubspaceSAE
from interp.decomposers.semi_nmf.decomposer import SemiNMF

__all__ = [
    "ICA",
    "NMF",
    "PCA",
    "SAE",
    "Bilinear",
    "Decomposer",
    "DiffMeans",
    "FrozenSAE",
    "GradientDecomposer",
    "KMeans",
    "LinearDecomposer",
    "Neurons",
    "RandomDirections",
    "SemiNMF",
    "SubspaceSAE",
    "kind_of",
    "kinds",
    "load",
    "read_config",
    "registry",
]
