"""The dashboard's server as its command starts it: whom it answers, what it reaches for, and what it imports."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from served_dashboard import PROGRAM, ServedDashboard, served_dashboard

FOREIGN = (
    "https://stranger.example",
    "http://localhost:3000",
    "http://127.0.0.1:1",
    "https://127.0.0.1:{port}",
    "null",
)
"""Origins of other pages: of another site, of other servers on this machine, and of a page that hides its own."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDashboard]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "activations").mkdir()
    with served_dashboard(folder / "activations", folder / "notes.jsonl") as served:
        yield served


def _get(served: ServedDashboard, path: str, **headers: str) -> tuple[int, str | None]:
    """Status and Content-Security-Policy of the answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)) as connection:
        connection.request("GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()})
        with connection.getresponse() as answer:
            return answer.status, answer.headers["Content-Security-Policy"]


def _websocket_status(served: ServedDashboard, **headers: str) -> int:
    handshake = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13"}
    key = {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    return _get(served, "/_stcore/stream", **handshake, **key, **headers)[0]


def test_starting_it_neither_imports_torch_nor_reaches_out(served: ServedDashboard) -> None:
    assert _get(served, "/")[0] == 200
    assert _get(served, "/api/runs/a/b/features")[0] == 404
    modules = served.modules()
    assert {"streamlit", "app.server", "app.workspace"} <= modules
    assert not {"torch", "transformers"} & modules
    assert served.outgoing() == []


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_foreign_page_opens_no_websocket_and_makes_the_server_reach_for_nothing(
    served: ServedDashboard, origin: str
) -> None:
    assert _websocket_status(served, Origin=origin.format(port=served.port)) == 403
    assert served.outgoing() == []
    assert _get(served, "/_stcore/health", Origin=origin.format(port=served.port))[0] == 403
    assert served.outgoing() == []


def test_a_websocket_without_origin_is_refused_since_every_browser_sends_one(served: ServedDashboard) -> None:
    assert _websocket_status(served) == 403


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_its_own_page_opens_a_websocket_under_each_name_of_this_machine(served: ServedDashboard, name: str) -> None:
    own = f"{name}:{served.port}"
    assert _websocket_status(served, Host=own, Origin=f"http://{own}") == 101
    assert _websocket_status(served, Host=own, Origin=f"http://{own}0") == 403
    assert served.outgoing() == []


@pytest.mark.parametrize("path", ["/", "/features", "/api/runs/a/b/features", "/_stcore/health"])
def test_no_page_may_be_framed(served: ServedDashboard, path: str) -> None:
    assert _get(served, path)[1] == "frame-ancestors 'none'"


def test_the_hook_sees_what_goes_out(tmp_path: Path) -> None:
    """Else the tests above would pass whatever the server did."""
    program = PROGRAM.split("from interp")[0] + (
        "import socket\n"
        "with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe: probe.connect(('127.0.0.2', 9))\n"
        "with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe: probe.sendto(b'', ('127.0.0.3', 9))\n"
        "try: socket.getaddrinfo('stranger.invalid', 80)\n"
        "except OSError: pass\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "notes")], check=True)
    noted = [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    assert noted == [
        ["socket.connect", "127.0.0.2"],
        ["socket.sendto", "127.0.0.3"],
        ["socket.getaddrinfo", "stranger.invalid"],
    ]
