"""Which latents show a manifold: scores of how much their strongest tokens form a circle, curve or surface, without labels.

A latent's tokens are projected on the axes of its form, eigenvectors of largest magnitude, about the form's centre. Its
strongest tokens are the share q of all tokens furthest from the centre, not those of largest value: a form is zero on lines
that a manifold crosses. The three scores lie between 0 and 1:

circle   on the first two axes: (1 - ln(1/q) (mean(e) - min(e)) / min(e)), not below 0, with e the squared radii of the
         strongest tokens, times (1 - the larger of |mean e^(i angle)| and |mean e^(2i angle)|). 1 is a thin ring filled evenly.
         The furthest tokens of any cloud form a ring; the first factor is 0 for the ring of a Gaussian cloud, the second for
         one cluster or two opposite ones.
curve    on up to three axes: the mean, over tokens, of (l1 - l2) / l1 times the squared sine of the angle between the first
         local direction and the token's own, with l the eigenvalues of the covariance of its neighbours. The neighbours are the
         nearest of all tokens, a twentieth as many as are strongest: the strongest alone would form a shell in any cloud.
surface  on three axes: the same mean of (l2 - l3) / l1 times the squared cosine of the angle between the local normal and the
         token's own, times 3 m, with m the least eigenvalue of the mean of n n^T over the directions n of the strongest tokens:
         1 for directions all around, near 0 for those about one axis or in one plane. Without it the rows about one feature,
         which by their unit length lie on a small cap, score as high as a sphere. NaN for a form of rank 2, which has no third
         axis.

For curve and surface the axes are first scaled to equal mean squares. Sine and cosine exclude bundles of rays from the origin,
which are thin too, but along the rays: ordinary features of varying strength form them. A Gaussian cloud has a curve score of
about .1. Each score is the best over a few shares q, because
nobody knows how many tokens are on a manifold. Rows have unit length, so two features that alone make up a row form an arc,
which scores as a curve. The scores say how tokens lie, not that the order along the curve means anything: look at the picture
and its contexts. They rank latents and exclude none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.decomposers.base import QuadraticDecomposer
from interp.decomposers.forms import QuadraticForm, unit_rows
from interp.errors import InputError
from interp.manifolds.layout import SHAPES

SHARES = (0.03, 0.1, 0.3)
"""Shares of all tokens tried as the strongest."""
N_AXES = 3
LEAST_ROWS = 4000
"""Fewest rows to score on: the smallest share is then 120 tokens; fewer have no neighbourhoods."""
_ANCHORS = 64


@dataclass(frozen=True)
class ManifoldScores:
    """One row a latent, one column each of ``SHAPES``; NaN where it has too few axes for a score."""

    scores: Float[np.ndarray, "n_features 3"]
    shares: Float[np.ndarray, "n_features 3"]
    """The share of tokens, of ``SHARES``, at which each score was reached."""

    def of(self, shape: str) -> Float[np.ndarray, " n_features"]:
        """The scores for one shape."""
        return self.scores[:, _column(shape)]

    def ranked(self, shape: str) -> Int[np.ndarray, " n_features"]:
        """All latents, those most like ``shape`` first, those without a score last."""
        return np.argsort(-np.nan_to_num(self.of(shape), nan=-1.0), kind="stable")


@torch.no_grad()
def score_manifolds(decomposer: QuadraticDecomposer, x: Float[Tensor, "n d_in"]) -> ManifoldScores:
    """Score every latent on the rows ``x``: a random sample of ten thousand is enough.

    Raises InputError for fewer than ``LEAST_ROWS``.
    """
    if len(x) < LEAST_ROWS:
        raise InputError(f"{len(x)} rows are too few to see a shape among their strongest; give {LEAST_ROWS} or more")
    u = unit_rows(x)
    found = [best_scores(points_of(decomposer.form(f), u)) for f in range(decomposer.n_features)]
    scores, shares = (np.stack(each) for each in zip(*found, strict=True))
    return ManifoldScores(scores, shares)


def points_of(form: QuadraticForm, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_axes"]:
    """Coordinates of tokens on the axes of a latent, at most three of them, about its centre."""
    n_axes = min(N_AXES, form.rank)
    if n_axes == 0:
        return x.new_zeros(len(x), 0)
    return form.project(x, n_axes) - form.centre[:n_axes]


def best_scores(points: Float[Tensor, "n n_axes"]) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
    """(scores, shares at which they were reached) of one latent's points, in the order of ``SHAPES``; NaN below two axes."""
    if points.shape[1] < 2:
        return np.full(len(SHAPES), np.nan), np.full(len(SHAPES), SHARES[0])
    scores = np.array([shape_scores(points, share) for share in SHARES])
    best = np.nan_to_num(scores, nan=-1.0).argmax(0)
    return scores[best, range(len(SHAPES))], np.asarray(SHARES)[best]


def strongest(points: Float[Tensor, "n n_axes"], share: float) -> Int[Tensor, " k"]:
    """Rows of the ``share`` of points that lie furthest out, furthest first."""
    return points.square().sum(1).topk(max(1, int(share * len(points)))).indices


def shape_scores(points: Float[Tensor, "n n_axes"], share: float) -> tuple[float, float, float]:
    """(circle, curve, surface) scores of the strongest ``share`` of ``points``; see the module."""
    plane = points[:, :2]
    return circle_score(plane[strongest(plane, share)], share), *local_scores(points, strongest(points, share))


def circle_score(points: Float[Tensor, "n 2"], share: float) -> float:
    """How much ``points``, the furthest ``share`` of a cloud, form one circle about the origin."""
    squared = points.square().sum(1)
    least = float(squared.min().clamp_min(1e-30))
    thinness = max(0.0, 1 - math.log(1 / share) * (float(squared.mean()) - least) / least)
    angle = torch.view_as_complex(unit_rows(points).contiguous())
    lean = max(float(angle.mean().abs()), float(angle.square().mean().abs()))
    return thinness * max(0.0, 1 - lean)


def local_scores(points: Float[Tensor, "n n_axes"], rows: Int[Tensor, " k"]) -> tuple[float, float]:
    """(curve, surface) of the points in ``rows``: see the module."""
    p = points / points[rows].square().mean(0).sqrt().clamp_min(1e-30)
    anchors = p[rows[torch.linspace(0, len(rows) - 1, min(_ANCHORS, len(rows))).long()]]
    near = p[torch.cdist(anchors, p).topk(min(len(p), max(20, len(rows) // 20)), largest=False).indices]
    near = near - near.mean(1, keepdim=True)
    values, vectors = torch.linalg.eigh(near.mT @ near)  # ascending
    # squared cosines with the token's own direction
    radial = (vectors * unit_rows(anchors)[:, :, None]).sum(1).square()
    first = values[:, -1].clamp_min(1e-30)
    curve = float(((values[:, -1] - values[:, -2]) / first * (1 - radial[:, -1])).mean())
    if p.shape[1] < 3:
        return curve, float("nan")
    flatness = float(((values[:, 1] - values[:, 0]) / first * radial[:, 0]).mean())
    directions = unit_rows(points[rows])
    return curve, flatness * 3 * float(torch.linalg.eigvalsh(directions.T @ directions / len(rows))[0].clamp_min(0))


def _column(shape: str) -> int:
    if shape not in SHAPES:
        raise InputError(f"no shape '{shape}' is scored; there are {', '.join(SHAPES)}")
    return list(SHAPES).index(shape)
