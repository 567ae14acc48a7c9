"""Tree: the hierarchy of a semi-NMF run, and the text that the chosen feature of any level fires on."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app.card import row_list
from app.indexing import require_index
from app.state import go_to, pick_run, restore, view, write_address
from app.workspace import index_version, labels_of, open_index, run_name
from interp.browse.definitions import tooltip
from interp.browse.features import escaped
from interp.browse.palette import token_styles
from interp.browse.shared_card import context_lines
from interp.browse.tree import ConceptTree, TreeNode, branch_rows, node_place
from interp.errors import InputError
from interp.index.token_text import show_blanks
from interp.runs.record import Run

PAGE = "tree"
N_SHOWN = 12
"""Contexts on view: a screen of them."""
_COLUMNS: list[dict[str, Any]] = [
    {"name": "branch", "help": tooltip(PAGE, "branch"), "width": "minmax(0, 1fr)"},
    {"name": "features", "help": tooltip(PAGE, "leaves"), "width": "58px", "is_number": True},
    {"name": "share", "help": tooltip(PAGE, "share"), "width": "52px", "is_number": True},
]


def show() -> None:
    """Lay out the page."""
    restore(PAGE, {"node": lambda text: text or ""})
    with st.container(key="filters"):
        pick, _ = st.columns([2.3, 5])
    with pick:
        run = pick_run()
    require_index(run)
    try:
        tree, nodes = _tree_of(str(run.path.resolve()), index_version(run), _run=run)
    except InputError as error:
        write_address(PAGE, {"run": run_name(run)}, {})
        st.info(str(error))
        return
    ranks = " > ".join(str(rank) for rank in reversed(tree.hierarchy.ranks))
    st.caption(f"{ranks} features. Each is shown below its heaviest parent and named by the tokens it fires on.")
    st.caption("  \n".join(tree.what_levels_leave), help=tooltip(PAGE, "unexplained"))
    place = _place(nodes)
    node = nodes[place]
    name = f"{node.level}.{node.feature}"
    write_address(PAGE, {"run": run_name(run), "node": name}, {"node": name})
    left, right = st.columns([3, 4], gap="large")
    with left:
        chosen = row_list()(
            key=f"tree_{run_name(run)}",
            data={"name": "Branches", "columns": _COLUMNS, "rows": branch_rows(nodes), "chosen": place, "height": 640},
            on_chosen_change=lambda: None,
        )
    if chosen.chosen is not None and int(chosen.chosen) != place:
        one = nodes[int(chosen.chosen)]
        st.session_state[view("node")] = f"{one.level}.{one.feature}"
        st.rerun()
    with right:
        _contexts(run, tree, node)


def _place(nodes: list[TreeNode]) -> int:
    """The row of the node that the address names; the first, if it names none, and with a sentence if there is no such."""
    wanted = st.session_state[view("node")]
    found = node_place(nodes, wanted)
    if wanted and found is None:
        st.error(escaped(f"This tree has no feature {wanted}; a feature is named LEVEL.NUMBER."))
    return found or 0


def _contexts(run: Run, tree: ConceptTree, node: TreeNode) -> None:
    """What the feature fires on, and the way to its card."""
    st.markdown(f"###### Feature {node.feature} of level {node.level}")
    label = labels_of(run).get(node.feature) if node.level == 0 else None
    if label:
        st.text(label.marked)  # plain text, never markdown: a label is a stranger's
    st.text(
        " · ".join(f"{show_blanks(token)} {count}" for token, count in node.tokens),
        help=tooltip(PAGE, "tokens", "value"),
    )
    examples = tree.contexts(node.level, node.feature, n=N_SHOWN, context=12)
    st.html(f"<style>{token_styles()}</style>")
    st.html(context_lines(examples))
    if node.level == 0 and st.button("Open its card"):
        go_to("features", run=run_name(run), f=str(node.feature))


@st.cache_resource(show_spinner="Reading the hierarchy", max_entries=4)
def _tree_of(path: str, version: str, _run: Run) -> tuple[ConceptTree, list[TreeNode]]:
    """The tree of a run, kept until its index is made anew."""
    tree = ConceptTree(_run, open_index(_run))
    return tree, tree.nodes()
