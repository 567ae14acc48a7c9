"""The pages. How one leads to another is in ``app.state``, so that pages need not know this file.

They are functions rather than files of a ``pages/`` folder: Streamlit would serve such files by themselves to whoever opens
a deep link before the first visit of the entry script, without its navigation bar and layout. Each page is imported when it
is first opened, since Tree, Prompt and Steer take seconds to load torch and the others must not wait for that.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from app.state import go_to, remember_pages


def pages() -> list[Any]:
    """The pages, in the order of the navigation bar."""
    by_name = {
        # The default page has no address of its own, so it only leads on to the one that has.
        "home": st.Page(_home, title="interp", default=True, visibility="hidden"),
        "features": st.Page(_features, title="Features", icon=":material/grid_on:", url_path="features"),
        "tree": st.Page(_tree, title="Tree", icon=":material/account_tree:", url_path="tree"),
        "prompt": st.Page(_prompt, title="Prompt", icon=":material/edit_note:", url_path="prompt"),
        "steer": st.Page(_steer, title="Steer", icon=":material/tune:", url_path="steer"),
        "manifolds": st.Page(_manifolds, title="Manifolds", icon=":material/bubble_chart:", url_path="manifolds"),
        "runs": st.Page(_runs, title="Runs", icon=":material/show_chart:", url_path="runs"),
        "compare": st.Page(_compare, title="Compare", icon=":material/compare_arrows:", url_path="compare"),
    }
    remember_pages(by_name)
    return list(by_name.values())


def _home() -> None:
    go_to("features", **st.query_params.to_dict())


def _features() -> None:
    from app.views import features

    features.show()


def _tree() -> None:
    with st.spinner("Loading PyTorch"):
        from app.views import tree

    tree.show()


def _prompt() -> None:
    with st.spinner("Loading PyTorch"):
        from app.views import prompt

    prompt.show()


def _steer() -> None:
    with st.spinner("Loading PyTorch"):
        from app.views import steer

    steer.show()


def _manifolds() -> None:
    from app.views import manifolds

    manifolds.show()


def _runs() -> None:
    from app.views import runs

    runs.show()


def _compare() -> None:
    from app.views import compare

    compare.show()
