"""The index of the run on view: opened, or offered to be built if there is none, with a warning if it is stale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.workspace import index_command, index_version, open_index, open_manifolds, run_name, train_command
from interp.errors import InputError
from interp.index.build import build_index
from interp.index.reader import FeatureIndex, is_stale
from interp.manifolds.reader import ManifoldIndex
from interp.runs.record import Run

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel


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
        if st.button("Build the manifolds", type="primary"):
            _build_manifolds(run)
        st.stop()
    if index.is_stale:
        st.error(
            f"The run was trained again after its manifolds were built. Build them again with  `{index_command(run)}`"
        )
    return index


def _build_manifolds(run: Run) -> None:
    with st.status("Looking at every latent", expanded=True) as status:
        from interp.manifolds.build import build_manifolds  # deferred: loads torch, which browsing does without

        try:
            model = _model_or_reason(run)
            if isinstance(model, str):
                status.write(f"Without the model: {model}. Tokens will have no text.")
            build_manifolds(run, model=None if isinstance(model, str) else model)
        except InputError as error:
            status.update(label="Nothing was built", state="error")
            st.error(str(error))
            return
        status.update(label="Built", state="complete")
    st.rerun()


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
    if st.button(f"{verb} the index", type="primary"):
        _build(run)


def _build(run: Run) -> None:
    with st.status("Building the index", expanded=True) as status:
        try:
            status.write("Loading the model, for the text of tokens and for what features promote")
            model = _model_or_reason(run)
            if isinstance(model, str):
                status.write(f"Without the model: {model}. Tokens will be shown by number.")
            status.write("Encoding every token of the store, then gathering examples and neighbours")
            build_index(run, model=None if isinstance(model, str) else model)
        except InputError as error:
            status.update(label="The index was not built", state="error")
            st.error(str(error))
            return
        status.update(label="The index is built", state="complete")
    st.rerun()


def _model_or_reason(run: Run) -> LanguageModel | str:
    """The model the store was captured from, or the sentence that says why it cannot be loaded."""
    from interp.model.language_model import load_model  # deferred: loads torch, which browsing does without

    try:
        return load_model(run.model_id)
    except InputError as error:
        return str(error)
