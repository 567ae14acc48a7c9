"""The names and version of ``index.h5``, and the check every reader does first; FORMAT.md specifies the file."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import h5py
import hdf5plugin
import numpy as np
from jaxtyping import Shaped

from interp.errors import InputError
from interp.records import Options, Record, from_json, to_line

N_BINS = 40
N_INTERVALS = 5
KINDS_OF_EXAMPLES = ("top", "intervals", "near-threshold", "random", "not-firing")

CHUNK = 16_384  # one feature of average density lies in one or two chunks of this many entries


class PrecomputedRecord(Record, frozen=True):
    """What a file of ``interp index`` was built from and how; stored as its attribute ``facts``."""

    SCHEMA: ClassVar[str]
    VERSION: ClassVar[int]

    run: str
    run_identity: str
    store_identity: str
    config: Options
    n_features: int


P = TypeVar("P", bound=PrecomputedRecord)


class IndexRecord(PrecomputedRecord, frozen=True):
    """The record of ``index.h5``."""

    SCHEMA = "feature index"
    VERSION = 1

    kind: str
    """Name of the decomposer."""
    site: str
    store: str
    model_id: str
    model_fingerprint: str
    n_tokens: int
    """Tokens of the store."""
    l0: float
    """Mean number of features firing on a token."""
    n_cut: int
    """Features whose smaller activations were left out."""
    positive_side_only: bool
    """Whether codes may be negative; the columns of features are then of the positive ones."""
    importance_of: Literal["site variance", "variance of all codes"]
    """What importance is a share of."""
    has_model: bool
    """Whether the file holds the text of tokens."""


def open_precomputed(path: Path, kind: type[P]) -> tuple[h5py.File, P]:
    """Open a file of ``interp index`` read-only. Raises InputError, with how to rebuild it, if it is missing or damaged."""
    remedy = f"build it with `interp index {path.parent}`"
    if not path.is_file():
        raise InputError(f"no file {path}; {remedy}")
    try:
        file = h5py.File(path, "r")
    except OSError:
        raise InputError(f"{path} is damaged or not an HDF5 file; re{remedy}") from None
    try:
        if (file.attrs.get("schema"), file.attrs.get("version")) != (kind.SCHEMA, kind.VERSION):
            raise InputError(f"{path} is not a {kind.SCHEMA} of schema version {kind.VERSION}; re{remedy}")
        return file, from_json(str(file.attrs.get("facts")), kind, f"'{path}'")
    except InputError:
        file.close()
        raise


def write_attributes(file: h5py.File, record: PrecomputedRecord) -> None:
    """Write the attributes of a file that ``open_precomputed`` opens."""
    file.attrs.update({"facts": to_line(record), "schema": record.SCHEMA, "version": record.VERSION})


def write_compressed(group: h5py.Group, name: str, values: Shaped[np.ndarray, "*shape"]) -> None:
    """Write an array in chunks compressed with Blosc2-zstd; an empty one without."""
    if values.size == 0:
        group.create_dataset(name, data=values)
        return
    rows = max(1, min(values.shape[0], CHUNK * values.shape[0] // values.size))
    compression = hdf5plugin.Blosc2(cname="zstd", clevel=3, filters=hdf5plugin.Blosc2.SHUFFLE)
    group.create_dataset(name, data=values, chunks=(rows, *values.shape[1:]), **compression)
