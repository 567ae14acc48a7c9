"""Logistic regression with an L2 penalty, of many outputs at once, by two methods.

Both minimise, for weights w and an intercept b that is not penalised,

    sum over rows i of log(1 + exp(z_i)) - y_i z_i, with z = x w + b, plus l2 |w|^2 / 2,

which is what scikit-learn's LogisticRegression minimises at C = 1 / l2 (a sum over rows, not a mean: twice the rows weaken
the penalty by half). It is strictly convex, so both find the one minimum.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from scipy.sparse import csr_array, sparray
from torch import Tensor
from torch.nn.functional import softplus

from interp.errors import InputError

_PAIRS = 8
"""Steps that L-BFGS remembers; 8 is in the middle of what Nocedal and Wright advise."""
_HALVINGS = 30


def fit_logistic(
    x: Num[np.ndarray, "*batch n k"], y: Bool[np.ndarray, "*batch n"], *, l2: float = 1.0
) -> tuple[Float[np.ndarray, "*batch k"], Float[np.ndarray, "*batch"]]:
    """(weights, intercepts) of a separate regression for each leading index, for few columns (k up to some 32).

    Newton's method in float64, steps halved until the objective falls enough, until all are at the minimum to 1e-10 of
    the objective. Raises InputError for rows of one class, and for l2 of 0 or less.
    """
    _check(np.moveaxis(y, -1, 0), l2)
    values = torch.from_numpy(np.asarray(x, np.float64))
    values = torch.cat([values, values.new_ones(*values.shape[:-1], 1)], -1)
    targets = torch.from_numpy(np.asarray(y, np.float64))
    penalty = torch.full_like(values[..., 0, :], l2)
    penalty[..., -1] = 0
    weights = torch.zeros_like(penalty)
    weights[..., -1] = targets.mean(-1).logit()

    def objective(weights: Tensor) -> Tensor:
        logits = (values @ weights[..., None])[..., 0]
        return (softplus(logits) - targets * logits).sum(-1) + (penalty * weights.square()).sum(-1) / 2

    current = objective(weights)
    for _ in range(100):
        share = torch.sigmoid(values @ weights[..., None])[..., 0]
        gradient = ((share - targets)[..., None, :] @ values)[..., 0, :] + penalty * weights
        hessian = values.mT @ (values * (share * (1 - share))[..., None]) + torch.diag_embed(penalty)
        step = torch.linalg.solve(hessian, gradient)
        fall = (gradient * step).sum(-1)  # twice what a quadratic objective would fall by
        size, current = _backtracked(lambda size: objective(weights - size[..., None] * step), current, fall)  # noqa: B023
        weights = weights - size[..., None] * step
        if bool((fall <= 1e-10).all()):
            break
    return weights[..., :-1].numpy(), weights[..., -1].numpy()


def fit_logistic_outputs(
    x: Float[np.ndarray, "n d"] | csr_array,
    y: Bool[np.ndarray, "n n_outputs"],
    *,
    l2: float = 1.0,
    tolerance: float = 1e-3,
    max_steps: int = 200,
) -> tuple[Float[np.ndarray, "d n_outputs"], Float[np.ndarray, " n_outputs"]]:
    """(weights, intercepts) of each output, for many columns that all outputs share, dense or sparse.

    L-BFGS (Nocedal and Wright 2006, algorithm 7.5) with a history and a step size for each output, so that only the
    products with ``x`` are shared. It starts from the diagonal D of the Hessian at w = 0, and an output is done when
    sqrt(g' D^-1 g) of its gradient g is ``tolerance`` of what it was at the start, or its objective no longer falls, or after
    ``max_steps``. Computed in the precision of ``x``. Raises InputError for an output of one class, and for l2 of 0 or less.
    """
    _check(y, l2)
    design: Tensor | sparray = torch.from_numpy(x) if isinstance(x, np.ndarray) else x
    across: Tensor | sparray = design.T
    squares = torch.from_numpy(np.einsum("ij,ij->j", x, x) if isinstance(x, np.ndarray) else (x * x).sum(0))
    targets = torch.from_numpy(y).to(squares.dtype)
    rates = targets.mean(0)
    n, d = x.shape
    penalty = squares.new_full((d + 1, 1), l2)
    penalty[-1] = 0
    scale = 1 / (torch.cat([squares, squares.new_tensor([n])])[:, None] * (rates * (1 - rates)) + penalty)
    weights = squares.new_zeros(d + 1, len(rates))
    weights[-1] = rates.logit()
    logits = weights[-1].repeat(n, 1)
    history = _History(scale)

    def objective(weights: Tensor, logits: Tensor) -> Tensor:
        return (softplus(logits) - targets * logits).sum(0) + (penalty * weights.square()).sum(0) / 2

    current = objective(weights, logits)
    gradient = step = torch.zeros_like(weights)
    first, is_active = None, torch.ones_like(rates, dtype=torch.bool)
    for _ in range(max_steps):
        residual = torch.sigmoid(logits) - targets
        before, gradient = gradient, torch.cat([_product(across, residual), residual.sum(0)[None]]) + penalty * weights
        size_of_gradient = (scale * gradient.square()).sum(0)
        first = size_of_gradient if first is None else first
        is_active &= size_of_gradient > tolerance**2 * first
        if not is_active.any():
            break
        history.add(step, gradient - before)
        direction = history.times_inverse_hessian(gradient) * is_active
        moved = _product(design, direction[:-1]) + direction[-1]
        size, current = _backtracked(
            lambda size: objective(weights - size * direction, logits - size * moved),  # noqa: B023
            current,
            (gradient * direction).sum(0),
        )
        is_active &= size > 0
        step = -size * direction
        weights, logits = weights + step, logits - size * moved
    return weights[:-1].numpy(), weights[-1].numpy()


# --------------------------------------------------------------------------------------------------------------- private


class _History:
    """The inverse Hessian of each output as the last steps and changes of the gradient show it."""

    def __init__(self, scale: Tensor):
        self._scale = scale
        self._factor = torch.ones_like(scale[0])
        self._pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=_PAIRS)

    def add(self, step: Tensor, change: Tensor) -> None:
        """A pair without curvature beyond rounding (an output that is done, the first call) counts for nothing."""
        curvature = (step * change).sum(0)
        length = (self._scale * change.square()).sum(0)
        is_sound = curvature > torch.finfo(step.dtype).eps * (step.square().sum(0) * change.square().sum(0)).sqrt()
        if bool(is_sound.any()):
            self._pairs.append((step, change, torch.where(is_sound, 1 / curvature, 0)))
            self._factor = torch.where(is_sound, curvature / length, self._factor)

    def times_inverse_hessian(self, gradient: Tensor) -> Tensor:
        result, weights = gradient, []
        for step, change, inverse in reversed(self._pairs):
            weights.append((step * result).sum(0) * inverse)
            result = torch.addcmul(result, change, weights[-1], value=-1)
        result = result * self._scale * self._factor
        for step, change, inverse in self._pairs:
            result = torch.addcmul(result, step, weights.pop() - (change * result).sum(0) * inverse)
        return result


def _backtracked(objective_at: Callable[[Tensor], Tensor], current: Tensor, fall: Tensor) -> tuple[Tensor, Tensor]:
    """(step sizes, objectives there): 1, halved until the objective falls by 1e-4 of ``fall`` a step; 0 if it never does."""
    size = torch.ones_like(current)
    slack = 4 * torch.finfo(current.dtype).eps * current.abs()
    for _ in range(_HALVINGS):
        reached = objective_at(size)
        is_short = ~(reached <= current - 1e-4 * size * fall + slack)
        if not is_short.any():
            return size, reached
        size = torch.where(is_short, size / 2, size)
    size = torch.where(is_short, 0, size)
    return size, objective_at(size)


def _product(design: Tensor | sparray, columns: Tensor) -> Tensor:
    # SciPy's product is as fast as PyTorch's, and PyTorch warns that its own is in beta.
    return design @ columns if isinstance(design, Tensor) else torch.from_numpy(design @ columns.numpy())


def _check(y: Bool[np.ndarray, "n ..."], l2: float) -> None:
    if l2 <= 0:
        raise InputError(f"l2 must be above 0, got {l2}: without a penalty separable rows have no minimum")
    if not len(y) or bool((y.all(0) | ~y.any(0)).any()):
        raise InputError("a logistic regression needs rows of both classes for every output; leave the others out")
