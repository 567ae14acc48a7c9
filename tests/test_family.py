"""The parent and the siblings of a feature, as its card names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_metrics import made_metrics, made_run
from msgspec import structs
from safetensors.numpy import save_file

from interp.browse.family import family_of
from interp.errors import InputError
from interp.records import write_record
from interp.runs.record import DECOMPOSER, RECORD, Run

WEIGHTS = np.array([[0.1, 0.3], [0.0, 0.9], [0.5, 0.2], [0.0, 0.0], [0.0, 0.4]], np.float32)
"""What five features take from two parents; the fourth takes nothing."""


def made(folder: Path, *capabilities: str) -> Run:
    run = made_run(folder, made_metrics("r"))
    write_record(run.path / RECORD, structs.replace(run.record, capabilities=list(capabilities)))
    save_file({"level1.weights": WEIGHTS}, run.path / DECOMPOSER)
    return Run.load(run.path)


def test_siblings_have_the_same_heaviest_parent_heaviest_first(tmp_path: Path) -> None:
    run = made(tmp_path / "s", "decode", "hierarchy")
    family = family_of(run, 0)
    assert family is not None
    assert (family["level"], family["parent"]) == (1, 1)
    assert family["share"] == pytest.approx(0.75)
    assert [f for f, _ in family["siblings"]] == [1, 4]
    assert [weight for _, weight in family["siblings"]] == pytest.approx([0.9, 0.4])
    only = family_of(run, 2)
    assert only is not None
    assert (only["parent"], only["siblings"]) == (0, [])
    assert family_of(run, 3) is None, "it takes nothing from any parent"


def test_a_run_without_levels_has_no_families_and_damaged_weights_are_named(tmp_path: Path) -> None:
    assert family_of(made(tmp_path / "flat", "decode"), 0) is None
    run = made(tmp_path / "s", "decode", "hierarchy")
    save_file({"W_dec": WEIGHTS}, run.path / DECOMPOSER)
    assert family_of(run, 0) is None
    (run.path / DECOMPOSER).write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"the weights .* cannot be read"):
        family_of(run, 0)
