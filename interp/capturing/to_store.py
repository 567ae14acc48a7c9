"""Capture: run a model over text and write the activations at its hook points to a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from interp.capturing.forward import FastestForward, forward
from interp.capturing.self_check import self_check
from interp.corpora.documents import Corpus
from interp.corpora.packing import Sequences, pack
from interp.corpora.snippets import Snippets
from interp.corpora.sources import Text, as_corpus
from interp.errors import InputError
from interp.model.language_model import LanguageModel
from interp.model.sites import HookPoint, resolve_names
from interp.progress import progress
from interp.records import check_options
from interp.store.manifest import NATIVE_CHECK, Manifest
from interp.store.reader import ActivationStore
from interp.store.shard import ShardContent
from interp.store.source import prefetched
from interp.store.writer import StoreWriter

__all__ = ["CaptureConfig", "capture", "forward"]

TOKENS_PER_FORWARD = 8192
"""Default tokens per forward pass: enough to keep two cores busy, few enough for the caches."""
SHARD_BYTES = 64 << 20
"""Default size of a shard's activations: some seconds of work on a CPU, and small compared with memory."""


@dataclass(frozen=True)
class CaptureConfig:
    """What to capture."""

    sites: tuple[str, ...]
    """Hook points by name or glob pattern, such as blocks.2.mlp.hook_post or 'blocks.*.hook_resid_post'."""
    tokens: int | Literal["all"] = 120_000
    """Tokens of text to capture, or "all"; separators between documents are not counted."""
    snippet_tokens: int | None = None
    """Take snippets of at most this many tokens in place of whole documents, so that the text comes from more documents. A
    snippet begins with a line where one is near, and its labels are those of the whole document, which is read all the
    same."""
    snippets: int = 1
    """With --snippet-tokens, the most snippets of a document, in different parts of it; a document that is not longer than
    they may be together is taken whole."""
    snippet_seed: int = 0
    """Seed of the places of the snippets."""
    n_ctx: int | None = None
    """Length of a sequence; the model's own context by default."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of the stored activations; float32 where values are larger than 65504."""
    compress: bool = False
    """Compress the activations (Blosc2, zstd): smaller files, but reading unpacks them to a temporary file first."""
    batch: int | None = None
    """Sequences per forward pass, by default as many as make 8192 tokens; changes the speed, not the content."""
    sequences_per_shard: int | None = None
    """Sequences per shard file, by default as many as make 64 MiB; an interrupted capture loses at most three shards."""

    def __post_init__(self) -> None:
        check_options(self)
        tokens = None if self.tokens == "all" else self.tokens
        counts = (tokens, self.snippet_tokens, self.snippets, self.batch, self.sequences_per_shard)
        if any(count is not None and count < 1 for count in counts):
            raise InputError(
                "tokens, snippet tokens, snippets, batch and sequences per shard are counts; give numbers from 1 up"
            )
        if self.snippet_seed < 0:
            raise InputError(f"the snippet seed is {self.snippet_seed}; it must be 0 or more")
        if self.snippet_tokens is None and (self.snippets, self.snippet_seed) != (1, 0):
            raise InputError(
                f"{self.snippets} snippets with seed {self.snippet_seed} were asked for, but not how long they are; give "
                "--snippet-tokens too, or neither for whole documents"
            )


def capture(
    model: LanguageModel,
    text: Corpus | Iterable[Text] | Callable[[], Iterable[Text]],
    config: CaptureConfig,
    out: str | Path,
) -> ActivationStore:
    """Write the activations on ``text`` at ``config.sites`` to the store ``out`` and open it.

    Text is a corpus, or texts as ``make_corpus`` takes them, such as a list of strings.

    A capture that was interrupted, or refused for too little text, resumes with the missing shards, also for another number
    of tokens; a finished one is opened. Under ``torchrun`` the processes divide the shards; the content is the same as from
    one process. Raises InputError for unknown hook points, too little text, values that do not fit, a folder that holds
    something else or that another job writes to, and a full disk. Whole shards are kept; a new store without any is removed.
    """
    corpus = as_corpus(text)
    sites = model.sites(resolve_names(config.sites, model.hook_names))
    n_ctx = config.n_ctx or model.n_ctx
    if not 2 <= n_ctx <= model.n_ctx:
        raise InputError(f"the sequence length {n_ctx} is out of range; '{model.id}' takes 2 to {model.n_ctx}")
    request = _request(model, corpus, config, sites, n_ctx)
    with StoreWriter(Path(out), request) as writer:
        if not writer.is_complete:
            batch = config.batch or max(1, TOKENS_PER_FORWARD // n_ctx)
            _fill(writer, model, sites, _blocks(model, corpus, request), batch, request)
    return ActivationStore(out)


def _blocks(model: LanguageModel, corpus: Corpus, request: Manifest) -> Iterator[Sequences]:
    return pack(
        corpus,
        model.tokenizer,
        bos_id=request.bos_id,
        n_ctx=request.n_ctx,
        n_tokens=request.n_tokens,
        block=request.sequences_per_shard,
        snippets=request.snippets,
    )


def _fill(
    writer: StoreWriter,
    model: LanguageModel,
    sites: list[HookPoint],
    blocks: Iterator[Sequences],
    batch: int,
    request: Manifest,
) -> None:
    """Capture the missing shards; text is read and tokenised one shard ahead."""
    blocks = prefetched(blocks, depth=1)
    first = next(blocks)
    sample = torch.from_numpy(first.tokens[:1, :128])
    run = FastestForward(model, sites, sample)
    checks = self_check(model, sites, sample)
    if run.native_error is not None:
        checks[NATIVE_CHECK] = run.native_error
    writer.note_checks(checks)
    amount = request.sequences_per_shard * (request.n_ctx - 1)
    missing = writer.missing(chain([first], blocks))
    total = None if request.n_tokens is None else max(0, request.n_tokens - writer.n_rows_done)
    for number, block in progress(missing, total=total, what="capture", unit="tok", amount=amount):
        writer.append(ShardContent(block, _activations(run, sites, block, batch, request.dtype)), number)
    writer.finish()


def _activations(
    run: FastestForward, sites: list[HookPoint], block: Sequences, batch: int, dtype: str
) -> dict[str, np.ndarray]:
    """Rows of every site for one block of sequences, in the order of ``block.is_row``."""
    n_rows = int(block.is_row.sum())
    rows = {site.name: torch.empty(n_rows, site.d_in, dtype=getattr(torch, dtype)) for site in sites}
    at = 0
    for first in range(0, len(block.tokens), batch):
        part = slice(first, first + batch)
        keep = torch.from_numpy(np.flatnonzero(block.is_row[part]))
        for name, activation in run(torch.from_numpy(block.tokens[part])).items():
            flat = activation.flatten(0, 1)
            rows[name][at : at + len(keep)] = flat.index_select(0, keep.to(flat.device)).to(rows[name].dtype).cpu()
        at += len(keep)
    return {name: values.numpy() for name, values in rows.items()}


def _request(
    model: LanguageModel, corpus: Corpus, config: CaptureConfig, sites: list[HookPoint], n_ctx: int
) -> Manifest:
    snippets = None
    if config.snippet_tokens is not None:
        snippets = Snippets(per_document=config.snippets, tokens=config.snippet_tokens, seed=config.snippet_seed)
    row_bytes = sum(site.d_in for site in sites) * np.dtype(config.dtype).itemsize
    return Manifest(
        model_id=model.id,
        model_fingerprint=model.fingerprint,
        tokenizer_fingerprint=model.tokenizer_fingerprint,
        corpus=corpus.name,
        n_tokens=None if config.tokens == "all" else config.tokens,
        n_ctx=n_ctx,
        bos_id=model.bos_id,
        sites={site.name: site.d_in for site in sites},
        dtype=config.dtype,
        label_sets={label_set.name: list(label_set.labels) for label_set in corpus.label_sets},
        sequences_per_shard=config.sequences_per_shard or max(1, SHARD_BYTES // (row_bytes * n_ctx)),
        compressed=config.compress,
        versions={name: version(name) for name in ("torch", "transformers", "transformer-lens", "h5py", "numpy")},
        seconds=0.0,
        checks={},
        shards=(),
        complete=False,
        snippets=snippets,
    )
