"""The layout of ``manifolds.h5``, in the folder of a run with quadratic latents.

Points are tokens of one random sample of the store. Each latent has the places in that sample of the tokens furthest out on
its axes, furthest first, followed by some of the others, drawn at random.

    attributes            schema, version; facts (``ManifoldRecord`` as JSON)
    tokens/row            int32 [n_sample]          rows of the store, ascending
    tokens/{text, next, before, after}   utf-8 [n_sample]   the token, the following token, and at most 60
                                                    characters on each side; absent without the model
    ordinals              float32 [n_ordinals, n_sample]    see ``ordinals``; NaN where unknown
    features/eigenvalues  float32 [F, r]            largest magnitude first, r the most that a form of the run can have
    features/n_axes       int32 [F]                 how many of the three axes are eigenvectors
    features/effective_rank  float32 [F]
    features/{score, share}  float32 [F, 3]         columns are SHAPES; see ``shape``
    features/label_r2     float32 [F, n_ordinals, 3]   last axis: in the latent's plane, PLANES; NaN: the label hardly varies
    features/curve        float32 [F, n_ordinals, 12, 3]    (first axis, second axis, label) of its knots, padded with NaN
    features/point        int32 [F, n_points]       place in the sample
    features/coordinates  float32 [F, n_points, 3]  on the axes, about the form's centre
    features/value        float32 [F, n_points]     of the latent
"""

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

PLANES = ("the latent's plane", "PCA's first two components", "random planes, the best")
"""Planes in which each label's R^2 is taken, on the same tokens: the latent's own strongest."""


class ManifoldRecord(PrecomputedRecord, frozen=True):
    """The record of ``manifolds.h5``."""

    SCHEMA = "manifold index"
    VERSION = 1

    n_far: int
    """Most points of a latent that are its strongest."""
    ordinals: list[str]
    """Names of the ordinal labels."""
    has_text: bool
    """Whether the file holds the text of tokens."""
