"""The reconstruction term of a bilinear autoencoder, forward and backward: our exact symmetric kernel in tiles, against plain
autograd on the unsymmetric kernel (L L^T o R R^T, formed once) and against the same unsymmetric kernel as tiled einsums.

The alternatives compute less than ours: half of the kernel's dot products. Peak memory is sampled every millisecond in a
process of its own (Linux).
"""

from __future__ import annotations

import multiprocessing
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from side_by_side import alternate, arguments, report
from torch import Tensor

from interp.decomposers.bilinear.kernels import gram_energy

D_IN, TILES = 256, 4


def ours(f: Tensor, L: Tensor, R: Tensor) -> Tensor:
    return gram_energy(f, L, R)


def plain_unsymmetric(f: Tensor, L: Tensor, R: Tensor) -> Tensor:
    """What most people would write."""
    K = (L @ L.T) * (R @ R.T)
    return ((f @ K) * f).sum()


def tiled_einsum(f: Tensor, L: Tensor, R: Tensor) -> Tensor:
    """Pairs of tiles, one einsum each: short to write, and every order of contraction forms something a row wide and deep."""
    return _over_tiles(f, L, R, lambda one, other: torch.einsum("bh,hl,hr,bk,kl,kr->", *one, *other))


def ordered_einsums(f: Tensor, L: Tensor, R: Tensor) -> Tensor:
    """Pairs of tiles, the einsums written out in the best order."""

    def pair(one: Tile, other: Tile) -> Tensor:
        K = torch.einsum("hl,kl->hk", one[1], other[1]) * torch.einsum("hr,kr->hk", one[2], other[2])
        return torch.einsum("bh,hk,bk->", one[0], K, other[0])

    return _over_tiles(f, L, R, pair)


Tile = tuple[Tensor, Tensor, Tensor]


def _over_tiles(f: Tensor, L: Tensor, R: Tensor, pair: Callable[[Tile, Tile], Tensor]) -> Tensor:
    tiles = list(zip(f.chunk(TILES, 1), L.chunk(TILES), R.chunk(TILES), strict=True))
    total = f.new_zeros(())
    for i in range(TILES):
        for j in range(i, TILES):
            total = total + (1 if i == j else 2) * pair(tiles[i], tiles[j])
    return total


def step_of(energy: Callable[[Tensor, Tensor, Tensor], Tensor], n_atoms: int, batch: int) -> Callable[[], None]:
    """Forward and backward of one energy on fixed random inputs."""
    random = torch.Generator().manual_seed(0)
    shapes = ((batch, n_atoms), (n_atoms, D_IN), (n_atoms, D_IN))
    tensors = [(0.1 * torch.randn(*shape, generator=random)).requires_grad_() for shape in shapes]

    def step() -> None:
        for tensor in tensors:
            tensor.grad = None
        energy(*tensors).backward()

    return step


def peak_megabytes(energy: Callable[[Tensor, Tensor, Tensor], Tensor], n_atoms: int, batch: int) -> float:
    """What a step needs beside its inputs and their gradients' places, at most: the growth of a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (energy, n_atoms, batch))


def _growth(energy: Callable[[Tensor, Tensor, Tensor], Tensor], n_atoms: int, batch: int) -> float:
    step_of(energy, 64, 64)()
    step = step_of(energy, n_atoms, batch)
    before, running = _resident_megabytes(), threading.Event()
    seen = [before]

    def watch() -> None:
        while not running.wait(0.001):
            seen.append(_resident_megabytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    step()
    running.set()
    watcher.join()
    return max(seen) - before


def _resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    given = arguments(__doc__ or "")
    cases, memory = {}, []
    for n_atoms in (1024, 4096):
        for batch in (1024, 4096):
            alternatives = (plain_unsymmetric, ordered_einsums, ours)
            steps = {energy.__name__: step_of(energy, n_atoms, batch) for energy in alternatives}
            cases[f"{n_atoms} atoms, batch {batch}"] = alternate(steps, given.rounds)
            peaks = {energy.__name__: peak_megabytes(energy, n_atoms, batch) for energy in alternatives}
            memory.append(f"{n_atoms} atoms, batch {batch}: " + ", ".join(f"{k} {v:.0f} MB" for k, v in peaks.items()))
    skipped = [] if torch.backends.opt_einsum.is_available() else ["opt_einsum"]
    if not skipped:  # without it torch contracts from left to right, which takes tens of gigabytes
        steps = {energy.__name__: step_of(energy, 1024, 1024) for energy in (tiled_einsum, ours)}
        cases["1024 atoms, batch 1024, one einsum a tile"] = alternate(steps, min(3, given.rounds))
    report("bilinear", cases, given, skipped=skipped)
    if not given.json:
        print("  peak memory beside the inputs:\n    " + "\n    ".join(memory))


if __name__ == "__main__":
    main()
