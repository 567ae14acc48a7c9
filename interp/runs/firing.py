"""How often and how strongly a run's features fire on its own store, kept with the run in ``firing.safetensors``.

The unit of steering strengths. It is counted when it is first asked for, or by the index, which sees every code anyway; read
without torch.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from interp.files import write_whole
from interp.progress import progress

if TYPE_CHECKING:
    from interp.decomposers import Decomposer
    from interp.runs.record import Run
    from interp.store.source import ActivationSource

FILE = "firing.safetensors"
CHUNK_VALUES = 2**24  # codes formed at a time: 64 MiB


@dataclass(frozen=True)
class Firing:
    """Of every feature, over all tokens of the store."""

    maximum: Float[np.ndarray, " n_features"]
    """Largest code; 0 where none is above 0."""
    n_fire: Int[np.ndarray, " n_features"]
    """Tokens on which its code is above 0."""

    def write(self, run: Run) -> None:
        """Keep it with the run."""
        content = save({"maximum": self.maximum, "n_fire": self.n_fire}, metadata={"run_identity": run.identity})
        write_whole(run.path / FILE, content)


def firing_of(run: Run) -> Firing:
    """The firing kept with the run; it is counted first where there is none, or where it belongs to other weights."""
    path = run.path / FILE
    with suppress(FileNotFoundError, SafetensorError), safe_open(path, framework="numpy") as file:
        if (file.metadata() or {}).get("run_identity") == run.identity:
            return Firing(file.get_tensor("maximum"), file.get_tensor("n_fire"))
    firing = count_firing(run.decomposer(), run.store().site(run.site.read))
    firing.write(run)
    return firing


def count_firing(decomposer: Decomposer, source: ActivationSource) -> Firing:
    """Encode every row of ``source`` once."""
    n = decomposer.n_features
    maximum, n_fire = np.zeros(n, np.float32), np.zeros(n, np.int64)
    size = rows_per_chunk(n, source.d_in)
    for x in progress(source.chunks(size), total=len(source), what="count firing", unit="tok", amount=size):
        z = decomposer.encode(x).cpu().numpy()
        maximum = np.maximum(maximum, z.max(axis=0))
        n_fire += np.count_nonzero(z > 0, axis=0)
    return Firing(maximum, n_fire)


def rows_per_chunk(n_features: int, d_in: int) -> int:
    """Rows to encode at a time, so that codes and activations take at most ``CHUNK_VALUES`` each."""
    return int(np.clip(CHUNK_VALUES // max(n_features, d_in), 256, 8192))
