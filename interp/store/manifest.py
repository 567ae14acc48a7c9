"""``store.json``: what a store is, which of its shards are whole, and whether the capture has finished."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Literal

from msgspec import structs

from interp.corpora.snippets import Snippets
from interp.records import FileRecord, Record, read_record, write_record

FILE_NAME = "store.json"


class Shard(Record, frozen=True):
    """One whole shard file."""

    file: str
    """Name inside ``shards/``."""
    n_rows: int
    n_sequences: int
    n_bytes: int
    """Size of the file."""
    sha256: str
    """Of the file's bytes."""

    @property
    def number(self) -> int:
        """Place in the store, from 0."""
        return int(self.file.removesuffix(".h5"))

    def is_whole(self, store: Path) -> bool:
        """Whether the file is there in its full size."""
        path = store / "shards" / self.file
        return path.exists() and path.stat().st_size == self.n_bytes


NATIVE_CHECK = "activations by the model's own kernels = activations step by step"
"""The check of a capture that no hook point can fail: where they differ, activations are taken step by step."""
LARGE_ERROR = 1e-2
"""Relative errors of checks below this are of rounding, in bfloat16 too."""
_NOT_REQUESTED = {"versions", "seconds", "checks", "shards", "complete"}
"""Fields that say how a capture went, not what was asked for."""


class Manifest(FileRecord, frozen=True):
    """Everything that says what the arrays of a store mean."""

    SCHEMA = "interp-activation-store"
    VERSION = 2

    model_id: str
    model_fingerprint: str
    tokenizer_fingerprint: str
    corpus: str
    """Name of the text, such as ``stdlib``."""
    n_tokens: int | None
    """Rows asked for; None is all of the text."""
    n_ctx: int
    bos_id: int
    """Token every sequence begins with and documents are separated by; never a row."""
    sites: dict[str, int]
    """Hook point to width."""
    dtype: Literal["float16", "float32"]
    """Of the site arrays."""
    label_sets: dict[str, list[str]]
    """Label set to the names of its columns."""
    sequences_per_shard: int
    """Sequences in every shard but the last."""
    versions: dict[str, str]
    """Package versions at capture."""
    compressed: bool
    """Whether the site arrays are chunked and compressed (Blosc2, zstd)."""
    seconds: float
    """Wall time the capture took so far."""
    checks: dict[str, float]
    """Identities between hook points, tried on the first batch, to their relative errors."""
    shards: tuple[Shard, ...]
    """Whole shards, in order; while several processes write, there may be gaps."""
    complete: bool
    snippets: Snippets | None = None
    """What was taken of each document; None is all of it, as in stores from before there was a choice."""

    @property
    def n_rows(self) -> int:
        return sum(shard.n_rows for shard in self.shards)

    @property
    def asked(self) -> str:
        """``n_tokens`` for a person to read."""
        return "all" if self.n_tokens is None else f"{self.n_tokens:,}"

    @property
    def n_sequences(self) -> int:
        return sum(shard.n_sequences for shard in self.shards)

    @property
    def identity(self) -> str:
        """A hash of the content: equal content, equal identity."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()[:16]

    def request_differences(self, other: Manifest) -> list[str]:
        """The fields in which two manifests ask for different content."""
        asked = (name for name in self.__struct_fields__ if name not in _NOT_REQUESTED)
        return [name for name in asked if getattr(self, name) != getattr(other, name)]

    def with_n_tokens(self, n_tokens: int | None) -> Manifest:
        """The same capture with another number of tokens, and the shards that stay the same.

        A shard that may hold the last token of either request is dropped: it ends elsewhere under the other request.
        """
        if n_tokens == self.n_tokens:
            return self
        full = self.sequences_per_shard * (self.n_ctx - 1)
        ends = [math.inf if n is None else n for n in (self.n_tokens, n_tokens)]
        kept, n_rows, number = [], 0, 0
        for shard in self.shards:
            n_rows += (shard.number - number) * full + shard.n_rows  # a missing shard has at most ``full`` rows
            number = shard.number + 1
            if n_rows < min(ends):
                kept.append(shard)
        return structs.replace(self, n_tokens=n_tokens, shards=tuple(kept))

    def with_shard(self, shard: Shard) -> Manifest:
        """The same with ``shard`` added; it replaces an older shard of the same file name."""
        others = (old for old in self.shards if old.file != shard.file)
        return structs.replace(self, shards=tuple(sorted((*others, shard), key=lambda shard: shard.number)))

    def write(self, folder: Path) -> None:
        """Replace ``store.json`` in one step."""
        write_record(folder / FILE_NAME, self)

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Raises InputError when there is no store, its schema is another one, or its manifest is damaged."""
        absent = f"'{folder}' is no activation store; make one with interp capture"
        return read_record(folder / FILE_NAME, Manifest, absent)
