"""activations/FORMAT.md held against a store as it is written, with h5py and json alone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from interp.store.reader import ActivationStore

FORMAT = (Path(__file__).parent.parent / "activations" / "FORMAT.md").read_text()
JSON_TYPES = {"string": str, "integer": int, "object": dict, "boolean": bool, "number": float, "list": list}


def table(section: str) -> list[list[str]]:
    """Cells of the table below a heading."""
    text = FORMAT.split(f"## `{section}`")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in rows]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture(scope="module")
def record(tiny_store: ActivationStore) -> dict[str, Any]:
    return json.loads((tiny_store.path / "store.json").read_text())


def test_the_manifest_has_the_keys_and_types_of_the_table(record: dict[str, Any]) -> None:
    listed = {name: JSON_TYPES[row[1]] for row in table("store.json") for name in names(row[0])}
    assert set(record) == {"schema", "version", *listed}
    assert {name: type(record[name]) for name in listed} == listed
    assert {key for shard in record["shards"] for key in shard} == set(
        re.findall(r"\w+", re.search(r"`\{(.*?)\}`", FORMAT)[1])
    )
    assert (record["schema"], record["version"]) == ("interp-activation-store", 2)
    assert "`version` = `2`" in FORMAT


def test_sizes_hashes_and_the_identity_are_as_specified(tiny_store: ActivationStore, record: dict[str, Any]) -> None:
    for number, shard in enumerate(record["shards"]):
        content = (tiny_store.path / "shards" / f"{number:06d}.h5").read_bytes()
        assert shard["file"] == f"{number:06d}.h5"
        assert (shard["n_bytes"], shard["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    hashes = "".join(shard["sha256"] for shard in record["shards"])
    assert tiny_store.identity == hashlib.sha256(hashes.encode()).hexdigest()[:16]


def test_shards_hold_the_datasets_of_the_table(tiny_store: ActivationStore, record: dict[str, Any]) -> None:
    assert len(record["shards"]) > 1
    first = 0
    for number, shard in enumerate(record["shards"]):
        with h5py.File(tiny_store.path / "shards" / shard["file"], "r") as file:
            assert dict(file.attrs) == {"schema": "interp-activation-shard", "version": 2}
            sizes = {"n_seq": shard["n_sequences"], "n": shard["n_rows"], "n_ctx": record["n_ctx"]}
            assert all(_fits(file, row, record, sizes) for row in table("shards/NNNNNN.h5"))
            listed = {name.split("/")[0] for row in table("shards/NNNNNN.h5") for name in names(row[0])}
            assert set(file) == listed
            rows = file["rows"][()]
            assert rows[:, 0].min() == first == number * record["sequences_per_shard"]
            assert (file["tokens"][()][:, 0] == record["bos_id"]).all()
            assert (file["tokens"][()][rows[:, 0] - first, rows[:, 1]] != record["bos_id"]).all()
            for site in record["sites"]:
                assert file[f"sites/{site}"].chunks is None
                assert file[f"sites/{site}"].id.get_offset() > 0
                assert np.isfinite(file[f"sites/{site}"][()]).all()
            first += shard["n_sequences"]


def _fits(file: h5py.File, row: list[str], record: dict[str, Any], sizes: dict[str, int]) -> bool:
    """Whether every dataset that a row of the table stands for has its shape and type."""
    [name] = names(row[0])
    shape, kind = re.match(r"\[(.*?)\] `?([\w-]+)`?", row[1]).groups()  # type: ignore[union-attr]
    parts = {"HOOK": record["sites"], "SET": record["label_sets"]}
    group, _, placeholder = name.partition("/")
    for member in parts.get(placeholder, [placeholder]):
        dataset = file[f"{group}/{member}" if member else group]
        known = {**sizes, "width": record["sites"].get(member), "n_labels": len(record["label_sets"].get(member, []))}
        wanted = [
            known.get(axis, int(axis) if axis.isdigit() else len(file["documents/number"]))
            for axis in shape.split(", ")
        ]
        is_kind = h5py.check_string_dtype(dataset.dtype) if kind == "UTF-8" else dataset.dtype == record.get(kind, kind)
        if list(dataset.shape) != wanted or not is_kind:
            return False
    return True


def test_the_moments_are_as_specified(tiny_store: ActivationStore) -> None:
    site = "blocks.1.mlp.hook_post"
    moments = tiny_store.site(site).moments()
    with h5py.File(tiny_store.path / "moments" / f"{site}.h5", "r") as file:
        assert set(file.attrs) == {"identity", "n", "mean_norm"}
        assert {name: file[name].shape for name in file} == {
            "mean": (64,), "covariance": (64, 64), "eigenvalues": (64,), "eigenvectors": (64, 64)
        }  # fmt: skip
        values, vectors = file["eigenvalues"][()], file["eigenvectors"][()]
        np.testing.assert_allclose(vectors.T * values @ vectors, moments.covariance, atol=1e-12)
        assert (np.diff(values) <= 0).all()


def test_the_example_reads_a_store_with_h5py_alone(tiny_store: ActivationStore, tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", FORMAT, re.DOTALL)
    code = [line for line in example.splitlines() if line.strip()]
    assert len(code) <= 12
    (tmp_path / "activations").mkdir()
    (tmp_path / "activations" / "demo").symlink_to(tiny_store.path)
    alone = "import sys; sys.modules['interp'] = sys.modules['torch'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", alone + example], cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(1000, 32) float16")
