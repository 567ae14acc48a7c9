"""How decomposers read activations: rows in order or in shuffled batches, read ahead, and their moments."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from itertools import islice
from queue import Empty, Full, Queue
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from interp.errors import InputError
from interp.store.moments import Moments, moments_of

T = TypeVar("T")
_END = object()


@runtime_checkable
class ActivationSource(Protocol):
    """Rows of activations of one site; a row is one token."""

    @property
    def d_in(self) -> int:
        """Width of a row."""
        ...

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def rows(self, indices: Int[np.ndarray, " n"]) -> Float[Tensor, "n d_in"]:
        """The rows at ``indices``, in that order, float32."""
        ...

    def chunks(self, size: int = 8192) -> Iterator[Float[Tensor, "_ d_in"]]:
        """All rows in order, ``size`` at a time (the last chunk may be smaller), float32."""
        ...

    def moments(self) -> Moments:
        """Mean, covariance and norms of all rows."""
        ...


@runtime_checkable
class LabelledSource(ActivationSource, Protocol):
    """Rows of which is known what they are, for methods that learn from labels."""

    def labels(self, label_set: str | None = None) -> tuple[tuple[str, ...], UInt8[np.ndarray, "n_rows n_labels"]]:
        """(names of the labels, labels of each row), by default of the first label set.

        Raises InputError when there are no labels, or none of that name.
        """
        ...


def shuffled_batches(
    source: ActivationSource,
    size: int,
    steps: range,
    *,
    seed: int,
    held_out: Int[np.ndarray, " n_held_out"] | None = None,
    share: slice = slice(None),
) -> Generator[Float[Tensor, "share d_in"], None, None]:
    """The ``share`` of one process in every batch of ``size`` rows; the next batch is read while this one is used.

    Every epoch is a new permutation of the source without the rows ``held_out`` (ascending); the incomplete last batch is
    dropped. Batches are drawn uniformly from all those rows and depend on ``seed`` alone. Inside a batch rows keep the
    source's order, so its first rows are not a random sample of it. ``steps`` numbers the batches to yield, counted from the
    first epoch, so that training can resume where it stopped. Close the iterator when leaving it early. Raises InputError
    when a batch is larger than the source.
    """
    held_out = np.arange(0) if held_out is None else held_out
    n = len(source) - len(held_out)
    n_before = held_out - np.arange(len(held_out))  # rows not held out, before each one that is
    order = islice(_shuffled_indices(n, size, seed=seed, start=steps.start), len(steps))
    rows = (indices + np.searchsorted(n_before, indices, side="right") for indices in order)
    return prefetched((source.rows(indices[share]) for indices in rows), depth=1)


def _shuffled_indices(n: int, size: int, *, seed: int, start: int) -> Iterator[Int[np.ndarray, " size"]]:
    """Ascending numbers of the rows of each batch, of ``n`` rows, without end; takes 4 bytes of memory per row."""
    if size > n:
        raise InputError(f"a batch of {size} rows was asked for, but the source holds {n}; use a smaller --batch")
    per_epoch = n // size
    epoch, at = divmod(start, per_epoch)
    while True:
        order = np.arange(n, dtype=np.int32 if n < 2**31 else np.int64)
        np.random.default_rng([seed, epoch]).shuffle(order)
        for i in range(at, per_epoch):
            yield np.sort(order[i * size : (i + 1) * size])
        epoch, at = epoch + 1, 0


class ArraySource:
    """A NumPy array or tensor [n, d_in] as an ActivationSource; of one with more dimensions, the last is the width."""

    def __init__(self, array: Float[np.ndarray, "*n d_in"] | Float[Tensor, "*n d_in"]):
        if array.ndim < 2 or 0 in array.shape:
            raise InputError(f"activations are a matrix of rows, but this one has shape {tuple(array.shape)}")
        rows = torch.as_tensor(array)
        self._array = rows.reshape(-1, rows.shape[-1])

    @property
    def d_in(self) -> int:
        return int(self._array.shape[1])

    def __len__(self) -> int:
        return len(self._array)

    def rows(self, indices: Int[np.ndarray, " n"]) -> Float[Tensor, "n d_in"]:
        return self._array[torch.as_tensor(indices)].float()

    def chunks(self, size: int = 8192) -> Iterator[Float[Tensor, "_ d_in"]]:
        for chunk in self._array.split(size):
            yield chunk.float()

    @cached_property
    def _moments(self) -> Moments:
        return moments_of(self.chunks())

    def moments(self) -> Moments:
        return self._moments


Rows = ActivationSource | np.ndarray | Tensor
"""What a method can be fitted to."""


def as_source(rows: Any) -> ActivationSource:
    """Rows as a source. Raises InputError for what holds no rows."""
    if isinstance(rows, (np.ndarray, Tensor)):
        return ArraySource(rows)
    if not isinstance(rows, ActivationSource):
        raise InputError(
            f"features are learned from a site of a store, store.site(NAME), or an array [n, d_in], not {type(rows).__name__}"
        )
    return rows


def prefetched(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """Yield ``items`` in order; a thread makes up to ``depth`` of them ahead, and its exceptions are raised here.

    Closing or deleting the iterator ends the thread.
    """
    ready: Queue[object] = Queue(depth)
    is_closed = threading.Event()
    failure: list[BaseException] = []

    def put(item: object) -> bool:
        while not is_closed.is_set():
            with suppress(Full):
                ready.put(item, timeout=0.05)
                return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as error:  # raised again by the caller's thread
            failure.append(error)
        put(_END)

    thread = threading.Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            yield item  # type: ignore[misc]
        if failure:
            raise failure[0]
    finally:
        is_closed.set()
        with suppress(Empty):
            ready.get_nowait()
        thread.join()
