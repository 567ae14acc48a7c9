"""``store.json``: what a store is, which of its shards are whole, and whether the capture has finished."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from interp.errors import InputError
from interp.records import read_json, write_json

SCHEMA = "interp-activation-store"
VERSION = 2
FILE_NAME = "store.json"


@dataclass(frozen=True)
class Shard:
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


_PROGRESS = {"versions", "seconds", "checks", "shards", "complete"}
"""Fields that say how a capture went, not what was asked for."""


@dataclass(frozen=True)
class Manifest:
    """Everything that says what the arrays of a store mean."""

    model_id: str
    model_fingerprint: str
    tokenizer_fingerprint: str
    corpus: str
    """What the text was asked for as, such as ``stdlib``."""
    n_tokens: int | None
    """Rows asked for; None is all of the text."""
    n_ctx: int
    bos_id: int
    """Token every sequence begins with and documents are separated by; never a row."""
    sites: dict[str, int]
    """Hook point to width."""
    dtype: str
    """Of the site arrays: float16 or float32."""
    label_sets: dict[str, list[str]]
    """Label set to the names of its columns."""
    sequences_per_shard: int
    """Sequences in every shard but the last."""
    versions: dict[str, str]
    """Package versions at capture."""
    compressed: bool = False
    """Whether the site arrays are chunked and compressed (Blosc2, zstd)."""
    seconds: float = 0.0
    """Wall time the capture took so far."""
    checks: dict[str, float] = field(default_factory=dict)
    """Identities between hook points, tried on the first batch, to their relative errors."""
    shards: tuple[Shard, ...] = ()
    """Whole shards, in order; while several processes write, some in between may be missing yet."""
    complete: bool = False

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

    def same_request(self, other: Manifest) -> list[str]:
        """The fields in which two manifests ask for different content."""
        return [
            f.name for f in fields(self) if f.name not in _PROGRESS and getattr(self, f.name) != getattr(other, f.name)
        ]

    def asking_for(self, n_tokens: int | None) -> Manifest:
        """The same capture of another number of tokens, with the shards that hold the same either way.

        The last shard is cut off where the tokens asked for end, so those go that may hold the end of either request.
        """
        if n_tokens == self.n_tokens:
            return self
        full = self.sequences_per_shard * (self.n_ctx - 1)
        ends = [math.inf if n is None else n for n in (self.n_tokens, n_tokens)]
        kept, n_rows, number = [], 0, 0
        for shard in self.shards:
            n_rows += (shard.number - number) * full + shard.n_rows  # a shard that is missing has at most ``full`` rows
            number = shard.number + 1
            if n_rows < min(ends):
                kept.append(shard)
        return replace(self, n_tokens=n_tokens, shards=tuple(kept))

    def with_shard(self, shard: Shard) -> Manifest:
        """The same with one more whole shard, or with another file in the place of an old one."""
        others = (old for old in self.shards if old.file != shard.file)
        return replace(self, shards=tuple(sorted((*others, shard), key=lambda shard: shard.number)))

    def write(self, folder: Path) -> None:
        """Replace ``store.json`` in one step."""
        record = {"schema": SCHEMA, "version": VERSION, **asdict(self)}
        write_json(folder / FILE_NAME, record)

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Raises InputError when there is no store, it is of another schema, or its manifest is damaged."""
        record = read_json(
            folder / FILE_NAME, SCHEMA, VERSION, f"'{folder}' is no activation store; make one with interp capture"
        )
        known = {f.name for f in fields(Manifest)}
        if set(record) != known:
            odd = ", ".join(sorted(set(record) ^ known))
            raise InputError(f"'{folder / FILE_NAME}' has missing or unknown keys ({odd}); capture the store again")
        try:
            record["shards"] = tuple(Shard(**shard) for shard in record["shards"])
        except TypeError:
            raise InputError(f"'{folder / FILE_NAME}' is damaged: its list of shards is odd; make it again") from None
        return Manifest(**record)
