"""Hooks that rewrite activations at one site, and what the steering modes write there.

BOS and separators, which are one token wherever it stands, keep their activations: no decomposer is fitted on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import InputError

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel

Mode = Literal["add", "clamp", "ablate"]
Edit = Callable[[Tensor], Tensor]
"""Maps activation rows [batch, pos, d_in] (heads flattened) to rows of the same shape; those of BOS are thrown away."""


@contextmanager
def edit_activations(model: LanguageModel, site: str, edit: Edit) -> Iterator[None]:
    """Apply ``edit`` to the activations at ``site`` in every forward pass inside the block, where the token is text.

    The hooks are removed at the end of the block, after an exception too. Other hooks of the model stay.
    """
    tokens = torch.empty(0)

    def remember(ids: Tensor, hook: Any) -> None:
        nonlocal tokens
        tokens = ids

    def write(activation: Tensor, hook: Any) -> Tensor:
        rows = activation.flatten(2)
        is_text = (tokens != model.bos_id).to(rows.device)[..., None]
        return torch.where(is_text, edit(rows).to(rows.dtype), rows).view_as(activation)

    with model.bridge.hooks(fwd_hooks=[("embed.hook_in", remember), (site, write)]):
        yield


def text_positions(model: LanguageModel, tokens: Int[Tensor, "n_seq n_pos"]) -> Bool[Tensor, "n_seq n_pos"]:
    """Where ``edit_activations`` writes. Raises InputError for sequences of at most one such position each."""
    is_text = (tokens != model.bos_id).to(model.device)
    if not is_text[:, 1:-1].any():
        raise InputError("the sequences hold nothing but BOS and separators; give text")
    return is_text


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
