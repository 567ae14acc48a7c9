"""The Runs and Compare pages as a person sees and uses them in Chromium, light and dark, narrow and wide."""

from __future__ import annotations

import re
import shutil
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
from chromium import fresh_context, require_chromium
from dashboard_workspace import DashboardWorkspace, add_other_kinds, make_workspace
from made_metrics import (
    around,
    concept,
    concepts,
    made_effect,
    made_metrics,
    made_steering,
    reconstruction,
    spliced,
)
from served_dashboard import ServedDashboard, served_dashboard
from test_browser import expect_readable_and_whole

from interp.evaluation.estimates import Estimate
from interp.evaluation.results import METRICS_FILE
from interp.records import write_record

pytestmark = pytest.mark.browser

LOOKS = [("light", 1280), ("dark", 1680)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DashboardWorkspace:
    """Runs of which two were judged alike: in FVU the first is apart, in concepts the second is no better than chance."""
    require_chromium()
    made = make_workspace(tmp_path_factory.mktemp("comparing"), n_tokens=4200)
    add_other_kinds(made)
    effect = made_effect(texts=("# <script>alert(1)</script>",), baseline_texts=("x = 1",), concept="<b>comment")
    first = made_metrics(
        "sae",
        site=str(made.run.site),
        n_features=48,
        spliced=spliced(),
        concepts=concepts(concepts=(concept("<b>comment", 0.8), concept("number", 0.5))),
        steering=made_steering(effect),
    )
    second = made_metrics(
        "levels",
        site=str(made.run.site),
        n_features=48,
        reconstruction=reconstruction(fvu=0.4, fvu_interval=(0.39, 0.41)),
        spliced=spliced(),
        concepts=concepts(
            f1=around(0.24),
            null_f1=0.23,
            excess=Estimate(value=0.01, low=-0.02, high=0.04),
            concepts=(concept("number", 0.22),),
        ),
    )
    for metrics in (first, second):
        write_record(made.run.path.with_name(metrics.run) / METRICS_FILE, metrics)
    return made


@pytest.fixture(scope="module")
def served(made: DashboardWorkspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDashboard]:
    with served_dashboard(made.folder, tmp_path_factory.mktemp("served") / "notes.jsonl") as served:
        yield served
        assert served.outgoing() == []


@pytest.fixture(params=LOOKS, ids=lambda look: "-".join(map(str, look)))
def look(request: pytest.FixtureRequest) -> tuple[str, int]:
    return (str(request.param[0]), int(request.param[1]))


@pytest.fixture
def page(browser: Any, served: ServedDashboard, look: tuple[str, int]) -> Iterator[Any]:
    theme, width = look
    with fresh_context(browser, served.address, theme, width=width) as windows:
        yield windows.new_page()


def open_page(page: Any, served: ServedDashboard, path: str, **address: str) -> None:
    page.goto(f"{served.address}/{path}?{urllib.parse.urlencode(address)}")


def address_of(page: Any) -> dict[str, str]:
    return dict(urllib.parse.parse_qsl(urllib.parse.urlparse(page.url).query))


def wait_for_address(page: Any, **expected: str) -> None:
    def holds(url: str) -> bool:
        found = dict(urllib.parse.parse_qsl(urllib.parse.urlparse(url).query))
        return all(found.get(name) == value for name, value in expected.items())

    page.wait_for_url(holds)


def expect_nothing_cut_off(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for selector in (".runs", ".compare"):
        for box in page.locator(selector).all():
            assert box.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), selector


def test_torch_is_not_loaded_by_runs_and_by_stored_text(
    browser: Any, made: DashboardWorkspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from playwright.sync_api import expect

    with (
        served_dashboard(made.folder, tmp_path_factory.mktemp("own") / "notes.jsonl") as served,
        fresh_context(browser, served.address, "light") as windows,
    ):
        page = windows.new_page()
        open_page(page, served, "runs", run=made.name)
        expect(page.locator(".concepts td a").first).to_be_visible()
        open_page(page, served, "compare", run=made.name)
        expect(page.locator(".compare .hit").first).to_be_visible()
        assert "torch" not in served.modules()
        open_page(page, served, "compare", run=made.name, source="typed", words="def load(path):")
        expect(page.locator(".compare .words").first).to_contain_text("load")
        expect(page.locator(".compare .hit").first).to_be_visible()
        assert "torch" in served.modules()


def test_runs_are_read_chosen_and_lead_to_the_features_of_concepts(
    page: Any, served: ServedDashboard, made: DashboardWorkspace
) -> None:
    from playwright.sync_api import expect

    open_page(page, served, "runs", run=made.name)
    titles = page.locator(".runs .title h4")
    expect(titles).to_have_text(
        ["blocks.0.mlp.hook_post, judged on s-held-out", "blocks.0.mlp.hook_post, not evaluated"]
    )
    sae, levels = (page.locator(f"tr[data-run='tiny/{name}']") for name in ("sae", "levels"))
    expect(sae).to_have_attribute("aria-selected", "true")
    expect(page.locator(".runs .best")).to_have_count(2)
    expect(sae.locator("td", has=page.locator(".best"))).to_contain_text([".250", ".44"])
    expect(sae.locator("td.above").first).to_contain_text("> null .23")
    at_chance = levels.locator("td.same").first
    expect(at_chance).to_contain_text("= null .23")
    assert at_chance.locator(".dot").evaluate("e => getComputedStyle(e).backgroundColor") == "rgba(0, 0, 0, 0)"
    expect(page.locator(".verdicts")).to_contain_text("No run is best by CE recovered and readable: the interval of")
    expect(page.locator(".how")).to_contain_text("readable: Share of features whose strongest tokens have")
    expect_nothing_cut_off(page)

    sae.click()  # the run that is chosen already
    wait_for_address(page, run="tiny/sae", below="this run")
    expect(page.locator(".pairs")).to_be_visible()
    levels.focus()
    page.keyboard.press("Enter")
    wait_for_address(page, run="tiny/levels")
    expect(levels).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("combobox", name="Run", exact=True)).to_have_value(re.compile("^tiny/levels "))
    expect(page.get_by_text("index fresh")).to_be_visible()
    expect(page.locator(".pairs")).to_have_count(0)
    sae.click()
    wait_for_address(page, run="tiny/sae", below="this run")
    expect(page.locator(".pairs")).to_contain_text("# <script>alert(1)</script>")
    page.get_by_role("radio", name="runs judged alike").click()
    cells = page.locator(".concepts td a")
    expect(cells).to_have_text([".80", "= .22", ".50"])
    expect(page.locator(".concepts th.name")).to_have_text(["concept", "<b>comment", "number"])
    assert cells.nth(1).evaluate("e => getComputedStyle(e).backgroundColor") == "rgba(0, 0, 0, 0)"
    cells.nth(2).click()
    expect(page.locator(".card h3")).to_have_text("Feature 7")
    wait_for_address(page, run="tiny/sae", f="7")
    page.go_back()
    expect(cells).to_have_count(3)
    cells.nth(1).click()
    wait_for_address(page, run="tiny/levels", f="7")


@pytest.mark.parametrize("look", LOOKS[:1], indirect=True, ids=["all"])
def test_text_of_these_pages_can_be_read_and_is_whole(
    page: Any, served: ServedDashboard, made: DashboardWorkspace
) -> None:
    from playwright.sync_api import expect

    three = {"with": "tiny/levels", "third": "tiny/forms"}
    for path, address, ready in (
        ("runs", {}, ".concepts td a"),
        ("runs", {"below": "this run"}, ".pairs"),
        ("compare", {**three, "token": "4"}, ".compare .column:nth-child(3) .hit"),
    ):
        open_page(page, served, path, run=made.name, **address)
        expect(page.locator(ready).first).to_be_visible()
        if path == "compare":
            page.locator(ready).first.hover()  # colours the text
        expect_readable_and_whole(page, 768, 1280, 1680)


def test_a_text_is_compared_token_by_token(page: Any, served: ServedDashboard, made: DashboardWorkspace) -> None:
    from playwright.sync_api import expect

    open_page(page, served, "compare", **{"run": made.name, "with": "tiny/levels", "third": "tiny/forms", "token": "4"})
    columns = page.locator(".compare .column")
    expect(columns).to_have_count(3)
    expect(columns.locator("h4")).to_have_text(["tiny/sae", "tiny/levels", "tiny/forms"])
    headings = columns.locator(".heading")
    expect(headings).to_contain_text([re.compile("on token 4 ")] * 3)
    marked = page.locator(".compare .tok.on")
    for step, token in (("ArrowRight", 5), ("ArrowRight", 6), ("ArrowLeft", 5), ("Home", 0), ("ArrowRight", 1)):
        columns.nth(1).locator(".words").press(step)
        expect(headings).to_contain_text([re.compile(f"on token {token} ")] * 3)
    wait_for_address(page, token="1")
    places = marked.evaluate_all("marks => [...new Set(marks.map((mark) => mark.id.split('-').at(-2)))]")
    assert places == ["1"], "one token, in all three"

    columns.nth(0).locator(".tok").nth(9).hover()
    expect(headings).not_to_contain_text(["on token 1 "] * 3)
    page.mouse.move(0, 0)
    expect(headings).to_contain_text([re.compile("on token 1 ")] * 3)
    columns.nth(2).locator(".tok").nth(9).click()
    expect(headings.first).not_to_contain_text("on token 1 ")
    page.wait_for_url(lambda url: "token=1&" not in f"{url}&")

    values = [float(text) for text in columns.nth(0).locator(".hits .value").all_inner_texts()]
    assert values == sorted(values, key=abs, reverse=True)
    expect(columns.nth(0).locator(".alone summary").first).to_have_text(
        re.compile(r"No counterpart in levels: \d+ of the \d+ features that fire on this text")
    )
    columns.nth(0).locator(".hit").first.hover()
    expect(columns.nth(0).locator(".tok[class*=' p']").first).to_be_visible()
    expect_nothing_cut_off(page)

    view = page.url
    again = page.context.new_page()
    again.goto(view)
    expect(again.locator(".compare .heading")).to_have_text(headings.all_inner_texts())
    feature = columns.nth(0).locator(".hits .hit").first.get_attribute("data-feature")
    columns.nth(0).locator(".hits .first .id").first.click()
    expect(page.locator(".card h3")).to_have_text(f"Feature {feature}")
    page.go_back()
    expect(headings.first).to_be_visible()
    assert address_of(page) == dict(urllib.parse.parse_qsl(urllib.parse.urlparse(view).query))


def test_a_strangers_text_stays_text(page: Any, served: ServedDashboard, made: DashboardWorkspace) -> None:
    from playwright.sync_api import expect

    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    text = "<script>alert(1)</script> <img src=x onerror=alert(1)> \u202e\x07end"
    open_page(page, served, "compare", run=made.name, source="typed", words=text)
    words = page.locator(".compare .words")
    expect(words).to_have_count(2)
    expect(words.first).to_contain_text("<script>alert(1)</script>")
    expect(words.first).to_contain_text("\\u{7}")
    assert page.locator(".compare script, .compare img").count() == 0
    assert not dialogs


@pytest.mark.parametrize("look", LOOKS[:1], indirect=True, ids=["light"])
def test_a_run_beside_that_is_deleted_is_said_to_be_gone(
    page: Any, served: ServedDashboard, made: DashboardWorkspace
) -> None:
    from playwright.sync_api import expect

    gone = made.run.path.with_name("gone")
    shutil.copytree(made.run.path, gone)
    open_page(page, served, "compare", **{"run": made.name, "with": "tiny/gone"})
    expect(page.locator(".compare .column")).to_have_count(2)
    shutil.rmtree(gone)
    page.locator(".compare .words").first.press("ArrowRight")
    expect(page.get_by_text("There is no run 'tiny/gone'")).to_be_visible()
    expect(page.locator(".compare .column")).to_have_count(1)
    page.reload()
    expect(page.get_by_text("There is no run 'tiny/gone'")).to_be_visible()
    page.get_by_role("combobox", name="Beside", exact=True).click()
    page.get_by_role("option", name="tiny/levels ").click()
    expect(page.locator(".compare .column")).to_have_count(2)
    expect(page.get_by_text("There is no run 'tiny/gone'")).to_have_count(0)
    wait_for_address(page, **{"with": "tiny/levels"})
