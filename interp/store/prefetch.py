"""Work done ahead: an iterator whose next items are made by a background thread while the caller uses the last one."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import TypeVar

T = TypeVar("T")
_END = object()


def prefetched(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """Yield ``items`` in order, up to ``depth`` of them made ahead; what making them raises is raised here.

    Closing the iterator, or letting go of it, ends the thread.
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
