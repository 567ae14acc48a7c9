"""Kill a capture with SIGKILL at random moments and let the next one go on, over and over; compare with one that was not.

    python tests/capture_killed.py MODEL_FOLDER SCRATCH N_KILLS

Prints how many kills hit a running capture and how many stores were compared; ends with an error when one differs.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from interp.capturing.to_store import CaptureConfig, capture
from interp.corpora.documents import Corpus, Document
from interp.model.language_model import LanguageModel, load_model
from interp.store.reader import ActivationStore

SITES = ("blocks.0.hook_resid_post", "blocks.1.mlp.hook_post", "blocks.0.hook_attn_out")
CONFIG = CaptureConfig(sites=SITES, tokens=6000, batch=8, sequences_per_shard=8)
CORPUS = Corpus("made up", [Document(f"{i}.py", f"def f{i}(x):\n    return x * {i}\n" * 20) for i in range(60)])


def run_in_child(model: LanguageModel, out: Path) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            capture(model, CORPUS, CONFIG, out)
            code = 0
        finally:
            os._exit(code)
    return child


def same(left: ActivationStore, right: ActivationStore) -> bool:
    arrays = [
        (s.tokens(), s.positions(), *(torch.cat(list(s.site(n).chunks())).numpy() for n in SITES))
        for s in (left, right)
    ]
    return left.identity == right.identity and all(map(np.array_equal, *arrays)) and not right.verify()


def main() -> None:
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not survive the fork
    model, scratch, n_kills = load_model(sys.argv[1], device="cpu"), Path(sys.argv[2]), int(sys.argv[3])
    started = time.monotonic()
    whole = capture(model, CORPUS, CONFIG, scratch / "whole")
    seconds = time.monotonic() - started
    moments, out = random.Random(0), scratch / "killed"
    n_hit = n_compared = 0
    while n_hit < n_kills:
        child = run_in_child(model, out)
        # Short moments too, so that the start, the first shards and the very end are all met.
        time.sleep(seconds * moments.random() ** 2)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        n_hit += os.WIFSIGNALED(status)
        if os.WIFEXITED(status) or n_hit == n_kills:
            _, status = os.waitpid(run_in_child(model, out), 0)
            if status or not same(whole, ActivationStore(out)):
                sys.exit(f"after {n_hit} kills the store is not what it should be")
            shutil.rmtree(out)
            n_compared += 1
    print(f"{n_hit} kills, {n_compared} stores of {len(whole.manifest.shards)} shards compared, {seconds:.2f} s each")


if __name__ == "__main__":
    main()
