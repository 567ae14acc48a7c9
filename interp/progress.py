"""The one progress bar: on stderr when that is a terminal, silent otherwise."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], *, total: int | None, what: str, unit: str = "it", amount: int = 1) -> Iterator[T]:
    """Yield ``items`` while a bar counts ``amount`` units for each of them, up to ``total`` units if that is known."""
    with progress_bar(total=total, what=what, unit=unit) as bar:
        for item in items:
            yield item
            bar.update(amount if total is None else min(amount, total - bar.n))


def progress_bar(*, total: int | None, what: str, unit: str, silent: bool = False) -> Any:
    """A bar to be counted on by ``update``; a context manager."""
    return tqdm(
        total=total, desc=what, unit=f" {unit}", unit_scale=True, file=sys.stderr, disable=True if silent else None
    )
