"""Latents of a bilinear autoencoder as objects: symmetric forms that can be read without any input.

A latent is a weighted sum of atoms, Q = sum_a w_a (l_a r_a^T + r_a l_a^T) / 2; most have one atom, of weight 1. Its
eigenvectors are the directions it looks along, its eigenvalues how strongly and with which sign. One atom has at most two:

    (|l| |r| + l.r) / 2  along l/|l| + r/|r|        (l.r - |l| |r|) / 2  along l/|l| - r/|r|

Several are brought to a basis of their l and r (QR), where the eigenproblem is as small as twice their number.

An atom of an autoencoder with a bias works on (1, x), so that its value on x is x^T Q x + 2 b.x + c; Q alone has the
eigenvectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError

NEGLIGIBLE = 1e-6
"""An eigenvalue below this share of the largest in magnitude is rounding, and counts as zero."""


@dataclass(frozen=True)
class QuadraticForm:
    """x^T Q x + 2 linear.x + constant on unit rows x, with Q = sum_i eigenvalues_i v_i v_i^T."""

    eigenvalues: Float[Tensor, " r"]
    """Largest magnitude first."""
    eigenvectors: Float[Tensor, "r d_in"]
    """Unit rows, their entry of largest magnitude positive: an eigenvector has no sign of its own."""
    linear: Float[Tensor, " d_in"]
    """b; zeros without a bias."""
    constant: float
    """c; 0 without a bias."""

    @property
    def rank(self) -> int:
        """Eigenvalues that are not negligible against the largest."""
        size = self.eigenvalues.abs()
        return int(((size > NEGLIGIBLE * size.max()) & (size > 0)).sum())

    @property
    def effective_rank(self) -> float:
        """(sum |lambda|)^2 / sum lambda^2: r for r equal magnitudes. 0 for a form that is zero."""
        size = self.eigenvalues.abs().double()
        return float(size.sum() ** 2 / size.square().sum()) if size.any() else 0.0

    @property
    def has_bias(self) -> bool:
        """Whether the value depends on anything but x^T Q x."""
        return bool(self.linear.any()) or self.constant != 0

    def matrix(self) -> Float[Tensor, "d_in d_in"]:
        """Q."""
        return (self.eigenvectors.T * self.eigenvalues) @ self.eigenvectors

    def value(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, " n"]:
        """The latent's value on rows of any length; they are brought to unit length first."""
        u = unit_rows(x)
        return (u @ self.eigenvectors.T).square() @ self.eigenvalues + 2 * u @ self.linear + self.constant

    @property
    def centre(self) -> Float[Tensor, " r"]:
        """Where the value is stationary on the axes: -b_i / lambda_i; the origin without a bias."""
        on_axes = self.eigenvectors @ self.linear
        return torch.where(self.eigenvalues != 0, -on_axes / self.eigenvalues, torch.zeros_like(on_axes))

    def axes(self, n: int) -> Float[Tensor, "n d_in"]:
        """The first n eigenvectors: the plane (n = 2) or space that shows the latent. Raises InputError if it has fewer."""
        if not 1 <= n <= self.rank:
            raise InputError(
                f"a form of rank {self.rank} has no {n} axes; ask for at most its rank or take another latent"
            )
        return self.eigenvectors[:n]

    def project(self, x: Float[Tensor, "n d_in"], n: int = 2) -> Float[Tensor, "n k"]:
        """Coordinates of unit rows on the first ``n`` axes."""
        return unit_rows(x) @ self.axes(n).T


@dataclass(frozen=True)
class Forms:
    """Many forms in the atoms that they share; nothing of size d x d is made of them.

    With a bias the atoms are those on (1, x), and so are products and norms. Where the other forms have none, they are forms
    on (1, x) that do not look at the 1.
    """

    L: Float[Tensor, "n_atoms d"]
    R: Float[Tensor, "n_atoms d"]
    atoms: Int[Tensor, "n k"]
    """The atoms of each form."""
    weights: Float[Tensor, "n k"]

    @classmethod
    def of_directions(cls, directions: Float[Tensor, "n d"]) -> Forms:
        """w w^T for each direction w: the square of what it reads."""
        n = len(directions)
        return cls(directions, directions, torch.arange(n)[:, None], torch.ones(n, 1))

    def __len__(self) -> int:
        return len(self.atoms)

    def __getitem__(self, features: slice | Int[np.ndarray, " m"]) -> Forms:
        """Some of the forms, in the order given."""
        used, atoms = self.atoms[features].unique(return_inverse=True)
        return Forms(self.L[used], self.R[used], atoms, self.weights[features])

    def products(self, other: Forms) -> Float[Tensor, "n m"]:
        """<Q, Q'> of each of these with each of the others."""
        d = max(self.L.shape[1], other.L.shape[1])
        sides = (F.pad(side, (d - side.shape[1], 0)) for side in (self.L, self.R, other.L, other.R))
        with_atoms = _weighed(self, atom_products(*sides))
        return _weighed(other, with_atoms.T.contiguous()).T

    @cached_property
    def norms(self) -> Float[Tensor, " n"]:
        """|Q|, the Frobenius norm of each."""
        squares = []
        for a, w in zip(self.atoms.split(256), self.weights.split(256), strict=True):
            L, R = self.L[a], self.R[a]
            products = (L @ L.mT) * (R @ R.mT) + (L @ R.mT) * (R @ L.mT)
            squares.append(torch.einsum("nk,nkm,nm->n", w, products, w) / 2)
        return torch.cat(squares).clamp_min(0).sqrt()

    def cosines(self, other: Forms) -> Float[Tensor, "n m"]:
        """<Q, Q'> / (|Q| |Q'|); 0 where a form is zero."""
        return self.products(other) / (self.norms[:, None] * other.norms).clamp_min(1e-30)


def _weighed(forms: Forms, of_atoms: Float[Tensor, "n_atoms m"]) -> Float[Tensor, "n m"]:
    return F.embedding_bag(forms.atoms, of_atoms, per_sample_weights=forms.weights, mode="sum")


def atom_products(
    L: Float[Tensor, "k d"], R: Float[Tensor, "k d"], L2: Float[Tensor, "m d"], R2: Float[Tensor, "m d"]
) -> Float[Tensor, "k m"]:
    """<Q, Q'> of the atoms of (L, R) with those of (L2, R2)."""
    return 0.5 * ((L @ L2.T) * (R @ R2.T) + (L @ R2.T) * (R @ L2.T))


def unit_rows(x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
    """Rows brought to unit length; a row of zeros stays one."""
    return F.normalize(x, dim=-1, eps=1e-30)


def atom_spectra(
    L: Float[Tensor, "n d_in"], R: Float[Tensor, "n d_in"]
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2 d_in"]]:
    """(eigenvalues, unit eigenvectors) of single atoms in closed form; a missing one is 0 with a zero row."""
    size = L.norm(dim=1) * R.norm(dim=1)
    left, right = unit_rows(L), unit_rows(R)
    cosine = (left * right).sum(1)
    values = torch.stack([size * (1 + cosine) / 2, size * (cosine - 1) / 2], 1)
    return _ordered(values, torch.stack([left + right, left - right], 1))


def composite_spectra(
    L: Float[Tensor, "n k d_in"], R: Float[Tensor, "n k d_in"], weights: Float[Tensor, "n k"]
) -> tuple[Float[Tensor, "n r"], Float[Tensor, "n r d_in"]]:
    """(eigenvalues, unit eigenvectors) of weighted sums of k atoms, by a QR of their l and r; r = min(2 k, d_in)."""
    k = weights.shape[1]
    basis, triangle = torch.linalg.qr(torch.cat([L, R], 1).mT)
    left, right = triangle[..., :k], triangle[..., k:]
    half = (left * weights[:, None]) @ right.mT
    values, vectors = torch.linalg.eigh((half + half.mT) / 2)
    return _ordered(values, vectors.mT @ basis.mT)


def _ordered(
    values: Float[Tensor, "n r"], vectors: Float[Tensor, "n r d_in"]
) -> tuple[Float[Tensor, "n r"], Float[Tensor, "n r d_in"]]:
    """By magnitude, with unit rows of a fixed sign; negligible eigenvalues become 0 with a zero row."""
    order = values.abs().argsort(dim=1, descending=True, stable=True)
    values = values.gather(1, order)
    vectors = vectors.gather(1, order[..., None].expand_as(vectors))
    is_there = values.abs() > NEGLIGIBLE * values.abs().amax(1, keepdim=True)
    largest = vectors.gather(2, vectors.abs().argmax(2, keepdim=True))
    vectors = unit_rows(vectors) * torch.where(largest < 0, -1.0, 1.0).to(vectors)
    return values * is_there, vectors * is_there[..., None]
