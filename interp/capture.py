"""Capture: run a model over text and write the activations at its hook points to a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from interp.corpora import Corpus, Sequences, pack
from interp.errors import InputError
from interp.models import LanguageModel
from interp.progress import progress
from interp.sites import HookSite, resolve_names
from interp.store import ActivationStore, Manifest, ShardContent, StoreWriter


@dataclass(frozen=True)
class CaptureConfig:
    """What to capture."""

    sites: tuple[str, ...]
    """Hook points by name or glob pattern, such as blocks.2.mlp.hook_post or 'blocks.*.hook_resid_post'."""
    tokens: int = 120_000
    """Tokens of text to capture; separators between documents are not counted."""
    n_ctx: int | None = None
    """Length of a sequence; the model's own context by default."""
    dtype: str = "float16"
    """Of the stored activations: float16, or float32 where values are larger than 65504."""
    batch: int = 32
    """Sequences per forward pass; changes the speed, not the content."""
    sequences_per_shard: int = 128
    """Sequences per shard file; an interrupted capture loses at most one shard."""

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.batch < 1 or self.sequences_per_shard < 1:
            raise InputError("tokens, batch and sequences per shard are counts; give numbers from 1 up")
        if self.dtype not in ("float16", "float32"):
            raise InputError(f"the dtype '{self.dtype}' is not offered; use float16 or float32")


def capture(model: LanguageModel, corpus: Corpus, config: CaptureConfig, out: str | Path) -> ActivationStore:
    """Write the activations of ``corpus`` at ``config.sites`` to the store ``out`` and open it.

    An interrupted capture goes on after its last whole shard; a finished one is opened as it is. Raises InputError for
    unknown hook points, too little text, values that do not fit, or a folder that holds something else; a store that
    was begun by this call and has no whole shard yet is then removed.
    """
    sites = [model.site(name) for name in resolve_names(config.sites, model.hook_names)]
    n_ctx = config.n_ctx or model.n_ctx
    if not 2 <= n_ctx <= model.n_ctx:
        raise InputError(f"the sequence length {n_ctx} is out of range; '{model.id}' takes 2 to {model.n_ctx}")
    blocks = pack(
        corpus,
        model.tokenizer,
        bos_id=model.bos_id,
        n_ctx=n_ctx,
        n_tokens=config.tokens,
        block=config.sequences_per_shard,
    )
    with StoreWriter(Path(out), _manifest(model, corpus, config, sites, n_ctx)) as writer:
        if not writer.is_complete:
            todo = writer.skip_done(blocks)
            amount = config.sequences_per_shard * (n_ctx - 1)
            total = max(0, config.tokens - writer.n_shards_done * amount)
            for block in progress(todo, total=total, what="capture", unit="tok", amount=amount):
                writer.append(ShardContent(block, _activations(model, sites, block, config.batch)))
            writer.finish()
    return ActivationStore(out)


def _manifest(
    model: LanguageModel, corpus: Corpus, config: CaptureConfig, sites: list[HookSite], n_ctx: int
) -> Manifest:
    labels = {corpus.label_set.name: list(corpus.label_set.labels)} if corpus.label_set else {}
    return Manifest(
        model_id=model.id,
        model_fingerprint=model.fingerprint,
        tokenizer_fingerprint=model.tokenizer_fingerprint,
        corpus=corpus.name,
        n_tokens=config.tokens,
        n_ctx=n_ctx,
        bos_id=model.bos_id,
        sites={site.name: site.d_in for site in sites},
        dtype=config.dtype,
        label_sets=labels,
        sequences_per_shard=config.sequences_per_shard,
        versions={name: version(name) for name in ("torch", "transformers", "transformer-lens", "h5py", "numpy")},
    )


@torch.no_grad()
def _activations(model: LanguageModel, sites: list[HookSite], block: Sequences, batch: int) -> dict[str, np.ndarray]:
    """Rows of every site for one block of sequences, in the order of ``block.is_row``."""
    parts: dict[str, list[np.ndarray]] = {site.name: [] for site in sites}
    is_row = torch.from_numpy(block.is_row)
    for first in range(0, len(block.tokens), batch):
        part = slice(first, first + batch)
        keep = is_row[part].to(model.device)
        for name, activation in forward(model, sites, torch.from_numpy(block.tokens[part])).items():
            parts[name].append(activation[keep].float().cpu().numpy())
    return {name: np.concatenate(rows) for name, rows in parts.items()}


def forward(model: LanguageModel, sites: list[HookSite], tokens: Tensor) -> dict[str, Tensor]:
    """Activations at ``sites``, each [batch, pos, d_in], from a forward pass that stops after the last layer needed.

    Raises InputError naming a hook point that did not fire.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor, object], None]:
        def hook(activation: Tensor, hook: object) -> None:
            found[name] = activation.flatten(2)

        return hook

    last = max(site.layer for site in sites)
    stop = last + 1 if last + 1 < model.n_layers else None
    hooks = [(site.name, keep(site.name)) for site in sites]
    model.bridge.run_with_hooks(tokens.long().to(model.device), fwd_hooks=hooks, stop_at_layer=stop)
    for site in sites:
        if site.name not in found:
            raise InputError(f"the hook point '{site.name}' never fired; choose another hook point of '{model.id}'")
    return found


def live_chunks(model: LanguageModel, site: HookSite, tokens: Tensor, batch: int = 32) -> Iterator[Tensor]:
    """Activations of ``tokens`` [n_seq, n_ctx] at one site without a store, [batch, pos, d_in] at a time."""
    for part in tokens.split(batch):
        with torch.no_grad():
            yield forward(model, [site], part)[site.name]
