"""Indexes being built, by run: each in a process of its own, which outlives the page that started it.

A page that is loaded again, or opened in another window, finds the job here and shows how far it is.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
from pathlib import Path

from interp.progress import LINES_VARIABLE, ToldProgress
from interp.runs.record import Run

STAGES = {"index": "Reading every token of the store", "manifolds": "Looking at every latent"}
"""What bars of the build are about, in words."""
_PATIENCE = 10.0  # seconds for a stopped build to clear up; then it is killed

_jobs: dict[Path, IndexJob] = {}
_lock = threading.Lock()


class IndexJob:
    """One build, running or ended."""

    def __init__(self, run: Path) -> None:
        self.said = ""
        """The last line of the program that is no count: why it ended, if it did not build."""
        self.is_stopped = False
        self.told = ToldProgress()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "app.index_job", str(run)],
            env=os.environ | {LINES_VARIABLE: "lines", "PYTHONPATH": _path()},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def is_running(self) -> bool:
        return self._reader.is_alive()

    @property
    def error(self) -> str:
        """Why it built nothing; empty while it runs and after a success."""
        if self.is_running or self._process.returncode == 0:
            return ""
        return "" if self.is_stopped else self.said or f"the program ended with code {self._process.returncode}"

    @property
    def text(self) -> str:
        """What it is at, in words, with the time that is left of it."""
        told = self.told
        if not told.what:
            return "Loading PyTorch and the model"
        if told.is_full:
            return "Gathering examples, neighbours and promoted tokens"
        left = "" if told.left_s is None else f" · about {told.left_s:.0f} s left"
        return f"{STAGES.get(told.what, told.what)}: {told.n:,} of {told.total:,}{left}"

    def stop(self) -> None:
        """End the build; what it had half written is taken away, and the run is as it was."""
        self.is_stopped = True
        if self.is_running:
            self._process.terminate()
            self._reader.join(_PATIENCE)
            self._process.kill()

    def _read(self) -> None:
        with self._process as process:
            for line in process.stderr or ():
                if not self.told.take(line):
                    self.said = line.strip() or self.said


def _path() -> str:
    """Where the program finds this package, first of all; the server's own path begins with the folder of its pages."""
    return os.pathsep.join(filter(None, (str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH"))))


def start(run: Run) -> IndexJob:
    """Build what is missing or stale of the run's index; the job that is at it already, if there is one."""
    path = run.path.resolve()
    with _lock:
        job = _jobs.get(path)
        if job is None or not job.is_running:
            job = _jobs[path] = IndexJob(path)
    return job


def job_of(run: Run) -> IndexJob | None:
    """The last build of the run that this server started."""
    return _jobs.get(run.path.resolve())


@atexit.register
def _stop_all() -> None:
    for job in _jobs.values():
        job.stop()
