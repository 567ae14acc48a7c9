"""Sparse autoencoders in the format of SAELens 6, which other tools read too: a folder of two files.

    cfg.json                   architecture, d_in, d_sae, dtype, ..., k for topk, metadata (model, hook point, context)
    sae_weights.safetensors    W_enc [d_in, d_sae], W_dec [d_sae, d_in], b_enc, b_dec, and what the architecture adds

    relu        <-> standard    z = relu(pre)
    topk        <-> topk        z = relu(the k largest)
    jumprelu    <-> jumprelu    z = relu(pre) where pre > threshold [d_sae]
    gated       <-> gated       b_gate is our b_enc; r_mag, b_mag [d_sae]
    batchtopk    -> jumprelu    with its inference threshold for every feature; matryoshka likewise, since its nesting concerns
                                only the training. SAELens's own batchtopk and matryoshka_batchtopk are read as batchtopk.

SAELens computes pre = (x - b_dec) W_enc + b_enc and x^ = z W_dec + b_dec, as we do. Its options that change this (no b_dec
before the encoder, codes in units of the decoder's norms) are folded into the weights on import; an option that cannot be
folded in is refused.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from interp.decomposers.sae.autoencoder import SAE, SAEConfig, SparseAutoencoder
from interp.decomposers.sae.config import VariantName
from interp.decomposers.sae.variants import VARIANTS
from interp.errors import InputError
from interp.files import refused_writes, whole, write_whole
from interp.runs.record import Run
from interp.runs.training import keep_run
from interp.store.reader import ActivationStore

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
WRITTEN_AS = "6.0.0"
"""Version of SAELens whose format is written. SAELens reads a folder that names none as older than 6."""
_GATE_TENSORS = {"b_enc": "b_gate", "r_mag": "r_mag", "b_mag": "b_mag"}
WRITTEN: dict[VariantName, tuple[str, dict[str, str]]] = {
    "relu": ("standard", {}),
    "topk": ("topk", {}),
    "jumprelu": ("jumprelu", {"threshold": "threshold"}),
    "batchtopk": ("jumprelu", {"threshold": "threshold"}),
    "matryoshka": ("jumprelu", {"threshold": "threshold"}),
    "gated": ("gated", _GATE_TENSORS),
}
"""What each variant is written as: the architecture, and its names of tensors that we add or name otherwise."""
READ: dict[str, tuple[VariantName, dict[str, str]]] = {
    "standard": ("relu", {}),
    "topk": ("topk", {}),
    "jumprelu": ("jumprelu", {"threshold": "threshold"}),
    "batchtopk": ("batchtopk", {"threshold": "topk_threshold"}),
    "matryoshka_batchtopk": ("batchtopk", {"threshold": "topk_threshold"}),
    "gated": ("gated", _GATE_TENSORS),
}
"""What each architecture is read as: the variant, and its names of tensors."""
SHARED = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
SaelensConfig = dict[str, Any]
"""cfg.json, whose keys differ between the versions of SAELens."""
N_MEASURED = 8192
"""Rows of the store on which the FVU and L0 of an imported autoencoder are measured."""


def export_saelens(run: Run, folder: Path) -> None:
    """Write the run's autoencoder as a folder that ``SAE.load_from_disk`` of SAELens 6 reads.

    Raises InputError when the run is no sparse autoencoder, when ``folder`` exists or cannot be written, and when the run's
    store has changed.
    """
    decomposer = run.decomposer()
    if not isinstance(decomposer, SparseAutoencoder):
        raise InputError(
            f"'{run.name}' is a run of {run.kind}, and SAELens knows sparse autoencoders alone; export a run of sae or "
            "subspace-sae"
        )
    if folder.exists():
        raise InputError(f"'{folder}' is there already; name a new folder, or delete that one")
    if decomposer.config.variant not in WRITTEN:
        raise InputError(
            f"SAELens has nothing like the variant '{decomposer.config.variant}', so it cannot be exported"
        )
    names = SHARED | WRITTEN[decomposer.config.variant][1]
    tensors = {theirs: decomposer.tensors[ours].contiguous() for ours, theirs in names.items()}
    with refused_writes(folder, "the run is as it was"), whole(folder) as partial:
        partial.mkdir(parents=True, exist_ok=True)
        write_whole(partial / WEIGHTS, save(tensors))
        write_whole(partial / CONFIG, json.dumps(_written_config(run, decomposer), indent=1).encode())


def _written_config(run: Run, decomposer: SparseAutoencoder) -> SaelensConfig:
    manifest, variant = run.store().manifest, decomposer.config.variant
    topk = {"k": decomposer.config.k, "rescale_acts_by_decoder_norm": False} if variant == "topk" else {}
    return {
        "architecture": WRITTEN[variant][0],
        "d_in": decomposer.d_in,
        "d_sae": decomposer.n_features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        # Heads are given to SAELens one by one; our rows have them side by side already, and so have its weights.
        "reshape_activations": "hook_z" if run.site.read.endswith("hook_z") else "none",
        **topk,
        "metadata": {
            "sae_lens_version": WRITTEN_AS,
            "model_name": run.model_id,
            "hook_name": run.site.read,
            "hook_head_index": None,
            "prepend_bos": manifest.bos_id is not None,
            "context_size": manifest.n_ctx,
        },
    }


def import_saelens(folder: Path, store: ActivationStore, name: str, *, site: str | None = None) -> Run:
    """Keep the autoencoder of a SAELens folder as the run ``name`` of ``store``.

    ``site`` is where it was trained; by default the hook point that the folder names. The run's notes say where it is from,
    and its FVU and L0 on rows spread over the store, which show if it was trained on another model. Raises InputError when the
    folder lacks a file or holds what we cannot compute, when its width is not the site's, and when the run exists already.
    """
    cfg = _read_config(folder)
    named = {**cfg, **cfg.get("metadata", {})}
    site = site or named.get("hook_name") or named.get("hook_point")
    if site is None:
        raise InputError(f"'{folder / CONFIG}' names no hook point; say where it was trained with --site")
    source = store.site(site)
    variant, k = _variant(folder, cfg)
    tensors = _read_weights(folder, cfg)
    d_in, n_features = tensors["W_enc"].shape
    if d_in != source.d_in:
        raise InputError(
            f"'{folder}' reads activations of width {d_in}, but {site} has {source.d_in} in the store '{store.path}'; name the "
            "store or the --site that it was trained for"
        )
    x = source.rows(np.linspace(0, len(source) - 1, min(len(source), N_MEASURED)).astype(np.int64))
    config = SAEConfig(n_features=n_features, variant=variant, k=k or 1)
    sae = SAE(config, tensors)
    l0 = float((sae.encode(x) > 0).sum(dim=1).float().mean())
    notes = {
        "imported_from": str(folder),
        "architecture": cfg["architecture"],
        "model": named.get("model_name") or "unknown",
        "fvu": round(sae.fvu(x), 4),
        "l0": round(l0, 2),
    }
    if k is None:  # trained with a penalty, not a k: the measured L0 stands in
        config = replace(config, k=max(1, round(l0)))
    return keep_run(store, site, SAE(config, tensors, notes), name)


def _read_config(folder: Path) -> SaelensConfig:
    """cfg.json, with the keys of versions before 6 renamed to their present names."""
    if missing := [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]:
        raise InputError(f"'{folder}' is no SAELens folder: it lacks {' and '.join(missing)}")
    try:
        cfg = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        cfg = None
    if not isinstance(cfg, dict):
        raise InputError(f"'{folder / CONFIG}' is damaged: it is not a JSON object; fetch it again")
    cfg.setdefault("architecture", "standard")
    activation = cfg.get("activation_fn", cfg.get("activation_fn_str", "relu"))
    if activation == "topk":
        cfg |= {"architecture": "topk", "k": cfg.get("k", cfg.get("activation_fn_kwargs", {}).get("k"))}
    elif activation != "relu":
        raise InputError(f"'{folder}' uses the activation '{activation}'; relu and topk can be imported")
    return cfg


def _variant(folder: Path, cfg: SaelensConfig) -> tuple[VariantName, int | None]:
    """The variant that an architecture is, and its k where it has one."""
    if cfg["architecture"] not in READ:
        raise InputError(
            f"'{folder}' is of the architecture '{cfg['architecture']}'; {', '.join(READ)} can be imported"
        )
    if cfg.get("normalize_activations", "none") not in ("none", None, False):
        raise InputError(
            f"'{folder}' normalises activations by '{cfg['normalize_activations']}' at run time; only an autoencoder whose "
            "normalisation is folded into its weights can be imported"
        )
    variant = READ[cfg["architecture"]][0]
    if not VARIANTS[variant].has_k:
        return variant, None
    k = cfg.get("k")
    if not isinstance(k, int | float) or not 1 <= k <= cfg.get("d_sae", math.inf):
        raise InputError(f"'{folder / CONFIG}' has a k of {k}; {cfg['architecture']} needs one of 1 up to its d_sae")
    return variant, round(k)


def _read_weights(folder: Path, cfg: SaelensConfig) -> dict[str, Tensor]:
    """The file's tensors under our names, with the options of SAELens folded in."""
    try:
        stored = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    except SafetensorError as error:
        raise InputError(f"'{folder / WEIGHTS}' is damaged ({error}); fetch it again") from None
    names = SHARED | READ[cfg["architecture"]][1]
    if missing := [name for name in names.values() if name not in stored]:
        raise InputError(f"'{folder / WEIGHTS}' lacks {', '.join(missing)}, which {cfg['architecture']} needs")
    d_in, n_features = cfg.get("d_in"), cfg.get("d_sae")
    shapes = {"W_enc": (d_in, n_features), "W_dec": (n_features, d_in), "b_dec": (d_in,), "topk_threshold": ()}
    for name in names.values():
        shape = shapes.get(name, (n_features,))
        if tuple(stored[name].shape) != shape:
            raise InputError(
                f"'{folder / WEIGHTS}' has {name} of shape {tuple(stored[name].shape)}, but {CONFIG} says {shape}; "
                "the two files are not of one autoencoder"
            )
        if not stored[name].isfinite().all():
            raise InputError(f"'{folder / WEIGHTS}' has values in {name} that are not finite; fetch it again")
    scaling = stored.get("scaling_factor", torch.ones(()))
    if not torch.allclose(scaling, torch.ones_like(scaling)):
        raise InputError(f"'{folder}' scales its codes after the activation, which cannot be folded into its weights")
    return _folded({ours: stored[theirs] for ours, theirs in names.items()}, cfg)


def _folded(tensors: dict[str, Tensor], cfg: SaelensConfig) -> dict[str, Tensor]:
    """Tensors that compute without the options of ``cfg`` what ``tensors`` compute with them."""
    t = dict(tensors)
    if not cfg.get("apply_b_dec_to_input", True):
        shift = t["b_dec"] @ t["W_enc"]  # x W_enc + b_enc = (x - b_dec) W_enc + (b_enc + b_dec W_enc)
        t["b_enc"] = t["b_enc"] + shift
        if "b_mag" in t:
            t["b_mag"] = t["b_mag"] + shift * t["r_mag"].exp()
    if cfg.get("rescale_acts_by_decoder_norm", False):
        norms = t["W_dec"].norm(dim=1).clamp_min(1e-8)
        t |= {name: t[name] * norms for name in ("W_enc", "b_enc", "b_mag") if name in t}
        t["W_dec"] = t["W_dec"] / norms[:, None]
    if "threshold" in t:  # below zero the relu decides
        t["threshold"] = t["threshold"].clamp_min(0).expand(len(t["b_enc"]))
    return {name: tensor.contiguous() for name, tensor in t.items()}
