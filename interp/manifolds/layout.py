"""The layout of ``manifolds.h5``, in the folder of a run with quadratic latents.

Points are tokens of one random sample of the store. A latent keeps the places in that sample of those that lie furthest out
on its axes, furthest first, and after them some of the others, drawn at random.

    attributes            schema, version; facts (a JSON object: run, identities, options, n_features, n_far, ordinals)
    tokens/row            int32 [n_sample]          rows of the store, ascending
    tokens/{text, next, before, after}   utf-8 [n_sample]   the token, the one that follows it, what stands around it on at
                                                    most 60 characters a side; absent without the model
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

from pathlib import Path

import h5py

from interp.index.layout import open_precomputed

FILE = "manifolds.h5"
SCHEMA, VERSION = "manifold index", 1

KINDS = ("bilinear",)
"""Decomposers whose latents are quadratic forms; the features of all others are directions, and show no manifold."""

SHAPES: dict[str, str] = {
    "circle": (
        "1 where the tokens furthest out on the first two axes lie on one thin ring about the centre and all around it; "
        "0 where they are no thinner than the rim of a Gaussian cloud, or gather in one place or in two opposite ones"
    ),
    "curve": (
        "1 where every token's neighbours lie along a line that runs across the direction to the centre; about 0.1 for a "
        "Gaussian cloud, and low for bundles of rays, as features make them that are present to a varying degree"
    ),
    "surface": (
        "1 where every token's neighbours lie in a sheet that faces the centre, on three axes; a latent of rank 2 has none"
    ),
}
"""Shapes that are scored between 0 and 1, and what the score says; the formulas are in ``shape``."""

PLANES = ("the latent's plane", "PCA's first two components", "random planes, the best")
"""Planes in which each label's R^2 is taken, on the same tokens: the latent's own strongest."""


def open_manifolds(path: Path) -> h5py.File:
    """Open the file read-only; an InputError says what is wrong with it and how to make it anew."""
    return open_precomputed(path, "a manifold index", SCHEMA, VERSION)
