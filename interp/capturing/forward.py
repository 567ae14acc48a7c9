"""The forward pass of a capture: it ends once every wanted hook point has fired, and uses the model's own kernels if it can.

TransformerLens computes attention and norms step by step, so that every intermediate has a hook. Where none of these
intermediates is wanted, ``native_kernels`` lets the model's own modules compute them (fused attention, fused norms), which
halves the time. ``FastestForward`` does so only if the activations on real text are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.model.language_model import LanguageModel
from interp.model.sites import HookPoint


def forward(
    model: LanguageModel, sites: list[HookPoint], tokens: Int[Tensor, "batch pos"]
) -> dict[str, Float[Tensor, "batch pos d_in"]]:
    """Activations at ``sites``, heads flattened, from a forward pass that ends when the last of them has fired.

    Raises InputError naming a hook point that did not fire.
    """
    from transformer_lens.model_bridge.exceptions import StopAtLayerException  # deferred: takes seconds

    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor, object], None]:
        def hook(activation: Tensor, hook: object) -> None:
            found[name] = activation.flatten(2)
            if len(found) == len(sites):
                raise StopAtLayerException(activation)

        return hook

    hooks = [(site.name, keep(site.name)) for site in sites]
    model.bridge.run_with_hooks(tokens.long().to(model.device), fwd_hooks=hooks, return_type=None)
    for site in sites:
        if site.name not in found:
            raise InputError(f"the hook point '{site.name}' never fired; choose another hook point of '{model.id}'")
    return found


def logits_of_versions(
    model: LanguageModel,
    site: str,
    tokens: Int[Tensor, " n_pos"],
    versions: Callable[[Float[Tensor, "n_pos d_in"]], Float[Tensor, "n n_pos d_in"]],
    positions: Int[Tensor, " k"],
) -> Float[Tensor, "n k d_vocab"]:
    """Logits at ``positions`` of one sequence, once for each of several versions of its activations at ``site``.

    ``versions`` makes them from the activations, heads flattened. The sequence goes through the layers before the site once:
    there one row becomes n, which every later layer broadcasts over. Only the positions asked for are unembedded.
    """

    def replace(activation: Tensor, hook: object) -> Tensor:
        rows = activation.flatten(2)
        made = versions(rows[0]).to(rows.dtype)
        return made.view(len(made), *activation.shape[1:])

    hooks = [(site, replace), ("unembed.hook_in", lambda activation, hook: activation[:, positions])]
    with model.bridge.hooks(fwd_hooks=hooks):
        logits: Tensor = model.bridge(tokens[None])
    return logits


@contextmanager
def native_kernels(model: LanguageModel) -> Iterator[None]:
    """Let the model's own modules compute attention (by fused kernels) and norms; hooks inside these do not fire.

    Raises ValueError where an architecture's attention has no fused kernel, such as Gemma-2's soft-capped one.
    """
    from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge  # deferred: slow
    from transformer_lens.model_bridge.generalized_components.normalization import NormalizationBridge

    config = model.bridge.original_model.config
    implementation = config._attn_implementation
    changed: list[torch.nn.Module] = []
    config._attn_implementation = "sdpa"
    try:
        for module in model.bridge.modules():
            if isinstance(module, AttentionBridge | NormalizationBridge):
                # Through __dict__: the bridge forwards unknown attributes to the module it wraps.
                module.__dict__["forward"] = _between_hooks(module)
                changed.append(module)
        yield
    finally:
        config._attn_implementation = implementation
        for module in changed:
            module.__dict__.pop("forward", None)


def _between_hooks(bridge: Any) -> Callable[..., Any]:
    """The wrapped module's own forward pass between the bridge's input and output hooks."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if args:
            args = (bridge.hook_in(args[0]), *args[1:])
        else:
            kwargs["hidden_states"] = bridge.hook_in(kwargs["hidden_states"])
        result = bridge.original_component(*args, **kwargs)
        if isinstance(result, tuple):
            return (bridge.hook_out(result[0]), *result[1:])
        return bridge.hook_out(result)

    return run


class FastestForward:
    """``forward``, by the model's own kernels if these give the same activations at ``sites`` on ``tokens``.

    The choice depends on the model, the sites and ``tokens`` alone, so that a resumed capture makes the same choice.
    """

    def __init__(self, model: LanguageModel, sites: list[HookPoint], tokens: Int[Tensor, "batch pos"]):
        self.model, self.sites = model, sites
        self.native_error = self._error_of_native(tokens)
        """Largest ``relative_error`` of the model's own kernels over the sites; None where they cannot be used."""
        # Rounding of the model's own precision over a few dozen operations: 1e-5 for float32.
        tolerance = 80 * torch.finfo(next(model.bridge.parameters()).dtype).eps
        self.is_native = self.native_error is not None and self.native_error <= tolerance

    @torch.no_grad()
    def __call__(self, tokens: Int[Tensor, "batch pos"]) -> dict[str, Float[Tensor, "batch pos d_in"]]:
        """Activations of ``tokens`` at the sites."""
        with self.kernels():
            return forward(self.model, self.sites, tokens)

    def kernels(self) -> AbstractContextManager[None]:
        """Lets other forward passes use the kernels that this one uses."""
        return native_kernels(self.model) if self.is_native else nullcontext()

    @torch.no_grad()
    def _error_of_native(self, tokens: Tensor) -> float | None:
        expected = forward(self.model, self.sites, tokens)
        try:
            with native_kernels(self.model):
                found = forward(self.model, self.sites, tokens)
        except (ValueError, TypeError, AttributeError, InputError, NotImplementedError):
            return None  # soft-capped attention, another call signature, or a wanted hook inside attention or a norm
        return max(relative_error(found[name], expected[name]) for name in expected)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference over the largest absolute expected value."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
