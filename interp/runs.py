"""Runs: one trained decomposer with everything needed to rerun and judge it, in ``STORE/runs/NAME/``.

    run.json                what was asked for, of which store, with which versions
    decomposer.safetensors  the result
    train.jsonl             the training curve
    index.h5  metrics.json  steering.jsonl  labels.sqlite     added by the steps that follow

Reading what a run is needs neither torch nor the store; ``Run.decomposer`` does.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import InputError, unknown_name
from interp.fitting import CHECKPOINT, DecomposerConfig
from interp.records import read_json, write_json

if TYPE_CHECKING:
    from interp.decomposers import Decomposer
    from interp.store import ActivationSource, ActivationStore

SCHEMA = "interp-run"
VERSION = 1
RECORD, DECOMPOSER, CURVE = "run.json", "decomposer.safetensors", "train.jsonl"
_REQUEST = {"kind", "site", "d_in", "config", "store_name", "store_identity", "model_id", "model_fingerprint"}
_OUTCOME = {"versions", "seconds", "complete"}


@dataclass(frozen=True)
class Run:
    """A run folder, opened. ``Run.load`` reads it, ``train_run`` makes it."""

    path: Path
    facts: dict[str, Any]
    """Everything in run.json."""

    @staticmethod
    def load(path: str | Path) -> Run:
        """Raises InputError when there is no run, its training did not finish, or it is of another schema version."""
        path = Path(path)
        absent = f"'{path}' is no run; make one with interp train, or list those there are with interp info STORE"
        facts = _read_record(path, absent)
        if not facts["complete"]:
            raise InputError(
                f"the training of '{path}' was interrupted; run the same interp train command again to finish it"
            )
        return Run(path, facts)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def kind(self) -> str:
        """Name of the decomposer."""
        return str(self.facts["kind"])

    @property
    def site(self) -> str:
        """Hook point it was trained at."""
        return str(self.facts["site"])

    @property
    def config(self) -> dict[str, Any]:
        """Options of the decomposer."""
        return dict(self.facts["config"])

    @property
    def store_path(self) -> Path:
        """The store the run lies in."""
        return self.path.resolve().parent.parent

    @property
    def store_identity(self) -> str:
        """Identity of the store's content when the run was trained."""
        return str(self.facts["store_identity"])

    @property
    def model_id(self) -> str:
        """What the model was loaded by."""
        return str(self.facts["model_id"])

    @property
    def index_path(self) -> Path:
        return self.path / "index.h5"

    @property
    def labels_path(self) -> Path:
        return self.path / "labels.sqlite"

    @cached_property
    def identity(self) -> str:
        """A hash of the trained weights and their options."""
        path = self.path / DECOMPOSER
        with path.open("rb") as file:
            header = file.read(min(int.from_bytes(file.read(8), "little"), path.stat().st_size))
            # The keys of a safetensors header come in no fixed order, so the bytes of equal weights may differ there.
            with suppress(ValueError):
                header = json.dumps(json.loads(header), sort_keys=True).encode()
            digest = hashlib.sha256(header)
            digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]

    def store(self) -> ActivationStore:
        """The store the run was trained on. Raises InputError when its content has changed since."""
        from interp.store import ActivationStore  # deferred: imports torch

        store = ActivationStore(self.store_path)
        if store.identity != self.store_identity:
            raise InputError(
                f"the store '{self.store_path}' has changed since '{self.name}' was trained; train it again"
            )
        return store

    def decomposer(self) -> Decomposer:
        """The trained decomposer. Raises InputError when its file is missing, damaged or of another version."""
        return self._decomposer

    @cached_property
    def _decomposer(self) -> Decomposer:
        from interp.decomposers import load  # deferred: imports torch

        return load(self.path / DECOMPOSER)

    def training_curve(self) -> list[dict[str, float]]:
        """The records of the training, in order."""
        return _read_lines(self.path / CURVE)


def find_runs(workspace: str | Path) -> list[Run]:
    """Every finished run below a workspace (a folder of stores), by store and name. Damaged ones are left out."""
    runs = []
    for path in sorted(Path(workspace).glob(f"*/runs/*/{RECORD}")):
        try:
            runs.append(Run.load(path.parent))
        except InputError:
            continue
    return runs


def train_run(store: ActivationStore, site: str, config: DecomposerConfig, name: str) -> Run:
    """Train a decomposer on one site of a store and keep it as the run ``name``.

    The method is the one that ``config`` belongs to. A finished run of the same request is opened as it is, an interrupted one
    goes on. Raises InputError for another request under the same name, and whatever the decomposer refuses; a run that was
    begun by this call and has no checkpoint yet is then removed. Processes started by ``torchrun`` all call it; the first
    writes.
    """
    return train_runs(store, site, {name: config})[0]


def train_runs(store: ActivationStore, site: str, configs: Mapping[str, DecomposerConfig]) -> list[Run]:
    """Train one run for each named config, all of one method: a gradient-trained one in one pass over the rows.

    Each is what ``train_run`` would have made of it, and ``train_run`` says what is raised.
    """
    from interp.decomposers import GradientDecomposer, kind_of  # deferred: imports torch
    from interp.distributed import world  # deferred: imports torch

    method = kind_of(next(iter(configs.values())))
    source = store.site(site)
    requests = [_Request(store, site, config, name, method.kind) for name, config in configs.items()]
    to_do = [request for request in requests if not request.is_done]
    world().wait()  # every process has seen what there is before the first changes it
    if issubclass(method, GradientDecomposer):
        groups = [to_do] if to_do else []
    else:
        # the largest is the likeliest to be refused
        largest_first = sorted(to_do, key=lambda request: -request.config.n_features)
        groups = [[request] for request in largest_first]
    for group in groups:
        _carry_out(method, source, group)
    return [Run.load(request.path) for request in requests]


def _carry_out(method: type[Decomposer], source: ActivationSource, requests: Sequence[_Request]) -> None:
    """Fit what was asked for, and write it down; of several processes the first writes."""
    from interp.decomposers import GradientDecomposer  # deferred: imports torch
    from interp.distributed import world  # deferred: imports torch

    peers = world()
    if peers.is_first:
        for request in requests:
            request.begin()
    peers.wait()
    started = time.monotonic()
    try:
        recorders = [FileRecorder(request.path, writes=peers.is_first) for request in requests]
        configs: list[Any] = [request.config for request in requests]
        if issubclass(method, GradientDecomposer):
            fitted: Sequence[Decomposer] = method.fit_together(source, configs, recorders)
        else:
            fitted = [method.fit(source, *each) for each in zip(configs, recorders, strict=True)]
    except InputError:
        if peers.is_first:
            for request in requests:
                request.withdraw()
        raise
    if peers.is_first:
        for request, decomposer in zip(requests, fitted, strict=True):
            decomposer.save(request.path / DECOMPOSER)
            request.finish(time.monotonic() - started)
    peers.wait()


def keep_run(store: ActivationStore, site: str, decomposer: Decomposer, name: str) -> Run:
    """Keep a decomposer that was trained elsewhere as the run ``name``. Raises InputError when there is one already."""
    request = _Request(store, site, decomposer.config, name, decomposer.kind)
    if not request.is_new:
        raise InputError(f"'{request.path}' holds a run; choose another --name or delete that folder")
    request.begin()
    decomposer.save(request.path / DECOMPOSER)
    request.finish(0.0)
    return Run.load(request.path)


class _Request:
    """One run that was asked for, and what there is of it."""

    def __init__(self, store: ActivationStore, site: str, config: DecomposerConfig, name: str, kind: str):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise InputError(f"'{name}' cannot name a run; use letters, digits, dots, hyphens and underscores")
        self.config = config
        self.path = store.path / "runs" / name
        self.facts = _request(store, site, kind, config)
        self.is_new = not (self.path / RECORD).exists()
        self.is_done = False
        if not self.is_new:
            present = _read_record(self.path, "")
            if differs := [key for key in self.facts if present[key] != self.facts[key]]:
                raise InputError(
                    f"'{self.path}' holds a run with another {', '.join(differs)}; choose another --name or delete that folder"
                )
            self.is_done = present["complete"]

    def begin(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self.facts["versions"] = {package: version(package) for package in ("torch", "numpy")}
        _write_record(self.path, {**self.facts, "seconds": None, "complete": False})

    def withdraw(self) -> None:
        """Take away what a refused training wrote; a checkpoint is work that a better option may save."""
        if self.is_new and not (self.path / CHECKPOINT).exists():
            _remove(self.path)

    def finish(self, seconds: float) -> None:
        _write_record(self.path, {**self.facts, "seconds": round(seconds, 1), "complete": True})
        (self.path / CHECKPOINT).unlink(missing_ok=True)


def _request(store: ActivationStore, site: str, kind: str, config: DecomposerConfig) -> dict[str, Any]:
    return {
        "kind": kind,
        "site": site,
        "d_in": store.sites[site],
        "config": json.loads(json.dumps(asdict(config))),  # as it will be read back: tuples become lists
        "store_name": store.name,
        "store_identity": store.identity,
        "model_id": store.manifest.model_id,
        "model_fingerprint": store.manifest.model_fingerprint,
    }


def _read_record(path: Path, absent: str) -> dict[str, Any]:
    facts = read_json(path / RECORD, SCHEMA, VERSION, absent)
    if missing := sorted((_REQUEST | _OUTCOME) - set(facts)):
        raise InputError(f"'{path / RECORD}' is damaged: it lacks {', '.join(missing)}; train the run again")
    return facts


def _write_record(path: Path, facts: dict[str, Any]) -> None:
    write_json(path / RECORD, {"schema": SCHEMA, "version": VERSION, **facts})


def _remove(path: Path) -> None:
    """Take away what a refused training wrote, so that the name is free for a better request."""
    for name in (RECORD, CURVE, CHECKPOINT):
        (path / name).unlink(missing_ok=True)
    if not any(path.iterdir()):
        path.rmdir()


class FileRecorder:
    """Appends the records of a training to train.jsonl, and keeps its checkpoints in the run folder.

    Of several processes that train together one ``writes``.
    """

    def __init__(self, folder: Path, *, writes: bool = True):
        self.checkpoints: Path | None = folder
        self._writes = writes
        self._path = folder / CURVE

    def log(self, record: dict[str, float]) -> None:
        """Append one record; records of later steps, left by an interrupted training, are dropped first."""
        if not self._writes:
            return
        kept = [line for line in _read_lines(self._path) if line["step"] < record["step"]]
        text = "".join(json.dumps(line) + "\n" for line in [*kept, record])
        partial = self._path.with_name(CURVE + ".partial")
        partial.write_text(text)
        partial.replace(self._path)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def resolve_run(given: str | Path, workspace: str | Path = "activations") -> Run:
    """The run a person means: a folder, or the name of a run in the workspace.

    Raises InputError when there is none, when it is unfinished, or when several stores have a run of that name.
    """
    if (Path(given) / RECORD).exists() or "/" in str(given):
        return Run.load(given)
    paths = [path.parent for path in sorted(Path(workspace).glob(f"*/runs/*/{RECORD}"))]
    matches = [path for path in paths if path.name == str(given)]
    if len(matches) > 1:
        raise InputError(f"several stores have a run '{given}': {', '.join(map(str, matches))}; give the folder")
    if not matches:
        raise unknown_name("run", str(given), [path.name for path in paths], f"the workspace '{workspace}'")
    return Run.load(matches[0])
