"""The one progress bar: on stderr when that is a terminal, silent otherwise; or lines of JSON for a program that asks."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

LINES_VARIABLE = "INTERP_PROGRESS"
"""Environment variable that, set to "lines", makes of every bar lines of JSON on stderr: what, n and total."""
_EVERY = 0.2  # seconds between two lines of a bar


def progress(items: Iterable[T], *, total: int | None, what: str, unit: str = "it", amount: int = 1) -> Iterator[T]:
    """Yield ``items`` while a bar counts ``amount`` units for each of them, up to ``total`` units if that is known."""
    with progress_bar(total=total, what=what, unit=unit) as bar:
        for item in items:
            yield item
            bar.update(amount if total is None else min(amount, total - bar.n))


def progress_bar(*, total: int | None, what: str, unit: str, silent: bool = False) -> Any:
    """A bar to be counted on by ``update``; a context manager."""
    if os.environ.get(LINES_VARIABLE) == "lines" and not silent:
        return _Lines(total, what)
    return tqdm(
        total=total, desc=what, unit=f" {unit}", unit_scale=True, file=sys.stderr, disable=True if silent else None
    )


class ToldProgress:
    """How far a program is, from the lines that it writes with ``LINES_VARIABLE`` set."""

    def __init__(self) -> None:
        self.what = ""
        """The bar that it counts on; empty before the first."""
        self.n = self.total = 0
        self._since = time.monotonic()

    def take(self, line: str) -> bool:
        """Whether the line tells of progress; what it tells is kept."""
        try:
            told = json.loads(line)
            what, n, total = str(told["what"]), int(told["n"]), int(told["total"] or 0)
        except (ValueError, TypeError, KeyError):
            return False
        if what != self.what or n < self.n:
            self._since = time.monotonic()
        self.what, self.n, self.total = what, n, total
        return True

    @property
    def share(self) -> float:
        """How much of the bar is counted, from 0 to 1."""
        return min(1.0, self.n / self.total) if self.total else 0.0

    @property
    def is_full(self) -> bool:
        return self.n >= self.total

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest of the bar takes at the present rate; None in its first second."""
        elapsed = time.monotonic() - self._since
        return elapsed * (self.total - self.n) / self.n if self.n and elapsed > 1 else None


class _Lines:
    """A bar as lines: one at the beginning, one at the end, and at most five a second between."""

    def __init__(self, total: int | None, what: str) -> None:
        self.n, self._total, self._what, self._told = 0, total, what, 0.0

    def __enter__(self) -> _Lines:
        self._tell()
        return self

    def __exit__(self, *error: object) -> None:
        self._tell()

    def update(self, amount: int = 1) -> None:
        self.n += amount
        if time.monotonic() - self._told >= _EVERY:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        print(json.dumps({"what": self._what, "n": self.n, "total": self._total}), file=sys.stderr, flush=True)
