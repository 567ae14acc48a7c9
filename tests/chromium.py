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
def launched() -> Iterator[Any]:
    """A running browser, for several ``fresh_context``."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=WAIT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), headless=True, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def fresh_context(browser: Any, address: str, theme: str, *, width: int = 1500) -> Iterator[Any]:
    """Windows of a browser in the colour scheme ``theme``, with nothing left from others."""
    requests: list[str] = []
    errors: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 907}, color_scheme=theme)
    context.set_default_timeout(WAIT)
    context.on("request", lambda request: requests.append(request.url))
    context.on("weberror", lambda error: errors.append(str(error.error)))
    yield context
    context.close()
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
