"""Runs side by side: which can be compared, who leads and whether that is shown, and what the command prints and writes."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_metrics import (
    SITE,
    around,
    baseline,
    concepts,
    judged_with,
    made_metrics,
    made_run,
    probes,
    reconstruction,
    seeds,
    spliced,
    steering,
)

from interp.cli.main import main
from interp.decomposers.baselines.pca import PCAConfig
from interp.decomposers.semi_nmf.decomposer import SemiNMFConfig
from interp.errors import InputError
from interp.evaluation.compare import compare_runs, match_runs, metrics_by_name
from interp.evaluation.comparison_page import comparison_page
from interp.evaluation.comparison_text import apart_sentence, group_sentences, matched_sentences
from interp.evaluation.groups import families, grouped, settings_of
from interp.evaluation.matching import chance_cosines, match
from interp.evaluation.results import EvaluationConfig
from interp.runs.training import train_run
from interp.store.reader import ActivationStore


def of_l0(l0: float, **parts: Any) -> Any:
    return made_metrics(reconstruction=reconstruction(l0=l0), **parts)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"site": "blocks.1.mlp.hook_post"}, f"site {SITE}, not blocks.1.mlp.hook_post"),
        ({"model": "large"}, "model tiny, not large"),
        ({"store": "t", "store_identity": "2"}, "text s-held-out (1), not t (2)"),
        ({"store_identity": "2"}, "text s-held-out (1), not s-held-out (2)"),
        ({"config": judged_with(label_set="python")}, "label set the store's first, not python"),
        ({"config": judged_with(max_rows=10)}, "rows sampled 20000, not 10"),
        ({"config": judged_with(seed=3)}, "seed of the judging 0, not 3"),
        ({"config": judged_with(n_draws=2)}, "draws of the nulls 5, not 2"),
        ({"config": EvaluationConfig(n_sequences=8)}, "sequences of the loss 32, not 8"),
    ],
)
def test_runs_judged_otherwise_stand_apart_and_it_is_said_why(
    tmp_path: Path, other: dict[str, Any], reason: str
) -> None:
    metrics = {"a": made_metrics(), "b": made_metrics(**other), "c": made_metrics(kind="pca", n_features=9)}
    assert [group.runs for group in grouped(metrics)] == [("a", "c"), ("b",)]
    found = compare_runs([made_run(tmp_path / "s", each, name) for name, each in metrics.items()])
    (apart,) = found.apart
    assert apart_sentence(apart) == f"a, c cannot be compared with b: {reason}."
    assert group_sentences(found.groups[1], metrics) == ["b has no other run to be compared with."]


def test_as_many_features_or_the_same_l0_are_directly_comparable() -> None:
    metrics = {
        "a": of_l0(30.0), "b": of_l0(33.0, n_features=512), "c": of_l0(33.1, n_features=1024), "d": of_l0(60.0),
        "dense": made_metrics(n_features=8, reconstruction=reconstruction(fires=False, l0=31.0)),
    }  # fmt: skip
    (group,) = grouped(metrics)
    assert [(each.by, each.runs) for each in group.alike] == [("256 features", ("a", "d")), ("L0 30 to 33", ("a", "b"))]
    lines = group_sentences(group, metrics)
    assert lines[:2] == [
        "Directly comparable, with 256 features: a, d.",
        "Directly comparable, with L0 30 to 33: a, b.",
    ]
    assert lines[2] == "Of another number of features and another L0 than all the others: c, dense."


def fvu_of(value: float, half: float | None, **parts: Any) -> Any:
    interval = None if half is None else (value - half, value + half)
    return made_metrics(
        reconstruction=reconstruction(fvu=value, fvu_interval=interval, **parts.pop("rec", {})), **parts
    )


@pytest.mark.parametrize(
    ("half", "first", "verdict"),
    [
        (0.02, ".100 [.080, .120]", "the intervals do not overlap"),
        (0.06, ".100 [.040, .160]", "the intervals overlap, so no difference is shown"),
        (None, ".100", "there are no intervals to tell them apart by"),
    ],
)
def test_the_leader_is_named_with_what_the_intervals_say(half: float | None, first: str, verdict: str) -> None:
    metrics = {"worst": fvu_of(0.5, 0.01), "second": fvu_of(0.2, 0.05), "best": fvu_of(0.1, half)}
    (group,) = grouped(metrics)
    (lead,) = group.leads
    assert (lead.metric, lead.run, lead.next, lead.are_alike) == ("fvu", "best", "second", True)
    said = f"FVU: best leads with {first}; next is second with .200 [.150, .250]; {verdict}."
    assert group_sentences(group, metrics)[-1] == said


def test_higher_is_better_for_concepts_and_a_lead_within_chance_is_called_so() -> None:
    same = concepts(f1=around(0.5), excess=around(0.01), null_f1=0.49)
    metrics = {"a": made_metrics(concepts=concepts()), "b": made_metrics(concepts=same)}
    (group,) = grouped(metrics)
    lead = next(each for each in group.leads if each.metric == "concepts")
    assert (lead.run, lead.is_above_null, lead.are_separated) == ("b", False, False)
    (line,) = [line for line in group_sentences(group, metrics) if line.startswith("concepts found")]
    assert line == (
        "concepts found: b leads with .50 [.45, .55] = null .49; next is a with .44 [.37, .51] > null .23; the intervals "
        "overlap, so no difference is shown. Even the leader is not above its null."
    )


def test_a_lead_of_another_size_is_called_so() -> None:
    metrics = {"a": fvu_of(0.1, 0.01, n_features=9, rec={"l0": 90.0}), "b": fvu_of(0.2, 0.01)}
    (group,) = grouped(metrics)
    assert not group.alike
    assert group_sentences(group, metrics)[-1].endswith(
        "The two differ in both number of features and L0, which may be all there is to it."
    )


def test_nobody_leads_in_what_one_run_alone_was_measured_by() -> None:
    (group,) = grouped({"a": made_metrics(spliced=spliced(), steering=steering()), "b": made_metrics()})
    assert [lead.metric for lead in group.leads] == ["fvu"]


def test_settings_are_shared_or_differ(tmp_path: Path) -> None:
    runs = {
        "a": made_run(tmp_path / "s", made_metrics(), "a", k=8, schedule={"warmup": 0.1, "clip": 1.0}),
        "b": made_run(tmp_path / "s", made_metrics(kind="pca"), "b", schedule={"warmup": 0.2, "clip": 1.0}),
    }
    settings = settings_of(runs)
    assert settings.differing == {
        "method": {"a": "sae", "b": "pca"}, "k": {"a": "8", "b": "-"}, "schedule.warmup": {"a": "0.1", "b": "0.2"},
    }  # fmt: skip
    assert settings.shared == {
        "site": SITE, "model": "tiny", "store": "s (0)", "n_features": "256", "seed": "0", "schedule.clip": "1.0",
    }  # fmt: skip


def test_a_family_differs_in_sizes_alone(tmp_path: Path) -> None:
    def run(name: str, n: int = 256, kind: str = "sae", **options: Any) -> Any:
        return made_run(tmp_path / "s", made_metrics(kind=kind, n_features=n), name, **options)

    runs = {
        "a": run("a", k=8, variant="topk"), "b": run("b", 512, k=16, variant="topk"), "c": run("c", k=8, variant="gated"),
        "d": run("d", kind="pca"),
    }  # fmt: skip
    names = families(runs)
    assert names == {"a": "sae, variant topk", "b": "sae, variant topk", "c": "sae, variant gated", "d": "pca"}


def test_runs_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    known, bare = made_run(tmp_path / "s", made_metrics(), "known"), made_run(tmp_path / "s", None, "bare")
    for runs, message in (
        ([], "a comparison needs two runs or more; there is none"),
        ([known], "a comparison needs two runs or more; there is one"),
        ([known, known], f"a run is given twice: {known.path}; name each run once"),
        ([known, bare], f"not evaluated by this version: bare; run: interp evaluate {bare.path}"),
    ):
        with pytest.raises(InputError) as refused:
            metrics_by_name(runs)
        assert str(refused.value) == message


def test_matched_features_have_the_mean_cosine_of_their_pairs(tiny_store: ActivationStore, tmp_path: Path) -> None:
    """Against the pairing itself, read directions and moments taken by hand; PCA has no signs, so its cosines are absolute."""
    store = ActivationStore(shutil.copytree(tiny_store.path, tmp_path / "tiny"))
    site = "blocks.1.hook_resid_post"
    runs = {
        "five": train_run(store, site, SemiNMFConfig(n_features=5, passes=3), "five"),
        "three": train_run(store, site, PCAConfig(n_features=3), "three"),
        "four": train_run(store, site, PCAConfig(n_features=4), "four"),
    }
    found = match_runs(runs)
    cosines, chance = np.array(found.cosines), np.array(found.chance)
    assert found.runs == ("five", "three", "four")
    np.testing.assert_array_equal(cosines, cosines.T)
    np.testing.assert_array_equal(chance, chance.T)
    assert np.diag(cosines).tolist() == np.diag(chance).tolist() == [1, 1, 1]
    assert cosines[1, 2] == pytest.approx(1, abs=1e-4), (
        "the first three of four principal components are the same three"
    )
    left, right = (run.decomposer().read_directions().numpy() for run in (runs["five"], runs["three"]))
    _, pairs = match(left, right, signless=True, pairing="one-to-one")
    assert cosines[0, 1] == pytest.approx(np.sort(pairs)[-3:].mean()), "three pairs, two features are left over"
    random = chance_cosines(left, right, store.site(site).moments(), signless=True, pairing="one-to-one", seed=0)
    assert chance[0, 1] == pytest.approx(random.sum() / 3), "each draw pairs three of the five, not always the same"


def test_features_that_cannot_be_matched_leave_the_rest(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / "s", made_metrics(), name) for name in ("a", "b")]
    found = compare_runs(runs)
    assert not found.matched
    (line,) = matched_sentences(found)
    assert line.startswith("features of a, b were not matched: there is no decomposer at '")


class Tags(HTMLParser):
    """The tags of a page with their attributes, and the text outside of programs and styles."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._is_text = True
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._is_text = tag not in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._is_text = True

    def handle_data(self, data: str) -> None:
        self.text += data if self._is_text else ""


@pytest.fixture
def compared(tmp_path: Path) -> Any:
    """Two runs with everything that is drawn, a third of another site, and harmful names."""
    nasty = "</script><script>alert(1)</script>"
    full = {
        "spliced": spliced(), "probes": probes(), "seeds": seeds(), "steering": steering(),
        "concepts": concepts(baselines=(baseline(nasty, 0.3, around(0.14)),), left_out={nasty: "too few"}),
    }  # fmt: skip
    store = tmp_path / "activations" / "s"
    return [
        made_run(store, made_metrics("a", **full), "a", k=8),
        made_run(store, made_metrics("<b>", **full), "<b>", k=16),
        made_run(store, made_metrics("c", site="elsewhere"), "c", k=16),
    ]


def test_the_page_needs_nothing_else(compared: Any) -> None:
    metrics, found = metrics_by_name(compared), compare_runs(compared)
    by_name = dict(zip(metrics, compared, strict=True))
    page = comparison_page(by_name, metrics, found)
    assert comparison_page(by_name, metrics, found) == page, "the same runs, the same bytes"
    read = Tags(page)
    assert not [tag for tag, has in read.tags if {"src", "href", "srcset", "action", "data"} & has.keys()]
    (policy,) = [has["content"] for tag, has in read.tags if has.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    figures = [has["id"] for tag, has in read.tags if str(has.get("id")).startswith("figure-")]
    assert figures == [f"figure-{i + 1}" for i in range(len(figures))]
    assert len(figures) >= 10
    assert "<script>alert(1)" not in page
    assert page.count("<b>") == 0
    assert "a, <b> cannot be compared with c: site" in read.text
    assert "FVU: a leads with .250 [.240, .260]; next is <b> with" in read.text
    assert "In which the runs differ" in read.text
    assert ".250 ± .002" in read.text, "the spread over seeds"


def test_the_command_prints_the_table_and_writes_the_page(compared: Any, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = compared[0].path.parents[2]
    main(["compare", "a", "c", str(compared[1].path), "--workspace", str(workspace)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{SITE}, judged on s-held-out"
    assert printed[2].split()[:3] == ["run", "kind", "FVU"]
    assert "c has no other run to be compared with." in printed
    assert "The runs differ in: k, site." in printed or "The runs differ in: site, k." in printed
    assert printed[-1] == f"The page with the figures: {workspace / 'comparison.html'}"
    assert (workspace / "comparison.html").read_text().startswith("<!doctype html>")


def test_the_command_prints_json(compared: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = compared[0].path.parents[2]
    main(["compare", "a", "c", "--workspace", str(workspace), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in found["runs"]] == ["a", "c"]
    assert found["runs"][0]["interval_concepts"] == [0.37, 0.51]
    assert [group["runs"] for group in found["groups"]] == [["a"], ["c"]]
    assert found["apart"][0]["reasons"] == [f"site {SITE}, not elsewhere"]
    assert not list(tmp_path.rglob("*.html"))
    main(["compare", "a", "c", "--workspace", str(workspace), "--json", "--out", str(tmp_path / "page.html")])
    assert json.loads(capsys.readouterr().out) == found
    assert (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a"], "a comparison needs two runs or more; there is one"),
        (["a", "aa"], "no run 'aa' in the workspace"),
        (["a", "bare"], "not evaluated by this version: bare; run: interp evaluate "),
        (
            ["a", "c", "--out", "page.txt"],
            "the page cannot be 'page.txt'; give --out NAME.html in a folder that there is",
        ),
        (["a", "c", "--out", "nowhere/page.html"], "the page cannot be 'nowhere/page.html'; give --out NAME.html"),
    ],
)
def test_wrong_input_is_refused_and_nothing_is_written(
    compared: Any, given: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    workspace = compared[0].path.parents[2]
    made_run(workspace / "s", None, "bare")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit):
        main(["compare", *given, "--workspace", str(workspace)])
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
    assert sorted(tmp_path.rglob("*")) == before
