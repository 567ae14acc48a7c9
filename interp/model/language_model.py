"""Loading a language model with hook points: the bundled one, a local Hugging Face folder, a hub name, or one in memory.

All are loaded by TransformerLens' ``TransformerBridge`` with the model's raw weights: layer norms are not folded, so
that activations are those of the model as published.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor

from interp.errors import InputError, unknown_name
from interp.model.sites import HookPoint, layer_of

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

BUNDLED_MODEL = Path(__file__).parent.parent / "demo" / "model"
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_RESIDUAL_WIDTH_HOOKS = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")


class LanguageModel:
    """A causal language model with named hook points, its tokenizer, and an identity."""

    def __init__(self, bridge: Any, tokenizer: PreTrainedTokenizerFast, model_id: str):
        self.bridge = bridge
        """The TransformerBridge; hooks are added through it."""
        self.tokenizer = tokenizer
        self.id = model_id
        """The name it was loaded by: "demo", a folder, or a hub name."""
        self.n_layers = int(bridge.cfg.n_layers)
        self.d_model = int(bridge.cfg.d_model)
        self.n_ctx = int(bridge.cfg.n_ctx)
        self.d_vocab = int(bridge.cfg.d_vocab)
        special = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        self.bos_id = next((int(token_id) for token_id in special if token_id is not None), 0)
        for parameter in bridge.parameters():
            parameter.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return next(self.bridge.parameters()).device

    @cached_property
    def fingerprint(self) -> str:
        """A hash of names, shapes and values of the weights (the first and last 64 KB of each tensor)."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.bridge.original_model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            flat = tensor.detach().reshape(-1)
            n = 65536 // max(1, flat.element_size())
            for part in (flat[:n], flat[-n:]):
                digest.update(part.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """A hash of the tokenizer's full definition."""
        definition = self.tokenizer.backend_tokenizer.to_str()
        return hashlib.sha256(definition.encode()).hexdigest()[:16]

    @property
    def hook_names(self) -> list[str]:
        """Names of all hook points, canonical names and TransformerLens aliases."""
        return list(self.bridge.hook_dict)

    def site(self, name: str) -> HookPoint:
        """The hook point ``name``; see ``sites``."""
        return self.sites([name])[0]

    def sites(self, names: Sequence[str]) -> list[HookPoint]:
        """Hook points with their layers and widths, measured by one short forward pass.

        Raises InputError for a name the model does not have, and for a hook point that is off, never fires, or has not one
        row per token.
        """
        for name in names:
            if name not in self.bridge.hook_dict:
                raise unknown_name("hook point", name, self.hook_names, f"the model '{self.id}'")
        widths = self._widths(names)
        return [HookPoint(name, layer_of(name, self.n_layers), widths[name]) for name in names]

    @torch.no_grad()
    def _widths(self, names: Sequence[str]) -> dict[str, int]:
        shapes: dict[str, torch.Size] = {}
        expected = (2, min(13, self.n_ctx))  # no model has 13 heads, so [batch, head, ...] does not pass for rows
        tokens = torch.full(expected, self.bos_id, device=self.device)

        def measure(name: str) -> Any:
            return lambda activation, hook: shapes.__setitem__(name, activation.shape)

        try:
            self.bridge.run_with_hooks(tokens, fwd_hooks=[(name, measure(name)) for name in names])
        except ValueError as error:  # TransformerLens refuses hook points that are off by default
            listed = ", ".join(f"'{name}'" for name in names)
            raise InputError(f"{listed} cannot be used ({error}); choose another one") from None
        for name in names:
            if name not in shapes:
                raise InputError(
                    f"the hook point '{name}' never fired in a forward pass of '{self.id}'; choose another one"
                )
            if shapes[name][:2] != expected:
                raise InputError(
                    f"the hook point '{name}' holds an array of shape {tuple(shapes[name])} for {expected[0]} sequences "
                    f"of {expected[1]} tokens, not one row a token; choose another one"
                )
        return {name: int(shape[2:].numel()) for name, shape in shapes.items()}

    def encode(self, text: str) -> Int[Tensor, " n_tokens"]:
        """Token ids of ``text`` after one beginning-of-sequence token, without other special tokens."""
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return torch.tensor([self.bos_id, *ids], dtype=torch.int64, device=self.device)

    def decode(self, ids: Int[Tensor, " n_tokens"] | Sequence[int]) -> str:
        """The text of ``ids`` without special tokens."""
        ids = torch.as_tensor(ids).tolist()
        # Cleaning up would remove blanks before full stops that are in the text.
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token_strings(self, ids: Iterable[int] | None = None) -> list[str]:
        """The text of each token of ``ids``, by default of the vocabulary; bytes that are no whole character are ``\\xNN``."""
        return [_printable(self.tokenizer, index) for index in (range(self.d_vocab) if ids is None else ids)]

    @torch.no_grad()
    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Next-token logits of a forward pass without any hook."""
        return self.bridge(tokens.to(self.device))

    def residual_directions(self, site: str, directions: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_model"] | None:
        """What ``directions`` at ``site`` add to the residual stream.

        MLP neurons (``mlp.hook_post``) go through the layer's output matrix, head outputs (``attn.hook_z``) through W_O;
        at residual-width sites they are unchanged. None where no linear map leads to the residual stream.
        """
        layer = layer_of(site, self.n_layers)
        short = site.split(".", 2)[-1] if 0 <= layer < self.n_layers else site
        if short in _RESIDUAL_WIDTH_HOOKS and directions.shape[1] == self.d_model:
            return directions
        if short == "mlp.hook_post":
            weight = getattr(self.bridge.blocks[layer].mlp, "W_out", None)  # a mixture of experts has none
        elif short == "attn.hook_z":
            weight = self.bridge.blocks[layer].attn.W_O
        else:
            weight = None
        if weight is None:
            return None
        return directions @ weight.reshape(-1, self.d_model).to(directions)

    @torch.no_grad()
    def logit_effects(self, residual: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """First-order effect of residual directions on the logits, up to one positive factor per row.

        The final norm's weight is applied, and its centring if it has one, but not its division by the norm. The mean over
        the vocabulary, which changes no probability, is subtracted. ("Logit lens", nostalgebraist 2020.)
        """
        norm = getattr(self.bridge.ln_final, "_original_component", self.bridge.ln_final)
        weight = norm.weight.detach().to(residual)
        if "Gemma" in type(norm).__name__:  # stores its scale as an offset from one
            weight = weight + 1
        if isinstance(norm, torch.nn.LayerNorm):
            residual = residual - residual.mean(1, keepdim=True)
        logits = (residual * weight) @ self.bridge.W_U.detach().to(residual)
        return logits - logits.mean(1, keepdim=True)


def load_model(
    model: str | PreTrainedModel | TransformerBridge,
    *,
    tokenizer: PreTrainedTokenizerFast | None = None,
    name: str | None = None,
    device: str | None = None,
) -> LanguageModel:
    """Load "demo" (the bundled model), a local Hugging Face folder, or a model of the hub by its name.

    A Hugging Face model or a TransformerBridge in memory is wrapped where it is, put into evaluation mode, and its weights have
    no gradients from then on; it needs its ``tokenizer``, if it has none. ``name`` is what stores and runs will know it by, for
    a Hugging Face model by default where it was loaded from; commands that need the model again load it from there.
    ``device`` defaults to where a model in memory is, and otherwise to the accelerator where there is one.

    Raises InputError when the folder lacks a configuration, weights or tokenizer, when the tokenizer does not fit the model,
    or when a hub name cannot be loaded.
    """
    if isinstance(model, str):
        name = name or model
        bridge = _boot(_source(model), model, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    else:
        bridge, known_as = _in_memory(model, tokenizer, device)
        name = name or known_as
        if not name:
            raise InputError(
                "the model has no name; give one, load_model(model, name=...), that stores and runs will know it by"
            )
    bridge.eval()
    tokenizer = tokenizer or bridge.tokenizer
    if len(tokenizer) > int(bridge.cfg.d_vocab) or len(tokenizer) < 3:
        raise InputError(
            f"the tokenizer in '{name}' has {len(tokenizer)} tokens but the model's vocabulary has {bridge.cfg.d_vocab}; "
            "put the model's own tokenizer.json beside its weights"
        )
    return LanguageModel(bridge, tokenizer, name)


def _source(name: str) -> str:
    """What TransformerLens loads a model by. Raises InputError for what is neither a model folder nor a hub name."""
    path = BUNDLED_MODEL if name == "demo" else Path(name)
    if path.is_dir():
        _check_folder(path)
        return str(path)
    if not _HUB_NAME.fullmatch(name):
        raise InputError(
            f"there is no model folder '{name}'; give a Hugging Face folder, a hub name such as gpt2 or owner/model, or demo"
        )
    return name


def _in_memory(model: Any, tokenizer: PreTrainedTokenizerFast | None, device: str | None) -> tuple[Any, str]:
    """(bridge, what it is known by or "") of a model that is loaded already."""
    if hasattr(model, "original_model"):
        return model if device is None else model.to(device), str(getattr(model.cfg, "model_name", None) or "")
    if not hasattr(model, "config"):
        raise InputError(
            f"a model is a name, a Hugging Face model or a TransformerBridge, not {type(model).__name__}; "
            "load it with transformers' AutoModelForCausalLM"
        )
    known_as = str(getattr(model.config, "_name_or_path", ""))
    if tokenizer is None and not known_as:
        raise InputError("the model has no tokenizer; give it, load_model(model, tokenizer=...)")
    shown, device = known_as or "in memory", device or str(model.device)
    with tempfile.TemporaryDirectory() as folder:
        if tokenizer is not None:  # TransformerLens reads it once more, from where it was saved
            tokenizer.save_pretrained(folder)
            tokenizer = type(tokenizer).from_pretrained(folder)
        return _boot(shown, shown, device, hf_model=model, tokenizer=tokenizer), known_as


def shuffled_copy(model: LanguageModel, *, seed: int) -> LanguageModel:
    """The model with the entries of every weight tensor in random order: as large, and as they were never trained.

    The same for the same seed. Loads the model once more.
    """
    copy = load_model(model.id, device=str(model.device))
    generator = torch.Generator().manual_seed(seed)
    for parameter in dict.fromkeys(copy.bridge.original_model.parameters()):  # tied tensors once
        flat = parameter.data.flatten()
        parameter.data.copy_(flat[torch.randperm(len(flat), generator=generator).to(flat.device)].view_as(parameter))
    return copy


def _boot(source: str, name: str, device: str, **options: Any) -> Any:
    # Deferred: importing transformers and TransformerLens takes seconds, and most commands need neither.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in other packages, which a user cannot change
        from transformer_lens.model_bridge import TransformerBridge

        try:
            return TransformerBridge.boot_transformers(source, device=device, **options)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            where = "" if Path(source).is_dir() else f"there is no folder '{name}', and from the model hub "
            raise InputError(f"{where}the model '{name}' cannot be loaded: {reason}") from error


def _check_folder(path: Path) -> None:
    names = {file.name for file in path.iterdir()}
    if "config.json" not in names:
        raise InputError(f"'{path}' is no model folder: it has no config.json; save the model with save_pretrained")
    if not any(name.endswith(".safetensors") for name in names):
        raise InputError(f"'{path}' has no weights (*.safetensors); save the model with save_pretrained")
    if not names & {"tokenizer.json", "tokenizer.model", "vocab.json"}:
        raise InputError(f"'{path}' has no tokenizer (tokenizer.json); save the model's tokenizer into the same folder")


def _printable(tokenizer: PreTrainedTokenizerFast, index: int) -> str:
    text = str(tokenizer.decode([index], clean_up_tokenization_spaces=False))
    token = tokenizer.convert_ids_to_tokens(index) or ""
    if token.startswith("▁"):  # SentencePiece: decoding one token alone would drop its leading blank
        return token.replace("▁", " ")
    if "�" not in text:
        return text
    codes = [_BYTE_OF.get(c, ord(c)) for c in token]
    return "".join(chr(code) if 32 <= code < 127 else f"\\x{code:02x}" for code in codes)


def _byte_alphabet() -> dict[str, int]:
    """The byte each character of a byte-level BPE token stands for (Radford et al. 2019, ``bytes_to_unicode``)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
