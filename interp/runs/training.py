"""Training as runs: fit what was asked for and keep it in the run folder."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from interp.decomposers import Decomposer, GradientDecomposer, kind_of
from interp.distributed import world
from interp.errors import InputError
from interp.files import write_whole
from interp.model.sites import Site
from interp.records import Options, from_json, write_record
from interp.runs.record import CURVE, DECOMPOSER, RECORD, Run, RunRecord, read_curve
from interp.store.reader import ActivationStore
from interp.store.source import ActivationSource
from interp.training.config import DecomposerConfig
from interp.training.protocol import CHECKPOINT

REPLACED = ".replaced"
"""Folder beside the runs for those that are being trained anew, until that is done."""


def train_run(
    store: ActivationStore, site: str | Site, config: DecomposerConfig, name: str, *, overwrite: bool = False
) -> Run:
    """Train a decomposer on one site of a store and keep it as the run ``name``.

    The method is the one that ``config`` belongs to. A finished run of the same request is opened as it is, an interrupted one
    goes on. A run of another request under the same name is replaced if it was begun and has no checkpoint, or with
    ``overwrite``, and then with all that lies in its folder, once the new one is trained. Raises InputError where it is not,
    and for whatever the decomposer refuses; a run that was begun by this call and has no checkpoint yet is then removed.
    Processes started by ``torchrun`` all call it; the first writes.
    """
    return train_runs(store, site, {name: config}, overwrite=overwrite)[0]


def train_runs(
    store: ActivationStore, site: str | Site, configs: Mapping[str, DecomposerConfig], *, overwrite: bool = False
) -> list[Run]:
    """Train one run for each named config, all of one method: a gradient-trained one in one pass over the rows.

    Each is what ``train_run`` would have made of it, and ``train_run`` says what is raised.
    """
    method = kind_of(next(iter(configs.values())))
    requests = [_Request(store, Site.of(site), config, name, overwrite) for name, config in configs.items()]
    source = store.site(Site.of(site).read)
    to_do = [request for request in requests if not request.is_done]
    world().wait()  # every process has read the run folder before the first one writes to it
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
    processes = world()
    if processes.is_first:
        for request in requests:
            request.begin()
    processes.wait()
    started = time.monotonic()
    try:
        recorders = [FileRecorder(request.path, writes=processes.is_first) for request in requests]
        configs: list[Any] = [request.config for request in requests]
        if issubclass(method, GradientDecomposer):
            fitted: Sequence[Decomposer] = method.fit_together(source, configs, recorders)
        else:
            fitted = [method.fit(source, *each) for each in zip(configs, recorders, strict=True)]
    except InputError:
        if processes.is_first:
            for request in requests:
                request.withdraw()
        raise
    if processes.is_first:
        for request, decomposer in zip(requests, fitted, strict=True):
            decomposer.save(request.path / DECOMPOSER)
            request.finish(time.monotonic() - started, decomposer)
    processes.wait()


def keep_run(store: ActivationStore, site: str | Site, decomposer: Decomposer, name: str) -> Run:
    """Keep a decomposer that was trained elsewhere as the run ``name``. Raises InputError when there is one already."""
    request = _Request(store, Site.of(site), decomposer.config, name)
    if not request.is_new:
        raise InputError(f"'{request.path}' holds a run; choose another --name or delete that folder")
    request.begin()
    decomposer.save(request.path / DECOMPOSER)
    request.finish(0.0, decomposer)
    return Run.load(request.path)


class _Request:
    """One run that was asked for: its folder, its record, and whether it is there already."""

    def __init__(
        self, store: ActivationStore, site: Site, config: DecomposerConfig, name: str, overwrite: bool = False
    ):
        method = kind_of(config)
        if site.read != site.write and not method.writes_elsewhere:
            raise InputError(f"{method.kind} writes the hook point it reads, but '{site}' are two; give one --site")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise InputError(f"'{name}' cannot name a run; use letters, digits, dots, hyphens and underscores")
        self.config = config
        self.path = store.path / "runs" / name
        self._replaced = store.path / "runs" / REPLACED / name
        self._replaces = False
        self.record = RunRecord(
            kind=method.kind,
            site=str(site),
            d_in=store.site(site.read).d_in,
            config=from_json(msgspec.json.encode(config).decode(), Options, "the config"),  # as it will be read back
            store_name=store.name,
            store_identity=store.identity,
            model_id=store.manifest.model_id,
            model_fingerprint=store.manifest.model_fingerprint,
            capabilities=[],
            versions={package: version(package) for package in ("torch", "numpy")},
            seconds=None,
            complete=False,
        )
        self.is_new = not (self.path / RECORD).exists()
        self.is_done = False
        if not self.is_new:
            present = RunRecord.read(self.path, "")
            if differs := self.record.differences(present):
                was_only_begun = not present.complete and not (self.path / CHECKPOINT).exists()
                if not (overwrite or was_only_begun):
                    raise InputError(
                        f"'{self.path}' holds a run with another {', '.join(differs)}; choose another --name, or replace "
                        "it and all that is in its folder with --overwrite"
                    )
                self.is_new = self._replaces = True
            self.is_done = present.complete and not self._replaces
            if self.is_done:  # left by a process that was killed between the two last steps
                (self.path / CHECKPOINT).unlink(missing_ok=True)

    def begin(self) -> None:
        if self._replaces:
            shutil.rmtree(self._replaced, ignore_errors=True)
            self._replaced.parent.mkdir(exist_ok=True)
            self.path.rename(self._replaced)
        self.path.mkdir(parents=True, exist_ok=True)
        write_record(self.path / RECORD, self.record)

    def withdraw(self) -> None:
        """Take away what a refused training wrote; a checkpoint is work that a better option may save."""
        if self.is_new and not (self.path / CHECKPOINT).exists():
            _remove(self.path)
            if self._replaced.exists():
                self._replaced.rename(self.path)
                self._tidy()

    def _tidy(self) -> None:
        with suppress(OSError):  # another run is being replaced
            self._replaced.parent.rmdir()

    def finish(self, seconds: float, decomposer: Decomposer) -> None:
        can = list(decomposer.capabilities)
        finished = structs.replace(self.record, capabilities=can, seconds=round(seconds, 1), complete=True)
        write_record(self.path / RECORD, finished)
        (self.path / CHECKPOINT).unlink(missing_ok=True)
        if self._replaced.exists():
            shutil.rmtree(self._replaced)
            self._tidy()


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
        kept = [line for line in read_curve(self._path) if line["step"] < record["step"]]
        write_whole(self._path, msgspec.json.Encoder().encode_lines([*kept, record]))
