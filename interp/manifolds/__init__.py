"""Manifolds in the latents of a bilinear autoencoder: which latents show one, and whether a label lies along it.

``build.build_manifolds`` looks once and writes ``manifolds.h5`` into the run's folder; ``ManifoldIndex`` reads it. Importing
this package never imports torch; ``build`` and ``shape`` do.
"""

from interp.manifolds.label_curve import LabelCurve
from interp.manifolds.layout import KINDS, PLANES, SHAPES
from interp.manifolds.reader import ManifoldIndex, ManifoldView

__all__ = ["KINDS", "PLANES", "SHAPES", "LabelCurve", "ManifoldIndex", "ManifoldView"]
