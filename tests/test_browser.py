"""What a person sees, in a real headless Chromium: find a feature, read it, step on, share the address, in light and dark.

Every request of every test is watched: none may leave this machine.
"""

from __future__ import annotations

import itertools
import re
import shutil
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import fresh_browser, require_chromium
from dashboard_workspace import DashboardWorkspace, add_other_kinds, evidence_by_hand, make_workspace
from served_dashboard import served_dashboard

from interp.browse.features import TableFilter, select_features
from interp.index.reader import FeatureIndex
from interp.records import write_record

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DashboardWorkspace:
    require_chromium()
    made = make_workspace(tmp_path_factory.mktemp("browser"), n_tokens=4200)
    add_other_kinds(made)
    write_record(made.run.path / "evidence.json", evidence_by_hand(made.run))
    return made


@pytest.fixture(scope="module")
def order(made: DashboardWorkspace) -> list[int]:
    """Features in the table's first order."""
    with FeatureIndex(made.run.index_path) as index:
        return select_features(index, TableFilter())


@pytest.fixture(scope="module")
def address(made: DashboardWorkspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dashboard in a process of its own, as the command starts it, which may reach for nothing outside this machine."""
    with served_dashboard(made.folder, tmp_path_factory.mktemp("served") / "notes.jsonl") as served:
        yield served.address
        assert served.outgoing() == []


@pytest.fixture(params=["light", "dark"])
def theme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def context(address: str, tmp_path: Path, theme: str) -> Iterator[Any]:
    with fresh_browser(address, tmp_path / "profile", theme) as browser:
        yield browser


def test_a_feature_is_found_read_stepped_and_shared(
    context: Any, address: str, made: DashboardWorkspace, order: list[int], theme: str
) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    page.goto(f"{address}/?run={made.name}")
    title = page.locator(".card h3")
    expect(title).to_have_text(f"Feature {order[0]}")
    background = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 23, 27)"}[theme]

    sought = order[5]
    page.get_by_label("Search").fill(str(sought))
    page.get_by_label("Search").press("Enter")
    expect(title).to_have_text(f"Feature {sought}")
    with FeatureIndex(made.run.index_path) as index:
        about, examples = index.feature(sought), index.examples(sought, "top", 24)
    expect(page.locator(".card .sub")).to_contain_text(f"importance rank {about['importance_rank']}")
    expect(page.locator(".contexts .example")).to_have_count(len(examples))
    assert float(page.locator(".contexts .value").first.inner_text()) == pytest.approx(examples[0]["value"], abs=0.006)
    assert page.locator(".contexts b.centre").first.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"

    page.get_by_label("Search").fill("")
    page.get_by_label("Search").press("Enter")
    expect(title).to_have_text(f"Feature {order[0]}")
    page.locator(".card h3").click()  # out of the search box, where letters are text
    page.keyboard.press("k")
    page.keyboard.press("k")
    page.keyboard.press("j")
    expect(title).to_have_text(f"Feature {order[1]}")
    expect(page.locator(".row.on")).to_have_attribute("data-feature", str(order[1]))
    page.wait_for_url(re.compile(rf"[?&]f={order[1]}(&|$)"))

    again = context.new_page()
    again.goto(page.url)
    expect(again.locator(".card h3")).to_have_text(f"Feature {order[1]}")


def test_keys_typed_into_a_field_do_not_step_and_labels_stay_text(
    context: Any, address: str, made: DashboardWorkspace, order: list[int], theme: str
) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    page.goto(f"{address}/features?run={made.name}&f={order[2]}")
    title = page.locator(".card h3")
    expect(title).to_have_text(f"Feature {order[2]}")
    page.locator("button.edit").click()
    label = f"jk <b>bold</b> {theme}"
    page.locator("input.labelling").fill("")
    page.keyboard.type(label)
    page.keyboard.press("Enter")
    expect(page.locator(".card .label")).to_have_text(label)
    expect(title).to_have_text(f"Feature {order[2]}")
    expect(page.locator(".row.on .lab")).to_contain_text(label)
    page.reload()
    expect(page.locator(".card .label")).to_have_text(label)


def test_evidence_orders_the_table_and_stands_on_the_card_with_a_marked_label(
    context: Any, address: str, made: DashboardWorkspace
) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    page.goto(f"{address}/features?run={made.name}&sort=excess&f=5")
    expect(page.locator(".card h3")).to_have_text("Feature 5")
    expect(page.locator(".row.head")).to_contain_text("excess F1")
    expect(page.locator(".view .row").first).to_have_attribute("data-feature", "0")
    expect(page.locator(".card header .label.auto")).to_have_text("<b>number")
    expect(page.locator(".card .evidence")).to_contain_text(
        "Fires on <b>number: F1 .60, random directions .15 (excess +.45"
    )
    expect(page.locator(".card .evidence .code").first).to_have_text("<script>")
    page.locator("a.other").click()
    expect(page.get_by_text("tiny/pca has no index yet")).to_be_visible()
    page.go_back()
    expect(page.locator(".card h3")).to_have_text("Feature 5")
    page.locator("button.edit").click()
    page.locator("input.labelling").fill("mine")
    page.keyboard.press("Enter")
    expect(page.locator(".card header .label:not(.auto)")).to_have_text("mine")
    page.locator("button.edit").click()
    page.locator("input.labelling").fill("")
    page.keyboard.press("Enter")
    expect(page.locator(".card header .label.auto")).to_have_text("<b>number")


def test_harmful_tokens_are_shown_and_never_run(
    context: Any, address: str, made: DashboardWorkspace, theme: str
) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(f"{address}/features?run={made.name}&q=tok: <script>")
    expect(page.locator(".contexts .example").first).to_be_visible()
    page.get_by_role("button", name="whole").click()
    expect(page.locator(".contexts")).to_contain_text("<script>alert(")
    expect(page.locator(".contexts")).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator(".card script, .card img, .card .text b:not([data-v])").count() == 0
    assert not dialogs


def test_an_unknown_feature_and_a_dead_end_say_so(context: Any, address: str, made: DashboardWorkspace) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    page.goto(f"{address}/features?run={made.name}&f=99999")
    expect(page.locator(".card .error")).to_have_text("no feature 99999; this run has 0-47")
    page.goto(f"{address}/features?run={made.name}&q=no such label")
    expect(page.locator(".table .none")).to_have_text("No feature passes these filters.")


def test_the_run_and_the_feature_stay_chosen_from_page_to_page(
    context: Any, address: str, made: DashboardWorkspace, order: list[int]
) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    page.goto(f"{address}/features?run={made.name}&f={order[3]}")
    expect(page.locator(".card h3")).to_have_text(f"Feature {order[3]}")
    page.get_by_role("link", name="Runs").click()
    expect(page.locator(f"tr[data-run='{made.name}']")).to_have_attribute("aria-selected", "true")
    page.get_by_role("link", name="Features").click()
    expect(page.locator(".card h3")).to_have_text(f"Feature {order[3]}")
    page.goto(f"{address}/runs?run=tiny/pca&below=this run")
    expect(page.get_by_text("no index", exact=True)).to_be_visible()
    page.get_by_role("link", name="Features").click()
    expect(page.get_by_role("button", name="Build the index")).to_be_visible()
    expect(page.get_by_text("interp index")).to_be_visible()


def test_tokens_of_a_prompt_lead_to_a_card_and_the_card_to_steering(
    context: Any, address: str, made: DashboardWorkspace
) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    page.goto(f"{address}/prompt?run={made.name}&text=with open(path) as <b>file")
    chips = page.locator("button.chip")
    expect(chips.first).to_be_disabled()
    expect(page.locator(".chips")).to_contain_text("<b>")
    page.locator("button.chip", has_text="path").click()
    expect(page.locator(".ranking .line").first).to_contain_text("1 tok")
    first = page.locator(".ranking .line").first
    first.hover()
    expect(page.locator("button.chip[class*=' p']").first).to_be_visible()
    feature = first.get_attribute("data-feature")
    first.click()
    expect(page.locator(".card h3")).to_have_text(f"Feature {feature}")
    page.locator("a.steer").click()
    expect(page.get_by_text(f"Feature {feature}")).to_be_visible()
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()
    page.get_by_text("Sampling, positions, seed").click()
    tokens = page.get_by_label("Tokens each")
    tokens.fill("8")  # the model's context is short
    tokens.press("Enter")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("Token by token").click()
    expect(page.locator("pre.sample span[title$=nats]").first).to_be_visible()
    expect(page.locator(".next-tokens i").first).to_be_attached()
    assert page.locator(".next-tokens").evaluate("table => table.querySelectorAll('b, script').length") == 0


RUNS = {"tiny/sae": 48, "tiny/levels": 9, "tiny/forms": 12, "tiny/pca": 0}
"""The workspace's runs with the number of features their index holds; the last has none."""


@pytest.mark.parametrize("theme", ["light"], indirect=True)
@pytest.mark.parametrize("path", ["features", "tree", "prompt", "steer", "manifolds", "runs"])
def test_every_run_can_follow_every_other_on_every_page(
    context: Any, address: str, made: DashboardWorkspace, path: str
) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    walk = _walk_over_all_pairs(list(RUNS))
    page.goto(f"{address}/{path}?run={walk[0]}")
    _settle(page, walk[0])
    for before, run in itertools.pairwise(walk):
        _choose_run(page, run)
        broken = page.get_by_test_id("stException").or_(page.get_by_text("BidiComponent Error"))
        assert broken.count() == 0, f"{path}: {run} after {before}: {broken.first.inner_text()}"
        if path == "features" and RUNS[run]:
            expect(page.get_by_text(re.compile(rf"^{RUNS[run]} features"))).to_be_visible()
            expect(page.locator(".view .spacer")).to_have_css("height", f"{30 * RUNS[run]}px")  # its rows, all of them
            expect(page.locator(".view .row .num:nth-child(2)").first).to_have_text(re.compile(r"\d"))
            expect(page.locator(".view .row.on")).to_have_count(1)
            shown = page.locator(".view .row.on").get_attribute("data-feature")
            expect(page.locator(".card h3")).to_have_text(f"Feature {shown}")
            page.keyboard.press("k")  # a step that is not told yet must not follow into the next run


@pytest.mark.parametrize("theme", ["light"], indirect=True)
def test_no_row_reads_the_columns_of_another_run(context: Any, address: str, made: DashboardWorkspace) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    held: dict[str, Any] = {}
    late = re.compile(r"/api/runs/tiny/\w+/features$")
    page.goto(f"{address}/features?run=tiny/levels")
    density = page.locator(".view .row .num:nth-child(2)")
    expect(density.first).to_have_text(re.compile(r"\d"))
    page.route(late, lambda route: held.update({route.request.url.split("/")[-2]: route}))
    _choose_run(page, "tiny/sae")
    expect(page.locator(".view .spacer")).to_have_css("height", f"{30 * 48}px")
    expect(page.locator(".card h3")).to_be_visible()
    assert set(density.all_inner_texts()) == {""}, "the columns of this run have not come"
    _choose_run(page, "tiny/forms")
    expect(page.locator(".view .spacer")).to_have_css("height", f"{30 * 12}px")
    held["forms"].continue_()
    expect(density.first).to_have_text(re.compile(r"\d"))
    shown = density.all_inner_texts()
    with page.expect_response(lambda answer: "/sae/features" in answer.url):
        held["sae"].continue_()
    page.wait_for_timeout(300)
    assert density.all_inner_texts() == shown, "an answer about the run before came late"


@pytest.mark.parametrize("theme", ["light"], indirect=True)
def test_a_run_deleted_while_open_is_said_to_be_gone(context: Any, address: str, made: DashboardWorkspace) -> None:
    from playwright.sync_api import expect

    gone = made.run.path.with_name("gone")
    shutil.copytree(made.run.path, gone)
    page = context.new_page()
    page.goto(f"{address}/features?run=tiny/gone")
    expect(page.locator(".card h3")).to_be_visible()
    shutil.rmtree(gone)
    page.keyboard.press("k")
    expect(page.get_by_text("it was deleted or renamed while it was open here")).to_be_visible()
    expect(page.locator(".card")).to_have_count(0)
    page.get_by_role("link", name="Steer").click()
    expect(page.get_by_text("it was deleted or renamed while it was open here")).to_be_visible()
    expect(page.get_by_role("button", name="Generate")).to_have_count(0)
    _choose_run(page, made.name)
    expect(page.get_by_role("button", name="Generate")).to_be_visible()


@pytest.mark.parametrize("theme", ["light"], indirect=True)
def test_steering_another_run_starts_without_the_features_of_this_one(
    context: Any, address: str, made: DashboardWorkspace
) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    page.goto(f"{address}/steer?run={made.name}&steered=5,40")
    sliders = page.get_by_role("slider")
    expect(sliders).to_have_count(2)
    _settle(page, made.name)
    sliders.first.press("End")
    expect(sliders.first).to_have_value("10")
    page.wait_for_timeout(1000)  # the slider tells its value a moment after the last key
    _choose_run(page, "tiny/forms")
    expect(sliders).to_have_count(0)
    expect(page.get_by_text("Feature 5")).to_have_count(0)
    expect(page.get_by_role("button", name="Generate")).to_be_disabled()
    page.get_by_role("link", name="Runs").click()
    _choose_run(page, made.name)
    page.get_by_role("link", name="Steer").click()
    expect(sliders).to_have_count(2)
    expect(sliders.first).to_have_value("10")


@pytest.mark.parametrize("theme", ["light"], indirect=True)
def test_signed_codes_say_which_side_is_shown(context: Any, address: str, made: DashboardWorkspace) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    page.goto(f"{address}/features?run=tiny/forms")
    expect(page.locator(".card .sub").first).to_contain_text("positive side: density")
    expect(page.get_by_text("codes have both signs")).to_be_visible()
    page.goto(f"{address}/prompt?run=tiny/forms")
    expect(page.locator(".ranking .line").first).to_be_visible()
    for line in page.locator(".ranking .line").all():
        below = line.locator(".value").inner_text().startswith("-")
        assert (line.locator(".share").inner_text() == "negative side") is below
    expect(page.locator(".ranking .share", has_text="negative side").first).to_be_visible()


def _walk_over_all_pairs(runs: list[str]) -> list[str]:
    """A walk along which every run comes right after every other once."""
    left = {run: [other for other in runs if other != run] for run in runs}
    walk: list[str] = []
    stack = [runs[0]]
    while stack:  # Hierholzer's way of finding a closed walk over all edges
        if left[stack[-1]]:
            stack.append(left[stack[-1]].pop())
        else:
            walk.append(stack.pop())
    return walk[::-1]


def _choose_run(page: Any, run: str) -> None:
    page.get_by_role("combobox", name="Run", exact=True).click()
    page.get_by_role("option", name=f"{run} ").click()
    _settle(page, run)


def _settle(page: Any, run: str) -> None:
    """Wait until the page shows the run and its script has ended."""
    from playwright.sync_api import expect

    page.wait_for_url(lambda url: f"run={run}&" in f"{urllib.parse.unquote(url)}&")
    expect(page.get_by_role("combobox", name="Run", exact=True)).to_have_value(re.compile(rf"^{run} "))
    expect(page.locator("[data-test-script-state=notRunning]")).to_be_attached()
