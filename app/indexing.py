"""The index of the run on view: opened, or offered to be built if there is none, with a warning if it is stale."""

from __future__ import annotations

import streamlit as st

from app.index_jobs import job_of, start
from app.workspace import index_command, index_version, open_index, open_manifolds, run_name, train_command
from interp.browse.features import escaped
from interp.browse.index_estimate import estimate_text
from interp.errors import InputError
from interp.index.reader import FeatureIndex, is_stale
from interp.manifolds.reader import ManifoldIndex
from interp.runs.record import Run


def require_index(run: Run) -> FeatureIndex:
    """The run's index, with a red banner if it is stale. Ends the page with a button that builds it if there is none."""
    version = index_version(run)
    if not version:
        _offer(
            run, f"`{run_name(run)}` has no index yet. It holds what this page shows; build it here or with:", "Build"
        )
        st.stop()
    try:
        index = open_index(run)
    except InputError as error:
        st.error(str(error))
        _offer(run, "Build it anew here or with:", "Rebuild")
        st.stop()
    if index_is_stale(run):
        st.error(
            "This index is stale: the run or its store changed after it was built, so numbers and examples below may be of "
            f"other features. Rebuild it with  `{index_command(run)}`"
        )
    return index


def require_manifolds(run: Run) -> ManifoldIndex:
    """The run's manifolds. If there are none, ends the page with a button that builds them, or says why there are none."""
    if not run.can("forms"):
        st.info(
            f"`{run_name(run)}` is a run of {run.kind}: its features are directions, and a direction has no manifold. Choose a "
            "run of a bilinear autoencoder, or train one with:"
        )
        st.code(train_command(run, "bilinear"), language="bash")
        st.stop()
    try:
        index = open_manifolds(run)
    except InputError as error:
        st.write(f"{error}. It holds what this page shows; build it here or with:")
        st.code(index_command(run), language="bash")
        _build_here(run, "Build the manifolds")
        st.stop()
    if index.is_stale:
        st.error(
            f"The run was trained again after its manifolds were built. Build them again with  `{index_command(run)}`"
        )
    return index


def index_is_stale(run: Run) -> bool:
    """Whether run or store changed since the index was built; False if there is no readable index."""
    version = index_version(run)
    sources = (run.path / "run.json", run.path / "decomposer.safetensors", run.store_path / "store.json")
    changed = tuple(source.stat().st_mtime_ns if source.is_file() else 0 for source in sources)
    return bool(version) and _stale(str(run.path.resolve()), version, changed, _run=run)


# The check hashes all weights (0.1 s for 100 MB), so it is repeated only when one of the files is written anew.
@st.cache_data(show_spinner=False, max_entries=64)
def _stale(path: str, version: str, changed: tuple[int, ...], _run: Run) -> bool:
    try:
        return is_stale(open_index(_run), _run)
    except InputError:
        return False


def _offer(run: Run, sentence: str, verb: str) -> None:
    st.write(sentence)
    st.code(index_command(run), language="bash")
    _build_here(run, f"{verb} the index")


def _build_here(run: Run, label: str) -> None:
    """The button that builds what is missing, with what it takes; or how far the build is, and the button that stops it."""
    job = job_of(run)
    if job is not None and job.is_running:
        _watch(run)
        return
    if job is not None and job.error:
        st.error(escaped(f"Nothing was built: {job.error}"))
    elif job is not None and job.is_stopped:
        st.info("The build was stopped; the run is as it was.")
    if st.button(label, type="primary"):
        start(run)
        st.rerun()
    st.caption(estimate_text(run))


@st.fragment(run_every=0.5)
def _watch(run: Run) -> None:
    """How far the build is; the page is drawn anew when it has ended."""
    job = job_of(run)
    if job is None or not job.is_running:
        st.rerun()
    st.progress(job.told.share, text=job.text)
    if st.button("Stop", help="Ends the build; the run stays as it was before"):
        job.stop()
        st.rerun()
    st.caption(
        "It goes on in a process of its own, also while this page is closed or shows another run, and ends with the dashboard: "
        "if that is stopped first, the run stays as it was. The command above builds it without the dashboard."
    )
