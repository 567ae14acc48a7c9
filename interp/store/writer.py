"""Writing a store, shard by shard: one background thread, each shard renamed into place only when it is whole."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np

from interp.corpora import Sequences
from interp.errors import InputError
from interp.manifest import FILE_NAME, Manifest, Shard

SHARD_SCHEMA = "interp-activation-shard"


@dataclass(frozen=True)
class ShardContent:
    """What goes into one shard; ``activations`` rows follow ``sequences.is_row`` in order."""

    sequences: Sequences
    activations: dict[str, np.ndarray]
    """Hook point to [n_rows, width], any float dtype."""


class StoreWriter:
    """Appends shards to the store in ``folder``; a context manager. The caller never waits for the disk.

    Opening an unfinished store of the same request goes on after its last whole shard (``n_shards_done``); one of
    another request is refused. A new store whose first shard is refused (InputError) is removed again; whole shards are kept.
    """

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder = folder
        self._is_new = not (folder / FILE_NAME).exists()
        self._manifest = _open(folder, manifest)
        self.n_shards_done = len(self._manifest.shards)
        """Whole shards that were there when the writer opened."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._writing: Future[None] | None = None

    @property
    def is_complete(self) -> bool:
        return self._manifest.complete

    def skip_done(self, blocks: Iterator[Sequences]) -> Iterator[Sequences]:
        """What is left of ``blocks`` (one a shard) after the shards that were there when the writer opened.

        Raises InputError when those shards hold other tokens: going on would mix two texts in one store.
        """
        for shard in self._manifest.shards:
            path = self.folder / "shards" / shard.file
            try:
                with h5py.File(path, "r") as file:
                    stored = file["tokens"][()]
            except OSError as error:
                raise InputError(f"'{path}' is damaged ({error}); delete the store and capture it again") from None
            block = next(blocks, None)
            if block is None or not np.array_equal(block.tokens, stored):
                raise InputError(
                    f"the text '{self._manifest.corpus}' has changed since the capture of '{self.folder}' was "
                    "interrupted; choose another --out or delete that folder"
                )
        return blocks

    def append(self, content: ShardContent) -> None:
        """Hand one shard to the background thread, once the one before it is written. Raises what that one raised."""
        self._wait()
        self._writing = self._pool.submit(self._write, content)

    def finish(self) -> None:
        """Wait for the last shard, mark the store complete, and link the shards into ``store.h5``."""
        self._wait()
        self._manifest = replace(self._manifest, complete=True)
        write_virtual(self.folder, self._manifest)
        self._manifest.write(self.folder)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
        if self._is_new and isinstance(error, InputError) and not self._manifest.shards:
            shutil.rmtree(self.folder)

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _write(self, content: ShardContent) -> None:
        name = f"{len(self._manifest.shards):06d}.h5"
        partial = self.folder / "shards" / (name + ".partial")
        write_shard(partial, content, self._manifest)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        partial.replace(partial.with_suffix(""))
        rows = content.sequences.is_row
        self._manifest = self._manifest.with_shard(Shard(name, int(rows.sum()), len(rows), digest))
        self._manifest.write(self.folder)


def _open(folder: Path, manifest: Manifest) -> Manifest:
    if not (folder / FILE_NAME).exists():
        if folder.is_file() or (folder.exists() and any(folder.iterdir())):
            raise InputError(f"'{folder}' is not empty and holds no store; choose another --out")
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        manifest.write(folder)
        return manifest
    present = Manifest.read(folder)
    if differs := present.same_request(manifest):
        what = "; ".join(f"{name}: {getattr(present, name)} there, {getattr(manifest, name)} asked" for name in differs)
        raise InputError(f"'{folder}' holds another capture ({what}); choose another --out or delete that folder")
    return present


def write_shard(path: Path, content: ShardContent, manifest: Manifest) -> None:
    """Write one shard file. Equal content gives equal bytes.

    Raises InputError naming site, sequence and position when a value does not fit the store's dtype.
    """
    seqs = content.sequences
    rows = np.argwhere(seqs.is_row).astype(np.int32)
    with h5py.File(path, "w", libver="v110", track_order=True) as file:
        file.attrs["schema"] = SHARD_SCHEMA
        file.attrs["version"] = 1
        arrays: dict[str, np.ndarray] = {
            "tokens": seqs.tokens.astype(np.int32),
            "token_document": seqs.document.astype(np.int32),
            "token_offset": seqs.offset.astype(np.int32),
            "rows": rows,
        }
        for label_set in manifest.label_sets:
            arrays[f"labels/{label_set}"] = seqs.labels[seqs.is_row]
        for site in manifest.sites:
            arrays[f"sites/{site}"] = _checked(content.activations[site], site, rows, manifest.dtype)
        for name, array in arrays.items():
            file.create_dataset(name, data=array, track_times=False)
        numbers = sorted(seqs.document_names)
        file.create_dataset("documents/number", data=np.asarray(numbers, dtype=np.int32), track_times=False)
        names = [seqs.document_names[number] for number in numbers]
        file.create_dataset("documents/name", data=names, dtype=h5py.string_dtype(), track_times=False)


def _checked(values: np.ndarray, site: str, rows: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(values, dtype=dtype)
    if not np.isfinite(stored).all():
        row, column = np.argwhere(~np.isfinite(stored))[0]
        value = values[row, column]
        advice = (
            "does not fit float16; use --dtype float32"
            if np.isfinite(value)
            else "is not a number the model should make"
        )
        sequence, position = rows[row]
        raise InputError(
            f"{site}: the value {value:g} at sequence {sequence} of the shard, position {position}, {advice}"
        )
    return stored


def write_virtual(folder: Path, manifest: Manifest) -> None:
    """``store.h5``: every array of the shards as one virtual dataset, for any HDF5 tool."""
    partial = folder / "store.h5.partial"
    with h5py.File(partial, "w", libver="v110") as file:
        first = h5py.File(folder / "shards" / manifest.shards[0].file, "r")
        with first:
            names = ["tokens", "token_document", "token_offset", "rows"]
            names += [f"{group}/{name}" for group in ("labels", "sites") if group in first for name in first[group]]
            shapes = {name: (first[name].shape[1:], first[name].dtype) for name in names}
        for name, (tail, dtype) in shapes.items():
            per_row = name == "rows" or name.startswith(("labels/", "sites/"))
            lengths = [shard.n_rows if per_row else shard.n_sequences for shard in manifest.shards]
            layout = h5py.VirtualLayout(shape=(sum(lengths), *tail), dtype=dtype)
            at = 0
            for shard, length in zip(manifest.shards, lengths, strict=True):
                source = h5py.VirtualSource(f"shards/{shard.file}", name, shape=(length, *tail))
                layout[at : at + length] = source
                at += length
            file.create_virtual_dataset(name, layout)
    partial.replace(folder / "store.h5")
