"""State that outlives one rerun: the pages, the run on view, and what the address bar says.

The address holds the whole view of a page, so that a copied link or a new tab shows the same. Widgets keep their state
under keys of their own; the address wins whenever it is not what this session wrote last (a link, Back, a new tab).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from app.workspace import first_run_commands, index_version, list_runs, run_name, workspace
from interp.browse.features import escaped
from interp.browse.first_run import MEASURE, best_first
from interp.runs.record import Run

_PREFIX = "view_"
_WRITTEN = "written_address"
_PAGES = "pages"


def remember_pages(by_name: Mapping[str, Any]) -> None:
    """Keep the session's pages, so that one can lead to another by its name."""
    st.session_state[_PAGES] = dict(by_name)


def go_to(name: str, **address: str) -> None:
    """Leave this page for the one called ``name``, with ``address`` as its query, which is news there even if this page wrote
    the same."""
    st.session_state.pop(_WRITTEN, None)
    st.switch_page(st.session_state[_PAGES][name], query_params=address)


def restore(
    page: str, parsers: Mapping[str, Callable[[str | None], Any]], *, with_default: tuple[str, ...] = ()
) -> bool:
    """Give each widget key ``view_NAME`` its value from the address, else from the last visit, else its default.

    Returns whether the address is news: a link, Back, a new tab.

    ``parsers`` maps a name to a function from the address's text (None: absent) to a valid value. Widgets that name a
    default themselves are listed in ``with_default``: Streamlit warns if a value is set twice, so theirs is set only if it
    differs from the default.
    """
    given = st.query_params.to_dict()
    remembered = st.session_state.setdefault(f"remembered_{page}", {})
    is_news = bool(given) and given != st.session_state.get(_WRITTEN)
    for name, parse in parsers.items():
        key = _PREFIX + name
        if not is_news and key in st.session_state:
            continue
        value = parse(given.get(name)) if is_news else remembered.get(name, parse(None))
        if key in st.session_state or name not in with_default or value != parse(None):
            st.session_state[key] = value
    return is_news


def write_address(page: str, values: Mapping[str, str], remembered: Mapping[str, Any]) -> None:
    """Put ``values`` (empty ones left out) into the address, and remember the widgets' values for the next visit."""
    address = {name: value for name, value in values.items() if value != ""}
    st.session_state[f"remembered_{page}"] = dict(remembered)
    st.session_state[_WRITTEN] = address
    if st.query_params.to_dict() != address:
        st.query_params.from_dict(address)


def view(name: str) -> str:
    """The session key of the widget that holds ``name``."""
    return _PREFIX + name


def pick_run() -> Run:
    """The run picker, the same on every page. Ends the page with the commands to make a run if there is none.

    A run that the address or this session names and that the workspace does not have, such as one deleted while it was open,
    ends the page with a sentence that says so: another run never takes its place until the person chooses one.
    """
    runs = list_runs()
    if not runs:
        st.subheader("No runs yet")
        st.write(f"The workspace `{workspace()}` holds no trained run. This makes a first one:")
        st.code(first_run_commands(), language="bash")
        st.stop()
    wanted = st.query_params.get("run") or st.session_state.get("run")
    names = best_first(runs, [name for name in runs if index_version(runs[name])])
    is_gone = wanted is not None and wanted not in runs
    # On every rerun: the picker of the page before has the same key, but its value is lost with that page.
    st.session_state["picked_run"] = None if is_gone else wanted or names[0]
    chosen = st.selectbox(
        "Run",
        names,
        index=None if is_gone else 0,
        key="picked_run",
        placeholder="Choose a run",
        format_func=lambda name: describe(runs[name]),
        help=MEASURE,
        on_change=_keep_run,
    )
    if chosen is None:
        was_open = wanted == st.session_state.get("run")
        why = "deleted or renamed while it was open here" if was_open else "deleted or renamed, or never made"
        st.error(escaped(f"There is no run '{wanted}' in {workspace()}: it was {why}. Choose another run above."))
        st.stop()
    st.session_state["run"] = chosen
    return runs[chosen]


def _keep_run() -> None:
    choose_run(st.session_state["picked_run"])


def choose_run(chosen: str) -> None:
    """The person's own choice replaces the address, whose feature, or place in a tree, belongs to the other run.

    For callbacks of widgets.
    """
    st.session_state["run"] = chosen
    st.session_state[_PREFIX + "f"] = None
    st.session_state[_PREFIX + "node"] = ""
    st.session_state[_WRITTEN] = {"run": chosen}
    st.query_params.from_dict({"run": chosen})


def describe(run: Run) -> str:
    """One line that tells a run from its neighbours: name, kind, site."""
    return f"{run_name(run)} · {run.kind} · {run.site}"
