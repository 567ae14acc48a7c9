"""Adam (Kingma and Ba 2015, arXiv 1412.6980) that leaves rows without a gradient alone.

In dense Adam a feature that does not fire in a batch is still moved by its momentum, and the estimate of its gradient's size
decays, so that its next step is too long. Here a row whose gradient is all zero keeps its values and its moments. The bias
correction counts the steps of the optimiser, not of the row.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class RowSparseAdam(torch.optim.Optimizer):
    """Adam for tensors whose first dimension is rows; a vector's rows are its entries."""

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ):
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move the rows that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)

    def _move(self, parameter: Float[Tensor, rows * _], grad: Float[Tensor, rows * _], options: dict[str, Any]) -> None:
        lr, eps, (beta1, beta2) = options["lr"], options["eps"], options["betas"]
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        rows = (grad.any(dim=1) if grad.ndim == 2 else grad != 0).nonzero().squeeze(1)
        g = grad[rows]
        mean = torch.lerp(state["exp_avg"][rows], g, 1 - beta1)
        square = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
        n = float(state["step"])
        length = (square / (1 - beta2**n)).sqrt_().add_(eps)
        parameter.index_add_(0, rows, mean.div_(length), alpha=-lr / (1 - beta1**n))
