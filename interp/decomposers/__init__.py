"""The decomposers. Importing a method's module registers it; adding a method is one file and one line here."""

from interp.decomposers import baselines, bilinear, sae, semi_nmf
from interp.decomposers.base import Decomposer, LinearDecomposer, kind_of, kinds, load, read_config, registry
from interp.decomposers.gradient import GradientDecomposer

__all__ = [
    "Decomposer",
    "GradientDecomposer",
    "LinearDecomposer",
    "baselines",
    "bilinear",
    "kind_of",
    "kinds",
    "load",
    "read_config",
    "registry",
    "sae",
    "semi_nmf",
]
