"""Runs: one trained decomposer with everything needed to train and to evaluate it again, in ``STORE/runs/NAME/``.

    run.json                what was asked for, of which store, with which versions
    decomposer.safetensors  the result
    train.jsonl             the training curve
    firing.safetensors  index.h5  metrics.json  steering.jsonl  labels.sqlite     added by the steps that follow

Reading what a run is needs neither torch nor the store; ``Run.decomposer`` does.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from interp.errors import InputError, unknown_name
from interp.model.sites import Site
from interp.records import FileRecord, Options, converted, from_json, read_record

if TYPE_CHECKING:
    from interp.decomposers import Decomposer
    from interp.store.reader import ActivationStore

RECORD, DECOMPOSER, CURVE = "run.json", "decomposer.safetensors", "train.jsonl"


class RunRecord(FileRecord, frozen=True):
    """run.json: what was asked for and what came of it."""

    SCHEMA = "interp-run"
    VERSION = 2

    kind: str
    """Name of the decomposer."""
    site: str
    """Hook point it was trained at; ``READ->WRITE`` where it writes another than it reads."""
    d_in: int
    """Width of the site."""
    config: Options
    """Options of the decomposer."""
    store_name: str
    store_identity: str
    """Identity of the store's content when the run was trained."""
    model_id: str
    """What the model was loaded by."""
    model_fingerprint: str
    capabilities: list[str]
    """What the decomposer can do; empty while the training is not finished."""
    versions: dict[str, str]
    """Package versions at the training."""
    seconds: float | None
    """Wall time of the training; of runs trained together, of all; None while it is not finished."""
    complete: bool
    """Whether the training has finished."""

    @staticmethod
    def read(run: Path, absent: str) -> RunRecord:
        """The record of a run folder. Raises InputError when it is damaged, and saying ``absent`` when it is not there."""
        return read_record(run / RECORD, RunRecord, absent)

    def differences(self, other: RunRecord) -> list[str]:
        """The fields in which two records ask for different runs."""
        asked = (
            name for name in self.__struct_fields__ if name not in ("capabilities", "versions", "seconds", "complete")
        )
        return [name for name in asked if getattr(self, name) != getattr(other, name)]


@dataclass(frozen=True)
class Run:
    """A run folder, opened. ``Run.load`` reads it, ``train_run`` makes it."""

    path: Path
    record: RunRecord

    @staticmethod
    def load(path: str | Path) -> Run:
        """Raises InputError when there is no run, its training did not finish, or it is of another schema version."""
        path = Path(path)
        absent = f"'{path}' is no run; make one with interp train, or list those there are with interp info STORE"
        record = RunRecord.read(path, absent)
        if not record.complete:
            raise InputError(
                f"the training of '{path}' was interrupted; run the same interp train command again to finish it"
            )
        return Run(path, record)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def kind(self) -> str:
        """Name of the decomposer."""
        return self.record.kind

    @property
    def site(self) -> Site:
        """Where it reads and writes."""
        return Site.of(self.record.site)

    def can(self, capability: str) -> bool:
        """Whether its decomposer has a capability ("decode", "forms" or "hierarchy"); see ``interp.decomposers.base``."""
        return capability in self.record.capabilities

    @property
    def config(self) -> Options:
        """Options of the decomposer."""
        return self.record.config

    @property
    def n_features(self) -> int:
        """Number of features asked for."""
        return converted(self.config.get("n_features"), int, f"n_features in '{self.path / RECORD}'")

    @property
    def store_path(self) -> Path:
        """The store the run lies in."""
        return self.path.resolve().parent.parent

    @property
    def store_identity(self) -> str:
        """Identity of the store's content when the run was trained."""
        return self.record.store_identity

    @property
    def model_id(self) -> str:
        """What the model was loaded by."""
        return self.record.model_id

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
        """The records of the training, in order. Raises InputError when its file is damaged."""
        return read_curve(self.path / CURVE)


def find_runs(workspace: str | Path) -> list[Run]:
    """Every finished run below a workspace (a folder of stores), by store and name. Damaged ones are left out."""
    runs = []
    for path in sorted(Path(workspace).glob(f"*/runs/*/{RECORD}")):
        try:
            runs.append(Run.load(path.parent))
        except InputError:
            continue
    return runs


def read_curve(path: Path) -> list[dict[str, float]]:
    """The records of a training curve, in order; none where there is no file. Raises InputError for a damaged line."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = []
    for number, line in enumerate(lines, start=1):
        record = from_json(line, dict[str, int | float], f"'{path}' line {number}")
        if "step" not in record:
            raise InputError(f"'{path}' line {number} is damaged: it has no step; train the run again")
        records.append(record)
    return records


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
