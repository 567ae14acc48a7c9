"""The names of ``manifolds.h5``, in the folder of a run with quadratic latents; FORMAT.md specifies the file."""

from __future__ import annotations

from interp.index.layout import PrecomputedRecord

FILE = "manifolds.h5"

SHAPES: dict[str, str] = {
    "circle": (
        "1 where the tokens furthest out on the first two axes lie on one thin ring about the centre and all around it; "
        "0 where they are no thinner than the rim of a Gaussian cloud, or gather in one place or in two opposite ones"
    ),
    "curve": (
        "1 where every token's neighbours lie along a line that runs across the direction to the centre; about 0.1 for a "
        "Gaussian cloud, and low for bundles of rays, which features of varying strength form"
    ),
    "surface": (
        "1 where every token's neighbours lie in a sheet that faces the centre, on three axes; a latent of rank 2 has none"
    ),
}
"""Shapes scored between 0 and 1, and what the score means; the formulas are in ``shape``."""

PLANES = ("the latent's plane", "PCA's first two components", "the random plane of the same rank")
"""Planes in which each label's R^2 is taken: the first two on the latent's own strongest tokens, a random one on its own."""


class ManifoldRecord(PrecomputedRecord, frozen=True):
    """The record of ``manifolds.h5``."""

    SCHEMA = "manifold index"
    VERSION = 2

    n_far: int
    """Most points of a latent that are its strongest."""
    ordinals: list[str]
    """Names of the ordinal labels."""
    has_text: bool
    """Whether the file holds the text of tokens."""
