"""Shuffled batches from a store, against a plain memory map and SAELens's cached activations; and the memory it takes.

All read the same 262 144 rows, a batch of 4096 rows at a time, as float32 tensors, from float16 files in the page cache; a
round is one epoch. "memory map": one file, indexed by a fresh permutation. "SAELens": its ActivationsStore on a folder of
cached activations, mixing in a pool of 32 768 rows and else as it is by default (contexts of 128, 32 of them read at a time,
half of the pool kept). It is timed apart: what it leaves of the processor's caches would be at our expense alone.

Both stores stay mapped as a whole. Of a larger one the reader lets pages go after use (``interp.store.reader.MAPPED``); what a
batch then costs is told with the memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_up_store import N_CTX, SITE, blocks, write_store
from peers import peer
from side_by_side import alternate, arguments, report

from interp.store.source import ActivationSource, shuffled_batches

BATCH, N_SEQUENCES = 4096, 2048
WIDTHS = (512, 768)
N_ROWS = N_SEQUENCES * (N_CTX - 1)
POOL = 32_768
LARGE = {"n_sequences": 16_384, "d_in": 1024}
"""2.1 million rows, 4.3 GB in float16."""


def ours(source: ActivationSource) -> Callable[[], None]:
    """An epoch, by the function that training reads batches with."""
    n_batches = N_ROWS // BATCH
    firsts = count(0, n_batches)

    def run() -> None:
        first = next(firsts)
        consume(shuffled_batches(source, BATCH, range(first, first + n_batches), seed=0))

    return run


def memory_map(file: Path, d_in: int) -> Callable[[], None]:
    np.concatenate(list(blocks(N_SEQUENCES, d_in))).tofile(file)
    rows = np.memmap(file, mode="r", dtype=np.float16, shape=(N_ROWS, d_in))
    random = np.random.default_rng(0)

    def run() -> None:
        order = random.permutation(N_ROWS)
        consume(torch.from_numpy(rows[order[at : at + BATCH]]).float() for at in range(0, N_ROWS, BATCH))

    return run


def saelens(folder: Path, d_in: int) -> Callable[[], None]:
    """SAELens's reader on a folder written as its CacheActivationsRunner writes it."""
    from datasets import Array2D, Dataset, Features
    from sae_lens.training.activations_store import ActivationsStore

    context = N_CTX - 1
    values = np.concatenate(list(blocks(N_SEQUENCES, d_in))).reshape(N_SEQUENCES, context, d_in)
    features = Features({SITE: Array2D(shape=(context, d_in), dtype="float16")})
    Dataset.from_dict({SITE: values}, features=features).save_to_disk(folder)
    store: Any = ActivationsStore(
        model=None,
        dataset=None,
        cached_activations_path=str(folder),
        hook_name=SITE,
        hook_head_index=None,
        context_size=context,
        d_in=d_in,
        n_batches_in_buffer=POOL // context,
        total_training_tokens=N_ROWS,
        store_batch_size_prompts=32,
        train_batch_size_tokens=BATCH,
        prepend_bos=False,
        streaming=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
    )
    return lambda: consume(islice(store, N_ROWS // BATCH))


def consume(batches: Iterator[torch.Tensor]) -> None:
    """Take every batch and look at its form alone."""
    for batch in batches:
        assert len(batch) == BATCH
        assert batch.dtype == torch.float32


def memory(folder: Path, threads: int) -> dict[str, Any]:
    """Figures of one epoch over a store of 4.3 GB in a process that may have 1 GB, in millions of bytes; see read_within.py."""
    write_store(folder, **LARGE)
    script = Path(__file__).with_name("read_within.py")
    command = [sys.executable, script, folder, "--megabytes", "1000", "--threads", str(threads)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def main() -> None:
    given = arguments(__doc__ or "")
    warnings.filterwarnings("ignore", message="All samples in the training dataset have been exhausted")
    has_saelens = peer("sae-lens") is not None
    cases = {}
    for d_in in WIDTHS:
        with tempfile.TemporaryDirectory() as scratch:
            here = Path(scratch)
            source = write_store(here / "store", N_SEQUENCES, d_in).site(SITE)
            peers = {"memory map": memory_map(here / "rows.f16", d_in)}
            if has_saelens:
                peers["SAELens"] = saelens(here / "saelens", d_in)
            for name, read in peers.items():
                cases[f"{d_in} wide, {name}"] = alternate({"ours": ours(source), name: read}, given.rounds)
    with tempfile.TemporaryDirectory() as scratch:
        facts = {"memory": memory(Path(scratch) / "store", given.threads)}
    report("store", cases, given, skipped=[] if has_saelens else ["sae-lens"], facts=facts)


if __name__ == "__main__":
    main()
