"""The steps of semi-NMF that change the features, from sums over the rows alone.

C = G^T G [K, K]     B = G^T X [K, d]     S = column sums of G [K]
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.decomposers.semi_nmf.non_negative import Sweeps, improve_codes
from interp.distributed import World

COLD_SWEEPS = 6
"""Sweeps over codes from nothing."""
DEAD = 1e-5
"""A feature is dead that explains less than this share of what features explain on average (norms, not squares)."""


class Sums:
    """What a pass leaves of rows x and codes g; float64, as the objective is a small difference of large sums, and its
    last digits decide when to stop."""

    def __init__(self, n_features: int, d_in: int):
        K = n_features
        self.flat = torch.zeros(K * K + K * d_in + 2 * K, dtype=torch.float64)
        C, B, self.S, self.n_active = self.flat.split([K * K, K * d_in, K, K])
        """S; and the number of positive codes of each feature."""
        self.C, self.B = C.view(K, K), B.view(K, d_in)

    def add(self, x: Float[Tensor, "n d_in"], g: Float[Tensor, "n K"]) -> None:
        """Count in rows and their codes."""
        self.C += g.T @ g
        self.B += g.T @ x
        self.S += g.sum(0)
        self.n_active += torch.count_nonzero(g, dim=0)

    def absorb(self, other: Sums, *, keep: float) -> None:
        """Count in what another has, after letting what is held count for ``keep`` of what it did."""
        self.flat.mul_(keep).add_(other.flat)

    def add_up(self, processes: World) -> None:
        """Add up what the processes hold: the one exchange of a pass."""
        processes.sum(self.flat)

    def rescale(self, factors: Float[Tensor, " K"]) -> None:
        """As if each feature's codes had been multiplied by its factor."""
        factors = factors.double()
        self.C *= factors * factors[:, None]
        self.B *= factors[:, None]
        self.S *= factors


def keep_largest(rows: Float[Tensor, "K d"], s: int) -> Float[Tensor, "K d"]:
    """Each row with all but its ``s`` entries of largest magnitude set to zero."""
    if s >= rows.shape[1]:
        return rows
    indices = rows.abs().topk(s, dim=1, sorted=False).indices
    return torch.zeros_like(rows).scatter_(1, indices, rows.gather(1, indices))


def least_squares_features(sums: Sums, s: int) -> Float[Tensor, "K d_in"]:
    """C^-1 B, each row cut to its ``s`` largest entries; a ridge of 1e-7 keeps C invertible."""
    ridge = 1e-7 * sums.C.diagonal().mean()
    factor, _ = torch.linalg.cholesky_ex(sums.C + ridge * torch.eye(len(sums.C), dtype=torch.float64))
    return keep_largest(torch.cholesky_solve(sums.B, factor).float(), s)


def hard_threshold_descent(
    features: Float[Tensor, "K d"],
    B: Float[Tensor, "K d"],
    C: Float[Tensor, "K K"],
    penalty: Float[Tensor, " K"],
    *,
    s: int,
) -> None:
    """One sweep of exact minimisation over each feature in turn under at most ``s`` non-zeros, in place.

    A feature's norm is the scale of its codes, so with p_k = l1 S_k the part of the objective that f_k changes is
    C_kk |f_k|^2 - 2 <f_k, r> + 2 p_k |f_k|, r = b_k - sum_(j != k) C_kj f_j. Its minimiser is h max(0, 1 - p_k / |h|) / C_kk
    with h = H_s(r), the s entries of largest magnitude. A feature that no code uses (C_kk = 0) is left as it is.
    """
    B, C, penalty = B.to(features), C.to(features), penalty.to(features)
    diagonal = C.diagonal()
    for k in torch.nonzero(diagonal)[:, 0].tolist():
        rest = B[k] - C[k] @ features + diagonal[k] * features[k]
        row = keep_largest(rest[None], s)[0]
        shrink = (1 - penalty[k] / row.norm().clamp_min(1e-30)).clamp_min(0)
        features[k] = row * (shrink / diagonal[k])


def is_dead(features: Float[Tensor, "K d"], sums: Sums) -> Bool[Tensor, " K"]:
    """Which features no row uses, or have no direction."""
    explains = features.norm(dim=1) * sums.C.diagonal().sqrt()
    return explains <= DEAD * explains.mean()


def cold_codes(x: Float[Tensor, "n d"], features: Float[Tensor, "K d"], *, l1: float) -> Float[Tensor, "n K"]:
    """Codes of rows that have none yet: ``COLD_SWEEPS`` sweeps from nothing."""
    products = x @ features.T - l1
    return improve_codes(products, Sweeps(features @ features.T), torch.zeros_like(products), n_sweeps=COLD_SWEEPS)


def badly_explained(
    x: Float[Tensor, "n d"], features: Float[Tensor, "K d"], *, l1: float, s: int, count: int
) -> Float[Tensor, "count d"]:
    """Directions for ``count`` new features: what is left of the row explained worst, then of the worst after that one is
    explained by the first, and so on; each cut to ``s`` entries, unit norm."""
    left = x - cold_codes(x, features, l1=l1) @ features
    found = torch.zeros(count, x.shape[1])
    for direction in found:
        worst = left[int(left.square().sum(1).argmax())]
        direction += torch.nn.functional.normalize(keep_largest(worst[None], s)[0], dim=0)
        left = left - (left @ direction).clamp_min(0)[:, None] * direction
    return found


def take_out_norms(features: Float[Tensor, "K d"]) -> tuple[Float[Tensor, "K d"], Float[Tensor, " K"]]:
    """(features of unit norm, the factors their codes take over); a feature without a direction stays zero, factor 1."""
    norms = features.norm(dim=1)
    norms = torch.where(norms > 0, norms, torch.ones(()))
    return features / norms[:, None], norms
