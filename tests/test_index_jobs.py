"""Indexes built from a page: in a process of their own, with progress, stopped without a trace."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from dashboard_workspace import DashboardWorkspace, make_workspace

from app.index_jobs import job_of, start
from interp.browse.index_estimate import estimate_text, estimated_seconds
from interp.index.reader import FeatureIndex
from interp.progress import ToldProgress, progress
from interp.runs.record import Run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DashboardWorkspace:
    return make_workspace(tmp_path_factory.mktemp("jobs"))


@pytest.fixture
def run(made: DashboardWorkspace, tmp_path: Path) -> Run:
    """A run without index that the test may index."""
    return Run.load(shutil.copytree(made.folder / "tiny", tmp_path / "tiny") / "runs/pca")


def test_a_build_tells_how_far_it_is_and_ends_with_an_index(run: Run) -> None:
    job = start(run)
    assert start(run) is job, "the build that runs already is the one"
    assert job_of(run) is job
    job._reader.join()
    assert (job.error, job.is_running) == ("", False)
    assert job.told.share == 1.0, "the last count is that of the whole store"
    with FeatureIndex(run.index_path) as index:
        assert index.n_features == 8
        assert index.record.has_model


def test_a_build_that_is_stopped_leaves_the_run_as_it_was(run: Run) -> None:
    before = sorted(path.name for path in run.path.iterdir())
    job = start(run)
    time.sleep(0.3)
    job.stop()
    assert not job.is_running
    assert (job.is_stopped, job.error) == (True, "")
    assert sorted(path.name for path in run.path.iterdir()) == before
    again = start(run)
    assert again is not job
    again.stop()


def test_a_build_that_fails_says_why(run: Run) -> None:
    (run.path / "decomposer.safetensors").write_bytes(b"broken")
    job = start(run)
    job._reader.join()
    assert "decomposer.safetensors" in job.error
    assert not run.index_path.exists()


def test_progress_is_read_from_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("INTERP_PROGRESS", "lines")
    assert list(progress(range(3), total=10, what="index", amount=4)) == [0, 1, 2]
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines[0] == {"what": "index", "n": 0, "total": 10}
    assert lines[-1] == {"what": "index", "n": 10, "total": 10}
    told = ToldProgress()
    assert [told.take(line) for line in ("no JSON", "[3]", json.dumps(lines[0]))] == [False, False, True]
    assert (told.share, told.left_s) == (0.0, None)
    told._since -= 10
    assert told.take('{"what": "index", "n": 4, "total": 16}')
    assert (told.share, told.is_full, told.what) == (0.25, False, "index")
    assert told.left_s == pytest.approx(30, rel=0.1)
    assert told.take('{"what": "index", "n": 16, "total": 16}')
    assert told.is_full


def test_the_estimate_grows_with_the_work(run: Run) -> None:
    assert estimated_seconds(120_000, 1024, 2048) == pytest.approx(8 + 12.6, abs=0.1)
    assert estimate_text(run) == "About 8 seconds on a core that does nothing else, for 3,000 tokens and 8 features."
