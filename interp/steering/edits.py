"""Hooks that rewrite activations at one site, and what the steering modes write there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel

Mode = Literal["add", "clamp", "ablate"]
Edit = Callable[[Tensor], Tensor]
"""Maps activation rows [batch, pos, d_in] (heads flattened, BOS not among them) to rows of the same shape."""


@dataclass
class Window:
    """Which positions the next forward pass covers; a cached generation step moves ``start`` on."""

    start: int = 0
    """Position in the sequence of the first token of the next forward pass."""


@contextmanager
def edit_activations(model: LanguageModel, site: str, edit: Edit) -> Iterator[Window]:
    """Apply ``edit`` to the activations at ``site`` in every forward pass inside the block, at all positions but BOS.

    The hook is removed at the end of the block, after an exception too. Other hooks of the model stay.
    """
    window = Window()

    def hook(activation: Tensor, hook: Any) -> Tensor:
        rows = activation.flatten(2)
        first = max(0, 1 - window.start)
        edited = edit(rows[:, first:]).to(rows.dtype)
        return torch.cat([rows[:, :first], edited], dim=1).view_as(activation)

    with model.bridge.hooks(fwd_hooks=[(site, hook)]):
        yield window


def feature_edit(
    directions: Float[Tensor, "k d_in"], strengths: Float[Tensor, " k"], scales: Float[Tensor, " k"], mode: str
) -> Edit:
    """The edit that writes unit ``directions`` with ``strengths`` in multiples of ``scales``; see the package's formulas."""
    if mode == "add":
        added = (strengths * scales) @ directions
        return lambda x: x + added.to(x.dtype)
    inverse = torch.linalg.pinv(directions)  # [d_in, k]

    def set_coefficients(x: Tensor) -> Tensor:
        found = x.float() @ directions.T
        wanted = strengths * scales if mode == "clamp" else (1 - strengths) * found
        return x + ((wanted - found) @ inverse.T).to(x.dtype)

    return set_coefficients
