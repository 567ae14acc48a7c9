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
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import InputError, unknown_name
from interp.records import read_json, write_json

if TYPE_CHECKING:
    from interp.decomposers import Decomposer
    from interp.store.reader import ActivationStore

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
        facts = read_record(path, absent)
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
        from interp.store.reader import ActivationStore  # deferred: imports torch

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
        return read_lines(self.path / CURVE)


def find_runs(workspace: str | Path) -> list[Run]:
    """Every finished run below a workspace (a folder of stores), by store and name. Damaged ones are left out."""
    runs = []
    for path in sorted(Path(workspace).glob(f"*/runs/*/{RECORD}")):
        try:
            runs.append(Run.load(path.parent))
        except InputError:
            continue
    return runs


def read_record(path: Path, absent: str) -> dict[str, Any]:
    facts = read_json(path / RECORD, SCHEMA, VERSION, absent)
    if missing := sorted((_REQUEST | _OUTCOME) - set(facts)):
        raise InputError(f"'{path / RECORD}' is damaged: it lacks {', '.join(missing)}; train the run again")
    return facts


def write_record(path: Path, facts: dict[str, Any]) -> None:
    write_json(path / RECORD, {"schema": SCHEMA, "version": VERSION, **facts})


def read_lines(path: Path) -> list[dict[str, Any]]:
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
