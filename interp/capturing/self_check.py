"""Checks on real text that the hook points are what their names say, by two identities every transformer satisfies.

resid_post = resid_pre + attn_out + mlp_out            (Elhage et al. 2021, "A Mathematical Framework")
mlp.hook_out = mlp.hook_post @ W_out + b_out
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from interp.capturing.forward import forward, relative_error
from interp.model.language_model import LanguageModel
from interp.model.sites import HookPoint


@torch.no_grad()
def self_check(model: LanguageModel, sites: list[HookPoint], tokens: Int[Tensor, "batch pos"]) -> dict[str, float]:
    """Relative error of each identity, by its name, in the layers of ``sites``; without those that cannot be checked.

    One forward pass up to the last of those layers.
    """
    layers = sorted({site.layer for site in sites if 0 <= site.layer < model.n_layers})
    known = set(model.hook_names)
    parts = {layer: _names(layer) for layer in layers}
    wanted = [name for names in parts.values() for group in names if set(group) <= known for name in group]
    if not wanted:
        return {}
    found = forward(model, model.sites(list(dict.fromkeys(wanted))), tokens)
    errors: dict[str, float] = {}
    for layer, (residual, neurons) in parts.items():
        if set(residual) <= set(found):
            before, attention, mlp, after = (found[name] for name in residual)
            error = relative_error(before + attention + mlp, after)
            errors[f"blocks.{layer}: resid_post = resid_pre + attn_out + mlp_out"] = error
        if set(neurons) <= set(found):
            post, output = (found[name] for name in neurons)
            module = model.bridge.blocks[layer].mlp
            bias, weight = getattr(getattr(module, "out", None), "bias", None), getattr(module, "W_out", None)
            if weight is None:  # a mixture of experts has no single one
                continue
            written = post @ weight
            error = relative_error(written if bias is None else written + bias, output)
            errors[f"blocks.{layer}: mlp.hook_out = mlp.hook_post @ W_out + b_out"] = error
    return errors


def _names(layer: int) -> tuple[list[str], list[str]]:
    """Hook points of the two identities; a model may lack some, as an attention-only block lacks an MLP."""
    residual = ["hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post"]
    neurons = ["mlp.hook_post", "mlp.hook_out"]
    return [f"blocks.{layer}.{short}" for short in residual], [f"blocks.{layer}.{short}" for short in neurons]
