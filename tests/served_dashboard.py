"""A dashboard in a process of its own, started by its command, under an audit hook that notes what goes out of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAM = """
import json, signal, sys

notes = open(sys.argv.pop(1), "a", buffering=1)
# The arguments of each event that say where to; the first is the socket, or the name that is looked up.
OUTGOING = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1, "socket.getaddrinfo": 0,
            "socket.gethostbyname": 0, "socket.gethostbyaddr": 0, "urllib.Request": 0, "http.client.connect": 1}

def note(event, arguments):
    if event in OUTGOING:
        where = arguments[OUTGOING[event]]
        host = where[0] if isinstance(where, tuple) else where
        notes.write(json.dumps([event, str(host)]) + "\\n")

sys.addaudithook(note)
signal.signal(signal.SIGUSR1, lambda *_: notes.write(json.dumps(["modules", sorted(sys.modules)]) + "\\n"))
from interp.cli.main import main
main(sys.argv[1:])
"""


class ServedDashboard:
    """The address of a running dashboard, and what was noted of it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, notes: Path) -> None:
        self.process, self.port, self._notes = process, port, notes
        self.address = f"http://127.0.0.1:{port}"

    def outgoing(self) -> list[tuple[str, str]]:
        """Event and host of every attempt to reach something else than this machine's own address."""
        events = [tuple(json.loads(line)) for line in self._notes.read_text().splitlines()]
        return [(event, host) for event, host in events if event != "modules" and host not in ("127.0.0.1", "None")]

    def modules(self) -> set[str]:
        """What the process has imported up to now."""
        n_before = len(self._notes.read_text().splitlines())
        os.kill(self.process.pid, signal.SIGUSR1)
        for _ in range(200):
            for line in self._notes.read_text().splitlines(keepends=True)[n_before:]:
                if line.startswith('["modules"') and line.endswith("\n"):
                    return set(json.loads(line)[1])
            time.sleep(0.05)
        pytest.fail("the dashboard did not say what it has imported")


@contextmanager
def served_dashboard(workspace: Path, notes: Path) -> Iterator[ServedDashboard]:
    """``interp dashboard WORKSPACE`` from when it answers to the end of the context."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["dashboard", str(workspace), "--port", str(port), "--no-open-browser"]
    root = Path(__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(notes), *options], cwd=root, stdout=subprocess.DEVNULL
    )
    served = ServedDashboard(process, port, notes)
    try:
        _wait_for(f"{served.address}/_stcore/health", process)
        yield served
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert process.poll() is None, "the dashboard ended by itself"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.25)
    pytest.fail(f"{url} did not answer within a minute")
