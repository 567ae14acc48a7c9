"""Tree: the hierarchy of a semi-NMF run, and the text that the chosen feature of any level fires on."""

from __future__ import annotations

import streamlit as st

from app.indexing import require_index
from app.state import go_to, pick_run
from app.workspace import index_version, labels_of, open_index, run_name
from interp.browse.tree import ConceptTree, TreeNode, branch_rows
from interp.errors import InputError
from interp.figures import contexts_html, show_blanks
from interp.runs.record import Run

N_SHOWN = 12
"""Contexts on view: a screen of them."""


def show() -> None:
    """Lay out the page."""
    pick, _ = st.columns([2.3, 5])
    with pick:
        run = pick_run()
    st.query_params.from_dict({"run": run_name(run)})
    require_index(run)
    try:
        tree, nodes = _tree_of(str(run.path.resolve()), index_version(run), _run=run)
    except InputError as error:
        st.info(str(error))
        return
    ranks = " > ".join(str(rank) for rank in reversed(tree.hierarchy.ranks))
    st.caption(f"{ranks} features. Each is shown below its heaviest parent and named by the tokens it fires on.")
    st.caption("  \n".join(tree.what_levels_leave))
    left, right = st.columns([3, 4], gap="large")
    with left:
        chosen = st.dataframe(
            branch_rows(nodes),
            key=f"tree_{run_name(run)}",
            hide_index=True,
            height=640,
            column_config=_COLUMNS,
            placeholder="-",
            on_select="rerun",
            selection_mode="single-row",
        )
    with right:
        picked = chosen.selection.rows
        _contexts(run, tree, nodes[picked[0] if picked else 0])


_COLUMNS = {
    "branch": st.column_config.TextColumn(width="large", help="LEVEL.FEATURE and the commonest tokens it fires on"),
    "features": st.column_config.NumberColumn(width="small", help="Features of level 0 below it"),
    "share": st.column_config.NumberColumn(
        format="%.0f %%", width="small", help="Its weight from this parent, as a share of its weights from all parents"
    ),
}


def _contexts(run: Run, tree: ConceptTree, node: TreeNode) -> None:
    """What the feature fires on, and the way to its card."""
    st.markdown(f"###### Feature {node.feature} of level {node.level}")
    label = labels_of(run).get(node.feature) if node.level == 0 else None
    if label:
        st.text(label.marked)  # plain text, never markdown: a label is a stranger's
    st.text(" · ".join(f"{show_blanks(token)} {count}" for token, count in node.tokens))
    st.html(contexts_html(tree.contexts(node.level, node.feature, n=N_SHOWN, context=12)))
    if node.level == 0 and st.button("Open its card"):
        go_to("features", run=run_name(run), f=str(node.feature))


@st.cache_resource(show_spinner="Reading the hierarchy", max_entries=4)
def _tree_of(path: str, version: str, _run: Run) -> tuple[ConceptTree, list[TreeNode]]:
    """The tree of a run, kept until its index is made anew."""
    tree = ConceptTree(_run, open_index(_run))
    return tree, tree.nodes()
