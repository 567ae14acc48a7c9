"""A store of random activations, for timing: written by the store's own writer, without a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from interp.corpora.packing import Sequences
from interp.store.manifest import Manifest
from interp.store.reader import ActivationStore
from interp.store.shard import ShardContent
from interp.store.writer import StoreWriter

SITE = "blocks.0.hook_resid_post"
N_CTX = 129
"""A beginning-of-sequence token and 128 rows, the context that SAELens has by default."""
SEQUENCES_PER_SHARD = 64


def write_store(folder: Path, n_sequences: int, d_in: int) -> ActivationStore:
    """A store of ``n_sequences`` times 128 rows in float16, 8192 rows a shard; ``n_sequences`` is a multiple of 64."""
    n_rows = n_sequences * (N_CTX - 1)
    manifest = Manifest(
        model_id="none", model_fingerprint="", tokenizer_fingerprint="", corpus="random", n_tokens=n_rows, n_ctx=N_CTX,
        bos_id=0, sites={SITE: d_in}, dtype="float16", label_sets={}, sequences_per_shard=SEQUENCES_PER_SHARD, versions={},
        compressed=False, seconds=0.0, checks={}, shards=(), complete=False,
    )  # fmt: skip
    with StoreWriter(folder, manifest) as writer:
        for values in blocks(n_sequences, d_in):
            writer.append(ShardContent(_sequences(), {SITE: values}))
        writer.finish()
    return ActivationStore(folder)


def blocks(n_sequences: int, d_in: int) -> Iterator[np.ndarray]:
    """The rows of each shard: normal numbers, drawn once and turned round by another amount in every shard."""
    values = np.random.default_rng(0).normal(size=(SEQUENCES_PER_SHARD * (N_CTX - 1), d_in)).astype(np.float16)
    for number in range(n_sequences // SEQUENCES_PER_SHARD):
        yield np.roll(values, number, axis=0)


def _sequences() -> Sequences:
    shape = (SEQUENCES_PER_SHARD, N_CTX)
    is_row = np.ones(shape, dtype=bool)
    is_row[:, 0] = False
    return Sequences(
        tokens=is_row.astype(np.int32),
        document=np.zeros(shape, dtype=np.int32),
        offset=is_row.astype(np.int32) - 1,
        is_row=is_row,
        labels=np.zeros((*shape, 0), dtype=np.uint8),
        document_names={0: "random"},
    )
