"""Controlling a sparsity coefficient so that a wanted number of codes is active.

With e = log(L0 / target), cut to [-1, 1] and smoothed over some steps,

    i  <-  i + INTEGRAL e        coefficient = exp(i + PROPORTIONAL e)

The integral finds the coefficient, whatever its order of magnitude; the proportional part damps the overshoot that an
integral alone has, since L0 answers a change of the coefficient only after many steps.
"""

from __future__ import annotations

import math

import torch

from interp.errors import InputError

INTEGRAL, PROPORTIONAL, SMOOTHING = 0.02, 1.0, 0.2
"""Per step; in powers of L0 / target; weight of the last step in the smoothed error."""


class L0Control:
    """A coefficient, fixed or controlled. Its ``state`` is saved with checkpoints and changed in place."""

    def __init__(self, *, target: float | None = None, fixed: float = 1.0):
        self.target, self._fixed = target, fixed
        """Mean number of active codes a row; None holds the coefficient where it is fixed."""
        self.state: dict[str, torch.Tensor] = {}
        if target is not None:
            self.state = {name: torch.zeros((), dtype=torch.float64) for name in ("l0_error", "l0_integral")}

    @property
    def coefficient(self) -> float:
        """What the penalty is multiplied by in the next step."""
        if self.target is None:
            return self._fixed
        return math.exp(float(self.state["l0_integral"]) + PROPORTIONAL * self.error)

    @property
    def error(self) -> float:
        """log(L0 / target) of the last steps, smoothed, from -1 to 1; 0 where there is no target."""
        return float(self.state["l0_error"]) if self.state else 0.0

    def update(self, l0: float) -> None:
        """Move the coefficient by the L0 of a step."""
        if self.target is None:
            return
        error = max(-1.0, min(1.0, math.log(max(l0, 1e-3) / self.target)))
        self.state["l0_error"].lerp_(torch.tensor(error, dtype=torch.float64), SMOOTHING)
        self.state["l0_integral"] += INTEGRAL * self.state["l0_error"]

    def check_reach(self, steps: int) -> None:
        """Raises InputError where the L0 is still more than twice, or less than half, of its target."""
        if self.target is not None and abs(self.error) > math.log(2):
            side = "above" if self.error > 0 else "below"
            raise InputError(
                f"the target L0 of {self.target:g} is out of reach: after {steps} steps the L0 is far {side} it, with a "
                f"coefficient of {self.coefficient:.3g}; give more --tokens, another target, or a --coefficient"
            )
