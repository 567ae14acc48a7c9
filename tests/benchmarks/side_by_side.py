"""Timing alternatives in alternation in one process, and reporting them: a table for a person, or one JSON object.

A ratio is the alternative's process CPU time over ours, round by round, so that a drift of the machine's speed cancels;
bigger is better for us.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import torch

Rounds = dict[str, list[float]]
"""Name of an alternative ("ours" among them) to CPU seconds a round."""


def arguments(description: str) -> argparse.Namespace:
    """--json, --rounds, --threads; the threads are set."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object alone")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds of each alternative")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    return given


def alternate(alternatives: dict[str, Callable[[], object]], rounds: int) -> Rounds:
    """CPU seconds of each alternative in each round, after one round that is not counted."""
    seconds: Rounds = {name: [] for name in alternatives}
    for i in range(rounds + 1):
        for name, run in alternatives.items():
            start = time.process_time()
            run()
            if i:
                seconds[name].append(time.process_time() - start)
    return seconds


def report(benchmark: str, cases: dict[str, Rounds], given: argparse.Namespace, *, skipped: list[str]) -> None:
    """Print every case's ratios; ``cases`` names what was timed, each with the alternative "ours"."""
    ratios = {}
    for case, seconds in cases.items():
        for name in seconds:
            if name != "ours":
                pairs = [other / ours for other, ours in zip(seconds[name], seconds["ours"], strict=True)]
                ratios[f"{case}: {name}"] = {
                    "median": round(statistics.median(pairs), 2),
                    "min": round(min(pairs), 2),
                    "max": round(max(pairs), 2),
                }
    versions = {package: version(package) for package in ("torch", "numpy")}
    machine = f"{platform.machine()}, {given.threads} threads"
    if given.json:
        facts = {"benchmark": benchmark, "ratios": ratios, "machine": machine, "versions": versions, "skipped": skipped}
        print(json.dumps(facts))
        return
    print(f"{benchmark} ({machine}, torch {versions['torch']}): CPU time of the alternative over ours")
    for case, seconds in cases.items():
        milliseconds = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
        print("  " + case + "  " + "  ".join(f"{name} {value:.1f} ms" for name, value in milliseconds.items()))
    for name, ratio in ratios.items():
        print(f"  {name:<50} median {ratio['median']:>6}  min {ratio['min']:>6}  max {ratio['max']:>6}")
    if skipped:
        print(f"  not installed, skipped: {', '.join(skipped)}")
