"""The codes of all rows while semi-NMF is fitted: a matrix in memory or, beyond a size, in a file.

Only slices of rows are read and written, so a fit in memory and one from disk do the same arithmetic. A column can be
scaled without touching the rows: the scale is kept aside and applied to what is read.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

IN_MEMORY = 1.0
"""GiB of codes to keep in memory; more than that lie in a file while fitting, which gives the same bits."""


class CodeTable:
    """[n, K] float32 of zeros. The file has no name in its folder: it is gone when the process is, however that ends."""

    def __init__(self, n: int, n_features: int, *, folder: Path | None, limit: float):
        """In memory up to ``limit`` GiB, else in an unnamed file in ``folder`` (the system's temporary one by default)."""
        self.shape = (n, n_features)
        self.scale = torch.ones(n_features)
        """Factor of each column, applied on reading; what is written is kept as it is, so set it between passes."""
        self._memory: Tensor | None = None
        self._file: IO[bytes] | None = None
        if 4 * n * n_features <= limit * 2**30:
            self._memory = torch.zeros(n, n_features)
        else:
            # Not mapped: the pages of a mapped file count as the process's memory.
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed by close)
            self._file.truncate(4 * n * n_features)

    @property
    def is_on_disk(self) -> bool:
        return self._file is not None

    def __getitem__(self, rows: slice) -> Float[Tensor, "n K"]:
        if self._memory is not None:
            return self._memory[rows] * self.scale
        assert self._file is not None
        out = np.empty((rows.stop - rows.start, self.shape[1]), dtype=np.float32)
        self._file.seek(4 * rows.start * self.shape[1])
        view, done = out.reshape(-1).view(np.uint8).data, 0
        while done < out.nbytes:
            done += self._file.readinto(view[done:])  # type: ignore[attr-defined]
        return torch.from_numpy(out).mul_(self.scale)

    def __setitem__(self, rows: slice, codes: Float[Tensor, "n K"]) -> None:
        if self._memory is not None:
            self._memory[rows] = codes
            return
        assert self._file is not None
        self._file.seek(4 * rows.start * self.shape[1])
        view, done = codes.contiguous().numpy().reshape(-1).view(np.uint8).data, 0
        while done < len(view):
            done += self._file.write(view[done:])

    def close(self) -> None:
        """Give the file back; codes cannot be read afterwards."""
        if self._file is not None:
            self._file.close()

    def whole(self) -> Float[Tensor, "n K"]:
        """All of it, in memory."""
        return self[slice(0, self.shape[0])]
