"""Capture when things go wrong around it: killed, no room, no permission; and shared by several processes."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from interp.capturing.to_store import CaptureConfig, capture
from interp.corpora.documents import Corpus
from interp.corpora.sources import load_corpus
from interp.errors import InputError
from interp.model.language_model import LanguageModel
from interp.store import writer as writer_module
from interp.store.manifest import Manifest
from interp.store.reader import ActivationStore

TESTS = Path(__file__).parent
SITES = ("blocks.0.hook_resid_post", "blocks.1.mlp.hook_post")
CONFIG = CaptureConfig(sites=SITES, tokens=700, sequences_per_shard=7)
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=280, env=ONE_THREAD)


@pytest.mark.slow
def test_a_capture_killed_at_twenty_moments_ends_with_the_same_arrays(tiny_model_folder: Path, tmp_path: Path) -> None:
    done = run(str(TESTS / "capture_killed.py"), str(tiny_model_folder), str(tmp_path), "20")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("20 kills")


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_processes_under_torchrun_write_what_one_process_writes(
    tiny_model: LanguageModel, tiny_model_folder: Path, tmp_path: Path, n: int
) -> None:
    text, out = tmp_path / "lines.txt", tmp_path / "shared"
    text.write_text("".join(f"line {i} of {i * i} lines, naïve and plain\n" for i in range(400)))
    config = CaptureConfig(sites=SITES, tokens=3000, sequences_per_shard=16)
    one = capture(tiny_model, load_corpus([text]), config, tmp_path / "one")
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", "-m", "interp", "capture"]
    what = ["--model", str(tiny_model_folder), "--text", str(text), "--tokens", "3000", "--sequences-per-shard", "16"]
    done = run(*torchrun, *what, "--sites", *SITES, "--out", str(out))
    assert done.returncode == 0, done.stderr
    shared = ActivationStore(out)
    assert len(one.manifest.shards) == 7
    assert shared.identity == one.identity
    assert shared.verify() == []
    for site in SITES:
        assert torch.equal(torch.cat(list(shared.site(site).chunks())), torch.cat(list(one.site(site).chunks())))


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_size_limit_is_said_and_the_same_capture_goes_on_without_it(
    tiny_model: LanguageModel, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    message = r"could not be written \(File too large\); free some space and run the same command again"
    with files_of_at_most(20_000), pytest.raises(InputError, match=message):
        capture(tiny_model, tiny_corpus, CONFIG, tmp_path / "store")
    assert capture(tiny_model, tiny_corpus, CONFIG, tmp_path / "store").verify() == []


@pytest.mark.parametrize("where", ["000002.h5", "store.json", "store.h5"])
def test_a_disk_that_fills_up_keeps_the_whole_shards(
    tiny_model: LanguageModel, tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    whole = capture(tiny_model, tiny_corpus, CONFIG, tmp_path / "whole")
    write_whole = writer_module.write_whole
    n_written = 0

    def full(path: Path, content: bytes) -> None:
        nonlocal n_written
        if n_written >= 2 and path.name == where:
            raise OSError(errno.ENOSPC, "No space left on device")
        n_written += path.parent.name == "shards"
        write_whole(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "write_whole", full)
        patch.setattr("interp.records.write_whole", full)
        with pytest.raises(InputError, match=r"No space left on device\); free some space .* are kept \(\d\)"):
            capture(tiny_model, tiny_corpus, CONFIG, tmp_path / "store")
    assert len(Manifest.read(tmp_path / "store").shards) >= 1
    again = capture(tiny_model, tiny_corpus, CONFIG, tmp_path / "store")
    assert (again.identity, again.verify()) == (whole.identity, [])


@contextmanager
def without_rights() -> Iterator[None]:
    """As somebody who is not root, for whom no folder is closed."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_may_not_be_written_is_said(tiny_model: LanguageModel, tiny_corpus: Corpus) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        message = r"could not be written \(Permission denied\); make the folder writable or choose another one"
        with without_rights(), pytest.raises(InputError, match=message):
            capture(tiny_model, tiny_corpus, CONFIG, Path(folder) / "store")
        Path(folder).chmod(0o755)


@pytest.mark.parametrize("changed", ["model", "tokenizer"])
def test_a_store_of_another_model_or_tokenizer_is_not_added_to(
    tiny_model: LanguageModel, tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    capture(tiny_model, tiny_corpus, CONFIG, tmp_path / "store")
    name = "fingerprint" if changed == "model" else "tokenizer_fingerprint"
    monkeypatch.setitem(tiny_model.__dict__, name, "another")
    with pytest.raises(InputError, match=rf"holds another capture \({changed}_fingerprint: \w+ there, another asked\)"):
        capture(tiny_model, tiny_corpus, CONFIG, tmp_path / "store")
