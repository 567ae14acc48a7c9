"""Several processes on one job, started by ``torchrun``: this process's rank, and sums and copies across processes.

A process that was started alone is a world of size 1, in which every operation here does nothing.
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
        """Whether this is process 0, which writes the files."""
        return self.rank == 0

    def sum(self, *tensors: Tensor) -> None:
        """Replace each tensor, in place, by its sum over all processes; every process gets the same bits."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def broadcast(self, *tensors: Tensor) -> None:
        """Replace each tensor, in place, by that of the first process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def wait(self) -> None:
        """Return once every process has called this."""
        if self.size > 1:
            dist.barrier()


def world() -> World:
    """The processes of the current process group, or this one alone without a group."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World()


@contextmanager
def joined() -> Iterator[World]:
    """Join the processes that ``torchrun`` started, while the context lasts; a world of size 1 without ``torchrun``.

    The backend is NCCL if every process has a GPU of its own, which becomes its current device, else gloo.
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
        dist.barrier()  # a process that leaves earlier closes the connections that another may still need
    finally:
        dist.destroy_process_group()
