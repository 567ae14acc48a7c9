"""Several processes on one job, started by ``torchrun``: which of them this is, and what they add up together.

A process that was started alone is a world of one, in which every operation here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """The processes of a job, as one of them sees it."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """How many processes there are."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes what is written once."""
        return self.rank == 0

    def sum(self, *tensors: Tensor) -> None:
        """Replace each tensor, in place, by its sum over all processes; every process gets the same bits."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def share(self, *tensors: Tensor) -> None:
        """Replace each tensor, in place, by the first process's."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.size > 1:
            dist.barrier()


def world() -> World:
    """The processes this one works with: those of the process group where there is one, else this one alone."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World()


@contextmanager
def joined() -> Iterator[World]:
    """Join the processes that ``torchrun`` started, for as long as the context lasts; alone without ``torchrun``.

    NCCL where every process has a GPU of its own, which becomes its current device; gloo otherwise.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield world()
        return
    local_rank, n_local = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    has_gpus = torch.cuda.is_available() and torch.cuda.device_count() >= n_local
    if has_gpus:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if has_gpus else "gloo")
    try:
        yield world()
    finally:
        dist.destroy_process_group()
