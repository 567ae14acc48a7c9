"""The dashboard without a browser: what its routes answer, what its pages say, and that nothing is let in or out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard_workspace import SITE, DashboardWorkspace, evidence_by_hand, make_workspace
from made_metrics import concepts, made_metrics
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient
from streamlit.testing.v1 import AppTest

from app import workspace
from app.routes import OwnPagesOnly, is_local_host, routes
from app.server import serve, settings
from interp.browse.evidence import RunEvidence
from interp.browse.features import TableFilter, example_payload, select_features, table_payload
from interp.decomposers.semi_nmf.decomposer import SemiNMFConfig
from interp.errors import InputError
from interp.evaluation.results import METRICS_FILE
from interp.index.build import IndexConfig, build_index
from interp.index.reader import FeatureIndex
from interp.records import write_record
from interp.runs.training import train_run
from interp.store.reader import ActivationStore

APP = Path(workspace.__file__).parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DashboardWorkspace:
    return make_workspace(tmp_path_factory.mktemp("dashboard"))


@pytest.fixture(scope="module")
def index(made: DashboardWorkspace) -> Iterator[FeatureIndex]:
    with FeatureIndex(made.run.index_path) as opened:
        yield opened


@pytest.fixture
def served(made: DashboardWorkspace, monkeypatch: pytest.MonkeyPatch) -> DashboardWorkspace:
    monkeypatch.setenv(workspace.WORKSPACE_VARIABLE, str(made.folder))
    return made


@pytest.fixture
def client(served: DashboardWorkspace) -> TestClient:
    app = Starlette(routes=routes(), middleware=[Middleware(OwnPagesOnly)])
    return TestClient(app, base_url="http://127.0.0.1:8501")


# The routes


def test_routes_answer_what_the_index_holds(client: TestClient, index: FeatureIndex, made: DashboardWorkspace) -> None:
    base = f"/api/runs/{made.name}/features"
    assert client.get(base).json() == table_payload(index, RunEvidence())
    feature = select_features(index, TableFilter(order="importance"))[0]
    about = client.get(f"{base}/{feature}").json()
    assert about["importance_rank"] == 1
    evidence, _, family = (about.pop(name) for name in ("evidence", "positive_side_only", "family"))
    assert family is None
    assert about == json.loads(json.dumps(index.feature(feature)))
    assert re.fullmatch(r"What its features .* measure it with:  interp evaluate .*tiny/runs/sae", evidence["missing"])
    for which in ("top", "intervals", "near-threshold", "random", "not-firing"):
        examples = client.get(f"{base}/{feature}/examples", params={"which": which, "context": "8"}).json()
        assert examples == example_payload(index, str(feature), which, "8") != []
        assert all(len(one["tokens"]) == len(one["activations"]) <= 17 for one in examples)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("tiny/sae/features/99999", "no feature 99999; this run has 0-47"),
        ("tiny/sae/features/-1/examples", "no feature -1; this run has 0-47"),
        ("tiny/sae/features/0/examples?which=best", "no kind of examples 'best' in a feature card"),
        ("tiny/sae/features/0/examples?context=9", "no context '9' in a feature card"),
        ("tiny/sea/features/0", "did you mean 'tiny/sae' or"),
        ("tiny/pca/features/0", "tiny/pca has no index; make it with:  interp index"),
        ("..%2F..%2Factivations%2Ftiny/sae/features/0", "no run '"),
        ("tiny/..%2Fruns%2Fsae/features/0", "no run '"),
        ("%2e%2e/sae/features/0", "no run '../sae'"),
    ],
)
def test_errors_are_json_with_the_sentence_a_person_reads(client: TestClient, path: str, message: str) -> None:
    answer = client.get("/api/runs/" + path)
    assert answer.status_code == 404
    if answer.headers["content-type"].startswith("application/json"):
        assert message in answer.json()["error"]
    else:
        assert "%2F" in path
        assert answer.text == "Not Found", "a path that climbs matches no route at all"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:8501", "localhost.evil.example", "", "[::1].x"]
)
def test_a_request_for_another_host_is_refused(client: TestClient, made: DashboardWorkspace, host: str) -> None:
    answer = client.get(f"/api/runs/{made.name}/features/0", headers={"host": host})
    assert answer.status_code == 403
    assert "answers only requests to 127.0.0.1 or localhost" in answer.json()["error"]


def test_this_machines_names_are_let_in() -> None:
    assert all(map(is_local_host, ("127.0.0.1", "127.0.0.1:8501", "localhost:80", "LOCALHOST", "[::1]:8501", "[::1]")))
    assert not is_local_host("localhost:80@evil.example")


def test_a_rebuilt_index_is_read_anew(tmp_path: Path, served: DashboardWorkspace) -> None:
    first = workspace.open_index(served.run)
    assert workspace.open_index(served.run) is first
    rewritten = shutil.copy(served.run.index_path, tmp_path / "index.h5")
    Path(rewritten).replace(served.run.index_path)
    assert workspace.open_index(served.run) is not first


def test_routes_answer_with_the_evidence_and_read_it_anew(copied: DashboardWorkspace) -> None:
    client = TestClient(Starlette(routes=routes()), base_url="http://127.0.0.1:8501")
    base, path = f"/api/runs/{copied.name}/features", copied.run.path / "evidence.json"
    assert client.get(base).json()["evidence"] is None
    write_record(path, evidence_by_hand(copied.run))
    assert client.get(base).json()["evidence"]["labels"] == ["<b>number", "comment", "keyword"]
    card = client.get(f"{base}/0").json()["evidence"]
    assert card["grade"] == "detects and acts"
    assert {"text": "feature 0 of pca", "run": "tiny/pca", "feature": 0} in card["fires_on"][-1]
    path.write_text("damaged")
    assert client.get(base).json()["evidence"] is None
    assert "is damaged: it is not valid JSON" in client.get(f"{base}/0").json()["evidence"]["missing"]
    write_record(path, evidence_by_hand(copied.run))
    assert client.get(f"{base}/0").json()["evidence"]["missing"] == ""
    with (copied.run.path / "decomposer.safetensors").open("ab") as weights:
        weights.write(b"others")
    assert "is of other weights than it has now" in client.get(f"{base}/0").json()["evidence"]["missing"]


# The pages


def _page(name: str) -> AppTest:
    return AppTest.from_string(f"from app.views import {name}\n{name}.show()", default_timeout=60)


def test_without_runs_every_page_shows_the_command_that_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(workspace.WORKSPACE_VARIABLE, str(tmp_path))
    for name in ("features", "tree", "runs", "compare"):
        page = _page(name).run()
        assert not page.exception
        assert page.code[0].value.startswith("interp demo\n")
        assert "interp train sae --store" in page.code[0].value


def test_the_features_page_counts_and_keeps_its_view_in_the_address(served: DashboardWorkspace) -> None:
    page = _page("features")
    page.query_params.update({"run": served.name, "f": "5", "sort": "max", "q": "tok: def"})
    page.run()
    assert not page.exception
    assert page.text_input[0].value == "tok: def"
    assert re.fullmatch(r"\d+ of 48 features · \d+ dead · 3,000 tokens · L0 4\.0", page.caption[0].value)
    assert {name: page.query_params[name] for name in ("run", "f", "sort", "q")} == {
        "run": served.name,
        "f": "5",
        "sort": "max",
        "q": "tok: def",
    }


def test_nonsense_in_the_address_falls_back_to_the_defaults(served: DashboardWorkspace) -> None:
    page = _page("features")
    page.query_params.update({"run": served.name, "sort": "beauty", "show": "ugly", "density": "5"})
    page.run()
    assert not page.exception
    assert "sort" not in page.query_params
    assert "density" not in page.query_params


@pytest.mark.parametrize("name", ["features", "tree", "prompt", "steer", "manifolds", "runs", "compare"])
def test_a_run_that_is_gone_is_said_to_be_and_no_other_takes_its_place(copied: DashboardWorkspace, name: str) -> None:
    page = _page(name)
    page.query_params["run"] = "![](http://stranger.example)"
    page.run()
    assert not page.exception
    assert page.error[0].value.startswith(r"There is no run \'\!\[\]\(http\:\/\/stranger\.example\)\' in ")

    page.query_params["run"] = copied.name
    page.run()
    shutil.move(copied.run.path, copied.folder / "moved")
    page.run()
    assert not page.exception
    assert "it was deleted or renamed while it was open here" in page.error[0].value
    assert page.selectbox[0].value is None
    assert (len(page.error), len(page.selectbox), len(page.dataframe)) == (1, 1, 0), "nothing of another run is shown"
    page.run()
    assert page.error, "it is said until another run is chosen"
    page.selectbox[0].select("tiny/pca").run()
    assert not page.exception
    assert not [error for error in page.error if "no run" in error.value]
    assert page.query_params["run"] == ["tiny/pca"] or page.query_params["run"] == "tiny/pca"


def test_each_run_is_steered_with_features_and_strengths_of_its_own(copied: DashboardWorkspace) -> None:
    other = shutil.copytree(copied.run.path, copied.run.path.with_name("other"))
    page = _page("steer")
    page.query_params.update({"run": copied.name, "steered": "5,40,²"})
    page.run()
    page.slider[0].set_value(4.0).run()
    assert _strengths(page) == {"Feature 5": 4.0, "Feature 40": 2.0}

    page.selectbox[0].select("tiny/other").run()
    assert not page.exception
    assert _strengths(page) == {}
    assert next(button for button in page.button if button.label == "Generate").disabled
    next(box for box in page.number_input if box.label == "Feature").set_value(5)
    next(button for button in page.button if button.label == "Add").click().run()
    assert _strengths(page) == {"Feature 5": 2.0}
    page.selectbox[0].select(copied.name).run()
    assert _strengths(page) == {"Feature 5": 4.0, "Feature 40": 2.0}
    assert page.query_params["steered"] in ("5:4,40:2", ["5:4,40:2"])
    next(button for button in page.button if button.label == "✕").click().run()
    assert _strengths(page) == {"Feature 40": 2.0}
    page.query_params.clear()
    page.query_params.update({"run": copied.name, "f": "7"})
    page.run()
    assert _strengths(page) == {"Feature 40": 2.0, "Feature 7": 2.0}, "a card's feature joins those on the page"
    assert other.is_dir()


def _strengths(page: AppTest) -> dict[str, float]:
    """The features on the Steer page by name, each with its slider."""
    assert not page.exception
    return dict(zip((text.value for text in page.text), (slider.value for slider in page.slider), strict=True))


def test_the_features_page_sorts_and_filters_by_evidence_kept_in_the_address(copied: DashboardWorkspace) -> None:
    write_record(copied.run.path / "evidence.json", evidence_by_hand(copied.run))
    page = _page("features")
    view = {"sort": "excess", "grade": "detects,none", "concept": "<b>number", "excess": "0.3..1", "stability": "7..9"}
    page.query_params.update({"run": copied.name, **view})
    page.run()
    assert not page.exception
    assert page.caption[0].value.startswith("5 of 48 features")
    assert {name: page.query_params.get(name) for name in view} == view | {"stability": None}
    assert next(box for box in page.selectbox if box.label == "Detects").options[0] == "any concept"
    assert page.slider[0].value == (0.3, 1.0)

    page.query_params["concept"] = "of another run"
    page.run()
    assert not page.exception
    assert page.caption[0].value.startswith("10 of 48 features"), "a concept that no feature detects is forgotten"

    (copied.run.path / "evidence.json").write_text("damaged")
    page.run()
    assert not page.exception
    assert page.caption[0].value.startswith("48 features")
    assert "sort" not in page.query_params


def test_automatic_labels_are_marked_on_other_pages_and_never_written(copied: DashboardWorkspace) -> None:
    write_record(copied.run.path / "evidence.json", evidence_by_hand(copied.run))
    workspace.open_labels(copied.run).set(1, label="mine")
    page = _page("steer")
    page.query_params.update({"run": copied.name, "steered": "0,1,3"})
    page.run()
    assert not page.exception
    assert [text.value for text in page.text] == ["Feature 0 · comment (auto)", "Feature 1 · mine", "Feature 3"]
    assert list(workspace.open_labels(copied.run).all()) == [1]


def test_a_typed_text_and_ablation_are_answered_by_routes(client: TestClient, made: DashboardWorkspace) -> None:
    base = f"/api/runs/{made.name}/features/5"
    found = client.post(f"{base}/text", content="def <b>x").json()
    assert "".join(found["tokens"]) == "def <b>x"
    assert len(found["activations"]) == len(found["tokens"])
    changes = client.post(f"{base}/text/ablation", content="def <b>x").json()["changes"]
    assert (len(changes), changes[-1]) == (len(found["tokens"]), None)
    assert len(client.get(f"{base}/ablation?sequence=0").json()["changes"]) == 64
    for path, message in (
        (f"{base}/ablation", "give the number of a sequence"),
        (f"{base}/ablation?sequence=9999", "no sequence 9999"),
        (f"/api/runs/{made.name}/features/99/ablation?sequence=0", "no feature 99; this run has 0-47"),
    ):
        answer = client.get(path)
        assert answer.status_code == 404
        assert message in answer.json()["error"]
    assert "the text is empty" in client.post(f"{base}/text", content="").json()["error"]
    assert "reads at most 64: shorten it" in client.post(f"{base}/text", content="x = 1\n" * 99).json()["error"]
    assert client.post(f"{base}/text", content=b"\xff\xfe").status_code == 200, "bytes that are no text are replaced"
    elsewhere = client.post(f"{base}/text", content="x", headers={"origin": "http://127.0.0.1:3000"})
    assert elsewhere.status_code == 403


def test_the_best_run_is_opened_and_the_picker_says_by_what_measure(copied: DashboardWorkspace) -> None:
    build_index(copied.bare, config=IndexConfig(n_top=5, n_sample=64))
    page = _page("features").run()
    assert page.selectbox[0].options[0].startswith("tiny/pca"), "without evaluation: the alphabet"
    assert "greatest excess of concepts found" in page.selectbox[0].help
    write_record(copied.run.path / METRICS_FILE, made_metrics("sae", concepts=concepts()))
    page = _page("features").run()
    assert not page.exception
    assert [option.split(" ")[0] for option in page.selectbox[0].options] == ["tiny/sae", "tiny/pca"]
    assert page.selectbox[0].value == "tiny/sae"


def test_a_run_without_index_offers_command_and_button(served: DashboardWorkspace) -> None:
    page = _page("features")
    page.query_params["run"] = "tiny/pca"
    page.run()
    assert not page.exception
    assert re.fullmatch(r"interp index .*tiny/runs/pca", page.code[0].value)
    assert page.button[0].label == "Build the index"


def test_a_stale_index_is_called_stale(
    made: DashboardWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(made.folder, tmp_path / "activations")
    manifest = json.loads((copy / "tiny/store.json").read_text())
    manifest["shards"][0]["sha256"] = "0" * 64
    (copy / "tiny/store.json").write_text(json.dumps(manifest))
    monkeypatch.setenv(workspace.WORKSPACE_VARIABLE, str(copy))
    page = _page("features").run()
    assert not page.exception
    assert "This index is stale" in page.error[0].value
    assert "interp index" in page.error[0].value


def test_the_tree_page_shows_every_level_and_what_a_branch_fires_on(
    made: DashboardWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(made.folder, tmp_path / "activations")
    run = train_run(ActivationStore(copy / "tiny"), SITE, SemiNMFConfig(n_features=9, passes=12, levels=(3,)), "levels")
    build_index(run, config=IndexConfig(n_top=20, n_sample=512))
    monkeypatch.setenv(workspace.WORKSPACE_VARIABLE, str(copy))
    page = _page("tree")
    page.query_params["run"] = "tiny/levels"
    page.run()
    assert not page.exception
    first = page.query_params["node"]
    assert first.startswith("1."), "the address names the branch on view"
    assert page.markdown[0].value == f"###### Feature {first[2:]} of level 1"
    page.query_params["node"] = "0.4"
    page.run()
    assert page.markdown[0].value == "###### Feature 4 of level 0"
    page.query_params["node"] = "7.<b>"
    page.run()
    assert "This tree has no feature 7" in page.error[0].value
    assert page.html[0].proto.body.count("<div class=example ") > 0
    left = f"Level 1 leaves {run.decomposer().notes['level1_unexplained']:.0%} of the 9 features below unexplained"
    assert any(left in caption.value for caption in page.caption)
    page.query_params["run"] = "tiny/sae"
    page.run()
    assert "'sae' has no hierarchy; train semi-nmf with --levels" in page.info[0].value


def test_without_the_model_prompt_and_steer_say_why_and_features_works(
    made: DashboardWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(made.folder, tmp_path / "activations")
    record = copy / "tiny/runs/sae/run.json"
    facts = json.loads(record.read_text()) | {"model_id": "/nowhere/model"}
    record.write_text(json.dumps(facts))
    monkeypatch.setenv(workspace.WORKSPACE_VARIABLE, str(copy))
    page = _page("prompt").run()
    assert not page.exception
    assert "there is no model folder '/nowhere/model'" in page.warning[0].value
    assert not _page("features").run().exception


# What the server is set to, and what the pages are made of


def test_the_server_stays_on_this_machine_and_sends_no_statistics() -> None:
    chosen = settings(8501, open_browser=False)
    assert chosen["server.address"] == "127.0.0.1"
    assert chosen["browser.gatherUsageStats"] is False
    assert chosen["server.headless"] is True
    assert chosen["logger.hideWelcomeMessage"] is True, "or Streamlit's own recommendations lie over the page"


def test_wrong_workspace_and_taken_port_are_plain_sentences(tmp_path: Path) -> None:
    import socket

    with pytest.raises(InputError, match="is not a folder; give the folder of stores"):
        serve(tmp_path / "absent")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=r"cannot be used \(Address already in use\); choose another with --port"):
            serve(tmp_path, port=taken.getsockname()[1])


def test_one_page_leads_to_another_by_its_name(served: DashboardWorkspace) -> None:
    """The entry script, whose home page leads on to Features with the address as it is."""
    app = AppTest.from_file(str(APP / "main.py"), default_timeout=60)
    app.query_params.update({"run": served.name, "f": "5"})
    app.run()
    assert not app.exception
    assert app.text_input[0].label == "Search"
    assert app.query_params["f"] == "5"


def test_browsing_never_imports_torch() -> None:
    views = ", ".join(f"app.views.{name}" for name in ("features", "runs", "compare"))
    program = f"import sys, app.server, app.navigation, {views}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=APP.parent, check=True)
    assert result.stdout.strip() == "False"


def test_scripts_never_parse_text_as_html() -> None:
    for script in APP.glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", script.read_text()), script


def test_dead_features_and_l0_are_the_same_on_every_page(copied: DashboardWorkspace) -> None:
    metrics = made_metrics("sae")  # measured on another text
    write_record(copied.run.path / METRICS_FILE, metrics)
    index = workspace.open_index(copied.run)
    features, runs = _page("features"), _page("runs")
    for page in (features, runs):
        page.query_params.update({"run": copied.name, "below": "this run"})
        page.run()
        assert not page.exception
    dead, l0 = re.search(r"· ([\d,]+) dead · .* · L0 ([\d.]+)", features.caption[0].value).groups()
    details = next(table.value for table in runs.dataframe if "FVU" in list(table.value.get("name", [])))
    shown = dict(zip(details["name"], details["value"], strict=True))
    assert (shown["dead"], shown["L0"]) == (dead, l0) == (str(int(index.summary["dead"].sum())), f"{index.l0:.1f}")
    assert metrics.reconstruction.l0 != index.l0, "else this shows nothing"


def test_a_signed_run_says_which_side_it_shows(copied: DashboardWorkspace) -> None:
    build_index(copied.bare, config=IndexConfig(n_top=5, n_sample=64))
    page = _page("features")
    page.query_params["run"] = "tiny/pca"
    page.run()
    assert not page.exception
    assert page.caption[0].value == (
        "8 features · 3,000 tokens · codes have both signs: density and max are of the positive side"
    )
    client = TestClient(Starlette(routes=routes()), base_url="http://127.0.0.1:8501")
    assert client.get("/api/runs/tiny/pca/features/0").json()["positive_side_only"] is True
    assert client.get(f"/api/runs/{copied.name}/features/0").json()["positive_side_only"] is False
