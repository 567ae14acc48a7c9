"""When a fit of semi-NMF is saved, so that a killed one goes on to the same bits: as often as costs little time.

Its state is as large as the codes of all rows, so it is saved after a step only if that has taken no more than ``SHARE`` of the
time since it was saved last, and a table of codes is written a slice of rows at a time. Processes that share the rows save
nothing: each has codes of its own, which would have to be of the same pass.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from interp.decomposers.semi_nmf.config import SemiNMFConfig
from interp.distributed import world
from interp.training.checkpoints import Table, load_checkpoint, names_in_checkpoint, save_checkpoint

SHARE = 0.05
"""Of the time of a fit, what saving it may take."""


class Checkpoints:
    """The checkpoint of one fit, in ``folder``; none where there is no folder, and none of several processes."""

    def __init__(self, config: SemiNMFConfig, folder: Path | None):
        self._config = config
        self._folder = folder if world().size == 1 else None
        self._last_at, self._cost = time.monotonic(), 0.0

    def load(self, tensors: Mapping[str, Tensor], *, tables: Mapping[str, Table] = {}) -> bool:
        """Put the saved state back, in place; False where there is none. Raises InputError as ``load_checkpoint`` does."""
        return load_checkpoint(tensors, (), self._config, self._folder, tables=tables)

    def has(self, name: str) -> bool:
        """Whether the saved state has a tensor or table of this name."""
        return name in names_in_checkpoint(self._folder)

    def save_when_due(self, tensors: Mapping[str, Tensor], *, tables: Mapping[str, Table] = {}) -> None:
        """Save the state if that takes no more than its share of the time."""
        started = time.monotonic()
        if self._cost <= SHARE * (started - self._last_at):
            save_checkpoint(tensors, (), self._config, self._folder, tables=tables)
            self._last_at = time.monotonic()
            self._cost = self._last_at - started
