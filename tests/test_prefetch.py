"""Work done ahead comes in order, fails where it is used, and ends with its user."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from interp.store.source import prefetched


def test_items_come_in_order_whatever_the_depth() -> None:
    for depth in (1, 2, 7):
        assert list(prefetched(range(20), depth)) == list(range(20))


def test_at_most_depth_items_are_made_ahead() -> None:
    made: list[int] = []

    def make() -> Iterator[int]:
        for i in range(10):
            made.append(i)
            yield i

    items = prefetched(make(), depth=2)
    assert next(items) == 0
    time.sleep(0.2)
    assert len(made) == 4  # one used, two ready, one waiting for room
    items.close()


def test_what_making_an_item_raises_is_raised_after_the_items_before_it() -> None:
    def make() -> Iterator[int]:
        yield 1
        raise ValueError("no second one")

    items = prefetched(make())
    assert next(items) == 1
    with pytest.raises(ValueError, match="no second one"):
        next(items)


def test_letting_go_of_an_endless_iterator_ends_its_thread() -> None:
    def names() -> list[str]:
        return [thread.name for thread in threading.enumerate()]

    items = prefetched(iter(int, 1))
    next(items)
    assert "prefetch" in names()
    del items
    assert "prefetch" not in names()
