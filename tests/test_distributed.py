"""Processes started by torchrun, on this machine's processors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from interp.distributed import joined, world

SCRIPT = """
import sys, torch
from interp.distributed import joined
with joined() as world:
    own = torch.full((2,), float(world.rank + 1))
    firsts = own.clone()
    world.sum(own)
    world.broadcast(firsts)
    world.wait()
    with open(f"{sys.argv[1]}/{world.rank}", "w") as file:
        file.write(f"{world.size} {world.is_first} {own.tolist()} {firsts.tolist()}")
"""


def test_a_process_started_alone_is_a_world_of_one() -> None:
    with joined() as alone:
        assert (alone.rank, alone.size, alone.is_first) == (0, 1, True)
    assert world() == alone


@pytest.mark.parametrize("n", [2, 3])
def test_processes_add_up_and_share(tmp_path: Path, n: int) -> None:
    (tmp_path / "job.py").write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
    subprocess.run([*torchrun, str(tmp_path / "job.py"), str(tmp_path)], check=True, capture_output=True, timeout=120)
    total = float(sum(range(1, n + 1)))
    for rank in range(n):
        assert (tmp_path / str(rank)).read_text() == f"{n} {rank == 0} {[total, total]} [1.0, 1.0]"
