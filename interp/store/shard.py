"""One shard file: made in memory as HDF5, so that its bytes can be hashed and written in one piece.

Writing through HDF5 to disk would hold Python's interpreter lock while the disk works, and a full disk would leave the
library with a file that it can neither finish nor close.
"""

from __future__ import annotations

from dataclasses import dataclass

import h5py
import numpy as np

from interp.corpora.packing import Sequences
from interp.errors import InputError
from interp.store.manifest import Manifest

SHARD_SCHEMA, SHARD_VERSION = "interp-activation-shard", 2

ROWS_PER_CHUNK = 512
"""Rows compressed together."""


@dataclass(frozen=True)
class ShardContent:
    """The content of one shard; the rows of ``activations`` are the tokens with ``sequences.is_row``, in order."""

    sequences: Sequences
    activations: dict[str, np.ndarray]
    """Hook point to [n_rows, width], any float dtype."""


def shard_file(content: ShardContent, manifest: Manifest, number: int) -> bytes:
    """The bytes of shard ``number`` of a store. Equal content gives equal bytes.

    Raises InputError naming site, sequence and position when a value is not finite in the store's dtype.
    """
    sequences = content.sequences
    rows = np.argwhere(sequences.is_row).astype(np.int32)
    rows[:, 0] += number * manifest.sequences_per_shard
    arrays: dict[str, np.ndarray] = {
        "tokens": sequences.tokens.astype(np.int32, copy=False),
        "token_document": sequences.document.astype(np.int32, copy=False),
        "token_offset": sequences.offset.astype(np.int32, copy=False),
        "rows": rows,
    }
    labels, at = sequences.labels[sequences.is_row], 0
    for label_set, names in manifest.label_sets.items():
        arrays[f"labels/{label_set}"] = labels[:, at : at + len(names)]
        at += len(names)
    sites = {
        f"sites/{site}": _checked(content.activations[site], site, rows, manifest.dtype) for site in manifest.sites
    }
    numbers = sorted(sequences.document_names)
    names = [sequences.document_names[number] for number in numbers]
    image = h5py.File(
        f"{number:06d}", "w", driver="core", backing_store=False, block_size=1 << 24, libver="v110", track_order=True
    )
    with image as file:
        file.attrs["schema"] = SHARD_SCHEMA
        file.attrs["version"] = SHARD_VERSION
        for name, array in arrays.items():
            file.create_dataset(name, data=array, track_times=False)
        for name, array in sites.items():
            how = _compression(array) if manifest.compressed and len(array) else {}
            file.create_dataset(name, data=array, track_times=False, **how)
        file.create_dataset("documents/number", data=np.asarray(numbers, dtype=np.int32), track_times=False)
        file.create_dataset("documents/name", data=names, dtype=h5py.string_dtype(), track_times=False)
        file.flush()
        return bytes(file.id.get_file_image())


def _compression(array: np.ndarray) -> dict[str, object]:
    import hdf5plugin  # deferred: loads the filters of a dozen libraries

    chunks = (min(len(array), ROWS_PER_CHUNK), array.shape[1])
    filters = hdf5plugin.Blosc2(cname="zstd", clevel=3, filters=hdf5plugin.Blosc2.BITSHUFFLE)
    return {"chunks": chunks, "compression": filters}


def _checked(values: np.ndarray, site: str, rows: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(values, dtype=dtype)
    if _all_finite(stored):
        return stored
    row, column = np.argwhere(~np.isfinite(stored))[0]
    sequence, position = rows[row]
    overflows = dtype == "float16" and not np.isnan(stored[row, column])
    reason = (
        "does not fit float16, whose largest number is 65504; use --dtype float32"
        if overflows
        else "is not a finite number; look at what the model makes of this text"
    )
    raise InputError(f"{site}: the value {values[row, column]:g} at sequence {sequence}, position {position}, {reason}")


def _all_finite(stored: np.ndarray) -> bool:
    """True if no exponent is all ones. On float16 these integer operations are several times faster than isfinite."""
    if not stored.size:
        return True
    bits, exponent = (np.uint16, 0x7C00) if stored.dtype == np.float16 else (np.uint32, 0x7F800000)
    return int(np.bitwise_and(stored.view(bits), bits(exponent)).max()) < exponent
