"""Read a store once in shuffled batches with a cap on memory, and print what it took as one JSON object.

The cap is the operating system's limit on a process's data (RLIMIT_DATA, Linux): heap and private writable mappings, used or
not, of all libraries; an allocation past it fails. "peak" is the most that was resident at once, mapped files included.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import time
from pathlib import Path

import torch

from interp.store.reader import ActivationStore
from interp.store.source import shuffled_batches


def megabytes(field: str) -> float:
    """A figure of /proc/self/status, in millions of bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), flags=re.M)
    assert found
    return int(found[1]) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--megabytes", type=int, default=1000, help="cap on the process's data")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_DATA, (given.megabytes * 10**6,) * 2)
    torch.set_num_threads(given.threads)
    store = ActivationStore(given.store)
    site = store.site(next(iter(store.sites)))
    before, own, mapped = megabytes("RssAnon"), 0.0, 0.0
    n_batches, start = len(site) // given.batch, time.process_time()
    for _ in shuffled_batches(site, given.batch, range(n_batches), seed=0):
        own, mapped = max(own, megabytes("RssAnon")), max(mapped, megabytes("RssFile"))
    milliseconds = 1000 * (time.process_time() - start) / n_batches
    figures = {"cap": given.megabytes, "peak": megabytes("VmHWM"), "own before": before, "own": own, "mapped": mapped}
    size = {"rows": n_batches * given.batch, "ms CPU a batch": round(milliseconds, 1)}
    print(json.dumps(size | {name: round(value) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
