"""Hooks that rewrite activations at hook sites, where in a text they do, and what the steering modes write there.

BOS and separators, which are one token wherever it stands, keep their activations: no decomposer is fitted on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import InputError, unknown_name

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel

Mode = Literal["add", "clamp", "scale", "ablate"]
Edit = Callable[[Tensor], Tensor]
"""Maps activation rows [batch, pos, d_in] (heads flattened) to rows of the same shape; those of BOS are thrown away."""
At = Literal["all", "end"]


@dataclass(frozen=True)
class Positions:
    """Where in a text features are written; at BOS and separators never."""

    at: At = "all"
    """all: at every token; end: from the prompt's last token on, the one that predicts the first new token."""
    at_tokens: tuple[str, ...] = ()
    """Only at these tokens, each one token of the model's vocabulary (" def" with its blank); none given: at any."""

    def token_ids(self, model: LanguageModel) -> tuple[int, ...]:
        """Ids of ``at_tokens``, ascending. Raises InputError for a text that is no single token of the model's tokenizer."""
        if not self.at_tokens:
            return ()
        strings = model.token_strings()
        for text in self.at_tokens:
            if text not in strings:
                raise unknown_name("single token", text, strings, f"the vocabulary of '{model.id}'")
        return tuple(i for i, text in enumerate(strings) if text in self.at_tokens)


@dataclass(frozen=True)
class SiteEdit:
    """What is written at one hook site, and at which tokens."""

    site: str
    """Hook point."""
    edit: Edit
    at: At = "all"
    """As in ``Positions``; a text without a prompt counts as one that is written from BOS on."""
    token_ids: tuple[int, ...] = ()
    """Only at these tokens; none given: at any."""

    def apply(
        self, rows: Float[Tensor, "batch pos d_in"], tokens: Int[Tensor, "batch pos"], *, bos_id: int, first: int
    ) -> Float[Tensor, "batch pos d_in"]:
        """Rows edited where they are chosen; ``first`` is the position of the prompt's last token."""
        is_chosen = tokens != bos_id
        if self.at == "end":
            is_chosen[:, :first] = False
        if self.token_ids:
            is_chosen &= torch.isin(tokens, torch.tensor(self.token_ids, device=tokens.device))
        return torch.where(is_chosen[..., None], self.edit(rows).to(rows.dtype), rows)


@contextmanager
def written(model: LanguageModel, variants: Sequence[Sequence[SiteEdit]], *, first: int = 0) -> Iterator[None]:
    """Edit an equal share of the batch for each of ``variants`` in every forward pass inside the block.

    A site's edits are made in the order given; without any edit there is no hook. ``first`` is the position of the prompt's
    last token among the tokens passed, 0 where there is no prompt or the pass goes on after it. The hooks are removed at
    the end of the block, after an exception too. Other hooks of the model stay.
    """
    tokens = torch.empty(0)

    def remember(ids: Tensor, hook: Any) -> None:
        nonlocal tokens
        tokens = ids

    def write(activation: Tensor, hook: Any, site: str) -> Tensor:
        parts = []
        rows = activation.flatten(2)
        shares = zip(variants, rows.chunk(len(variants)), tokens.to(rows.device).chunk(len(variants)), strict=True)
        for edits, part, ids in shares:
            for each in edits:
                if each.site == site:
                    part = each.apply(part, ids, bos_id=model.bos_id, first=first)
            parts.append(part)
        return torch.cat(parts).view_as(activation)

    sites = dict.fromkeys(each.site for edits in variants for each in edits)
    hooks = [(site, lambda activation, hook, site=site: write(activation, hook, site)) for site in sites]
    with model.bridge.hooks(fwd_hooks=[("embed.hook_in", remember), *hooks] if hooks else []):
        yield


@contextmanager
def edit_activations(model: LanguageModel, site: str, edit: Edit) -> Iterator[None]:
    """Apply ``edit`` to the activations at ``site`` in every forward pass inside the block, wherever the token is text."""
    with written(model, [[SiteEdit(site, edit)]]):
        yield


def text_positions(model: LanguageModel, tokens: Int[Tensor, "n_seq n_pos"]) -> Bool[Tensor, "n_seq n_pos"]:
    """Where ``edit_activations`` writes. Raises InputError for sequences of at most one such position each."""
    is_text = (tokens != model.bos_id).to(model.device)
    if not is_text[:, 1:-1].any():
        raise InputError("the sequences hold nothing but BOS and separators; give text")
    return is_text


def feature_edit(
    directions: Float[Tensor, "k d_in"],
    strengths: Float[Tensor, " k"],
    scales: Float[Tensor, " k"],
    mode: str,
    contributions: Callable[[Tensor], Tensor] | None = None,
) -> Edit:
    """The edit that writes unit ``directions`` with ``strengths`` in units of ``scales``; see the package's formulas.

    ``contributions`` maps rows [..., d_in] to what each feature contributes to them [..., k]; None for the coefficients
    along the directions.
    """
    if mode == "add":
        added = (strengths * scales) @ directions
        return lambda x: x + added.to(x.dtype)
    # Where the directions are oblique, a change of one coefficient changes the others: the pseudo-inverse accounts for it.
    along = directions if contributions else torch.linalg.pinv(directions).T

    def change_contributions(x: Tensor) -> Tensor:
        found = contributions(x.float()) if contributions else x.float() @ directions.T
        change = {"clamp": strengths * scales - found, "scale": (strengths - 1) * found, "ablate": -strengths * found}
        return x + (change[mode] @ along).to(x.dtype)

    return change_contributions
