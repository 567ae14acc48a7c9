"""The Manifolds page: what it says and shows without a browser, and what a person sees in one."""

from __future__ import annotations

import gc
import re
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
from chromium import require_chromium
from dashboard_workspace import DashboardWorkspace
from streamlit.testing.v1 import AppTest
from test_browser import address, context, theme  # noqa: F401  fixtures of every page

from app import workspace
from app.index_jobs import job_of
from interp.cli.main import main
from interp.manifolds.layout import FILE
from interp.manifolds.reader import ManifoldIndex
from interp.runs.record import Run


@pytest.fixture(scope="module")
def made(bilinear_run: Run, tmp_path_factory: pytest.TempPathFactory) -> DashboardWorkspace:
    """A workspace of its own with the bilinear run and one of directions."""
    folder = tmp_path_factory.mktemp("manifold-page")
    shutil.copytree(bilinear_run.store_path, folder / "tiny")
    options = ["--store", str(folder / "tiny"), "--site", bilinear_run.site.read, "--name", "pca", "--n-features", "4"]
    main(["train", "pca", *options])
    return DashboardWorkspace(folder, Run.load(folder / "tiny/runs/forms"), Run.load(folder / "tiny/runs/pca"))


@pytest.fixture
def served(made: DashboardWorkspace, monkeypatch: pytest.MonkeyPatch) -> DashboardWorkspace:
    monkeypatch.setenv(workspace.WORKSPACE_VARIABLE, str(made.folder))
    return made


def _page(**query: str) -> AppTest:
    page = AppTest.from_string("from app.views import manifolds\nmanifolds.show()", default_timeout=60)
    page.query_params.update(query)
    page.run()
    assert not page.exception
    return page


def _select(page: AppTest, label: str) -> Any:
    return next(box for box in page.selectbox if box.label == label)


def test_the_best_of_the_ranking_is_shown_with_the_score_explained(served: DashboardWorkspace) -> None:
    with ManifoldIndex(served.run) as index:
        first = int(index.table("circle")["id"][0])
    page = _page(run=served.name)
    assert page.subheader[0].value == f"Latent {first}"
    assert "lie on one thin ring about the centre and all around it" in page.caption[0].value
    assert _select(page, "Colour").value == "value"


def test_a_ranking_by_a_label_brings_its_colours_and_the_other_planes(served: DashboardWorkspace) -> None:
    with ManifoldIndex(served.run) as index:
        table = index.table("position")
        latent = int(table["id"][0])
    page = _page(run=served.name, rank="position", f=str(latent))
    assert _select(page, "Colour").value == "position"
    page = _page(run=served.name, rank="position", colour="token", f="5")
    assert page.subheader[0].value == "Latent 5"
    assert _select(page, "Colour").value == "token"
    _select(page, "Rank by").select("position")
    page.run()
    _select(page, "Rank by").select("circle").run()
    assert _select(page, "Colour").value == "value"
    _select(page, "Colour").select("token").run()
    assert _select(page, "Colour").value == "token"
    _select(page, "Rank by").select("position").run()
    assert _select(page, "Colour").value == "position", (
        "a ranking by a label colours by that label, whatever it was before"
    )


def test_a_latent_is_rotated_on_the_steer_page_and_its_modes_are_those_of_forms(served: DashboardWorkspace) -> None:
    page = AppTest.from_string("from app.views import steer\nsteer.show()", default_timeout=60)
    page.query_params.update({"run": served.name, "steered": "2", "prompt": "def f"})
    page.run()
    mode = next(group for group in page.button_group if group.label == "Mode")
    assert mode.options == ["add", "clamp", "scale", "ablate", "flow", "rotate"]
    mode.set_value("rotate").run()
    assert page.slider[0].label == "Turns"
    next(box for box in page.number_input if box.label == "Tokens each").set_value(4)
    next(button for button in page.button if button.label == "Generate").click().run()
    page.session_state["steer_job"].wait()
    page.run()
    assert not page.exception
    [columns] = [each.proto.body for each in page.html if re.search("rotate: feature 2 .*turn", each.proto.body, re.I)]
    kl = re.search(r"KL <b>([0-9.]+)</b>", columns)
    assert kl is not None
    assert float(kl[1]) > 0


def test_unknown_latents_and_words_of_an_address_are_met_with_the_first(served: DashboardWorkspace) -> None:
    page = _page(run=served.name, f="99", rank="blob", colour="mood")
    assert page.error[0].value == "no feature 99; this run has 0-11"
    assert _select(page, "Rank by").value == "circle"
    assert _select(page, "Colour").value == "value"


def test_a_run_of_directions_says_why_there_are_no_manifolds(served: DashboardWorkspace) -> None:
    page = _page(run="tiny/pca")
    assert "is a run of pca: its features are directions, and a direction has no manifold" in page.info[0].value
    assert page.code[0].value.startswith("interp train bilinear --store")


def test_missing_and_outdated_files_are_said_and_built(
    made: DashboardWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(made.folder, tmp_path / "activations")
    monkeypatch.setenv(workspace.WORKSPACE_VARIABLE, str(copy))
    run = copy / "tiny/runs/forms"
    (run / FILE).rename(run / "kept.h5")
    page = _page(run=made.name)
    assert page.code[0].value.startswith("interp index")
    next(button for button in page.button if button.label == "Build the manifolds").click().run()
    assert not page.exception
    job = job_of(Run.load(run))
    assert job is not None
    job._reader.join()
    assert job.error == ""
    assert (run / FILE).exists()
    page.run()
    assert page.subheader[0].value.startswith("Latent ")
    shutil.copy(run.with_name("pca") / "decomposer.safetensors", run / "decomposer.safetensors")
    assert "The run was trained again after its manifolds were built" in _page(run=made.name).error[0].value


def test_an_index_that_is_let_go_leaves_memory(
    made: DashboardWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Run.load(shutil.copytree(made.run.store_path, tmp_path / "other") / "runs/forms")
    monkeypatch.setattr(workspace, "_N_OPEN", 1)
    index = workspace.open_manifolds(made.run)
    index.table("circle")
    assert workspace.open_manifolds(made.run) is index
    evicted = weakref.ref(index)
    del index
    workspace.open_manifolds(other)
    gc.collect()
    assert evicted() is None


def test_the_page_never_imports_torch() -> None:
    program = "import sys, app.navigation, app.views.manifolds; print('torch' in sys.modules)"
    root = Path(workspace.__file__).parent.parent
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.browser
def test_both_pictures_are_drawn_and_a_step_leads_to_the_next_latent(
    context: Any,  # noqa: F811
    address: str,  # noqa: F811
    made: DashboardWorkspace,
) -> None:
    from playwright.sync_api import expect

    require_chromium()
    page = context.new_page()
    page.goto(f"{address}/manifolds?run={made.name}&rank=position&f=4")
    expect(page.get_by_role("heading", name="Latent 4")).to_be_visible()
    expect(page.locator(".scatterlayer .point").first).to_be_visible()
    expect(page.locator(".gl-container canvas").first).to_be_visible()
    assert page.locator(".along").count() >= 2
    assert page.locator(".along b").first.inner_text() != ""
    page.get_by_label("Latent", exact=True).fill("7")
    page.get_by_label("Latent", exact=True).press("Enter")
    expect(page.get_by_role("heading", name="Latent 7")).to_be_visible()
    page.wait_for_url(re.compile(r"[?&]f=7(&|$)"))
    page.get_by_role("link", name="Features").click()
    expect(page.locator(".card h3")).to_have_text("Feature 7")
