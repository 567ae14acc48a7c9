"""The Steer page in a real headless Chromium: texts as they grow, Stop, old results, links, kept results, concepts."""

from __future__ import annotations

import re
import shutil
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import dashboard_workspace
import pytest
from chromium import fresh_context, require_chromium
from dashboard_workspace import DashboardWorkspace, evidence_by_hand, make_workspace
from msgspec import structs
from served_dashboard import ServedDashboard, served_dashboard
from test_browser import expect_readable_and_whole
from transformers import GPT2Config

from interp.browse.kept_steering import kept_texts
from interp.evaluation.evidence import Output
from interp.records import write_record
from interp.runs.firing import firing_of
from interp.runs.record import Run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DashboardWorkspace:
    """A model slow enough to be stopped while it writes, and a second run whose evidence has output scores."""
    require_chromium()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dashboard_workspace, "GPT2Config", lambda **size: GPT2Config(**(size | SLOW)))
        made = make_workspace(tmp_path_factory.mktemp("steer"))
    other = Run.load(shutil.copytree(made.run.path, made.run.path.with_name("towards")))
    evidence = evidence_by_hand(other)
    features = [
        structs.replace(one, output=Output(concept=f"<b>{one.feature % 3}", sign=-1, lift=one.feature / 9, chance=2.5))
        for one in evidence.features
    ]
    write_record(other.path / "evidence.json", structs.replace(evidence, features=tuple(features)))
    return made


SLOW = {"n_positions": 512, "n_layer": 12}


@pytest.fixture(scope="module")
def served(made: DashboardWorkspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDashboard]:
    with served_dashboard(made.folder, tmp_path_factory.mktemp("served") / "notes.jsonl") as served:
        yield served
        assert served.outgoing() == []


@pytest.fixture
def new_page(browser: Any, served: ServedDashboard) -> Iterator[Callable[[], Any]]:
    """Opens a page that has nothing from the others."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(fresh_context(browser, served.address, "light")).new_page()


@pytest.fixture
def feature(made: DashboardWorkspace) -> int:
    return int(firing_of(made.run).n_fire.argmax())


def test_torch_is_loaded_when_the_page_is_opened_and_not_before(
    served: ServedDashboard, made: DashboardWorkspace, new_page: Callable[[], Any]
) -> None:
    from playwright.sync_api import expect

    page = new_page()
    page.goto(f"{served.address}/features?run={made.name}")
    expect(page.locator(".card h3")).to_be_visible()
    assert not {"torch", "scipy"} & served.modules()
    page.get_by_test_id("stTopNav").get_by_role("link", name="Steer").click()
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    assert "torch" in served.modules()


def test_texts_grow_and_stop_ends_them(
    served: ServedDashboard, made: DashboardWorkspace, new_page: Callable[[], Any], feature: int
) -> None:
    from playwright.sync_api import expect

    page = new_page()
    page.goto(f"{served.address}/steer?run={made.name}&steered={feature}:4&tokens=256&samples=8")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text(re.compile(r"Writing: token \d+ of 256"))).to_be_visible()
    first = page.locator("pre[data-column=Steered]").first
    expect(first).to_be_visible()
    begun = first.inner_text()
    expect(first).not_to_have_text(begun)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped: this is what was there by then.")).to_be_visible()
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()
    expect(page.get_by_role("button", name="Keep with the run")).to_have_count(0)
    left = first.inner_text()
    page.wait_for_timeout(1500)
    assert first.inner_text() == left, "nothing more is written"
    assert "result" not in page.url


def test_a_moved_slider_marks_the_result_old_back_shows_it_and_its_link_makes_it_again(
    served: ServedDashboard, made: DashboardWorkspace, new_page: Callable[[], Any], feature: int
) -> None:
    from playwright.sync_api import expect

    page = new_page()
    page.goto(f"{served.address}/steer?run={made.name}&steered={feature}:4&tokens=6&seed=5&temperature=1.2")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("button", name="Keep with the run")).to_be_visible()
    page.wait_for_url(re.compile(r"result=1"))
    texts = page.locator("pre.sample").all_inner_texts()
    assert len(texts) == 1 + 3 * 3
    expect(page.locator(".columns h6")).to_have_text(["Baseline", "Steered", "Control"])
    coloured = page.locator(".columns span[title$=nats]")
    assert coloured.count() > 30
    expect(page.locator(".legend")).to_be_visible()
    link = page.url

    page.get_by_role("slider").first.press("ArrowRight")
    old = page.get_by_text("Old result: it was made with other settings (strength)")
    expect(old).to_be_visible()
    expect(page.locator("pre.sample")).to_have_text(texts, use_inner_text=True)
    assert "result" not in page.url
    page.go_back()
    expect(old).to_have_count(0)
    expect(page.get_by_role("slider").first).to_have_value("4")
    expect(page.locator("pre.sample")).to_have_text(texts, use_inner_text=True)
    page.go_forward()
    expect(old).to_be_visible()

    other = new_page()
    other.goto(link)
    expect(other.get_by_role("button", name="Keep with the run")).to_be_visible()
    expect(other.locator("pre.sample")).to_have_text(texts, use_inner_text=True)


OUTSIDE = """() => [...document.querySelectorAll('.sample span')].filter(
  (at) => at.getBoundingClientRect().right > at.closest('.sample').getBoundingClientRect().right + 1
).map((at) => at.textContent)"""
"""Coloured blanks that lie beside their column."""


def test_a_kept_result_is_opened_without_computing_read_in_any_window_and_deleted(
    served: ServedDashboard, made: DashboardWorkspace, new_page: Callable[[], Any], feature: int
) -> None:
    from playwright.sync_api import expect

    page = new_page()
    prompt = urllib.parse.quote("if x:" + " " * 200 + "\n")
    page.goto(f"{served.address}/steer?run={made.name}&steered={feature}:3&tokens=5&prompt={prompt}&result=1")
    page.get_by_role("button", name="Keep with the run").click()
    expect(page.get_by_text("Kept results (1)")).to_be_visible()
    texts = page.locator("pre.sample").all_inner_texts()
    other = new_page()
    other.goto(f"{served.address}/steer?run={made.name}")
    other.get_by_text("Kept results (1)").click()
    other.locator("[class*=st-key-open_] button").click()
    expect(other.locator(".columns h6").last).to_have_text("Control")
    expect(other.locator("pre.sample")).to_have_text(texts, use_inner_text=True)
    expect(other.get_by_role("slider").first).to_have_value("3")
    assert "saved=" in other.url
    expect(other.get_by_text("Old result")).to_have_count(0)
    expect_readable_and_whole(other, 768, 1280, 1680)
    assert other.evaluate(OUTSIDE) == []
    if not other.get_by_role("button", name="Delete").first.is_visible():
        other.get_by_text("Kept results (1)").click()
    other.get_by_role("button", name="Delete").first.click()
    other.get_by_role("button", name="Delete for good").click()
    expect(other.get_by_text("Kept results")).to_have_count(0)
    assert kept_texts(made.run) == []


def test_a_concept_takes_its_feature_at_an_effect(
    served: ServedDashboard, made: DashboardWorkspace, new_page: Callable[[], Any]
) -> None:
    from playwright.sync_api import expect

    page = new_page()
    page.goto(f"{served.address}/steer?run=tiny/towards&tokens=4")
    page.get_by_role("combobox", name="Steer towards a concept").click()
    page.get_by_role("option", name="<b>2 · feature 47").click()
    expect(page.get_by_text("The opposite of feature 47 has the highest output score for <b>2")).to_be_visible()
    expect(page.get_by_text("Feature 47", exact=False).first).to_be_visible()
    expect(page.get_by_role("spinbutton", name="KL target, nats per token")).to_have_value("-0.20")
    page.wait_for_url(re.compile(r"towards=%3Cb%3E2"))
    assert "set_by=effect" in page.url
