"""Sharing, Tree, Prompt, the tour and the build of an index, as a person sees them in a headless Chromium."""

from __future__ import annotations

import json
import re
import shutil
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from chromium import WAIT
from dashboard_workspace import DashboardWorkspace
from safetensors.torch import load_file
from test_browser import (  # noqa: F401  fixtures and measures of every page
    ACTIVE,
    CONTRASTS,
    address,
    context,
    expect_readable_and_whole,
    made,
    order,
    theme,
)
from test_sharing import HARM, run_snippet

from interp.browse.prompt import encode_prompt, rank_features
from interp.model.language_model import load_model
from interp.runs.feature_labels import FeatureLabels
from interp.runs.record import Run

pytestmark = pytest.mark.browser
LIGHT = pytest.mark.parametrize("theme", ["light"], indirect=True)


def test_a_card_is_exported_reopened_without_a_server_and_runs_nothing(
    context: Any,  # noqa: F811
    address: str,  # noqa: F811
    made: DashboardWorkspace,  # noqa: F811
    tmp_path: Path,
) -> None:
    from playwright.sync_api import expect

    FeatureLabels(made.run.labels_path).set(11, note=HARM.replace("\ud800", ""))
    page = context.new_page()
    page.goto(f"{address}/features?run={made.name}&f=11")
    expect(page.locator(".card h3")).to_have_text("Feature 11")
    page.locator("summary.button").click()
    files = {}
    for name in ("card.html", "card.json", "vector.safetensors"):
        with page.expect_download() as download:
            page.locator(f"a.item[href$='{name}']").click()
        files[name] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[name])
    assert json.loads(files["card.json"].read_text())["note"] == HARM.replace("\ud800", "")
    assert set(load_file(files["vector.safetensors"])) == {"read", "write"}
    page.locator("summary.button").press("Escape")
    expect(page.locator(".share .items")).to_be_hidden()

    dialogs, asked = [], []
    again = context.new_page()
    again.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    again.on("request", lambda request: asked.append(request.url))
    again.set_content(files["card.html"].read_text())
    expect(again.get_by_role("heading", name="Feature 11")).to_be_visible()
    expect(again.locator(".note")).to_contain_text("<script>alert(1)</script><img src=x onerror=alert(2)>")
    expect(again.locator(".note")).to_contain_text(r"\u{202e}right\u{200f}to")
    expect(again.locator("pre b.centre").first).to_be_visible()
    assert again.locator("script, img, iframe, link, form").count() == 0
    assert not [one for one in again.evaluate(CONTRASTS) if one["contrast"] < 4.5]
    assert not dialogs
    assert not asked


@LIGHT
def test_links_and_python_are_copied(
    context: Any,  # noqa: F811
    address: str,  # noqa: F811
    made: DashboardWorkspace,  # noqa: F811
) -> None:
    from playwright.sync_api import expect

    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
    page = context.new_page()
    paste = "navigator.clipboard.readText()"
    for path in ("features", "tree", "prompt", "steer", "manifolds", "runs"):
        page.goto(f"{address}/{path}?run=tiny/levels")
        page.get_by_role("button", name="Copy link").first.click()
        expect(page.get_by_text("Copied").first).to_be_visible()
        assert page.evaluate(paste).startswith(f"{address}/{path}?run=tiny")
    page.goto(f"{address}/prompt?run={made.name}&text=def read(path): <b>")
    page.locator("button.chip", has_text="read").click()
    page.wait_for_url(re.compile("at="))
    page.get_by_role("button", name="Copy Python").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    printed = run_snippet(page.evaluate(paste))
    first = page.locator(".ranking a.line").first
    assert printed.splitlines()[1].split()[0] == first.get_attribute("data-feature")
    page.goto(f"{address}/features?run={made.name}&f=5")
    page.locator("summary.button").click()
    page.locator("button.snippet").click()
    expect(page.locator("button.snippet")).to_have_text("Copied")
    assert "feature 5 of sae" in run_snippet(page.evaluate(paste))


@LIGHT
def test_labels_and_lists_are_files(
    context: Any,  # noqa: F811
    address: str,  # noqa: F811
    made: DashboardWorkspace,  # noqa: F811
    tmp_path: Path,
) -> None:
    from playwright.sync_api import expect

    labels = FeatureLabels(made.run.labels_path)
    labels.set(20, label="handed on", bookmarked=True)
    page = context.new_page()
    page.goto(f"{address}/features?run={made.name}&show=bookmarked")
    expect(page.locator(".card h3")).to_have_text("Feature 20")
    page.get_by_role("button", name="Files").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="List of 1 feature").click()
    [one] = json.loads(Path(download.value.path()).read_text())["features"]
    assert (one["feature"], one["label"], one["bookmarked"]) == (20, "handed on", True)
    with page.expect_download() as download:
        page.get_by_role("button", name="Labels, notes and bookmarks").click()
    file = tmp_path / "labels.json"
    download.value.save_as(file)
    labels.set(20, label="", bookmarked=False)
    before = labels.all()
    broken = tmp_path / "broken <b>.json"
    broken.write_text(file.read_text()[:-9])
    page.locator("input[type=file]").set_input_files(broken)
    page.get_by_role("button", name="Take in").click()
    expect(page.get_by_text("Nothing was taken in: the file 'broken <b>.json' is damaged")).to_be_visible()
    assert labels.all() == before
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_text("broken <b>.json", exact=True)).to_have_count(0)
    page.get_by_role("button", name="Take in").click()
    expect(page.get_by_text("Taken in.")).to_be_visible()
    assert labels.get(20).label == "handed on"
    expect(page.locator(".card h3")).to_have_text("Feature 20")
    labels.set(20, label="", bookmarked=False)


@LIGHT
def test_tokens_are_ranked_in_the_browser_as_in_python_and_with_the_keyboard(
    context: Any,  # noqa: F811
    address: str,  # noqa: F811
    made: DashboardWorkspace,  # noqa: F811
) -> None:
    from playwright.sync_api import expect

    text = "with open(path) as file:\n    rows = file.read()"
    prompt = encode_prompt(load_model(made.run.model_id), made.run, text)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/prompt" in request.url else None)
    page.goto(f"{address}/prompt?run={made.name}&text={urllib.parse.quote(text)}")
    rows = page.locator(".ranking a.line")

    def shown() -> list[int]:
        return [int(row.get_attribute("data-feature") or -1) for row in rows.all()]

    expect(rows.first).to_be_visible()
    assert shown() == [one.feature for one in rank_features(prompt, n=60)]
    chips = page.locator("button.chip")
    chips.nth(1).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+ArrowRight")
    assert page.evaluate(f"{ACTIVE}.title") == "token 3"
    assert shown() == [one.feature for one in rank_features(prompt, [2, 3], n=60)]
    page.get_by_role("button", name="sum").click()
    assert shown() == [one.feature for one in rank_features(prompt, [2, 3], by="sum", n=60)]
    page.wait_for_url(re.compile(r"by=sum&at=2%2C3"))
    page.get_by_label("fires on at most").select_option("0.1")
    density = {int(f): share for f, share in enumerate(_densities(made.run))}
    assert all(density[feature] <= 0.1 for feature in shown())
    page.wait_for_url(re.compile("dense=0.1"))
    assert len([url for url in asked if "/api/" in url]) == 1, "the codes are asked for once"
    page.reload()
    expect(rows.first).to_be_visible()
    assert [chip.get_attribute("aria-pressed") for chip in chips.all()[:5]] == [
        "false",
        "false",
        "true",
        "true",
        "false",
    ]
    expect(page.get_by_role("button", name="sum")).to_have_attribute("aria-pressed", "true")
    chips.nth(2).press("Escape")
    expect(page.locator("button.none")).to_have_text(f"all {len(prompt.tokens) - 1} tokens")
    rows.first.focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate(f"{ACTIVE}.dataset.feature") == str(shown()[1])
    expect(page.locator("button.chip:is([class*=' p'], [class*=' n'])").first).to_be_visible()


def _densities(run: Run) -> list[float]:
    from interp.index.reader import FeatureIndex

    with FeatureIndex(run.index_path) as index:
        return [float(share) for share in index.summary["density"]]


@LIGHT
def test_pointing_at_any_row_shows_the_text_beside_it(
    context: Any,  # noqa: F811
    address: str,  # noqa: F811
    made: DashboardWorkspace,  # noqa: F811
) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    page.set_viewport_size({"width": 1280, "height": 600})
    text = "%0A".join(f"x{i} = read(path)" for i in range(7))
    page.goto(f"{address}/prompt?run={made.name}&text={text}")
    last = page.locator(".ranking a.line").last
    last.scroll_into_view_if_needed()
    last.hover()
    coloured = page.locator("button.chip:is([class*=' p'], [class*=' n'])")
    expect(coloured.first).to_be_visible()
    assert any(0 < box["y"] < 600 for box in (chip.bounding_box() for chip in coloured.all()) if box), (
        "a token that it fires on is in the window"
    )


@LIGHT
def test_a_branch_opens_on_a_click_and_stays_in_the_address(
    context: Any,  # noqa: F811
    address: str,  # noqa: F811
    made: DashboardWorkspace,  # noqa: F811
) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    page.goto(f"{address}/tree?run=tiny/levels")
    row = page.get_by_role("option").nth(2)
    name = row.inner_text().split()[0]
    level, number = name.split(".")
    row.locator("span").first.click()
    expect(page.get_by_text(f"Feature {number} of level {level}")).to_be_visible()
    page.wait_for_url(re.compile(rf"node={re.escape(name)}(&|$)"))
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("option").nth(3)).to_have_attribute("aria-selected", "true")
    page.wait_for_url(lambda url: f"node={name}" not in url)
    page.go_back()
    expect(page.get_by_text(f"Feature {number} of level {level}")).to_be_visible()
    page.goto(f"{address}/manifolds?run=tiny/forms")
    row = page.get_by_role("option").nth(4)
    latent = row.inner_text().split()[0]
    row.click()
    expect(page.get_by_role("heading", name=f"Latent {latent}", exact=True)).to_be_visible()
    page.wait_for_url(re.compile(rf"f={latent}(&|$)"))


@LIGHT
def test_the_tour_is_shown_until_it_is_put_away(
    context: Any,  # noqa: F811
    address: str,  # noqa: F811
    made: DashboardWorkspace,  # noqa: F811
) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    page.goto(f"{address}/features?run={made.name}")
    tour = page.get_by_role("region", name="About this page")
    expect(tour.locator("p")).to_have_count(3)
    page.get_by_role("button", name="Got it").click()
    expect(tour).to_have_count(0)
    page.reload()
    expect(page.locator(".card h3")).to_be_visible()
    expect(tour).to_have_count(0)
    page.goto(f"{address}/prompt?run={made.name}")
    expect(tour).to_contain_text("which features fire on a text of your own")
    page.goto(f"{address}/features?run={made.name}")
    page.get_by_role("button", name="About this page").click()
    expect(tour.locator("p")).to_have_count(3)


@LIGHT
def test_an_index_is_built_from_the_page_stopped_and_followed_over_a_reload(
    context: Any,  # noqa: F811
    address: str,  # noqa: F811
    made: DashboardWorkspace,  # noqa: F811
) -> None:
    from playwright.sync_api import expect

    run = Run.load(shutil.copytree(made.run.path, made.run.path.with_name("unbuilt")))
    try:
        run.index_path.unlink()
        page = context.new_page()
        page.goto(f"{address}/features?run=tiny/unbuilt")
        expect(page.get_by_text(re.compile(r"^About \d+ seconds on a core"))).to_be_visible()
        page.get_by_role("button", name="Build the index").click()
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_text("The build was stopped; the run is as it was.")).to_be_visible()
        assert not list(run.path.glob("index*"))
        page.get_by_role("button", name="Build the index").click()
        expect(page.get_by_role("progressbar")).to_be_visible()
        expect(
            page.get_by_text("ends with the dashboard: if that is stopped first, the run stays as it was")
        ).to_be_visible()
        page.reload()
        expect(page.get_by_role("progressbar").or_(page.locator(".card h3")).first).to_be_visible()
        expect(page.locator(".card h3")).to_be_visible(timeout=5 * WAIT)  # loading PyTorch takes long beside other work
    finally:
        shutil.rmtree(run.path)


@pytest.mark.parametrize("theme", ["light"], indirect=True, ids=["all"])
def test_text_of_these_pages_can_be_read_and_is_whole(
    context: Any,  # noqa: F811
    address: str,  # noqa: F811
    made: DashboardWorkspace,  # noqa: F811
    theme: str,  # noqa: F811
) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    for path, ready in (
        ("tree?run=tiny/levels", ".example"),
        (f"prompt?run={made.name}&at=2", ".ranking a.line"),
        ("manifolds?run=tiny/forms", ".along"),
    ):
        page.goto(f"{address}/{path}")
        expect(page.locator(ready).first).to_be_visible()
        if "prompt" in path:
            page.locator(ready).first.hover()
        expect_readable_and_whole(page, 768, 1280, 1680)
