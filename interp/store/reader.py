"""Reading a store: shards are mapped into memory, so rows are gathered without going through HDF5."""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import DTypeLike
from torch import Tensor

from interp.errors import InputError, unknown_name
from interp.files import write_whole
from interp.progress import progress
from interp.store.manifest import Manifest, Shard
from interp.store.moments import Moments, moments_of

MAPPED = 3 * 2**27
"""Bytes of a site that stay mapped into the process once read; pages beyond them are unmapped after every use.

Unmapped pages stay in the system's page cache, so reading them again costs a page fault (a batch of 4096 x 1024 from 4 GB
takes 7.4 ms of CPU, not 4.0). Mapped pages count as the process's memory, and some systems kill a process for using too much.
"""


class ActivationStore:
    """A store on disk, opened for reading: the shards that are whole now, even if a capture is still writing others.

    Raises InputError when the folder is no store, when one of its shards is missing or cut short, and, unless
    ``allow_unfinished``, when its capture has not ended.
    """

    def __init__(self, path: str | Path, *, allow_unfinished: bool = False):
        self.path = Path(path)
        self.manifest = Manifest.read(self.path)
        if not (self.manifest.complete or allow_unfinished):
            done, asked = self.manifest.n_rows, self.manifest.asked
            raise InputError(
                f"the capture of '{self.path}' was interrupted after {done:,} of {asked} tokens; "
                "run the same interp capture command again to finish it"
            )
        for shard in self.manifest.shards:
            if not shard.is_whole(self.path):
                raise self._damaged(shard, "is missing or cut short")

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def n_rows(self) -> int:
        """Tokens captured, without separators."""
        return self.manifest.n_rows

    @property
    def n_sequences(self) -> int:
        return self.manifest.n_sequences

    @property
    def n_ctx(self) -> int:
        return self.manifest.n_ctx

    @property
    def sites(self) -> dict[str, int]:
        """Captured hook points and their widths."""
        return self.manifest.sites

    @property
    def identity(self) -> str:
        return self.manifest.identity

    @property
    def label_sets(self) -> dict[str, tuple[str, ...]]:
        return {name: tuple(labels) for name, labels in self.manifest.label_sets.items()}

    def site(self, name: str) -> SiteSource:
        """The activations of one hook point. Raises InputError with the near names when it was not captured."""
        if name not in self.sites:
            raise unknown_name("hook point", name, self.sites, f"the store '{self.path}'")
        return SiteSource(self, name)

    def tokens(self) -> Int[np.ndarray, "n_seq n_ctx"]:
        return self._whole("tokens")

    def positions(self) -> Int[np.ndarray, "n_rows 2"]:
        """(sequence, position) of each row, sequences counted as in ``tokens``."""
        rows = self._whole("rows")
        if not self.manifest.complete:  # there may be gaps: count only the sequences of the shards present
            _, rows[:, 0] = np.unique(rows[:, 0], return_inverse=True)
        return rows

    def documents(self) -> tuple[list[str], Int[np.ndarray, "n_seq n_ctx"]]:
        """(names, document number of each token); a number indexes ``names``."""
        names: dict[int, str] = {}
        for shard in self.manifest.shards:
            with self._open(shard) as file:
                numbers, texts = file["documents/number"][()], file["documents/name"].asstr()[()]
            names.update(zip(numbers.tolist(), texts.tolist(), strict=True))
        listed = [names.get(number, "") for number in range(max(names) + 1)]
        return listed, self._whole("token_document")

    def row_documents(self) -> Int[np.ndarray, " n_rows"]:
        """Document number of each row."""
        sequence, position = self.positions().T
        return self.documents()[1][sequence, position]

    def document_tokens(self) -> Iterator[DocumentTokens]:
        """What was captured of each document, in order; of the last one it ends where the capture ended."""
        for (_, name), parts in groupby(self._document_parts(), key=lambda part: part[0]):
            _, tokens, offsets = zip(*parts, strict=True)
            yield DocumentTokens(name, np.concatenate(tokens), np.concatenate(offsets))

    def _document_parts(self) -> Iterator[tuple[tuple[int, str], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]]:
        """((number, name), token ids, offsets) of each run of rows in a shard that come from one document."""
        for shard in self.manifest.shards:
            names = dict(zip(self._read(shard, "documents/number"), self._read(shard, "documents/name"), strict=True))
            rows = self._read(shard, "rows")
            at = (rows[:, 0] - shard.number * self.manifest.sequences_per_shard, rows[:, 1])
            numbers = self._read(shard, "token_document")[at]
            firsts = np.flatnonzero(np.diff(numbers, prepend=-1))
            tokens, offsets = (np.split(self._read(shard, name)[at], firsts)[1:] for name in ("tokens", "token_offset"))
            for number, its_tokens, its_offsets in zip(numbers[firsts], tokens, offsets, strict=True):
                yield (int(number), names[number].decode()), its_tokens, its_offsets

    def label_set(self, name: str | None = None) -> str:
        """``name``, or the first label set of the store by default. Raises InputError if the store has no such label set."""
        if not self.label_sets:
            raise InputError(
                f"the store '{self.path}' has no labels; capture labelled text, or choose labels with interp capture --labels"
            )
        name = next(iter(self.label_sets)) if name is None else name
        if name not in self.label_sets:
            raise unknown_name("label set", name, self.label_sets, f"the store '{self.path}'")
        return name

    def labels(self, label_set: str | None = None) -> UInt8[np.ndarray, "n_rows n_labels"]:
        """Labels of each row, by default of the first label set; columns are ``label_sets[label_set]``."""
        return self._whole(f"labels/{self.label_set(label_set)}")

    def label_places(self) -> dict[str, tuple[str, int]]:
        """Every label to its (label set, column). A label whose name an earlier set has already is called SET.LABEL."""
        places: dict[str, tuple[str, int]] = {}
        for label_set, names in self.label_sets.items():
            for column, name in enumerate(names):
                places[f"{label_set}.{name}" if name in places else name] = (label_set, column)
        return places

    def verify(self) -> list[str]:
        """Read every byte again and list the shard files whose content has changed since they were written."""
        shards = self.manifest.shards
        return [
            shard.file
            for shard in progress(shards, total=len(shards), what="verify", unit="shard")
            if _sha256(self.path / "shards" / shard.file) != shard.sha256
        ]

    def _whole(self, name: str) -> np.ndarray:
        return np.concatenate([self._read(shard, name) for shard in self.manifest.shards])

    def _read(self, shard: Shard, name: str) -> np.ndarray:
        with self._open(shard) as file:
            try:
                return np.asarray(file[name][()])
            except (OSError, KeyError, RuntimeError) as error:
                raise self._damaged(shard, f"cannot be read ({error})") from None

    def _open(self, shard: Shard) -> h5py.File:
        try:
            return h5py.File(self.path / "shards" / shard.file, "r")
        except OSError as error:
            raise self._damaged(shard, f"cannot be read ({error})") from None

    def _damaged(self, shard: Shard, what: str) -> InputError:
        return InputError(
            f"'{self.path / 'shards' / shard.file}' {what}; delete it if it is there and run the same interp capture "
            "command again to write that shard anew"
        )


class DocumentTokens(NamedTuple):
    """The tokens of a document that are rows of a store, in the document's order, without separators."""

    name: str
    tokens: Int[np.ndarray, " n"]
    """Token ids."""
    offsets: Int[np.ndarray, " n"]
    """First character of each token in the document."""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class SiteSource:
    """One hook point of a store as an ActivationSource, with the store's labels."""

    def __init__(self, store: ActivationStore, name: str):
        self.store = store
        self.name = name
        self.d_in = store.sites[name]
        self._starts = np.cumsum([0, *(shard.n_rows for shard in store.manifest.shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def _maps(self) -> list[MappedRows]:
        """One for each shard."""
        return [self._map(shard) for shard in self.store.manifest.shards]

    def _map(self, shard: Shard) -> MappedRows:
        path = self.store.path / "shards" / shard.file
        with self.store._open(shard) as file:
            try:
                dataset = file[f"sites/{self.name}"]
            except (KeyError, RuntimeError) as error:
                raise self.store._damaged(shard, f"cannot be read ({error})") from None
            if dataset.shape != (shard.n_rows, self.d_in):
                raise self.store._damaged(
                    shard, f"holds {dataset.shape} values at {self.name}, not {shard.n_rows} rows"
                )
            if not shard.n_rows:
                return MappedRows(np.empty(dataset.shape, dtype=dataset.dtype), None)
            if dataset.chunks:
                return _unpacked(dataset)
            offset, shape, dtype = dataset.id.get_offset(), dataset.shape, dataset.dtype
        with path.open("rb") as opened:
            pages = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        return MappedRows(np.ndarray(shape, dtype, pages, offset), pages)

    def __getitem__(self, which: int | slice | Sequence[int] | np.ndarray) -> Float[Tensor, "*n d_in"]:
        """A row by its number, or rows by a slice, numbers or a mask over all rows; float32. IndexError beyond the end."""
        numbers = np.arange(len(self))[which]
        return self.rows(np.atleast_1d(numbers)).reshape(*np.shape(numbers), self.d_in)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Float[np.ndarray, "n_rows d_in"]:
        """All rows, in memory, float32 if no other type is asked for."""
        return np.asarray(self[:].numpy(), dtype=dtype)

    def rows(self, indices: Int[np.ndarray, " n"]) -> Float[Tensor, "n d_in"]:
        """The rows at ``indices``, in that order, float32."""
        out = torch.empty(len(indices), self.d_in)
        if not np.any(indices[1:] < indices[:-1]):
            _convert(self._gather(indices), out)
            return out
        order = np.argsort(indices)
        stored = self._gather(indices[order])
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        _convert(stored[place], out)
        return out

    def _gather(self, ascending: Int[np.ndarray, " n"]) -> np.ndarray:
        """Rows by ascending number, in the stored dtype; reading the files in order is fastest."""
        if len(ascending) and not 0 <= ascending[0] <= ascending[-1] < len(self):
            raise IndexError(f"rows {ascending[0]} to {ascending[-1]} of a source of {len(self)}")
        out = np.empty((len(ascending), self.d_in), dtype=self.store.manifest.dtype)
        cuts = np.searchsorted(ascending, self._starts)
        for shard in np.flatnonzero(np.diff(cuts)).tolist():
            part = slice(cuts[shard], cuts[shard + 1])
            # The range was checked above; mode="raise" would copy through a buffer.
            np.take(self._maps[shard].rows, ascending[part] - self._starts[shard], axis=0, out=out[part], mode="clip")
            self._unmap(shard)
        return out

    def _unmap(self, shard: int) -> None:
        """Unmap a shard that lies beyond the first ``MAPPED`` bytes of the site."""
        if int(self._starts[shard + 1]) * self.d_in * self._maps[shard].rows.itemsize > MAPPED:
            self._maps[shard].unmap()

    def chunks(self, size: int = 8192) -> Iterator[Float[Tensor, "_ d_in"]]:
        """All rows in order, ``size`` at a time, float32."""
        for first in range(0, len(self), size):
            yield self._slice(first, min(first + size, len(self)))

    def _slice(self, first: int, stop: int) -> Tensor:
        out = torch.empty(stop - first, self.d_in)
        at = first
        while at < stop:
            shard = int(np.searchsorted(self._starts, at, side="right")) - 1
            end = min(stop, int(self._starts[shard + 1]))
            stored = self._maps[shard].rows[at - self._starts[shard] : end - self._starts[shard]]
            _convert(np.array(stored), out[at - first : end - first])
            self._unmap(shard)
            at = end
        return out

    def labels(self, label_set: str | None = None) -> tuple[tuple[str, ...], UInt8[np.ndarray, "n_rows n_labels"]]:
        """(names of the labels, labels of each row), by default of the store's first label set; InputError if there is none."""
        name = self.store.label_set(label_set)
        return self.store.label_sets[name], self.store.labels(name)

    def moments(self) -> Moments:
        """Moments of all rows, computed once for a store and kept in its ``moments/`` folder."""
        return self._moments

    @property
    def has_moments(self) -> bool:
        """Whether the store holds the moments already."""
        return _read_moments(self._moments_path, self.store.identity) is not None

    @property
    def _moments_path(self) -> Path:
        return self.store.path / "moments" / f"{self.name}.h5"

    @cached_property
    def _moments(self) -> Moments:
        cached = _read_moments(self._moments_path, self.store.identity)
        if cached is None:
            cached = moments_of(self.chunks())
            _write_moments(self._moments_path, self.store.identity, cached)
        return cached


def _convert(stored: np.ndarray, out: Tensor) -> None:
    """Write ``stored`` to ``out`` as float32.

    When torch has several threads, rows are converted in tiles so small that torch uses one thread for each: on a busy
    machine, threads waiting for each other take ten times as long (a batch of 4096 x 512: 7.2 ms against 0.7 ms).
    """
    size = max(1, len(out) if torch.get_num_threads() == 1 else 32767 // out.shape[1])
    for part, values in zip(out.split(size), torch.from_numpy(stored).split(size), strict=True):
        part.copy_(values)


class MappedRows(NamedTuple):
    """The rows of one shard, mapped into memory."""

    rows: np.ndarray
    pages: mmap.mmap | None
    """The mapped file that holds the rows; None where there are no rows."""

    def unmap(self) -> None:
        """Unmap the pages; the next use maps them again."""
        if self.pages and hasattr(mmap, "MADV_DONTNEED"):
            self.pages.madvise(mmap.MADV_DONTNEED)


def _unpacked(dataset: h5py.Dataset) -> MappedRows:
    """A compressed dataset, unpacked into a temporary file that is deleted when it is no longer used."""
    import hdf5plugin  # noqa: F401  deferred: loads the filters of a dozen libraries

    with tempfile.TemporaryFile() as file:
        file.truncate(dataset.size * dataset.dtype.itemsize)
        pages = mmap.mmap(file.fileno(), 0)
    mapped = MappedRows(np.ndarray(dataset.shape, dataset.dtype, pages), pages)
    dataset.read_direct(mapped.rows)
    mapped.unmap()
    return mapped


def _read_moments(path: Path, identity: str) -> Moments | None:
    if not path.exists():
        return None
    with h5py.File(path, "r") as file:
        if file.attrs["identity"] != identity:
            return None
        n, norm = int(file.attrs["n"]), float(file.attrs["mean_norm"])
        moments = Moments(n=n, mean=file["mean"][()], covariance=file["covariance"][()], mean_norm=norm)
        moments.__dict__["spectrum"] = (file["eigenvalues"][()], file["eigenvectors"][()])  # fills the cached property
    return moments


def _write_moments(path: Path, identity: str, moments: Moments) -> None:
    path.parent.mkdir(exist_ok=True)
    with h5py.File("moments", "w", driver="core", backing_store=False, libver="v110") as file:
        file.attrs.update({"identity": identity, "n": moments.n, "mean_norm": moments.mean_norm})
        file["mean"] = moments.mean
        file["covariance"] = moments.covariance
        file["eigenvalues"], file["eigenvectors"] = moments.spectrum
        file.flush()
        image = bytes(file.id.get_file_image())
    write_whole(path, image)
