"""Rows with a manifold planted among sparse features, and how much of a latent lies in the manifold's space."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.decomposers.base import QuadraticDecomposer

D = 32
N_FEATURES = 24

Manifold = Callable[[int, torch.Generator], Tensor]


def circle(n: int, random: torch.Generator) -> Float[Tensor, "n 2"]:
    angle = 2 * math.pi * torch.rand(n, generator=random)
    return torch.stack([angle.cos(), angle.sin()], 1)


def raised_circle(n: int, random: torch.Generator) -> Float[Tensor, "n 3"]:
    """Its centre lies as far from the origin as it is wide, along a third axis."""
    return torch.cat([circle(n, random), torch.ones(n, 1)], 1)


def torus(n: int, random: torch.Generator) -> Float[Tensor, "n 4"]:
    """Two circles at once, each in a plane of its own."""
    return torch.cat([circle(n, random), circle(n, random)], 1) / math.sqrt(2)


def sphere(n: int, random: torch.Generator) -> Float[Tensor, "n 3"]:
    return torch.nn.functional.normalize(torch.randn(n, 3, generator=random), dim=1)


def patch(n: int, random: torch.Generator) -> Float[Tensor, "n 3"]:
    """The part of the sphere about its pole."""
    points = torch.randn(n, 3, generator=random)
    points[:, 2] = points[:, 2].abs() + 0.5
    return torch.nn.functional.normalize(points, dim=1)


def planted(
    seed: int, manifold: Manifold, n: int = 60_000
) -> tuple[Float[Tensor, "kept 32"], Float[Tensor, "dimensions 32"], Bool[Tensor, " kept"], Float[Tensor, "24 32"]]:
    """(rows, orthonormal axes of the manifold, whether each row is on it, features): on a fifth of the rows, among 24 features.

    ``manifold`` gives as many points as there are rows. Features are random unit vectors, present with probability .05 at .5
    to 1.5; noise .03.
    """
    random = torch.Generator().manual_seed(seed)
    points = manifold(n, random)
    axes = torch.linalg.qr(torch.randn(D, points.shape[1], generator=random))[0].T
    is_on = torch.rand(n, generator=random) < 0.2
    features = torch.nn.functional.normalize(torch.randn(N_FEATURES, D, generator=random), dim=1)
    codes = (torch.rand(n, N_FEATURES, generator=random) < 0.05) * (0.5 + torch.rand(n, N_FEATURES, generator=random))
    rows = codes @ features + is_on[:, None] * (points @ axes) + 0.03 * torch.randn(n, D, generator=random)
    is_kept = codes.any(1) | is_on
    return rows[is_kept], axes, is_on[is_kept], features


def axes_within(
    decomposer: QuadraticDecomposer, space: Float[Tensor, "dimensions d"], n: int
) -> Float[Tensor, " n_features"]:
    """Share of each latent's first ``n`` axes that lies in the space: the mean squared cosine of the principal angles."""
    return (decomposer.spectra[1][:, :n] @ space.T).square().sum((1, 2)) / n


def forms_within(
    decomposer: QuadraticDecomposer, space: Float[Tensor, "dimensions d"]
) -> Float[Tensor, "n_features dimensions dimensions"]:
    """P Q P^T / |Q| of each latent's form, without a bias: its squared length is the share of the form in the space."""
    values, vectors = decomposer.spectra
    on_space = vectors @ space.T
    inside = torch.einsum("nr,nri,nrj->nij", values, on_space, on_space)
    return inside / values.norm(dim=1).clamp_min(1e-30)[:, None, None]


def n_forms_found(inside: Float[Tensor, "n_features k k"], least: float = 0.9) -> int:
    """How many of the space's k (k + 1) / 2 forms are had: independent ones among those that lie in it by ``least``."""
    flat = inside.flatten(1)
    found = torch.nn.functional.normalize(flat[flat.square().sum(1) > least], dim=1)
    return int((torch.linalg.svdvals(found) > 0.5).sum()) if len(found) else 0
