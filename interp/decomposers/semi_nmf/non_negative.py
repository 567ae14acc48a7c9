"""Non-negative least squares for many rows at once: codes G >= 0 of rows x with the features F fixed.

    minimise 1/2 <G Q, G> - <P, G>      Q = F F^T [K, K],  P = X F^T - l1 [n, K]

by accelerated projected gradient (FISTA, Beck and Teboulle 2009) with gradient restart (O'Donoghue and Candes 2015).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def lipschitz_constant(gram: Float[Tensor, "K K"]) -> float:
    """The largest eigenvalue of Q, rounded up a little: steps of its inverse cannot overshoot."""
    return float(torch.linalg.eigvalsh(gram.double())[-1]) * 1.0001 + 1e-12


def cold_start(products: Float[Tensor, "n K"], gram: Float[Tensor, "K K"]) -> Float[Tensor, "n K"]:
    """Codes to begin with where there are none: each feature's as if it were alone."""
    return products.clamp_min(0) / gram.diagonal().clamp_min(1e-12)


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
    max_steps: int = 1000,
) -> Float[Tensor, "n K"]:
    """The minimiser for each row by itself, from ``start``; ``products`` is P, ``gram`` is Q. A code whose product is minus
    infinity stays zero.

    A row stops when a step moves it by less than ``tolerance`` of its norm, whatever the rows beside it do.
    """
    lipschitz = lipschitz_constant(gram)
    p, step = products / lipschitz, gram / lipschitz
    codes = cold_start(products, gram) if start is None else start.clone()
    rows = torch.arange(len(products))
    g = y = codes
    t = torch.ones(len(g), 1)
    stopped = torch.zeros(len(g), dtype=torch.bool)
    for _ in range(max_steps):
        moved = torch.addmm(p, y, step, alpha=-1).add_(y).clamp_(min=0)
        delta = moved - g
        t = torch.where(((y - moved) * delta).sum(1, keepdim=True) > 0, torch.ones(()), t)
        t_next = (1 + (1 + 4 * t * t).sqrt()) / 2
        y = torch.addcmul(moved, (t - 1) / t_next, delta)
        g, t = moved, t_next
        now = ~stopped & (delta.norm(dim=1) <= tolerance * moved.norm(dim=1))
        codes[rows[now]] = g[now]
        stopped |= now
        # Leaving stopped rows out costs a copy, so it waits until it saves at least a quarter of the work.
        if int(stopped.sum()) * 4 >= len(stopped):
            left = ~stopped
            rows, g, y, p, t = rows[left], g[left], y[left], p[left], t[left]
            stopped = torch.zeros(len(rows), dtype=torch.bool)
            if not len(rows):
                return codes
    codes[rows[~stopped]] = g[~stopped]
    return codes


def improve_codes(
    products: Float[Tensor, "n K"],
    gram: Float[Tensor, "K K"],
    g: Float[Tensor, "n K"],
    *,
    lipschitz: float,
    max_steps: int = 5,
) -> Float[Tensor, "n K"]:
    """At most ``max_steps`` steps for all rows together from the codes ``g``: enough inside an alternation.

    Stops early when a step is a twentieth of the first one (Gillis and Glineur 2012).
    """
    p, step = products / lipschitz, gram / lipschitz
    y, t, first = g, 1.0, None
    for _ in range(max_steps):
        moved = torch.addmm(p, y, step, alpha=-1).add_(y).clamp_(min=0)
        delta = moved - g
        if float(((y - moved) * delta).sum()) > 0:
            t, y = 1.0, moved
        else:
            t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
            y = torch.add(moved, delta, alpha=(t - 1) / t_next)
            t = t_next
        g, size = moved, float(delta.norm())
        first = size if first is None else first
        if size <= 0.05 * first:
            break
    return g
