"""Compare: one text in two or three runs side by side, token by token, and what one finds that the others do not."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import streamlit as st

from app.indexing import index_is_stale
from app.panels import compared_runs
from app.state import describe, go_to, pick_run, restore, view, write_address
from app.workspace import (
    index_command,
    index_version,
    labels_of,
    list_runs,
    list_stores,
    open_index,
    run_name,
    workspace,
)
from interp.browse.code_matches import CodeMatches, match_codes
from interp.browse.comparison import RunOnText, TextCodes, compared, indexed_text, partner, run_on_text
from interp.browse.features import escaped, plain_number
from interp.errors import InputError
from interp.runs.record import Run

PAGE = "compare"
STORED, TYPED = "stored", "typed"
BESIDE = {"with": "beside", "third": "and"}
"""Names of the second and third run in the address, and the words above their boxes."""
OTHER_STORES = (
    "The index of a run has its codes on the store it was trained on. On the text of another store, such as held-out text, "
    "they are computed from the activations stored there: this loads PyTorch, but no language model."
)
EXAMPLE = "def load(path):\n    with open(path) as file:\n        return json.load(file)\n"
_NONE = "-"
"""What the address says where a person wants no other run; nothing there means the one that is chosen by itself."""


def show() -> None:
    """Lay out the page."""
    is_news = restore(
        PAGE,
        {
            **dict.fromkeys(BESIDE, lambda text: text or ""),
            "source": lambda text: text if text in (STORED, TYPED) else STORED,
            "words": lambda text: text or EXAMPLE,
            "store": lambda text: text,
            "doc": lambda text: plain_number(text or "0"),
            "part": lambda text: plain_number(text or "1") or 1,
            "token": lambda text: plain_number(text or "0") or 0,
        },
    )
    if is_news:
        st.session_state["gone"] = {}
    runs = _pick_runs()
    address = {"run": run_name(runs[0]), **_beside_address()}
    source = _pick_source(runs[0])
    shown = _typed(runs, address) if source == TYPED else _stored(runs, address)
    # Before the columns are drawn: a click there may leave the page, and Back must lead to this view.
    address["token"] = str(st.session_state[view("token")] or "")
    kept = ("with", "third", "source", "words", "store", "doc", "part", "token")
    write_address(PAGE, address, {name: st.session_state.get(view(name)) for name in kept})
    if shown:
        _mount(shown, {run_name(run): run for run in runs})


def _pick_runs() -> list[Run]:
    """The first run as on every page, and those beside it."""
    with st.container(key="filters"):
        columns = st.columns([1, 1, 1], gap="medium")
    with columns[0]:
        first = pick_run()
    runs = list_runs()
    chosen = [run_name(first)]
    for column, (name, word) in zip(columns[1:], BESIDE.items(), strict=True):
        with column:
            other = _pick_beside(name, word, chosen, runs)
        if other is not None:
            chosen.append(other)
    for name, gone in st.session_state.get("gone", {}).items():
        st.error(
            escaped(
                f"There is no run '{gone}' in {workspace()}: it was deleted or renamed, or never made. Choose another run "
            )
            + f"under **{BESIDE[name]}**, or none."
        )
    if len(chosen) == 1:
        st.info("Choose a second run to see beside this one.")
    return [runs[name] for name in chosen]


def _pick_beside(name: str, word: str, chosen: list[str], runs: dict[str, Run]) -> str | None:
    """The box of a further run. A run that is gone is named until another is chosen; no other takes its place."""
    key, gone = view(name), st.session_state.setdefault("gone", {})
    wanted = st.session_state.get(key)
    others = [each for each in runs if each not in chosen]
    if wanted == _NONE:
        wanted = None
    elif wanted == "" or wanted in chosen:
        wanted = partner(chosen[0], runs) if name == "with" and name not in gone else None
    elif wanted is not None and wanted not in others:
        gone[name] = wanted
        wanted = None
    st.session_state[key] = wanted
    return st.selectbox(
        word.capitalize(),
        others,
        index=None,
        key=key,
        placeholder="No further run",
        format_func=lambda each: describe(runs[each]),
        on_change=lambda: gone.pop(name, None),
    )


def _beside_address() -> dict[str, str]:
    """The further runs as the address names them; one that is gone stays in it, so that a copied link says so too."""
    gone = st.session_state["gone"]
    named = {name: gone.get(name) or st.session_state[view(name)] or "" for name in BESIDE}
    return named | {"with": named["with"] or _NONE}


def _pick_source(run: Run) -> str:
    with st.container(key="text"):
        columns = st.columns([1.1, 1.2, 2.6, 1], gap="medium")
    with columns[0]:
        st.segmented_control("Text", (STORED, TYPED), key=view("source"), required=True)
    source = str(st.session_state[view("source")])
    if source == STORED:
        _pick_passage(run, columns[1:])
    return source


def _pick_passage(run: Run, columns: list[Any]) -> None:
    """Store, document and passage; what there is no longer becomes the first."""
    stores = list_stores(run)
    if st.session_state[view("store")] not in stores:
        st.session_state[view("store")] = next(iter(stores), None)
    columns[0].selectbox("Store", stores, key=view("store"), on_change=_from_the_start, help=OTHER_STORES)
    if not stores:
        return
    names, n_passages = _documents(run, str(st.session_state[view("store")]))
    if st.session_state[view("doc")] not in range(len(names)):
        st.session_state[view("doc")] = 0
    columns[1].selectbox(
        "Document",
        range(len(names)),
        key=view("doc"),
        format_func=lambda i: names[i],
        on_change=_from_the_first_passage,
    )
    n = n_passages(st.session_state[view("doc")])
    if st.session_state[view("part")] not in range(1, n + 1):
        st.session_state[view("part")] = 1
    columns[2].number_input(
        f"Passage of {n}",
        1,
        n or 1,
        key=view("part"),
        on_change=_from_the_first_token,
        help="The tokens of the document that the model saw together.",
    )


def _documents(run: Run, store: str) -> tuple[list[str], Any]:
    """Names of the store's documents, and a function from a document to its number of passages."""
    if _is_indexed(run, store):
        index = open_index(run)
        return index.documents, lambda document: len(index.passages(document))
    with st.spinner("Loading PyTorch"):
        from app import encoding
    path = workspace() / store
    return encoding.documents(path), lambda document: encoding.n_passages(path, document)


def _is_indexed(run: Run, store: str) -> bool:
    """Whether the run's index is of this store, as it is now."""
    return run.store_path.name == store and bool(index_version(run)) and not index_is_stale(run)


def _from_the_start() -> None:
    st.session_state[view("doc")] = 0
    _from_the_first_passage()


def _from_the_first_passage() -> None:
    st.session_state[view("part")] = 1
    _from_the_first_token()


def _from_the_first_token() -> None:
    st.session_state[view("token")] = 0


def _typed(runs: list[Run], address: dict[str, str]) -> list[tuple[Run, TextCodes]]:
    text = st.text_area("Text to compare", key=view("words"), height=110, on_change=_from_the_first_token)
    address |= {"source": TYPED, "words": "" if text == EXAMPLE else text}
    with st.spinner("Loading PyTorch"):
        from app import encoding
    return _each(runs, lambda run: encoding.typed(run, text))


def _stored(runs: list[Run], address: dict[str, str]) -> list[tuple[Run, TextCodes]]:
    store, document, part = (st.session_state[view(name)] for name in ("store", "doc", "part"))
    if store is None:
        st.error("The workspace has no finished store of this run's model; choose a typed text.")
        return []
    address |= {"store": store, "doc": str(document), "part": str(part)}

    def codes(run: Run) -> TextCodes:
        if _is_indexed(run, store):
            return indexed_text(open_index(run), document, part)
        with st.spinner("Loading PyTorch"):
            from app import encoding
        return encoding.stored(run, workspace() / store, document, part)

    return _each(runs, codes)


def _each(runs: list[Run], codes: Any) -> list[tuple[Run, TextCodes]]:
    """The runs that have codes on the text; of the others it is said why they have none."""
    found = []
    for run in runs:
        try:
            found.append((run, codes(run)))
        except InputError as error:
            st.error(escaped(f"{run_name(run)}: {error}"))
    return found


def _mount(shown: list[tuple[Run, TextCodes]], runs: dict[str, Run]) -> None:
    columns: list[RunOnText] = []
    for run, text in shown:
        index = open_index(run) if index_version(run) else None
        columns.append(run_on_text(run_name(run), run, text, labels_of(run), index))
    matches, unmatched = _matches([run for run, _ in shown])
    st.caption(
        "Point at a token to see it in all runs, click it to keep it; the arrow keys step through the text. Point at a feature "
        "to see where it fires, and where its counterparts do; its number opens its card."
    )
    payload = compared(columns, matches, st.session_state[view("token")], unmatched)
    result = compared_runs()(
        key="compared",
        data={**payload, "card_path": "/features"},
        on_token_change=_choose_token,
        on_open_change=lambda: None,
    )
    if result.open is not None and str(result.open[0]) in runs:
        go_to("features", run=str(result.open[0]), f=str(int(result.open[1])))


def _choose_token() -> None:
    st.session_state[view("token")] = int(st.session_state["compared"].token or 0)


def _matches(runs: list[Run]) -> tuple[dict[tuple[str, str], CodeMatches], list[str]]:
    """Counterparts of features by (run, other run), and why those of some runs are not known."""
    without = [run for run in runs if not index_version(run) or index_is_stale(run)]
    unmatched = [
        f"Features of {run_name(run)} are not matched, since it has no fresh index; make it with:  {index_command(run)}"
        for run in without
    ]
    matches: dict[tuple[str, str], CodeMatches] = {}
    for run, other in combinations([run for run in runs if run not in without], 2):
        names = run_name(run), run_name(other)
        try:
            with st.spinner("Matching features"):
                there, back = _matched(*names, index_version(run), index_version(other), _run=run, _other=other)
        except InputError as error:
            unmatched.append(f"{error}.")
            continue
        matches |= {names: there, names[::-1]: back}
    return matches, unmatched


@st.cache_data(show_spinner=False, max_entries=32)
def _matched(
    name: str, other_name: str, version: str, other_version: str, _run: Run, _other: Run
) -> tuple[CodeMatches, CodeMatches]:
    return match_codes(open_index(_run), open_index(_other))
