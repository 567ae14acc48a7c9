"""Non-negative least squares for many rows at once: codes G >= 0 of rows x with the features F fixed.

    minimise 1/2 <G Q, G> - <P, G>      Q = F F^T [K, K],  P = X F^T - l1 [n, K]

by block coordinate descent: block after block of features, a few steps of accelerated projected gradient (FISTA, Beck and
Teboulle 2009) with the codes of all others fixed. A step of a block is as long as its own curvature allows, which is a
fraction of that of all features together where they have a direction in common, as those of a transformer have. Now and then
the codes that are positive are solved for exactly (Lawson and Hanson 1974, the step towards the least squares on a face).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 32
STEPS = 3
"""Gradient steps of a block."""
FACE_EVERY = 5
"""Sweeps between two exact solutions."""
FACE_MEMORY = 2**24
"""Numbers in the matrices that are solved together."""


class _Block(NamedTuple):
    features: slice
    columns: Float[Tensor, "K b"]
    own: Float[Tensor, "b b"]
    lipschitz: float


class Sweeps:
    """Block coordinate descent for one Q."""

    def __init__(self, gram: Float[Tensor, "K K"]):
        self.gram = gram
        parts = [slice(first, first + BLOCK) for first in range(0, len(gram), BLOCK)]
        self._blocks = [
            _Block(part, gram[part].T.contiguous(), own := gram[part, part].contiguous(), _lipschitz_constant(own))
            for part in parts
        ]
        # A Cholesky factor of s codes takes s^3 / 3 products, and small ones run slowly: at most about four sweeps' time.
        self._most_on_face = round((24 * len(gram) ** 2) ** (1 / 3))

    def sweep(self, products: Float[Tensor, "n K"], g: Float[Tensor, "n K"]) -> None:
        """Improve the codes ``g`` in place, block by block; ``products`` is P."""
        for block in self._blocks:
            now = g[:, block.features]
            aim = torch.addmm(products[:, block.features], g, block.columns, alpha=-1).addmm_(now, block.own)
            y, t = now, 1.0
            for _ in range(STEPS):
                moved = torch.addmm(aim, y, block.own, alpha=-1).div_(block.lipschitz).add_(y).clamp_(min=0)
                t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
                y = torch.add(moved, moved - now, alpha=(t - 1) / t_next)
                now, t = moved, t_next
            g[:, block.features] = now

    def solve_on_face(self, products: Float[Tensor, "n K"], g: Float[Tensor, "n K"]) -> None:
        """Move each row of ``g`` in place towards the least squares on its positive codes, as far as all stay non-negative.

        Rows with so many positive codes that sweeps cost less are left as they are.
        """
        active = g > 0
        n_active = active.sum(1)
        few = torch.nonzero((n_active > 0) & (n_active <= self._most_on_face))[:, 0]
        if not len(few):
            return
        width = int(n_active[few].max())
        ridge = 1e-6 * self.gram.diagonal().mean()
        for rows in few.split(max(1, FACE_MEMORY // width**2)):
            codes, chosen = g[rows].topk(width, dim=1)
            active = codes > 0
            face = self.gram[chosen[:, :, None], chosen[:, None, :]] * (active[:, :, None] & active[:, None, :])
            left = products[rows].gather(1, chosen) - (face @ codes[:, :, None])[:, :, 0]
            face.diagonal(dim1=1, dim2=2).add_(torch.where(active, ridge, torch.ones(())))
            factor, _ = torch.linalg.cholesky_ex(face)
            step = torch.cholesky_solve(torch.where(active, left, torch.zeros(()))[:, :, None], factor)[:, :, 0]
            room = torch.where(active & (step < 0), -codes / step, torch.inf).amin(1, keepdim=True).clamp(max=1)
            moved = torch.where(active, codes + room * step, torch.zeros(())).clamp_(min=0)
            solved = moved.isfinite().all(1)  # not where equal features leave no factor
            g[rows[solved]] = torch.zeros_like(g[rows[solved]]).scatter_(1, chosen[solved], moved[solved])


def debiased(
    products: Float[Tensor, "n K"], gram: Float[Tensor, "K K"], codes: Float[Tensor, "n K"]
) -> Float[Tensor, "n K"]:
    """The non-negative least squares without l1 among those codes of each row that are positive in ``codes``.

    ``products`` is X F^T. l1 chooses which features a row has and shrinks their codes; this takes the shrinking back.
    """
    outside = torch.tensor(-math.inf, dtype=products.dtype)
    return non_negative_codes(torch.where(codes > 0, products, outside), gram, start=codes)


def non_negative_codes(
    products: Float[Tensor, "n K"],
    gram: Float[Tensor, "K K"],
    *,
    start: Float[Tensor, "n K"] | None = None,
    tolerance: float = 1e-6,
    max_sweeps: int = 300,
) -> Float[Tensor, "n K"]:
    """The minimiser for each row by itself, from ``start``; ``products`` is P, ``gram`` is Q. A code whose product is minus
    infinity stays zero.

    A row stops when a sweep moves it by less than ``tolerance`` of its norm, whatever the rows beside it do.
    """
    sweeps = Sweeps(gram)
    codes = torch.zeros_like(products) if start is None else start.clone()
    rows, p, g = torch.arange(len(products)), products, codes.clone()
    stopped = torch.zeros(len(g), dtype=torch.bool)
    for i in range(1, max_sweeps + 1):
        before = g.clone()
        sweeps.sweep(p, g)
        now = ~stopped & ((g - before).norm(dim=1) <= tolerance * g.norm(dim=1))
        codes[rows[now]] = g[now]
        stopped |= now
        # Leaving stopped rows out costs a copy, so it waits until it saves at least a quarter of the work.
        if int(stopped.sum()) * 4 >= len(stopped):
            left = ~stopped
            rows, g, p = rows[left], g[left], p[left]
            stopped = torch.zeros(len(rows), dtype=torch.bool)
            if not len(rows):
                return codes
        if i % FACE_EVERY == 0:
            sweeps.solve_on_face(p, g)
    codes[rows[~stopped]] = g[~stopped]
    return codes


def improve_codes(
    products: Float[Tensor, "n K"], sweeps: Sweeps, g: Float[Tensor, "n K"], *, n_sweeps: int
) -> Float[Tensor, "n K"]:
    """The codes after ``n_sweeps`` sweeps from ``g``: enough inside an alternation."""
    g = g.clone()
    for _ in range(n_sweeps):
        sweeps.sweep(products, g)
    return g


def _lipschitz_constant(gram: Float[Tensor, "K K"]) -> float:
    """The largest eigenvalue of Q, rounded up a little: steps of its inverse cannot overshoot."""
    return float(torch.linalg.eigvalsh(gram.double())[-1]) * 1.0001 + 1e-12
