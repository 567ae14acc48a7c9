"""The workspace as pages and routes see it: its runs by name, and their indexes, kept open and reopened when rewritten.

Nothing here imports Streamlit or torch, so that a JSON route answers in about a millisecond.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from interp.browse.evidence import RunEvidence, ShownLabel, load_evidence, shown_labels
from interp.errors import InputError, unknown_name
from interp.evaluation.evidence import EVIDENCE_FILE
from interp.index.reader import FeatureIndex
from interp.manifolds.layout import FILE as MANIFOLDS
from interp.manifolds.reader import ManifoldIndex
from interp.runs.feature_labels import FeatureLabels
from interp.runs.record import DECOMPOSER, Run, find_runs
from interp.store.manifest import FILE_NAME as STORE
from interp.store.manifest import Manifest

T = TypeVar("T")

WORKSPACE_VARIABLE = "INTERP_WORKSPACE"
"""Environment variable that names the workspace: pages run in Streamlit's threads, where no argument reaches them."""

_N_OPEN = 8
"""Indexes kept open at once: a person compares a few runs, and each holds its per-feature summary in memory."""

_indexes: OrderedDict[Path, tuple[str, FeatureIndex]] = OrderedDict()
_evidence: OrderedDict[Path, tuple[str, RunEvidence]] = OrderedDict()
_manifolds: OrderedDict[Path, tuple[str, ManifoldIndex]] = OrderedDict()
_runs: dict[str, Run] = {}
_lock = threading.Lock()


def workspace() -> Path:
    """The folder of stores that is being served; ``activations`` unless the server was given another."""
    return Path(os.environ.get(WORKSPACE_VARIABLE, "activations"))


def list_runs() -> dict[str, Run]:
    """All runs of the workspace by name ``STORE/RUN``, read anew."""
    runs = {run_name(run): run for run in find_runs(workspace())} if workspace().is_dir() else {}
    with _lock:
        _runs.clear()
        _runs.update(runs)
    return runs


def list_stores(run: Run) -> list[str]:
    """Names of the workspace's finished stores of the model that the run was trained on, its own first."""
    found = []
    for path in sorted(workspace().glob(f"*/{STORE}")):
        with suppress(InputError):
            manifest = Manifest.read(path.parent)
            if manifest.complete and manifest.model_fingerprint == run.record.model_fingerprint:
                found.append(path.parent.name)
    return sorted(found, key=lambda name: name != run.store_path.name)


def run_name(run: Run) -> str:
    """``STORE/RUN``: the two folder names that tell a run from every other of the workspace."""
    return f"{run.path.parent.parent.name}/{run.path.name}"


def find_run(name: str) -> Run:
    """The run called ``STORE/RUN``. Only names that ``find_runs`` returned are known, so no path can be smuggled in.

    Raises InputError naming the near runs.
    """
    run = _runs.get(name)
    if run is None or workspace().resolve() not in run.path.resolve().parents or not run.path.is_dir():
        runs = list_runs()
        if name not in runs:
            raise unknown_name("run", name, runs, f"the workspace {workspace()}")
        run = runs[name]
    return run


def index_version(run: Run) -> str:
    """Changes when the index file is replaced; empty if there is none."""
    try:
        stat = run.index_path.stat()
    except FileNotFoundError:
        return ""
    return f"{stat.st_mtime_ns:x}-{stat.st_size:x}-{stat.st_ino:x}"


def open_index(run: Run) -> FeatureIndex:
    """The run's index, from memory if the file is the one that was read. Raises InputError if there is none."""
    version = index_version(run)
    if not version:
        raise InputError(f"{run_name(run)} has no index; make it with:  {index_command(run)}")
    return _held(_indexes, run.index_path, version, lambda: FeatureIndex(run.index_path))


def evidence_version(run: Run) -> str:
    """Changes when the evidence or the weights are replaced; empty if there is no evidence."""
    return _version(run.path / EVIDENCE_FILE, run.path / DECOMPOSER) if (run.path / EVIDENCE_FILE).is_file() else ""


def weights_version(run: Run) -> str:
    """Changes when the weights are replaced."""
    return _version(run.path / DECOMPOSER)


def open_evidence(run: Run) -> RunEvidence:
    """The run's evidence, from memory if neither it nor the weights changed."""
    # The run is read anew: it keeps the hash of the weights that it had when it was first asked.
    return _held(
        _evidence, run.path, evidence_version(run), lambda: load_evidence(Run.load(run.path), evaluate_command(run))
    )


def open_manifolds(run: Run) -> ManifoldIndex:
    """The run's manifolds, from memory if neither they nor the run changed. Raises InputError if there are none."""
    sources = (run.path / MANIFOLDS, run.path / "run.json", run.path / DECOMPOSER)
    return _held(_manifolds, run.path, _version(*sources), lambda: ManifoldIndex(run))


def _version(*paths: Path) -> str:
    """Changes when one of the files is written anew."""
    return "-".join(f"{path.stat().st_mtime_ns:x}" if path.is_file() else "" for path in paths)


def _held(opened: OrderedDict[Path, tuple[str, T]], path: Path, version: str, read: Callable[[], T]) -> T:
    """The object kept open for ``path``, read anew if its version changed; the one used longest ago is dropped."""
    with _lock:
        held = opened.get(path)
        if held is None or held[0] != version:
            held = (version, read())
        opened[path] = held
        opened.move_to_end(path)
        while len(opened) > _N_OPEN:
            opened.popitem(last=False)
    return held[1]


def open_labels(run: Run) -> FeatureLabels:
    """The labels, notes and bookmarks of a run."""
    return FeatureLabels(run.labels_path)


def labels_of(run: Run) -> dict[int, ShownLabel]:
    """The label that each feature is shown with: a person's, else the automatic one."""
    own = {feature: said.label for feature, said in open_labels(run).all().items()}
    return shown_labels(own, open_evidence(run))


def index_command(run: Run) -> str:
    """The command that makes the run's index."""
    return f"interp index {_shown_path(run.path)}"


def evaluate_command(run: Run) -> str:
    """The command that measures the run."""
    return f"interp evaluate {_shown_path(run.path)}"


def train_command(run: Run, kind: str) -> str:
    """The command that trains another method at the run's site."""
    return f"interp train {kind} --store {_shown_path(run.store_path)} --site {run.site.read} --name {kind}"


def first_run_commands() -> str:
    """The commands that make a first run in an empty workspace: the whole flow, or step by step."""
    store = _shown_path(workspace() / "demo")
    return (
        "interp demo\n"
        "# or, step by step:\n"
        f"interp capture --model demo --sites blocks.2.mlp.hook_post --text stdlib --tokens 120000 --out {store}\n"
        f"interp train sae --store {store} --site blocks.2.mlp.hook_post --name sae\n"
        f"interp index {store}/runs/sae"
    )


def _shown_path(path: Path) -> str:
    """Relative to the current folder where it lies below it: a command to copy should be short."""
    path = path.resolve()
    here = Path.cwd()
    return str(path.relative_to(here)) if here in path.parents else str(path)
