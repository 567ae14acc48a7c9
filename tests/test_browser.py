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
from chromium import fresh_context, require_chromium
from dashboard_workspace import DashboardWorkspace, add_other_kinds, evidence_by_hand, make_workspace
from served_dashboard import served_dashboard

from interp.browse.evidence import RunEvidence
from interp.browse.family import family_of
from interp.browse.features import TableFilter, select_features
from interp.index.build import IndexConfig, build_index
from interp.index.reader import FeatureIndex
from interp.records import write_record
from interp.runs.record import Run, find_runs

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
        return select_features(index, TableFilter(evidence=RunEvidence(evidence_by_hand(made.run).features)))


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
def context(browser: Any, address: str, theme: str) -> Iterator[Any]:
    with fresh_context(browser, address, theme) as windows:
        yield windows


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
    page.get_by_label("Search", exact=True).fill(str(sought))
    page.get_by_label("Search", exact=True).press("Enter")
    expect(title).to_have_text(f"Feature {sought}")
    with FeatureIndex(made.run.index_path) as index:
        about, examples = index.feature(sought), index.examples(sought, "top", 24)
    expect(page.locator(".card .sub")).to_contain_text(f"importance rank {about['importance_rank']}")
    expect(page.locator(".contexts .example")).to_have_count(len(examples))
    assert float(page.locator(".contexts .value").first.inner_text()) == pytest.approx(examples[0]["value"], abs=0.006)
    assert page.locator(".contexts b.centre").first.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"

    page.get_by_label("Search", exact=True).fill("")
    page.get_by_label("Search", exact=True).press("Enter")
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
        "It fires on <b>number: 70% of the tokens it fires on are one, and it fires on 50% of all there are (F1 .60; random "
        "directions that fire as often reach .15; excess +.45 [+.35, +.55]; in 9 documents)."
    )
    page.locator(".evidence summary").click()
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


def test_filters_that_hide_every_feature_say_so_and_can_be_cleared(
    context: Any, address: str, made: DashboardWorkspace, order: list[int]
) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    page.goto(f"{address}/features?run={made.name}&q=no such label&show=alive&density=0.001..0.3&f=5")
    expect(page.locator(".hiding")).to_contain_text(
        "All 48 features are hidden by 3 filters: search “no such label” · fires on 0.1 % to 30 % of tokens · only alive"
    )
    expect(page.locator(".card h3")).to_have_count(0)
    expect(page.locator(".card")).to_contain_text("The filters hide every feature")
    page.locator("button.clear").click()
    expect(page.locator(".card h3")).to_have_text("Feature 5")
    expect(page.locator(".hiding")).to_be_hidden()
    expect(page.get_by_label("Search", exact=True)).to_have_value("")
    page.wait_for_url(lambda url: "q=" not in url and "density" not in url)
    page.get_by_label("Search", exact=True).fill("comment")
    page.get_by_label("Search", exact=True).press("Enter")
    expect(page.locator(".hiding")).to_contain_text("hidden by 1 filter: search “comment”")
    expect(page.locator(".card h3")).to_have_text(f"Feature {order[0]}")
    expect(page.locator(".view .row .lab").first).to_contain_text("comment")


def test_headings_sort_the_table_and_its_columns_hold_the_evidence(
    context: Any, address: str, made: DashboardWorkspace
) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    page.goto(f"{address}/features?run={made.name}")
    first = page.locator(".view .row").first
    expect(first.locator(".out .what")).to_have_text("comment")
    expect(first.locator(".out")).to_contain_text("3.0")
    expect(first.locator(".toks .code").first).to_have_text("<script>")
    expect(first.locator(".max")).to_have_attribute(
        "title", re.compile("Detects comment: F1 0.60, null 0.1.* F1 of random")
    )
    expect(first.locator(".auto")).to_have_text("comment")
    page.locator(".head [data-sort=number]").click()
    expect(first).to_have_attribute("data-feature", "0")
    page.wait_for_url(re.compile("sort=number"))
    page.locator(".head [data-sort=number]").click()
    expect(first).to_have_attribute("data-feature", "47")
    page.wait_for_url(re.compile("reversed=1"))
    assert page.evaluate(f"{ACTIVE}.dataset.sort") == "number", "the heading keeps the focus"
    page.locator(".head [data-sort=output]").click()
    expect(first).to_have_attribute("data-feature", "0")
    page.reload()
    expect(first).to_have_attribute("data-feature", "0")
    page.goto(f"{address}/features?run=tiny/forms")
    expect(page.locator(".head [data-sort=output]")).to_have_count(0)
    expect(page.locator(".head [data-sort=max]")).to_be_visible()


@pytest.mark.parametrize("theme", ["light"], indirect=True)
def test_the_page_can_be_used_with_the_keyboard_alone(
    context: Any, address: str, made: DashboardWorkspace, order: list[int]
) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    page.goto(f"{address}/features?run={made.name}")
    title, view = page.locator(".card h3"), page.get_by_role("listbox", name="Features")
    expect(title).to_have_text(f"Feature {order[0]}")
    view.focus()
    for key, place in (("End", 47), ("Home", 0), ("ArrowDown", 1), ("ArrowUp", 0)):
        page.keyboard.press(key)
        expect(title).to_have_text(f"Feature {order[place]}")
        expect(view).to_have_attribute("aria-activedescendant", f"feature-{order[place]}")
        expect(page.locator(f"#feature-{order[place]}")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("PageDown")
    expect(title).not_to_have_text(f"Feature {order[0]}")
    assert order.index(int(title.inner_text().split()[1])) > 5
    page.keyboard.press("PageUp")
    expect(title).to_have_text(f"Feature {order[0]}")
    page.locator(".view .row").nth(2).click()
    page.keyboard.press("ArrowDown")
    expect(title).to_have_text(f"Feature {order[3]}")
    for name in ("next", "mark", "ablate"):
        page.locator(f"button.{name}").focus()
        page.keyboard.press("Enter")
        page.wait_for_timeout(700)
        assert page.evaluate(f"{ACTIVE}.dataset.key") == name, f"{name} keeps the focus when pressed"
    page.get_by_role("button", name="Near-threshold").press("Enter")
    expect(page.get_by_role("button", name="Near-threshold")).to_have_attribute("aria-pressed", "true")
    assert page.evaluate(f"{ACTIVE}.textContent") == "Near-threshold"
    page.locator("button.edit").press("Enter")
    page.keyboard.press("Escape")
    expect(page.locator("button.edit")).to_be_focused()


def test_a_typed_text_shows_where_the_feature_fires_and_stays_in_the_address(
    context: Any, address: str, made: DashboardWorkspace, theme: str
) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    page.goto(f"{address}/features?run={made.name}&f=5")
    page.get_by_role("button", name="My text").click()
    page.get_by_label("My text").fill("def read(path): <img src=x onerror=alert(1)>")
    expect(page.locator(".answer .text")).to_contain_text("def read(path):")
    expect(page.locator(".answer .text")).to_contain_text("<img src=x onerror=alert(1)>")
    expect(page.locator(".answer .cap")).to_have_text(
        re.compile(r"^(Fires on \d+ of|Does not fire on any of these) \d+ tokens")
    )
    assert page.locator(".answer b").count() > 0, "the strongest token is marked"
    page.wait_for_url(re.compile("mine=def"))
    page.get_by_label("My text").press("k")
    expect(page.locator(".card h3")).to_have_text("Feature 5")
    page.locator("button.next").click()
    expect(page.locator(".card h3")).not_to_have_text("Feature 5")
    expect(page.locator(".answer .text")).to_contain_text("def read(path)")
    again = context.new_page()
    again.goto(page.url)
    expect(again.locator(".answer .text")).to_contain_text("def read(path)")
    assert again.locator(".card img").count() == 0


@pytest.mark.parametrize("theme", ["light"], indirect=True)
def test_pointing_at_an_example_tells_what_ablation_does_to_the_next_tokens(
    context: Any, address: str, made: DashboardWorkspace, order: list[int]
) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "ablation" in request.url else None)
    page.goto(f"{address}/features?run={made.name}&f={order[0]}")
    line = page.locator(".contexts .example").first
    line.hover()
    page.wait_for_timeout(300)
    assert not asked, "the model is not loaded before it is asked for"
    page.get_by_role("button", name="Ablation on hover").click()
    page.mouse.move(0, 0)
    line.locator(".text").hover()
    expect(line.locator("b.centre")).to_have_attribute(
        "data-v", re.compile(r"% of max · without it, .+ [+-]?0\.\d{3} nats")
    )
    with FeatureIndex(made.run.index_path) as index:
        example = index.examples(order[0], "top", 24)[0]
    answer = page.request.get(
        f"{address}/api/runs/{made.name}/features/{order[0]}/ablation?sequence={example['sequence']}"
    )
    change = answer.json()["changes"][example["position"]]
    expect(line.locator("b.centre").first).to_have_attribute("data-v", re.compile(re.escape(f"{abs(change):.3f} nats")))
    page.mouse.move(0, 0)
    line.locator(".text").hover()
    assert len(asked) == 1, "asked once"


@pytest.mark.parametrize("theme", ["light"], indirect=True)
def test_notes_are_kept_found_and_stay_text(context: Any, address: str, made: DashboardWorkspace) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    page.goto(f"{address}/features?run={made.name}&f=9")
    page.locator("button.write").click()
    page.locator("textarea.noting").fill("seen <b>twice</b>\nand k")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".card .note")).to_have_text("seen <b>twice</b>\nand k")
    expect(page.locator("button.write")).to_be_focused()
    page.get_by_label("Search", exact=True).fill("TWICE")
    page.get_by_label("Search", exact=True).press("Enter")
    expect(page.locator(".view .row")).to_have_count(1)
    expect(page.locator(".card h3")).to_have_text("Feature 9")
    page.reload()
    expect(page.locator(".card .note")).to_contain_text("<b>twice</b>")


@pytest.mark.parametrize("theme", ["light"], indirect=True)
def test_the_card_has_logit_effects_and_the_family_of_a_tree(
    context: Any, address: str, made: DashboardWorkspace
) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    run = next(run for run in find_runs(made.folder) if run.name == "levels")
    feature = next(f for f in range(9) if family_of(run, f))
    page.goto(f"{address}/features?run=tiny/levels&f={feature}")
    expect(page.locator(".logits rect.pos").first).to_be_attached()
    expect(page.locator(".logits rect.neg").first).to_be_attached()
    page.get_by_role("button", name="siblings").click()
    parent = page.locator(".bars .line", has_text="parent 1.")
    expect(parent).to_be_visible()
    name = parent.inner_text().split()[1]
    parent.click()
    page.wait_for_url(re.compile(rf"/tree.*node={re.escape(name)}(&|$)"))
    level, number = name.split(".")
    expect(page.get_by_text(f"Feature {number} of level {level}")).to_be_visible()
    expect(page.get_by_role("option", selected=True)).to_contain_text(name)
    expect(page.get_by_role("combobox", name="Run", exact=True)).to_have_value(re.compile("^tiny/levels "))


@pytest.mark.parametrize("theme", ["light"], indirect=True, ids=["all"])
def test_text_contrasts_with_what_is_behind_it_and_nothing_is_cut_off(
    context: Any, address: str, made: DashboardWorkspace
) -> None:
    from playwright.sync_api import expect

    page = context.new_page()
    for query in ("&f=0", "&q=comment&mine=def x", "&q=nothing such"):
        page.goto(f"{address}/features?run={made.name}{query}")
        expect(page.locator(".card :is(h3, .quiet)").first).to_be_visible()
        expect(page.locator(".view .row").first if "nothing" not in query else page.locator(".hiding")).to_be_visible()
        expect_readable_and_whole(page, 768, 1280, 1680)


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
    expect(page.locator("button.none")).to_contain_text("1 of")
    first = page.locator(".ranking a.line").first
    first.hover()
    expect(page.locator("button.chip[class*=' p']").first).to_be_visible()
    feature = first.get_attribute("data-feature")
    first.click()
    expect(page.locator(".card h3")).to_have_text(f"Feature {feature}")
    page.locator("a.steer").click()
    expect(page.get_by_text(f"Feature {feature}")).to_be_visible()
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()
    page.get_by_text("Sampling, positions, seed").click()
    tokens = page.get_by_role("spinbutton", name="Tokens each")
    tokens.fill("8")  # the model's context is short
    tokens.press("Enter")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("pre.sample span[title$=nats]").first).to_be_visible()
    expect(page.locator(".next-tokens i").first).to_be_attached()
    assert page.locator(".next-tokens").evaluate("table => table.querySelectorAll('b, script').length") == 0


ACTIVE = """(() => {
  let at = document.activeElement;
  while (at.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
  return at;
})()"""
"""The element that has the focus, within shadow roots too."""

WALK = """
const texts = [];
const visit = (root) => {
  for (const at of root.querySelectorAll('*')) {
    if (at.shadowRoot) visit(at.shadowRoot);
    const own = [...at.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    const box = at.getBoundingClientRect();
    if (own && box.width > 1 && box.height > 1 && at.checkVisibility({ opacityProperty: true, visibilityProperty: true })
      && !['STYLE', 'SCRIPT'].includes(at.tagName) && !at.closest('svg, [data-testid=stIconMaterial]')) texts.push(at);
  }
};
const above = (at) => at.parentElement || (at.getRootNode().host ?? null);
visit(document);
"""
"""All elements with text of their own that can be seen."""

CONTRASTS = (
    "() => {"
    + WALK
    + """
const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
const rgba = (colour) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const over = (top, below, share) => below.map((c, i) => i < 3 ? top[i] * share + c * (1 - share) : 1);
const luminance = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
  const x = c[i] / 255;
  return sum + weight * (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
}, 0);
// The value of a slider lies above its thumb, not on it.
const isBehind = (each, at) => !at.closest('[data-testid=stSliderThumbValue]') || !each.closest('[data-testid=stSlider]');
return texts.map((at) => {
  const chain = [];
  for (let each = at; each; each = above(each)) chain.unshift(each);
  let behind = [255, 255, 255, 1], text = null, opacity = 1;
  for (const each of chain) {
    const style = getComputedStyle(each), fill = rgba(style.backgroundColor);
    opacity *= Number(style.opacity);
    if (isBehind(each, at)) behind = over(fill, behind, fill[3] * opacity);
    text = rgba(style.color);
  }
  const shown = over(text, behind, text[3] * opacity);
  const [low, high] = [luminance(shown), luminance(behind)].sort((a, b) => a - b);
  return { contrast: (high + 0.05) / (low + 0.05), text: at.textContent.slice(0, 40), as: at.className };
}).filter((one) => one.contrast < 4.5);
}"""
)
"""The texts whose contrast with what is behind them (WCAG 2) is below 4.5."""

CUT_OFF = (
    "() => {"
    + WALK
    + """
return texts.filter((at) => {
  const box = at.getBoundingClientRect();
  for (let each = above(at); each; each = above(each)) {
    const style = getComputedStyle(each);
    if (['auto', 'scroll'].includes(style.overflowX) && !each.matches('.card, .contexts, .view')) return false;
    const outer = each.getBoundingClientRect();
    if (style.overflowX !== 'visible' && (box.right > outer.right + 2 || box.left < outer.left - 2))
      return style.textOverflow !== 'ellipsis';
  }
  return box.left < -1 || box.right > innerWidth + 1;
}).map((at) => at.textContent.slice(0, 40) + ' | ' + at.className);
}"""
)
"""The texts that stand out of the window or of what holds them, unless that scrolls; those shortened with an ellipsis are
whole in their hints."""


def expect_readable_and_whole(page: Any, *widths: int) -> None:
    """No text of the page is cut off at any of these widths, nor faint in light or dark."""
    for width in widths:
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(100)
        assert page.evaluate(CUT_OFF) == [], width
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        page.wait_for_timeout(300)  # colours change little by little
        assert page.evaluate(CONTRASTS) == [], theme


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
            expect(page.locator(".view .row .dens").first).to_have_text(re.compile(r"\d"))
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
    density = page.locator(".view .row .dens")
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
def test_windows_step_apart_a_rebuilt_index_is_shown_and_a_killed_server_is_noticed(
    browser: Any, made: DashboardWorkspace, order: list[int], theme: str, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    rebuilt = Run.load(shutil.copytree(made.run.path, made.run.path.with_name("rebuilt")))
    with (
        served_dashboard(made.folder, tmp_path / "notes.jsonl") as served,
        fresh_context(browser, served.address, theme) as windows,
    ):
        one, two = windows.new_page(), windows.new_page()
        for page in (one, two):
            page.goto(f"{served.address}/features?run=tiny/rebuilt")
            expect(page.locator(".card h3")).to_have_text(f"Feature {order[0]}")
        for _ in range(2):
            one.keyboard.press("k")
        expect(one.locator(".card h3")).to_have_text(f"Feature {order[2]}")
        expect(two.locator(".card h3")).to_have_text(f"Feature {order[0]}")

        build_index(rebuilt, config=IndexConfig(n_top=3))
        for _ in range(4):
            two.keyboard.press("k")
        expect(two.locator(".card h3")).to_have_text(f"Feature {order[4]}")
        expect(two.locator(".contexts .example")).to_have_count(3)

        served.process.kill()
        served.process.wait()
        for _ in range(4):
            one.keyboard.press("k")
        expect(one.get_by_text("The dashboard's server does not answer; is it still running?")).to_be_visible()
    shutil.rmtree(rebuilt.path)


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
    expect(page.locator(".card .sub").first).to_contain_text("negative side: density")
    expect(page.locator(".pictures rect.neg").first).to_be_attached()
    page.get_by_role("button", name="Lowest").click()
    expect(page.locator(".contexts .value").first).to_have_text(re.compile("^-"))
    expect(page.locator(".contexts b.centre[class*=n]").first).to_be_visible()
    page.goto(f"{address}/prompt?run=tiny/forms")
    expect(page.locator(".ranking a.line").first).to_be_visible()
    for line in page.locator(".ranking a.line").all():
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
