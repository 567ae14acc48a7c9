"""Timing alternatives in alternation in one process, and reporting them: a table for a person, or one JSON object.

A ratio is the alternative's time over ours, round by round, so that a drift of the machine's speed cancels; bigger is
better for us. Process CPU time counts; wall time is told beside it, and on a busy machine says little.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch


class Seconds(NamedTuple):
    """What one round took."""

    cpu: float
    """Of the process, all threads."""
    wall: float


Rounds = dict[str, list[Seconds]]
"""Name of an alternative ("ours" among them) to what each round took."""


def arguments(description: str, *, rounds: int = 9, sizes: Mapping[str, int] = {}) -> argparse.Namespace:
    """--json, --rounds, --threads, and one option for each of ``sizes`` with its default; the threads are set."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object alone")
    parser.add_argument("--rounds", type=int, default=rounds, help="timed rounds of each alternative")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{default} by default")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    return given


def alternate(alternatives: dict[str, Callable[[], object]], rounds: int) -> Rounds:
    """Seconds of each alternative in each round, after one round that is not counted."""
    seconds: Rounds = {name: [] for name in alternatives}
    for i in range(rounds + 1):
        for name, run in alternatives.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            if i:
                seconds[name].append(Seconds(time.process_time() - cpu, time.perf_counter() - wall))
    return seconds


def resident(what: str) -> float:
    """MiB of this process by Linux's account: VmRSS now, VmHWM at most. (getrusage's peak may be that of the parent.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def report(
    benchmark: str,
    cases: dict[str, Rounds],
    given: argparse.Namespace,
    *,
    skipped: list[str],
    facts: dict[str, Any] | None = None,
) -> None:
    """Print every case's ratios; ``cases`` names what was timed, each with the alternative "ours".

    ``facts`` are further figures: they go into the JSON object, and are printed one a line.
    """
    ratios, walls = {}, {}
    for case, seconds in cases.items():
        for name in seconds:
            if name != "ours":
                pairs = list(zip(seconds[name], seconds["ours"], strict=True))
                ratios[f"{case}: {name}"] = _spread([other.cpu / ours.cpu for other, ours in pairs])
                walls[f"{case}: {name}"] = _spread([other.wall / ours.wall for other, ours in pairs])
    versions = {package: version(package) for package in ("torch", "numpy")}
    machine = f"{platform.machine()}, {given.threads} threads"
    if given.json:
        record = {"benchmark": benchmark, "ratios": ratios, "wall_ratios": walls, "machine": machine}
        print(json.dumps({**record, "versions": versions, "skipped": skipped, **(facts or {})}))
        return
    print(f"{benchmark} ({machine}, torch {versions['torch']}): CPU time of the alternative over ours")
    for case, seconds in cases.items():
        milliseconds = {name: 1000 * statistics.median(s.cpu for s in taken) for name, taken in seconds.items()}
        print("  " + case + "  " + "  ".join(f"{name} {value:.1f} ms" for name, value in milliseconds.items()))
    for name, ratio in ratios.items():
        print(
            f"  {name:<50} median {ratio['median']:>6}  min {ratio['min']:>6}  max {ratio['max']:>6}"
            f"   wall {walls[name]['median']:>6}"
        )
    for name, value in (facts or {}).items():
        print(f"  {name}: {value}")
    if skipped:
        print(f"  not installed, skipped: {', '.join(skipped)}")


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 2),
        "min": round(min(values), 2),
        "max": round(max(values), 2),
    }
