"""The loss of a bilinear autoencoder, evaluated without ever forming a d_in x d_in matrix for a token.

An atom h is the symmetric form Q_h = (l_h r_h^T + r_h l_h^T) / 2, with l_h, r_h rows of L, R [n_atoms, d]. On a row x

    f_h = (l_h . x)(r_h . x) = x^T Q_h x                                   what the atom reads
    X^  = sum_h g_h Q_h        g = f, or g = D^T D f where atoms are mixed   the reconstruction of X = x x^T
                               g the sum of f over the atoms of h's latent   where a latent has several
    |X - X^|^2 = g^T K g - 2 g.f + |x|^4,     K_hk = <Q_h, Q_k> = ((l_h.l_k)(r_h.r_k) + (l_h.r_k)(r_h.l_k)) / 2

With prefix weights c_h = (n_atoms - h) / n_atoms, h from 0, K_hk and g_h f_h weighted by min(c_h, c_k) and c_h give the
mean error over all prefixes of the atoms (arXiv 2510.16820, ordered and combined kinds). gamma weighs the two halves of K
by (1 + gamma)/2 and (1 - gamma)/2: 0 is the exact inner product of forms, 1 the kernel of the paper's training loss, which
is larger by the squared length of the antisymmetric part of sum_h g_h l_h r_h^T.

The sum of g^T K g over a batch is sum(C o K) with C = g^T g. It goes tile by tile over the upper triangle, and the
gradients are taken while a tile is there, so that nothing of size n_atoms x n_atoms is kept. Where a batch holds more rows
than D has, C is D^T (h^T h) D instead, with h = D f: the same numbers, of cost in proportion to the rows of D.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.distributed import World


def read_atoms(
    x: Float[Tensor, "n d"], L: Float[Tensor, "n_atoms d"], R: Float[Tensor, "n_atoms d"]
) -> Float[Tensor, "n n_atoms"]:
    """f: the value of every atom's form on every row."""
    return (x @ L.T) * (x @ R.T)


def reconstruction_error(
    x: Float[Tensor, "n d"],
    L: Float[Tensor, "n_atoms d"],
    R: Float[Tensor, "n_atoms d"],
    D: Float[Tensor, "m n_atoms"] | None = None,
    *,
    n_each: int = 1,
    ordered: bool = False,
    gamma: float = 0.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, "n n_latents"]]:
    """(mean over rows of |X - X^|^2, what the latents read). Differentiable in all tensors, through both.

    A latent is a sum of ``n_each`` atoms that follow one another. ``D`` mixes single atoms. ``ordered`` means the error's mean
    over all prefixes of the latents.
    """
    f = read_atoms(x, L, R).unflatten(1, (-1, n_each)).sum(2)
    c = prefix_weights(f) if ordered else None
    if D is None:
        written = f.repeat_interleave(n_each, 1)
        prefix = None if c is None else c.repeat_interleave(n_each)
        energy = gram_energy(written, L, R, prefix=prefix, gamma=gamma)
        cross = f.square()
    else:
        h = f @ D.T
        if len(x) > len(D):
            energy = gram_energy(D, L, R, middle=h.T @ h, prefix=c, gamma=gamma)
        else:
            energy = gram_energy(h @ D, L, R, prefix=c, gamma=gamma)
        cross = h.square() if c is None else f * (h @ D)
    if c is not None:
        cross = cross * c
    return (energy - 2 * cross.sum() + x.square().sum(1).square().sum()) / len(x), f


def prefix_weights(f: Float[Tensor, "n n_latents"]) -> Float[Tensor, " n_latents"]:
    """c: the share of prefixes that hold each latent."""
    n = f.shape[1]
    return torch.arange(n, 0, -1, dtype=f.dtype, device=f.device) / n


def hoyer_density(
    f: Float[Tensor, "n n_atoms"], *, ordered: bool = False, processes: World | None = None
) -> Float[Tensor, ""]:
    """Mean over atoms of (|f_h|_1 / |f_h|_2 - 1) / (sqrt(n) - 1) over the rows of a batch: 1/n-sparse is 0, constant is 1.

    ``ordered`` means its mean over all prefixes of the atoms: atom h, from 0, then weighs sum_{k > h} 1/k, k up to
    n_atoms. Hoyer 2004, JMLR 5:1457; the paper's regulariser. An atom that reads 0 on all rows counts as 0.

    With ``processes`` the batch is that of all of them, of which ``f`` holds an equal share each. Every process then gets the
    density of the whole batch, and a gradient whose mean over the processes is the gradient of that density.
    """
    n, n_atoms = f.shape
    absolute, norm = f.abs().sum(0), f.norm(dim=0)
    if processes is not None and processes.size > 1:
        absolute, squared = _of_all_rows(torch.stack([absolute, norm.square()]), processes)
        norm = squared.clamp_min(1e-38).sqrt()  # which has no gradient at 0
        n *= processes.size
    density = (absolute / norm.clamp_min(1e-18) - (norm > 1e-18).to(f)) / (math.sqrt(n) - 1)
    if ordered:
        inverse = 1 / torch.arange(1, n_atoms + 1, dtype=f.dtype, device=f.device)
        density = density * inverse.flip(0).cumsum(0).flip(0)
    return density.mean()


def _of_all_rows(own: Float[Tensor, "*shape"], processes: World) -> Float[Tensor, "*shape"]:
    """The sum over processes of what each has summed over its rows.

    Its gradient is that of this process's part times the number of processes: averaged over them it is that of the sum.
    """
    whole = own.detach().clone()
    processes.sum(whole)
    return whole + processes.size * (own - own.detach())


def gram_energy(
    A: Float[Tensor, "n n_atoms"],
    L: Float[Tensor, "n_atoms d"],
    R: Float[Tensor, "n_atoms d"],
    *,
    middle: Float[Tensor, "n n"] | None = None,
    prefix: Float[Tensor, " n_atoms"] | None = None,
    gamma: float = 0.0,
    tile: int | None = None,
) -> Float[Tensor, ""]:
    """sum_hk C_hk K_hk min(c_h, c_k), with C = A^T A, or A^T middle A for a symmetric ``middle``; c are ``prefix`` weights.

    Differentiable in A, L, R and ``middle``, once. ``tile`` is the number of atoms in a tile, chosen by their number where
    it is not given; it need not divide their number. gamma must be above -1.
    """
    # Measured at width 256 on one thread: 512 is fastest for 1024 atoms, 1024 (of 256, 512, 1024) for 4096.
    tile = tile or min(1024, max(128, len(L) // 2))
    return _GramEnergy.apply(A, L, R, middle, prefix, gamma, tile)


class _GramEnergy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, A: Tensor, L: Tensor, R: Tensor, middle: Tensor | None, prefix: Tensor | None, gamma: float, tile: int
    ) -> Tensor:
        E = A if middle is None else middle @ A
        blocks = _Blocks(A, E, L, R, prefix=prefix, gamma=gamma, tile=tile)
        energy = blocks.visit(with_gradients=any(ctx.needs_input_grad))
        if any(ctx.needs_input_grad):
            AK, grad_L, grad_R = blocks.gathered()
            grad_A = AK if middle is None else middle @ AK
            grad_middle = A.new_zeros(0) if middle is None else AK @ A.T
            ctx.has_middle = middle is not None
            ctx.save_for_backward(2 * grad_A, grad_L, grad_R, grad_middle)
        return energy

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        grad_A, grad_L, grad_R, grad_middle = (upstream[0] * gradient for gradient in ctx.saved_tensors)
        return grad_A, grad_L, grad_R, grad_middle if ctx.has_middle else None, None, None, None


class _Blocks:
    """Blocks of atoms, and the sums that a visit of all pairs of blocks i <= j gathers.

    L and R are stacked block by block: one product of two stacks holds the four dot products of each pair of atoms,
    [[LL, LR], [RL, RR]], and so do their gradients.
    """

    def __init__(
        self,
        A: Float[Tensor, "n n_atoms"],
        E: Float[Tensor, "n n_atoms"],
        L: Float[Tensor, "n_atoms d"],
        R: Float[Tensor, "n_atoms d"],
        *,
        prefix: Float[Tensor, " n_atoms"] | None,
        gamma: float,
        tile: int,
    ):
        self.scale, self.ratio = (1 + gamma) / 2, (1 - gamma) / (1 + gamma)
        self.A, self.E = A.split(tile, 1), E.split(tile, 1)
        self.LR = [torch.cat(pair) for pair in zip(L.split(tile), R.split(tile), strict=True)]
        self.prefix = None if prefix is None else prefix.split(tile)
        self.AK: list[Tensor] = []
        self.grad_LR: list[Tensor] = []

    def visit(self, *, with_gradients: bool) -> Float[Tensor, ""]:
        """The energy. ``with_gradients`` also gathers A times the weighted kernel, and the gradients of L and R."""
        energy = self.A[0].new_zeros(())
        if with_gradients:
            self.AK = [torch.zeros_like(block) for block in self.A]
            self.grad_LR = [torch.zeros_like(block) for block in self.LR]
        for j in range(len(self.A)):
            for i in range(j + 1):
                energy += self._pair(i, j, with_gradients=with_gradients)
        return energy

    def gathered(self) -> tuple[Tensor, Tensor, Tensor]:
        """(A times the weighted kernel, gradient of L, gradient of R)."""
        L, R = zip(*(block.chunk(2) for block in self.grad_LR), strict=True)
        return torch.cat(self.AK, 1), torch.cat(L), torch.cat(R)

    def _pair(self, i: int, j: int, *, with_gradients: bool) -> Float[Tensor, ""]:
        products = self.LR[i] @ self.LR[j].T
        (LL, LR), (RL, RR) = (half.chunk(2, 1) for half in products.chunk(2))
        K = (LL * RR).addcmul_(LR, RL, value=self.ratio)
        C = self.A[i].T @ self.E[j]
        if self.prefix is not None:
            weight = torch.minimum(self.prefix[i][:, None], self.prefix[j])
            K.mul_(weight)
        energy = torch.dot(C.flatten(), K.flatten()) * (self.scale if i == j else 2 * self.scale)
        if with_gradients:
            if self.prefix is not None:
                C.mul_(weight)
            self._gather(i, j, K, _products_gradient(C, LL, LR, RL, RR, self.ratio))
        return energy

    def _gather(self, i: int, j: int, K: Float[Tensor, "a b"], grad_products: Float[Tensor, "two_a two_b"]) -> None:
        self.AK[i].addmm_(self.A[j], K.T, alpha=self.scale)
        self.grad_LR[i].addmm_(grad_products, self.LR[j], alpha=2 * self.scale)
        if i != j:
            self.AK[j].addmm_(self.A[i], K, alpha=self.scale)
            self.grad_LR[j].addmm_(grad_products.T, self.LR[i], alpha=2 * self.scale)


def _products_gradient(
    C: Float[Tensor, "a b"],
    LL: Float[Tensor, "a b"],
    LR: Float[Tensor, "a b"],
    RL: Float[Tensor, "a b"],
    RR: Float[Tensor, "a b"],
    ratio: float,
) -> Float[Tensor, "two_a two_b"]:
    """The gradient of C o (LL o RR + ratio LR o RL) in the stacked products; uses C up."""
    n, m = C.shape
    gradient = C.new_empty(2 * n, 2 * m)
    torch.mul(C, RR, out=gradient[:n, :m])
    torch.mul(C, LL, out=gradient[n:, m:])
    C.mul_(ratio)
    torch.mul(C, RL, out=gradient[:n, m:])
    torch.mul(C, LR, out=gradient[n:, :m])
    return gradient
