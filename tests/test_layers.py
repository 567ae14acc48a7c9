"""Imports only go down: the layers of the README's table, read from the imports themselves."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LAYERS: list[list[str]] = [
    ["errors", "files", "records", "progress", "metrics", "distributed"],
    ["model", "corpora", "store"],
    ["capturing", "training", "decomposers"],
    ["runs"],
    ["index", "manifolds", "steering"],
    ["figures", "evaluation", "browse", "interop"],
    ["demo", "api"],
    ["app"],
    ["cli", "__main__"],
]
"""Rooms of interp/ (and app/), lowest layer first; within a layer imports may go either way but not in a circle."""

ALLOWED_DEFERRED = {
    ("cli", "app"),
    ("cli", "distributed"),
    ("runs", "store"),
    ("runs", "decomposers"),
    ("app", "model"),
    ("app", "index"),
    ("app", "manifolds"),
}
"""Imports inside a function: a slow package that most uses do not need."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "app" if parts[0] == "app" else parts[1]


def sources() -> list[Path]:
    files = [*(ROOT / "interp").rglob("*.py"), *(ROOT / "app").rglob("*.py")]
    return [path for path in files if path != ROOT / "interp" / "__init__.py"]


def imported(tree: ast.AST) -> set[str]:
    """Modules of the project that ``tree`` imports, by their name in ``LAYERS``."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {
        "app" if n.split(".")[0] == "app" else n.split(".")[1] for n in names if re.match(r"(interp\.|app(\.|$))", n)
    }


def layer(module: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if module in names)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_go_down(path: Path) -> None:
    module = module_of(path)
    for other in imported(ast.parse(path.read_text())) - {module}:
        assert layer(other) <= layer(module), f"{module} (layer {layer(module)}) imports {other} (layer {layer(other)})"


def test_every_module_has_a_layer() -> None:
    modules = {module_of(path) for path in sources()}
    assert modules == {name for names in LAYERS for name in names}


def files_imported(path: Path) -> set[Path]:
    """The project's files that a file imports, anywhere in it; a name of a package stands for the module of that name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [name for alias in node.names for name in (f"{node.module}.{alias.name}", node.module)]
        else:
            continue
        for name in names:
            place = ROOT.joinpath(*name.split("."))
            found |= {file for file in (place.with_suffix(".py"), place / "__init__.py") if file.exists()}
    return found - {path}


def circle(edges: dict[Path, set[Path]]) -> list[str]:
    """The names of files that import each other in a circle of any length; empty where there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return [str(path.relative_to(ROOT)) for path in error.args[1]]
    return []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert not circle({path: files_imported(path) for path in sources()})


def test_a_circle_of_three_is_found() -> None:
    a, b, c = (ROOT / name for name in ("a.py", "b.py", "c.py"))
    assert circle({a: {b}, b: {c}, c: {a}})
    assert not circle({a: {b, c}, b: {c}, c: set()})


def test_no_rooms_import_each_other_in_a_circle() -> None:
    edges: dict[str, set[str]] = {}
    for path in sources():
        edges.setdefault(module_of(path), set()).update(imported(ast.parse(path.read_text())) - {module_of(path)})
    TopologicalSorter(edges).prepare()


def test_functions_import_only_what_is_slow() -> None:
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                deferred = {(module_of(path), other) for other in imported(node) - {module_of(path)}}
                assert deferred <= ALLOWED_DEFERRED, f"{path.name}: {node.name}"


COMPUTING = {"h5py", "math", "numpy", "pandas", "scipy", "sklearn", "statistics", "torch"}
OF_TABLES = {"iloc", "loc", "sort_values", "summary", "table"}
"""Data frames and what is done with them: app/ is handed rows."""


def computing(tree: ast.AST) -> list[str]:
    """The expressions of ``tree`` that compute with numbers or with data frames."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp):
            left, right = ast.unparse(node.left), ast.unparse(node.right)
            joins = isinstance(node.op, ast.Add | ast.BitOr | ast.BitAnd)  # texts, lists, sets, types
            is_path = isinstance(node.op, ast.Div) and re.search(r"path|HERE|workspace\(\)", left)
            is_last = isinstance(node.op, ast.Sub) and right == "1"
            computes = not (joins or is_path or is_last)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            computes = node.func.id in {"abs", "max", "min", "pow", "round", "sum"}
        else:
            computes = isinstance(node, ast.Attribute) and node.attr in OF_TABLES
        if computes:
            found.append(ast.unparse(node))
    return found


def test_the_app_computes_nothing() -> None:
    for path in (ROOT / "app").rglob("*.py"):
        tree = ast.parse(path.read_text())
        roots = {alias.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
        roots |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
        assert not roots & COMPUTING, path
        assert not computing(tree), path


@pytest.mark.parametrize("line", ["100 * share", "max(codes)", "a - b", "rows.sort_values('id')", "x / 2", "x @ y"])
def test_what_computes_is_recognised(line: str) -> None:
    assert computing(ast.parse(line))
    assert not computing(ast.parse("'view_' + name; [*rows] + [row]; int | None; n - 1; _HERE / name; len(rows)"))


def test_nothing_is_pickled() -> None:
    for path in sources():
        text = path.read_text()
        assert not re.search(r"import pickle|torch\.load\(|torch\.save\(|allow_pickle=True", text), path


def test_the_readme_tables_the_same_layers() -> None:
    rows = re.findall(r"^\| (\d) \| (.+?) \|", (ROOT / "README.md").read_text(), flags=re.M)
    table = {int(number): set(re.findall(r"`(\w+)`", modules)) for number, modules in rows}
    assert table == {i: set(names) - {"__main__"} for i, names in enumerate(LAYERS)}
