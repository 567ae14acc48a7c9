"""What is handed on: a feature's card as HTML and JSON, its vector, Python that shows the same, labels out and in."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from dashboard_workspace import DashboardWorkspace, add_other_kinds, evidence_by_hand, make_workspace
from safetensors.torch import load
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from app import workspace
from app.routes import OwnPagesOnly, routes
from interp.browse import snippets
from interp.browse.evidence import RunEvidence
from interp.browse.feature_list import list_json
from interp.browse.features import TableFilter, select_features
from interp.browse.shared_card import SharedCard, card_html, card_json, shared_card
from interp.errors import InputError
from interp.index.reader import FeatureIndex
from interp.interop.feature_vector import feature_vector
from interp.runs.feature_labels import FeatureLabel, FeatureLabels
from interp.runs.label_file import labels_json, take_labels
from interp.runs.record import Run

HARM = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x07\u202eright\u200fto\ud800left"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DashboardWorkspace:
    made = make_workspace(tmp_path_factory.mktemp("sharing"), n_tokens=4200)
    add_other_kinds(made)
    return made


@pytest.fixture(scope="module")
def card(made: DashboardWorkspace) -> SharedCard:
    with FeatureIndex(made.run.index_path) as index:
        return shared_card(index, made.run, RunEvidence(evidence_by_hand(made.run).features), 5)


@pytest.fixture
def own_run(made: DashboardWorkspace, tmp_path: Path) -> Run:
    """A run without labels that the test may label."""
    return Run.load(shutil.copytree(made.folder / "tiny", tmp_path / "tiny") / "runs/sae")


@pytest.fixture
def client(made: DashboardWorkspace, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setenv(workspace.WORKSPACE_VARIABLE, str(made.folder))
    app = Starlette(routes=routes(), middleware=[Middleware(OwnPagesOnly)])
    return TestClient(app, base_url="http://127.0.0.1:8501")


def harmful(card: SharedCard) -> SharedCard:
    """The card with harm in every text of a stranger."""
    found: dict[str, Any] = {
        **card,
        "label": HARM,
        "note": HARM,
        "label_is_automatic": False,
        "run": HARM,
        "model": HARM,
    }
    feature: dict[str, Any] = {**card["feature"], "promoted": [(HARM, 1.0)]}
    feature["evidence"] = {**feature["evidence"], "fires_on": [[HARM, {"token": HARM}]], "does": [[HARM]]}
    example = {
        **card["examples"]["top"][0],
        "document": HARM,
        "tokens": [HARM, HARM],
        "activations": [0.0, 1.0],
        "centre": 1,
    }
    example["group"] = HARM
    return found | {"feature": feature, "examples": {"top": [example]}}  # type: ignore[return-value]


def test_a_card_says_what_the_index_and_the_evidence_say(card: SharedCard) -> None:
    page = card_html(card)
    assert "<h1>Feature 5</h1>" in page
    assert "It fires on &lt;b&gt;number: 70% of the tokens" in page
    assert f"importance rank {card['feature']['importance_rank']}" in page
    assert page.count("<div class=example ") == sum(map(len, card["examples"].values()))
    assert json.loads(card_json(card)) == json.loads(json.dumps(card))
    assert json.loads(card_json(card))["schema"] == "interp-feature-card"


def test_whatever_a_text_holds_it_stays_text_in_a_card(card: SharedCard) -> None:
    page = card_html(harmful(card))
    page.encode()  # a half of a surrogate pair could not be
    for sign in ("<script", "<img", "\x07", "\u202e", "\u200f", "\ud800"):
        assert sign not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&quot;&#x27;&amp;\\u{7}\\u{202e}right\\u{200f}to\\u{d800}left" in page
    assert "default-src 'none'" in page
    assert not any(word in page for word in ('src="', "href", "url(", "@import"))
    assert card_json(harmful(card)).isascii()
    assert json.loads(card_json(harmful(card)))["note"] == HARM


def test_a_vector_is_the_row_of_the_decomposer(made: DashboardWorkspace) -> None:
    tensors = load(feature_vector(made.run, 7))
    assert torch.equal(tensors["write"], made.run.decomposer().write_directions()[7])
    assert float(tensors["read"].norm()) == pytest.approx(1, abs=1e-5)
    forms = Run.load(made.folder / "tiny/runs/forms")
    tensors = load(feature_vector(forms, 3))
    assert torch.equal(tensors["eigenvectors"], forms.decomposer().form(3).eigenvectors)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="no feature 48; this run has 0-47"):
        feature_vector(made.run, 48)


def test_routes_send_files_to_keep(client: TestClient, made: DashboardWorkspace) -> None:
    base = f"/api/runs/{made.name}/features"
    for path, kind in (("card.html", "text/html"), ("card.json", "application/json"), ("vector.safetensors", "octet")):
        answer = client.get(f"{base}/5/{path}")
        assert answer.status_code == 200
        assert kind in answer.headers["content-type"]
        assert answer.headers["content-disposition"].startswith('attachment; filename="sae-feature-5.')
        assert client.get(f"{base}/99/{path}").json()["error"].startswith("no feature 99")
    assert load(client.get(f"{base}/5/vector.safetensors").content)["write"].shape == (128,)
    assert client.get(f"/api/runs/{made.name}/labels").json()["schema"] == "interp-labels"
    assert "no kind of examples 'blob'" in client.get(f"{base}/5/snippet?which=blob").json()["error"]


def run_snippet(text: str) -> str:
    """What a snippet prints, run as a notebook would."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, "snippet", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def test_the_snippet_of_a_card_prints_what_the_card_shows(client: TestClient, made: DashboardWorkspace) -> None:
    base = f"/api/runs/{made.name}/features/5"
    about = client.get(base).json()
    for query in ("which=near-threshold&context=8", "which=top&context=whole"):
        printed = run_snippet(client.get(f"{base}/snippet?{query}").json()["text"])
        assert f"feature 5 of sae, density {about['density']:.3%}, max {about['max']:.3g}" in printed
        assert str(about["promoted"][0][0]) in printed
    for text in ("def f(x):\n\t'\"\\ {x}", HARM):
        run_snippet(client.get(f"{base}/snippet", params={"text": text.replace("\ud800", "")}).json()["text"])


def test_the_snippets_of_other_pages_run(made: DashboardWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    import plotly.graph_objects as go

    shown: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: shown.append(figure))
    printed = run_snippet(snippets.prompt_snippet(made.run.path, "def read(path): '{'", [2, 1], "sum"))
    assert printed.splitlines()[0].startswith("2 ")
    assert " on " in printed
    runs = made.folder / "tiny/runs"
    assert "1.0" in run_snippet(snippets.tree_snippet(runs / "levels", 1, 0))
    run_snippet(snippets.manifold_snippet(runs / "forms", "circle", 2, "value"))
    assert len(shown) == 3


def test_labels_go_out_and_come_back_in(own_run: Run, made: DashboardWorkspace) -> None:
    labels = FeatureLabels(own_run.labels_path)
    labels.set(3, label=HARM.replace("\ud800", ""), note="a\nnote", bookmarked=True)
    labels.set(9, bookmarked=True)
    file = labels_json(own_run).encode()
    before = labels.all()
    own_run.labels_path.unlink()
    assert take_labels(own_run, file, "labels.json") == 0
    assert labels.all() == before
    labels.set(3, label="mine", note="")
    labels.set(4, label="other")
    assert take_labels(own_run, file, "labels.json") == 1
    assert labels.get(3) == FeatureLabel("mine", "a\nnote", True)
    assert labels.get(4).label == "other"
    assert take_labels(own_run, file, "labels.json", replace=True) == 1
    assert labels.get(3) == before[3]
    assert labels.get(4).label == "other"


def test_a_list_has_what_the_filters_leave_in_their_order(made: DashboardWorkspace) -> None:
    evidence = RunEvidence(evidence_by_hand(made.run).features)
    wanted = TableFilter(
        order="excess", concept="keyword", labels={2: HARM}, bookmarks=frozenset({6}), evidence=evidence
    )
    with FeatureIndex(made.run.index_path) as index:
        order = select_features(index, wanted)
        text = list_json(made.run, index, wanted, order)
    assert text.isascii()
    found = json.loads(text)
    assert [one["feature"] for one in found["features"]] == order
    assert found["filters"] == ["detects keyword"]
    first = found["features"][0]
    assert (first["feature"], first["label"], first["label_is_automatic"]) == (2, HARM, False)
    assert (first["concept"], first["excess"], first["grade"]) == ("keyword", 0.48, "contradicted")
    assert [one["feature"] for one in found["features"] if one["bookmarked"]] == [6]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: b"\xff\xfe", "'mine.json' is not text"),
        (lambda file: b"[" * 100_000, "is not valid JSON"),
        (lambda file: json.dumps(file)[:-2].encode(), "is not valid JSON"),
        (lambda file: json.dumps({**file, "version": 9}).encode(), "interp-labels version 9, this program reads"),
        (lambda file: json.dumps({**file, "run_identity": "0"}).encode(), "labels of the run 'sae' with other weights"),
        (lambda file: _with(file, {"feature": 48}), "names feature 48; 'sae' has 0-47"),
        (lambda file: _with(file, {"feature": -1}), "names feature -1"),
        (lambda file: _with(file, {"feature": 3}), "names feature 3 2 times"),
        (lambda file: _with(file, {"feature": 4, "label": 5}), r"expected str, got int .*label"),
        (lambda file: _with(file, {"feature": 4, "colour": "red"}), "colour"),
        (
            lambda file: _with(file, {"feature": 4, "note": "x" * 10_001}),
            "a note of 10001 characters for feature 4; 10000 fit",
        ),
        (lambda file: _with(file, {"feature": 4, "label": "\ud800"}), "is not valid JSON"),
    ],
)
def test_a_bad_file_of_labels_is_refused_and_nothing_is_lost(own_run: Run, change: Any, message: str) -> None:
    labels = FeatureLabels(own_run.labels_path)
    labels.set(3, label="mine")
    file = json.loads(labels_json(own_run))
    with pytest.raises(InputError, match=message):
        take_labels(own_run, change(file), "mine.json")
    assert labels.all() == {3: FeatureLabel("mine")}


def _with(file: dict[str, Any], one: dict[str, Any]) -> bytes:
    return json.dumps({**file, "features": [*file["features"], one]}).encode()
