"""The multiplicative updates of semi-NMF, as the paper's method uses them: the reference for the accelerated solver.

    F <- (G^T G + 1e-6 I)^-1 G^T X, the s largest entries of each row kept
    G <- G * sqrt( (P+ + G Q-) / (P- + G Q+ + 1e-6) ),   P = X F^T,  Q = F F^T,  A+ = max(A, 0),  A- = max(-A, 0)

Ding, Li and Jordan 2010, equations 9 and 10 (our G is theirs, our F is the transpose of theirs); the cut, the columns of
unit norm and the epsilons are those of arXiv 2506.10920. Everything lies in memory, codes never become exactly zero, and with
the cut the loss may rise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.semi_nmf.config import SemiNMFConfig
from interp.decomposers.semi_nmf.features import keep_largest, take_out_norms
from interp.decomposers.semi_nmf.start import totals_of
from interp.distributed import World
from interp.errors import InputError
from interp.progress import progress
from interp.store.source import ActivationSource
from interp.training.protocol import Recorder

EPSILON = 1e-6


def random_codes(n: int, n_features: int, *, seed: int) -> Float[Tensor, "n K"]:
    """Uniform on [0, 1), as the paper starts."""
    return torch.rand(n, n_features, generator=torch.Generator().manual_seed(seed))


def multiplicative_updates(
    x: Float[Tensor, "n d"], codes: Float[Tensor, "n K"], *, s: int
) -> Iterator[tuple[Float[Tensor, "K d"], Float[Tensor, "n K"], float]]:
    """Endless iterations from ``codes``: (features, codes that the features were solved for, squared error of the two).

    The error is summed over rows; it comes from G^T G and G^T X, which costs less than the residual.
    """
    squared_norm = float(x.double().square().sum())
    while True:
        codes = codes / codes.norm(dim=0).clamp_min(EPSILON)
        C, B = codes.T @ codes, codes.T @ x
        features = keep_largest(torch.linalg.solve(C + EPSILON * torch.eye(len(C)), B), s)
        Q = features @ features.T
        error = squared_norm - 2 * float((B.double() * features).sum()) + float((Q.double() * C).sum())
        yield features, codes, error
        P = x @ features.T
        up = P.clamp_min(0).addmm_(codes, (-Q).clamp_min(0))
        down = (-P).clamp_min_(0).addmm_(codes, Q.clamp_min(0)).add_(EPSILON)
        codes = codes * up.div_(down).sqrt_()


def fit_multiplicative(source: ActivationSource, config: SemiNMFConfig, recorder: Recorder) -> Float[Tensor, "K d"]:
    """Unit-norm features after ``config.passes`` iterations from random codes, or when ``config.tolerance`` says so."""
    n = len(source)
    if n < config.n_features:
        raise InputError(f"{config.n_features} features cannot be learned from {n} rows; capture more or ask for fewer")
    totals = totals_of(source, range(n), World())
    x = torch.cat(list(source.chunks()))
    codes = random_codes(n, config.n_features, seed=config.seed)
    updates = multiplicative_updates(x, codes, s=config.n_non_zero(source.d_in))
    features, last, flat = torch.zeros(0), math.inf, 0
    for i in progress(range(config.passes), total=config.passes, what="semi-nmf", unit="pass"):
        features, codes, error = next(updates)
        record = {"step": i + 1, "tokens": (i + 1) * n, "loss": error / n, "fvu": error / totals.variance}
        recorder.log({**record, "l0": float((codes > 0).sum()) / n, "dead": int((features == 0).all(1).sum())})
        flat, last = flat + 1 if abs(last - error) < config.tolerance * error else 0, error
        if flat == 3:
            break
    return take_out_norms(features)[0]
