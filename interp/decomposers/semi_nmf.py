"""Semi-non-negative matrix factorisation (Ding, Li and Jordan 2010; for MLP activations arXiv 2506.10920).

    minimise |X - G F|^2 + 2 l1 sum(G)     over G >= 0 [n, K] and F [K, d], each row of F with at most s non-zeros
                                            and unit norm

X [n, d] are activations of any sign. Codes G and features F are improved in turn:

* codes: a few accelerated projected-gradient steps on the non-negative least-squares problem with F fixed (FISTA with
  gradient restart, O'Donoghue and Candes 2015), warm-started from the last pass;
* features: first the least-squares solution cut to the s largest entries of each row, then, row by row, the exact
  minimiser under the sparsity constraint (block coordinate descent with hard thresholding).

Only C = G^T G [K, K] and B = G^T X [K, d] are kept of a pass, and the loss follows from them:
|X|^2 - 2 <B, F> + <C, F F^T> + 2 l1 sum(G). The row-by-row stage never raises it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.base import LinearDecomposer, register
from interp.errors import InputError
from interp.fitting import DecomposerConfig, Recorder, Silent
from interp.progress import progress
from interp.store import ActivationSource

CHUNK = 8192
LEAST_SQUARES_PASSES = 10
STEPS_PER_PASS = 5


@dataclass(frozen=True)
class SemiNMFConfig(DecomposerConfig):
    """Options of semi-NMF."""

    n_features: int = 200
    """Number of features (the rank K)."""
    sparsity: float = 0.05
    """Largest share of a feature's entries that may be non-zero; the paper uses 0.05 for GPT-2 and 0.01 for Llama."""
    passes: int = 60
    """Passes over the data, at most."""
    tolerance: float = 1e-5
    """Stop when the loss falls by less than this share of itself in three passes running."""
    l1: float = 0.0
    """Weight on the sum of the codes, in units of the mean norm of a row: fewer features per token for some error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sparsity <= 1:
            raise InputError(f"the sparsity is {self.sparsity:g}, but it is a share: above 0 and at most 1")
        if self.passes < 1 or self.tolerance < 0 or self.l1 < 0:
            raise InputError("passes must be 1 or more, tolerance and l1 must not be negative")


@register
class SemiNMF(LinearDecomposer):
    """Fitted semi-NMF; tensors ``features`` [K, d] (unit rows) and ``l1`` (scalar, in activation units)."""

    kind = "semi-nmf"
    config_type = SemiNMFConfig

    @property
    def W_dec(self) -> Float[Tensor, "n_features d_in"]:
        return self.tensors["features"]

    @property
    def b_dec(self) -> Float[Tensor, " d_in"]:
        return torch.zeros(self.W_dec.shape[1])

    @classmethod
    def fit(cls, source: ActivationSource, config: SemiNMFConfig, recorder: Recorder | None = None) -> SemiNMF:
        """Fit features; the loss recorded is the mean squared error per row, summed over d.

        Raises InputError when the source has fewer rows than features or holds nothing but zeros.
        """
        solver = _Solver(source, config)
        solver.run(recorder or Silent())
        return cls(config, {"features": solver.features, "l1": torch.tensor(solver.l1)})

    def encode(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_features"]:
        """The non-negative least-squares codes of each row, features fixed, solved to about 1e-4 of the row's codes."""
        products = x @ self.W_dec.T - self.tensors["l1"]
        return non_negative_codes(products, self.W_dec @ self.W_dec.T)


def non_negative_codes(
    products: Float[Tensor, "n K"], gram: Float[Tensor, "K K"], *, tolerance: float = 1e-5, max_steps: int = 500
) -> Float[Tensor, "n K"]:
    """argmin over G >= 0 of 1/2 <G gram, G> - <products, G>, each row solved by itself.

    Accelerated projected gradient with a restart and a stopping rule of each row's own, so that a row's codes do not depend
    on its neighbours. A row stops when a step moves it by less than ``tolerance`` of its norm.
    """
    lipschitz = float(torch.linalg.eigvalsh(gram.double())[-1]) * 1.0001 + 1e-12
    codes = products.clamp_min(0) / gram.diagonal().clamp_min(1e-12)
    active = torch.arange(len(products))
    g, y, p = codes.clone(), codes.clone(), products / lipschitz
    scaled = gram / lipschitz
    t = torch.ones(len(g), 1)
    for _ in range(max_steps):
        moved = torch.addmm(p, y, scaled, alpha=-1).add_(y).clamp_(min=0)
        delta = moved - g
        t = torch.where(((y - moved) * delta).sum(1, keepdim=True) > 0, torch.ones(()), t)
        t_next = (1 + (1 + 4 * t * t).sqrt()) / 2
        y = moved + ((t - 1) / t_next) * delta
        g, t = moved, t_next
        done = delta.norm(dim=1) <= tolerance * moved.norm(dim=1).clamp_min(1e-12)
        # Dropping finished rows costs a copy, so it waits until it saves at least a quarter of the work.
        if int(done.sum()) * 4 >= len(done):
            codes[active[done]] = g[done]
            left = ~done
            active, g, y, p, t = active[left], g[left], y[left], p[left], t[left]
            if not len(active):
                return codes
    codes[active] = g
    return codes


class _Solver:
    """The state of one factorisation: features, codes, and the accumulators of the last pass."""

    def __init__(self, source: ActivationSource, config: SemiNMFConfig):
        if len(source) < config.n_features:
            raise InputError(
                f"{config.n_features} features cannot be learned from {len(source)} rows; capture more or ask for fewer"
            )
        self.source, self.config = source, config
        self.n_non_zero = max(1, math.ceil(config.sparsity * source.d_in))
        self.squared_norm = self.norm = 0.0
        for x in source.chunks(CHUNK):
            if not torch.isfinite(x).all():
                raise InputError(
                    "the activations hold values that are not finite; capture them again with --dtype float32"
                )
            self.squared_norm += float(x.double().square().sum())
            self.norm += float(x.norm(dim=1).double().sum()) / len(source)
        if self.squared_norm == 0:
            raise InputError("every activation is zero; there is nothing to learn at this hook point")
        self.l1 = config.l1 * self.norm
        self.codes = self._initial_codes()
        self._accumulate_codes()
        self.features = keep_largest(self._least_squares(), self.n_non_zero)
        self._normalise()

    def run(self, recorder: Recorder) -> None:
        """Passes until the loss no longer falls, or ``config.passes``."""
        n, losses, flat = len(self.source), [], 0
        bar = progress(range(self.config.passes), total=self.config.passes, what="semi-nmf", unit="pass")
        for i in bar:
            self._update_codes()
            exact = i >= LEAST_SQUARES_PASSES
            if exact:
                hard_threshold_descent(self.features, self.B, self.C, self.n_non_zero)
            else:
                self.features = keep_largest(self._least_squares(), self.n_non_zero)
            losses.append(self._loss())
            dead = self._reseed()
            self._normalise()
            active = float((self.codes > 0).sum()) / n
            recorder.log(
                {
                    "step": i + 1,
                    "tokens": (i + 1) * n,
                    "loss": losses[-1] / n,
                    "fvu": losses[-1] / self._total_variance,
                    "l0": active,
                    "dead": dead,
                }
            )
            falls = exact and len(losses) > 1 and losses[-2] - losses[-1] < self.config.tolerance * losses[-1]
            flat = flat + 1 if falls else 0
            if flat == 3:
                return

    @property
    def _total_variance(self) -> float:
        return self.source.moments().total_variance * len(self.source)

    def _initial_codes(self) -> Float[Tensor, "n K"]:
        """relu(cosine to a k-means++ centre)^2 |x|, plus a little so that no code starts stuck at zero."""
        centres = spherical_centres(self.source, self.config.n_features, seed=self.config.seed)
        parts = []
        for x in self.source.chunks(CHUNK):
            norms = x.norm(dim=1, keepdim=True)
            parts.append(((x / norms.clamp_min(1e-12)) @ centres.T).relu_().square_().mul_(norms).add_(1e-6))
        return torch.cat(parts)

    def _accumulate_codes(self) -> None:
        K = self.codes.shape[1]
        self.C, self.B = torch.zeros(K, K), torch.zeros(K, self.source.d_in)
        at = 0
        for x in self.source.chunks(CHUNK):
            self._accumulate(x, self.codes[at : at + len(x)])
            at += len(x)

    def _accumulate(self, x: Tensor, g: Tensor) -> None:
        self.C.addmm_(g.T, g)
        self.B.addmm_(g.T, x)

    def _update_codes(self) -> None:
        """A few projected-gradient steps for every row; refreshes C and B, and remembers the worst-explained rows."""
        gram = self.features @ self.features.T
        lipschitz = float(torch.linalg.eigvalsh(gram.double())[-1]) * 1.0001 + 1e-12
        K = gram.shape[0]
        self.C, self.B = torch.zeros(K, K), torch.zeros(K, self.source.d_in)
        self.worst: tuple[float, Tensor] = (-1.0, torch.zeros(self.source.d_in))
        at = 0
        for x in self.source.chunks(CHUNK):
            products = x @ self.features.T - self.l1
            rows = slice(at, at + len(x))
            self.codes[rows] = g = projected_gradient(products, gram, self.codes[rows], lipschitz)
            self._accumulate(x, g)
            error = x.square().sum(1) - 2 * (g * products).sum(1) + ((g @ gram) * g).sum(1)
            row = int(error.argmax())
            if float(error[row]) > self.worst[0]:
                self.worst = float(error[row]), x[row] - g[row] @ self.features
            at += len(x)

    def _least_squares(self) -> Float[Tensor, "K d_in"]:
        ridge = 1e-7 * self.C.diagonal().mean() + 1e-12
        factor, _ = torch.linalg.cholesky_ex(
            self.C.double() + ridge.double() * torch.eye(len(self.C), dtype=torch.float64)
        )
        return torch.cholesky_solve(self.B.double(), factor).float()

    def _loss(self) -> float:
        cross = (self.B.double() * self.features.double()).sum()
        gram = self.features.double() @ self.features.double().T
        fit = self.squared_norm - 2 * float(cross) + float((gram * self.C.double()).sum())
        return fit + 2 * self.l1 * float(self.codes.double().sum())

    def _reseed(self) -> int:
        """Point a dead feature at the row explained worst, one a pass; the number of dead features."""
        is_dead = self.C.diagonal() <= 1e-10 * self.C.diagonal().mean()
        if is_dead.any() and self.worst[0] > 0:
            k = int(is_dead.nonzero()[0])
            self.features[k] = keep_largest(self.worst[1][None], self.n_non_zero)[0]
        return int(is_dead.sum())

    def _normalise(self) -> None:
        norms = self.features.norm(dim=1)
        norms = torch.where(norms > 0, norms, torch.ones(()))
        self.features = self.features / norms[:, None]
        self.codes *= norms


def keep_largest(rows: Float[Tensor, "K d"], s: int) -> Float[Tensor, "K d"]:
    """Each row with all but its ``s`` entries of largest magnitude set to zero."""
    if s >= rows.shape[1]:
        return rows
    indices = rows.abs().topk(s, dim=1, sorted=False).indices
    return torch.zeros_like(rows).scatter_(1, indices, rows.gather(1, indices))


def projected_gradient(
    products: Float[Tensor, "n K"], gram: Float[Tensor, "K K"], g: Float[Tensor, "n K"], lipschitz: float
) -> Float[Tensor, "n K"]:
    """``STEPS_PER_PASS`` accelerated projected-gradient steps from ``g``; the objective is not raised over the steps."""
    p, scaled = products / lipschitz, gram / lipschitz
    y, t, first = g, 1.0, None
    for _ in range(STEPS_PER_PASS):
        moved = torch.addmm(p, y, scaled, alpha=-1).add_(y).clamp_(min=0)
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


def hard_threshold_descent(features: Tensor, B: Tensor, C: Tensor, s: int) -> None:
    """One sweep of exact minimisation over each feature in turn under at most ``s`` non-zeros, in place.

    f_k <- H_s(f_k + (b_k - (C F)_k) / C_kk), H_s keeping the s entries of largest magnitude; features that no code uses
    (C_kk = 0) are left as they are.
    """
    diagonal = C.diagonal()
    for k in range(len(features)):
        if float(diagonal[k]) <= 1e-12:
            continue
        row = features[k] + (B[k] - C[k] @ features) / diagonal[k]
        features[k] = keep_largest(row[None], s)[0]


def spherical_centres(source: ActivationSource, k: int, *, seed: int) -> Float[Tensor, "k d_in"]:
    """k-means++ centres (Arthur and Vassilvitskii 2007) of unit-norm rows, after five Lloyd steps, on at most 50 000 rows."""
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(len(source), min(len(source), 50_000), replace=False))
    x = F.normalize(source.rows(sample), dim=1)
    chosen = [int(rng.integers(len(x)))]
    distance = (1 - x @ x[chosen[0]]).clamp_min(0)
    for _ in range(k - 1):
        cumulative = distance.double().cumsum(0).numpy()
        at = int(np.searchsorted(cumulative, rng.random() * cumulative[-1])) if cumulative[-1] > 0 else len(chosen)
        chosen.append(min(at, len(x) - 1))
        distance = torch.minimum(distance, (1 - x @ x[chosen[-1]]).clamp_min(0))
    centres = x[chosen].clone()
    for _ in range(5):
        nearest = (x @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, x)
        centres = torch.where(sums.norm(dim=1, keepdim=True) > 0, F.normalize(sums, dim=1), centres)
    return centres
