"""Writing a store, shard by shard: one background thread, each shard renamed into place only when it is whole.

Only one job writes a store at a time. If ``torchrun`` started n processes, each writes every n-th missing shard.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
from filelock import FileLock, Timeout
from msgspec import structs

from interp.corpora.packing import Sequences
from interp.distributed import world
from interp.errors import InputError
from interp.files import refused_writes, write_whole
from interp.store.manifest import FILE_NAME, Manifest, Shard
from interp.store.shard import ShardContent, shard_file

_WRITER_LOCK, _MANIFEST_LOCK = "writer.lock", "manifest.lock"
_OWN_FILES = {_WRITER_LOCK, _MANIFEST_LOCK, FILE_NAME + ".partial", "shards"}
"""Files left behind by a writer that was killed before its first manifest."""


class StoreWriter:
    """Appends shards to the store in ``folder``; a context manager.

    The caller waits for the disk only when it is two whole shards behind. An unfinished store of the same request, or of
    the same request for another number of tokens, is continued with its missing shards. Raises InputError for a store of
    another request and for one that another job is writing. A new store whose first shard is refused is removed; whole
    shards are kept.
    """

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder = folder
        self._world = world()
        self._lock = FileLock(folder / _WRITER_LOCK, timeout=0, thread_local=False)
        self._manifest_lock = FileLock(folder / _MANIFEST_LOCK, thread_local=False)
        self._is_new = not (folder / FILE_NAME).exists()
        with self._refused_writes():
            if self._world.is_first:
                self._open(manifest)
            self._world.wait()
            self._manifest = Manifest.read(folder)
            self._world.wait()  # every process must see the same shards missing before one is added
        self._present = {shard.number: shard for shard in self._manifest.shards}
        self._numbers = (number for number in count() if number not in self._present)
        self._since = time.monotonic()
        self._n_blocks = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._writing: list[Future[None]] = []
        self._has_failed = False

    @property
    def is_complete(self) -> bool:
        """Whether every shard is written."""
        return self._manifest.complete

    @property
    def n_rows_done(self) -> int:
        """Rows in the shards that were whole when the writer opened."""
        return sum(shard.n_rows for shard in self._present.values())

    def missing(self, blocks: Iterator[Sequences]) -> Iterator[tuple[int, Sequences]]:
        """(shard number, block) of those ``blocks``, one per shard, that this process has to append.

        Raises InputError when a whole shard holds other tokens than its block: continuing would mix two texts.
        """
        self._n_blocks = n_missing = 0
        for number, block in enumerate(blocks):
            self._n_blocks += 1
            if number in self._present:
                self._check_same_text(self._present[number], block)
            else:
                if n_missing % self._world.size == self._world.rank:
                    yield number, block
                n_missing += 1
        for number, shard in self._present.items():
            if number >= self._n_blocks:
                self._check_same_text(shard, None)

    def append(self, content: ShardContent, number: int | None = None) -> None:
        """Hand over shard ``number``, by default the first missing one. Raises any error of writing an earlier shard."""
        while len(self._writing) > 1 or (self._writing and self._writing[0].done()):
            self._writing.pop(0).result()
        if number is None:
            number = next(self._numbers)
        self._writing.append(self._pool.submit(self._write, content, number))

    def note_checks(self, checks: dict[str, float]) -> None:
        """Record the relative errors of a capture's self-check in the manifest."""
        if self._world.is_first:
            self._update(lambda manifest: structs.replace(manifest, checks=checks))

    def finish(self) -> None:
        """Wait for the last shards of all processes, link the shards into ``store.h5``, mark the store complete."""
        while self._writing:
            self._writing.pop(0).result()
        self._world.wait()
        if self._world.is_first:
            manifest = Manifest.read(self.folder)
            is_whole = manifest.n_rows == manifest.n_tokens
            if manifest.n_tokens is None:
                is_whole = len(manifest.shards) == self._n_blocks
            if not is_whole:
                raise InputError(
                    f"'{self.folder}' holds {manifest.n_rows:,} of {manifest.asked} tokens although every process has "
                    "finished; run the same command again to write the rest"
                )
            with self._refused_writes():
                write_virtual(self.folder, manifest)
            self._update(lambda manifest: structs.replace(manifest, complete=True))
        self._world.wait()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        is_empty = self._world.size == 1 and not self._manifest.shards
        if self._is_new and is_empty and isinstance(error, InputError):
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    def _open(self, request: Manifest) -> None:
        """Lock the store for this job; create it, or drop missing and incomplete shards from its list."""
        folder = self.folder
        if self._is_new and (
            folder.is_file() or (folder.exists() and {path.name for path in folder.iterdir()} - _OWN_FILES)
        ):
            raise InputError(f"'{folder}' is not empty and holds no store; choose another --out")
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise InputError(
                f"another process is writing the store '{folder}'; wait until it has ended or choose another --out"
            ) from None
        if self._is_new:
            request.write(folder)
            return
        present = Manifest.read(folder)
        usable = present if present.complete else present.with_n_tokens(request.n_tokens)
        differs = usable.request_differences(request)
        if differs and not present.shards:  # interrupted before anything was kept
            request.write(folder)
            return
        if differs:
            what = "; ".join(
                f"{name}: {_shown(present, name)} there, {_shown(request, name)} asked" for name in differs
            )
            raise InputError(f"'{folder}' holds another capture ({what}); choose another --out or delete that folder")
        whole = tuple(shard for shard in usable.shards if shard.is_whole(folder))
        usable = structs.replace(usable, shards=whole, complete=present.complete and whole == present.shards)
        if usable != present:
            usable.write(folder)
            for shard in set(present.shards) - set(whole):
                (folder / "shards" / shard.file).unlink(missing_ok=True)

    def _check_same_text(self, shard: Shard, block: Sequences | None) -> None:
        path = self.folder / "shards" / shard.file
        try:
            with h5py.File(path, "r") as file:
                stored = file["tokens"][()]
        except OSError as error:
            raise InputError(f"'{path}' is damaged ({error}); delete it and capture again to write it anew") from None
        if block is None or not np.array_equal(block.tokens, stored):
            raise InputError(
                f"the text '{self._manifest.corpus}' has changed since the capture of '{self.folder}' was "
                "interrupted; choose another --out or delete that folder"
            )

    def _write(self, content: ShardContent, number: int) -> None:
        """In the background thread. Nothing is written after a shard that failed: its error reaches the caller first."""
        if self._has_failed:
            return
        try:
            image = shard_file(content, self._manifest, number)
            name, is_row = f"{number:06d}.h5", content.sequences.is_row
            with self._refused_writes():
                write_whole(self.folder / "shards" / name, image)
            shard = Shard(
                file=name,
                n_rows=int(is_row.sum()),
                n_sequences=len(is_row),
                n_bytes=len(image),
                sha256=hashlib.sha256(image).hexdigest(),
            )
            self._update(lambda manifest: manifest.with_shard(shard))
        except BaseException:
            self._has_failed = True
            raise

    def _update(self, change: Callable[[Manifest], Manifest]) -> None:
        """Replace the manifest; a lock makes processes take turns."""
        with self._refused_writes(), self._manifest_lock:
            manifest = change(Manifest.read(self.folder))
            if self._world.is_first:
                now = time.monotonic()
                manifest = structs.replace(manifest, seconds=round(manifest.seconds + now - self._since, 3))
                self._since = now
            manifest.write(self.folder)
            self._manifest = manifest

    def _refused_writes(self) -> AbstractContextManager[None]:
        n = len(self._manifest.shards) if hasattr(self, "_manifest") else 0
        return refused_writes(self.folder, f"the whole shards there are kept ({n})")


def _shown(request: Manifest, name: str) -> object:
    """A field as a person asks for it: n_tokens is None for all of the text, snippets for whole documents."""
    value = getattr(request, name)
    return {"n_tokens": "all", "snippets": "none"}[name] if value is None else value


def write_virtual(folder: Path, manifest: Manifest) -> None:
    """``store.h5``: every array of the shards as one virtual dataset, for any HDF5 tool."""
    with h5py.File(folder / "shards" / manifest.shards[0].file, "r") as first:
        names = ["tokens", "token_document", "token_offset", "rows"]
        names += [f"{group}/{name}" for group in ("labels", "sites") if group in first for name in first[group]]
        shapes = {name: (first[name].shape[1:], first[name].dtype) for name in names}
    with h5py.File("store", "w", driver="core", backing_store=False, libver="v110") as file:
        for name, (tail, dtype) in shapes.items():
            per_row = name == "rows" or name.startswith(("labels/", "sites/"))
            lengths = [shard.n_rows if per_row else shard.n_sequences for shard in manifest.shards]
            layout = h5py.VirtualLayout(shape=(sum(lengths), *tail), dtype=dtype)
            at = 0
            for shard, length in zip(manifest.shards, lengths, strict=True):
                layout[at : at + length] = h5py.VirtualSource(f"shards/{shard.file}", name, shape=(length, *tail))
                at += length
            file.create_virtual_dataset(name, layout)
        file.flush()
        image = bytes(file.id.get_file_image())
    write_whole(folder / "store.h5", image)
