"""The dashboard as a person meets it, in headless Chromium on a demo's workspace: from the command to the first card, from K to
the next card on the screen, from page to page, a typed prompt, and the server's memory.

    python tests/benchmarks/bench_dashboard.py [WORKSPACE]

WORKSPACE is the folder that ``make demo`` filled. Milliseconds are wall time, which other work on the machine lengthens; the
load is told beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from chromium import fresh_context, launched
from served_dashboard import ServedDashboard, served_dashboard

STEPS = 60
"""Presses of K."""
SWITCHES = 3
"""Rounds through the pages."""
# Of the element of a card, sets window.shown to a promise of the milliseconds from the next key to the first frame after the
# card's title has changed.
WATCH = """card => {
  const root = card.getRootNode(), title = () => root.querySelector(".card h3")?.textContent;
  window.shown = new Promise(done => window.addEventListener("keydown", () => {
    const began = performance.now(), before = title();
    const look = () => requestAnimationFrame(() => title() === before ? look() : done(performance.now() - began));
    look();
  }, {once: true, capture: true}));
}"""
SEEN = {"Prompt": "a.line", "Runs": "th.name", "Features": ".card h3"}
"""What is on a page once it is there."""


def from_key_to_frame(page: Any) -> list[float]:
    """Milliseconds of each press of K, the first few left out."""
    page.locator(".view .row").first.click()
    times = []
    for _ in range(STEPS + 5):
        page.locator(".card").first.evaluate(WATCH)
        page.keyboard.press("k")
        times.append(float(page.evaluate("window.shown")))
        page.wait_for_timeout(60)  # a quick reader's pace
    return times[5:]


def from_page_to_page(page: Any) -> list[float]:
    """Milliseconds from a click in the navigation bar to what the page is about; torch is loaded already."""
    times = []
    for _ in range(SWITCHES):
        for name in ("Runs", "Prompt", "Features"):
            began = time.perf_counter()
            page.get_by_role("link", name=name, exact=True).click()
            page.locator(SEEN[name]).first.wait_for()
            times.append(1000 * (time.perf_counter() - began))
    return times


def prompt(page: Any, address: str, text: str) -> float:
    """Milliseconds from the address of a typed text to its ranked features."""
    began = time.perf_counter()
    page.goto(f"{address}/prompt?text={text}")
    page.locator("a.line").first.wait_for()
    return 1000 * (time.perf_counter() - began)


def measure(workspace: Path, folder: Path) -> dict[str, Any]:
    """Every figure by its name."""
    found: dict[str, Any] = {"load at the start": os.getloadavg()[0]}
    began = time.perf_counter()
    with (
        served_dashboard(workspace, folder / "notes") as served,
        launched() as browser,
        fresh_context(browser, served.address, "light") as context,
    ):
        page = context.new_page()
        page.goto(f"{served.address}/features")
        page.locator(".card h3").wait_for()
        found["command to first card, s"] = time.perf_counter() - began
        page.wait_for_timeout(1500)
        times = from_key_to_frame(page)
        found["K to the next card, median ms"] = statistics.median(times)
        found["K to the next card, p95 ms"] = statistics.quantiles(times, n=20)[-1]
        found["server without torch, MB"] = memory(served)
        found["prompt, with loading torch and the model, ms"] = prompt(page, served.address, "import os")
        found["prompt, ms"] = prompt(page, served.address, "def f(x):")
        found["page to page, median ms"] = statistics.median(from_page_to_page(page))
        found["server with torch, MB"] = memory(served)
    found["load at the end"] = os.getloadavg()[0]
    return found


def memory(served: ServedDashboard) -> float:
    """Resident megabytes of the server."""
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("workspace", nargs="?", type=Path, default=Path("activations"))
    parser.add_argument("--json", action="store_true", help="print one JSON object alone")
    given, _ = parser.parse_known_args()
    if not (given.workspace / "demo").is_dir():
        print(f"'{given.workspace}' holds no demo, so nothing was measured; run make demo first, or give its workspace")
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given.workspace.resolve(), Path(folder))
    if given.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name:<48}{value:10.1f}" for name, value in found.items()))


if __name__ == "__main__":
    main()
