"""The notebooks run from top to bottom, in a folder of their own, on smaller amounts, and end in what they promise."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"

LEAST = {
    "tokens": 20_000,
    "snippets": 2,
    "n_features": 32,
    "n_samples": 2,
    "n_tokens": 8,
    "n_steered": 1,
    "n_candidates": 2,
    "n_written": 1,
    "n_draws": 2,
    "n_sequences": 4,
    "max_rounds": 1,
    "max_rows": 6_000,
    "passes": 3,
}
"""Amounts in a notebook that are cut, and what is left of them at least."""

LEFT_OUT = re.compile(r'^ *"(subspace SAE|bilinear)": \w+\(.*\),\n', re.MULTILINE)
"""Of the methods that a notebook compares, those that are left out: each is steered in the same way as the others."""

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    shutil.copy(notebook, tmp_path)
    cells = nbformat.read(notebook, as_version=4)
    for cell in cells.cells:
        cell.source = re.sub(rf"\b({'|'.join(LEAST)})=([0-9_]+)", _fewer, LEFT_OUT.sub("", cell.source))
    NotebookClient(cells, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    last = next(cell for cell in reversed(cells.cells) if cell.cell_type == "code")
    assert last.outputs, "the last cell shows nothing"


@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_is_committed_with_outputs(notebook: Path) -> None:
    code = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert any(cell.outputs for cell in code)
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)


def _fewer(amount: re.Match[str]) -> str:
    """The eighth part of an amount that takes the time."""
    return f"{amount[1]}={max(LEAST[amount[1]], int(amount[2]) // 8)}"
