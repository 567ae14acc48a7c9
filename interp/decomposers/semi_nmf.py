"""Semi-non-negative matrix factorisation (Ding, Li and Jordan 2010; for MLP activations arXiv 2506.10920).

    minimise |X - G F|^2 + 2 l1 sum(G)     over G >= 0 [n, K] and F [K, d], each row of F with at most s non-zeros
                                            and unit norm

X [n, d] are activations of any sign. The papers have no l1; everything else is theirs. Codes and features are improved
in turn:

* codes: a few steps of non-negative least squares with F fixed, warm-started from the last pass;
* features: first the least-squares solution cut to the s largest entries of each row, then, row by row, the exact
  minimiser over that row and the scale of its codes (block coordinate descent with hard thresholding).

Of a pass only C = G^T G [K, K], B = G^T X [K, d] and S = the codes' sums [K] are kept, and the objective follows from them:
|X|^2 - 2 <B, F> + <C, F F^T> + 2 l1 sum_k S_k |F_k|. The row-by-row stage does not raise it, but for
the rounding of float32 products.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.base import LinearDecomposer, moments_to_learn, register
from interp.decomposers.non_negative import improve_codes, lipschitz_constant, non_negative_codes
from interp.errors import InputError
from interp.fitting import DecomposerConfig, Recorder, Silent
from interp.progress import progress
from interp.store import ActivationSource

CHUNK = 8192
LEAST_SQUARES_PASSES = 10


@dataclass(frozen=True)
class SemiNMFConfig(DecomposerConfig):
    """Options of semi-NMF."""

    n_features: int = 200
    """Number of features (the rank K)."""
    sparsity: float = 0.05
    """Largest share of a feature's entries that may be non-zero; the paper uses 0.05 for GPT-2 and 0.01 for Llama."""
    l1: float = 0.02
    """Weight on the sum of the codes, in units of the mean norm of a row: fewer features per token for some error."""
    # Measured at blocks.2.mlp.hook_post of the bundled model (20 000 tokens, K 100, 20 passes; the best feature of each of
    # 32 Python concepts chosen on one half of the tokens, scored on the other):
    #
    #                                FVU   L0   features on > 50 % of tokens   AUROC   average precision   F1
    #     l1 0                      .367   72   88 %                            .845    .387                .379
    #     l1 0.02                   .411   27    0 %                            .842    .393                .407
    #     l1 0.05                   .446   17    0 %                            .812    .395                .405
    #     mean removed, l1 0        .377   91  100 %                            .850    .369                .381
    #     mean removed, l1 0.02     .445   30   11 %                            .825    .374                .386
    #     learned offset, l1 0      .336   92  100 %                            .836
    #     learned offset, l1 0.02   .387   34    0 %                            .831    .384                .377
    #
    # Most features fire on most tokens without l1, and not because they carry the mean: taking the mean off, or learning an
    # offset, makes it worse (probably because codes around an offset are hardly bound by being non-negative).
    passes: int = 60
    """Passes over the data, at most."""
    tolerance: float = 1e-5
    """Stop when the loss falls by less than this share of itself in three passes running."""

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
        """Fit features. The recorded loss is the objective over n: squared error per row, summed over d, plus the l1 term.

        Raises InputError when the source has fewer rows than features, rows that are all the same or not finite, and when
        l1 is so large that every code is zero.
        """
        solver = _Solver(source, config)
        solver.run(recorder or Silent())
        return cls(config, {"features": solver.features, "l1": torch.tensor(solver.l1)})

    def encode(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_features"]:
        """The codes of the objective with the features fixed, to about 1e-4 of the norm of a row's codes."""
        return non_negative_codes(x @ self.W_dec.T - self.tensors["l1"], self.W_dec @ self.W_dec.T)


class _Solver:
    """The state of one factorisation: features, codes, and the sums over the last pass."""

    def __init__(self, source: ActivationSource, config: SemiNMFConfig):
        n = len(source)
        if n < config.n_features:
            raise InputError(
                f"{config.n_features} features cannot be learned from {n} rows; capture more or ask for fewer"
            )
        moments = moments_to_learn(source)
        self.source, self.config = source, config
        self.n_non_zero = max(1, math.ceil(config.sparsity * source.d_in))
        self.l1 = config.l1 * moments.mean_norm
        self.variance = n * moments.total_variance
        self.squared_norm = self.variance + n * float(np.square(moments.mean).sum())
        self.codes = self._initial_codes()
        self._clear_sums()
        for rows, x in self._chunks():
            self._add_to_sums(x, self.codes[rows])
        self.features = self._least_squares()
        self._normalise()

    def run(self, recorder: Recorder) -> None:
        """Passes until the loss no longer falls, or ``config.passes``."""
        n, last, flat = len(self.source), math.inf, 0
        bar = progress(range(self.config.passes), total=self.config.passes, what="semi-nmf", unit="pass")
        for i in bar:
            self._update_codes()
            if i < LEAST_SQUARES_PASSES:
                self.features = self._least_squares()
            else:
                hard_threshold_descent(self.features, self.B, self.C, self.l1 * self.S, s=self.n_non_zero)
            error, penalty = self._objective()
            loss = error + penalty
            dead = self._reseed()
            self._normalise()
            active = float((self.codes > 0).sum()) / n
            record = {"step": i + 1, "tokens": (i + 1) * n, "loss": loss / n, "fvu": error / self.variance}
            recorder.log({**record, "l0": active, "dead": dead})
            is_flat = i >= LEAST_SQUARES_PASSES and last - loss < self.config.tolerance * loss
            flat, last = flat + 1 if is_flat else 0, loss
            if flat == 3:
                return

    def _chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """(which rows, the rows), in order."""
        at = 0
        for x in self.source.chunks(CHUNK):
            yield slice(at, at + len(x)), x
            at += len(x)

    def _initial_codes(self) -> Float[Tensor, "n K"]:
        """relu(cosine to a k-means++ centre)^2 |x|, plus a little so that no code starts stuck at zero."""
        centres = spherical_centres(self.source, self.config.n_features, seed=self.config.seed)
        codes = torch.empty(len(self.source), self.config.n_features)
        for rows, x in self._chunks():
            norms = x.norm(dim=1, keepdim=True)
            codes[rows] = ((x / norms.clamp_min(1e-12)) @ centres.T).relu_().square_().add_(1e-6).mul_(norms)
        return codes

    def _clear_sums(self) -> None:
        # float64: the objective is a small difference of large sums, and its last digits decide when to stop.
        K, d_in = self.config.n_features, self.source.d_in
        self.C = torch.zeros(K, K, dtype=torch.float64)
        self.B = torch.zeros(K, d_in, dtype=torch.float64)
        self.S = torch.zeros(K, dtype=torch.float64)

    def _add_to_sums(self, x: Float[Tensor, "n d_in"], g: Float[Tensor, "n K"]) -> None:
        self.C += g.T @ g
        self.B += g.T @ x
        self.S += g.sum(0)

    def _update_codes(self) -> None:
        """A few steps for every row; refreshes the sums, and remembers what is left of the row explained worst."""
        gram = self.features @ self.features.T
        lipschitz = lipschitz_constant(gram)
        self._clear_sums()
        largest, self.worst = 0.0, torch.zeros(self.source.d_in)
        for rows, x in self._chunks():
            products = x @ self.features.T
            g = improve_codes(products - self.l1, gram, self.codes[rows], lipschitz=lipschitz)
            self.codes[rows] = g
            self._add_to_sums(x, g)
            errors = x.square().sum(1) + ((g @ gram - 2 * products) * g).sum(1)
            if float(errors.max()) > largest:
                row = int(errors.argmax())
                largest, self.worst = float(errors[row]), x[row] - g[row] @ self.features
        if not self.S.any():
            raise InputError(f"with --l1 {self.config.l1:g} no feature is used by any row; give a smaller one")

    def _least_squares(self) -> Float[Tensor, "K d_in"]:
        """C^-1 B, each row cut to its largest entries; a ridge of 1e-7 keeps C invertible."""
        ridge = 1e-7 * self.C.diagonal().mean()
        factor, _ = torch.linalg.cholesky_ex(self.C + ridge * torch.eye(len(self.C), dtype=torch.float64))
        return keep_largest(torch.cholesky_solve(self.B, factor).float(), self.n_non_zero)

    def _objective(self) -> tuple[float, float]:
        """(squared error, l1 term), both summed over all rows, with codes scaled so that features have unit norm."""
        f = self.features.double()
        error = self.squared_norm - 2 * float((self.B * f).sum()) + float((f @ f.T * self.C).sum())
        return error, 2 * self.l1 * float(self.S @ f.norm(dim=1))

    def _reseed(self) -> int:
        """Point one dead feature at the row explained worst; the number of dead features.

        Dead is a feature that no row uses, or whose best direction is zero. Its codes are zero, so the objective stays.
        """
        weights = self.features.norm(dim=1) * self.C.diagonal().sqrt()  # the size of what each feature explains
        dead = (weights <= 1e-5 * weights.mean()).nonzero()[:, 0]
        self.codes[:, dead] = 0
        if len(dead):
            self.features[dead[0]] = keep_largest(self.worst[None], self.n_non_zero)[0]
        return len(dead)

    def _normalise(self) -> None:
        """Move the norm of each feature into its codes."""
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
