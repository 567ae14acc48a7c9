"""Are the hook points what their names say? Two identities every transformer must satisfy, tried on real text.

resid_post = resid_pre + attn_out + mlp_out            (Elhage et al. 2021, "A Mathematical Framework")
mlp.hook_out = mlp.hook_post @ W_out + b_out
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from interp.capture.forward import forward, relative_error
from interp.models import LanguageModel
from interp.sites import HookSite


@torch.no_grad()
def self_check(model: LanguageModel, sites: list[HookSite], tokens: Int[Tensor, "batch pos"]) -> dict[str, float]:
    """Relative error of every identity of the layers that ``sites`` are in, by its name; what cannot be tried is left out."""
    errors: dict[str, float] = {}
    for layer in sorted({site.layer for site in sites if 0 <= site.layer < model.n_layers}):
        names = [f"blocks.{layer}.{short}" for short in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")]
        total = f"blocks.{layer}.hook_resid_post"
        if found := _activations(model, [*names, total], tokens):
            error = relative_error(sum((found[name] for name in names), torch.zeros(())), found[total])
            errors[f"blocks.{layer}: resid_post = resid_pre + attn_out + mlp_out"] = error
        neurons, output = f"blocks.{layer}.mlp.hook_post", f"blocks.{layer}.mlp.hook_out"
        if found := _activations(model, [neurons, output], tokens):
            mlp = model.bridge.blocks[layer].mlp
            written = found[neurons] @ mlp.W_out
            bias = getattr(getattr(mlp, "out", None), "bias", None)
            error = relative_error(written if bias is None else written + bias, found[output])
            errors[f"blocks.{layer}: mlp.hook_out = mlp.hook_post @ W_out + b_out"] = error
    return errors


def _activations(model: LanguageModel, names: list[str], tokens: Tensor) -> dict[str, Tensor] | None:
    """Activations at ``names``; None where the model lacks one of them, as an attention-only block lacks an MLP."""
    if not set(names) <= set(model.hook_names):
        return None
    return forward(model, model.sites(names), tokens)
