"""A headless Chromium that fails the test for any request to another machine and for any script error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT = 60_000
"""Milliseconds: a loaded machine may need many seconds for the first page; nothing waits longer than it must."""


@contextmanager
def fresh_browser(address: str, profile: Path, theme: str, *, width: int = 1500) -> Iterator[Any]:
    """A browser of the colour scheme ``theme``, with nothing left from others."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=WAIT)
    requests: list[str] = []
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=str(CHROMIUM),
            headless=True,
            args=FLAGS,
            viewport={"width": width, "height": 907},
            color_scheme=theme,
        )
        browser.set_default_timeout(WAIT)
        browser.on("request", lambda request: requests.append(request.url))
        browser.on("weberror", lambda error: errors.append(str(error.error)))
        yield browser
        browser.close()
    elsewhere = [url for url in requests if not url.startswith((address, "ws://127.0.0.1", "data:", "blob:"))]
    assert requests
    assert not elsewhere
    assert not errors


def require_chromium() -> None:
    """Skip the test without Chromium, and fail it where tests in a browser are promised."""
    if CHROMIUM.exists():
        return
    reason = f"{CHROMIUM} is missing: the dashboard was NOT tested in a browser; install the Debian package 'chromium'"
    if os.environ.get("CI") or os.environ.get("INTERP_CI"):
        pytest.fail(reason)
    pytest.skip(reason)
