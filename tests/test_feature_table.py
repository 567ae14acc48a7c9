"""The feature table of the dashboard: which features pass, in which order, and what is said of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from dashboard_workspace import DashboardWorkspace, evidence_by_hand, make_workspace

from interp.browse.evidence import RunEvidence
from interp.browse.features import (
    DENSE,
    N_TOKENS,
    Order,
    TableFilter,
    counts_text,
    escaped,
    feature_payload,
    filters_in_words,
    percent,
    select_features,
    table_payload,
)
from interp.errors import InputError
from interp.index.reader import FeatureIndex


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DashboardWorkspace:
    return make_workspace(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def index(made: DashboardWorkspace) -> Iterator[FeatureIndex]:
    with FeatureIndex(made.run.index_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def evidence(made: DashboardWorkspace) -> RunEvidence:
    return RunEvidence(evidence_by_hand(made.run).features)


def test_importance_order_lists_every_feature_once_largest_first(index: FeatureIndex) -> None:
    order = select_features(index, TableFilter(order="importance"))
    assert sorted(order) == list(range(48))
    importance = index.summary["importance"][order].to_list()
    assert importance == sorted(importance, reverse=True)
    assert select_features(index, TableFilter(order="importance", is_reversed=True))[-1] == order[0]


def test_without_evidence_the_best_are_important_and_not_dense(index: FeatureIndex) -> None:
    order = select_features(index, TableFilter())
    rows = index.summary.loc[order]
    dense = (rows["density"] > DENSE).to_list()
    assert 0 < sum(dense) < 48, "else this shows nothing"
    assert dense == sorted(dense), "dense features come last"
    assert select_features(index, TableFilter(order="importance")) != order
    for part in (rows[rows["density"] <= DENSE], rows[rows["density"] > DENSE]):
        assert part["importance"].is_monotonic_decreasing


def test_with_evidence_a_dense_feature_comes_last_within_its_grade(index: FeatureIndex, evidence: RunEvidence) -> None:
    order = select_features(index, TableFilter(evidence=evidence))
    assert order[:12] == sorted(range(0, 48, 4), key=lambda f: (bool(index.summary["density"][f] > DENSE), f)), (
        "those that act, by excess"
    )
    grades = [evidence.features[f].grade for f in order]
    assert list(dict.fromkeys(grades)) == ["detects and acts", "detects", "contradicted", "none"]


def test_labelled_features_come_first_in_label_order(index: FeatureIndex) -> None:
    order = select_features(index, TableFilter(order="label", labels={7: "beta", 3: "Alpha"}))
    assert order[:4] == [3, 7, 0, 1]


def test_search_finds_numbers_labels_and_tokens(index: FeatureIndex) -> None:
    labels = {7: "opens a file", 9: "numbers"}
    assert select_features(index, TableFilter(query="12")) == [12]
    assert select_features(index, TableFilter(query="A FILE", labels=labels)) == [7]
    by_token = select_features(index, TableFilter(query="tok: <b>"))
    assert by_token == index.search_tokens("<b>") != []
    assert select_features(index, TableFilter(query="tok: ")) == []


def test_an_unknown_feature_is_named_with_the_range_there_is(index: FeatureIndex, made: DashboardWorkspace) -> None:
    for number in ("99999", "-1", "one"):
        with pytest.raises(InputError, match=re.escape(f"no feature {number}; this run has 0-47")):
            feature_payload(index, number, made.run, RunEvidence())
    with pytest.raises(InputError, match="no feature 48; this run has 0-47"):
        select_features(index, TableFilter(query="48"))


def test_filters_narrow_together(index: FeatureIndex) -> None:
    marked = frozenset({1, 2, 3})
    assert select_features(index, TableFilter(shown=("bookmarked",), bookmarks=marked, order="label")) == [1, 2, 3]
    both = TableFilter(shown=("bookmarked", "labelled"), bookmarks=marked, labels={2: "x", 8: "y"})
    assert select_features(index, both) == [2]
    dead, alive = (set(select_features(index, TableFilter(shown=(kind,)))) for kind in ("dead", "alive"))
    assert dead | alive == set(range(48))
    assert not dead & alive
    middle = float(index.summary["density"].median())
    dense = select_features(index, TableFilter(density=(middle, 1.0)))
    assert 0 < len(dense) < 48
    assert (index.summary["density"][dense] >= middle).all()


def test_the_columns_are_those_of_the_index_by_feature_number(index: FeatureIndex) -> None:
    columns: Any = table_payload(index, RunEvidence())
    assert columns.pop("evidence") is None
    words, tokens = columns.pop("words"), columns["tokens"]
    assert len(words) == len(set(words))
    top = [one["tokens"][one["centre"]] for one in index.examples(7, "top", 8)]
    assert [words[i] for i in tokens[7]] == list(dict.fromkeys(top))[:N_TOKENS]
    for feature in (0, 7, 47):
        about = index.feature(feature)
        assert columns["density"][feature] == pytest.approx(about["density"], rel=1e-3)
        assert columns["max"][feature] == pytest.approx(about["max"], rel=1e-3)
        assert columns["dead"][feature] == about["dead"]
    assert {len(column) for column in columns.values()} == {48}


def test_the_counts_name_what_is_left_out(index: FeatureIndex) -> None:
    n_dead = len(select_features(index, TableFilter(shown=("dead",))))
    assert counts_text(index, 48, RunEvidence()) == f"48 features · {n_dead} dead · 3,000 tokens · L0 4.0"
    assert counts_text(index, 5, RunEvidence()).startswith("5 of 48 features · ")


def test_evidence_orders_the_table_best_first_and_what_was_not_measured_last(
    index: FeatureIndex, evidence: RunEvidence
) -> None:
    def order(by: Order) -> list[int]:
        found = select_features(index, TableFilter(order=by, evidence=evidence))
        assert sorted(found) == list(range(48))
        return found

    kinds = [list(range(kind, 48, 4)) for kind in range(4)]
    number, comment, keyword, none = kinds[1], kinds[0], kinds[2], kinds[3]
    assert order("concept") == number + comment + keyword + none
    assert order("excess") == list(range(48))
    assert order("simulability") == list(range(48))[::-1]
    assert order("stability") == list(range(48)), "those without counterparts are last, in order of number"
    assert order("label") == number + comment + keyword + none


def test_evidence_filters_the_table(index: FeatureIndex, evidence: RunEvidence) -> None:
    def found(**wanted: Any) -> list[int]:
        return select_features(index, TableFilter(evidence=evidence, order="excess", **wanted))

    assert found(grades=("contradicted",)) == list(range(2, 48, 4))
    assert found(concept="keyword") == list(range(2, 48, 4)), "not those whose nearest concept is not detected"
    assert found(ranges={"excess": (0.455, 1.0)}) == [0, 1, 2, 3, 4]
    assert found(ranges={"simulability": (0.0, 0.525)}) == [0, 1, 2]
    assert found(ranges={"stability": (-1.0, 1.0)}) == list(range(8)), "features without counterparts do not pass"
    assert found(grades=("detects",), ranges={"excess": (0.455, 1.0)}) == [1]
    assert found(writes="comment") == list(range(0, 48, 6)), "only where the estimate is above chance"
    wanted = TableFilter(
        query=" raise ", density=(0.01, 1.0), shown=("alive",), grades=("detects", "none"), concept="keyword",
        writes="number", ranges={"excess": (0.3, 1.0)},
    )  # fmt: skip
    assert filters_in_words(wanted) == [
        "search “raise”", "fires on 1 % to 100 % of tokens", "only alive", "detects or none", "detects keyword",
        "writes number", "excess F1 0.3 to 1",
    ]  # fmt: skip
    assert filters_in_words(TableFilter()) == []


def test_a_plain_search_finds_what_a_person_can_read(index: FeatureIndex, evidence: RunEvidence) -> None:
    def found(query: str, **wanted: Any) -> list[int]:
        return sorted(select_features(index, TableFilter(query=query, **wanted)))

    assert found("KEYWORD", evidence=evidence) == list(range(2, 48, 4)), "detected; not those it is merely nearest to"
    written = sorted({*range(0, 48, 6), *range(0, 48, 4)})
    assert found("comment", evidence=evidence) == written, "detected, or made to be written"
    assert found("<SCRIPT", evidence=evidence) == list(range(48)), "its strongest tokens"
    assert found("odd one", notes={3: "an Odd one"}) == [3]
    token = index.strongest_tokens[7][0]
    assert 7 in found(token.strip()) if token.strip() and not token.strip().isdigit() else True
    assert found("raise") == [f for f in range(48) if any("raise" in t for t in index.strongest_tokens[f][:8])]


def test_a_strangers_text_is_no_markdown() -> None:
    assert escaped("![x](http://a.b) <b> 0.3 · ok") == r"\!\[x\]\(http\:\/\/a\.b\) \<b\> 0\.3 · ok"


def test_a_search_finds_the_label_that_is_shown(index: FeatureIndex, evidence: RunEvidence) -> None:
    wanted = TableFilter(query="A COMMENT", labels={0: "mine", 1: "a comment"}, evidence=evidence, order="excess")
    assert select_features(index, wanted) == [1]
    by_label = select_features(index, TableFilter(order="label", labels={7: "zebra"}, evidence=evidence))
    assert by_label[:2] == [7, 1], "a person's label comes before automatic ones"
    own = TableFilter(shown=("labelled",), labels={7: "zebra"}, evidence=evidence)
    assert select_features(index, own) == [7], "an automatic label does not make a feature labelled"


def test_columns_and_counts_hold_the_evidence(index: FeatureIndex, evidence: RunEvidence) -> None:
    columns = table_payload(index, evidence)["evidence"]
    assert columns is not None
    assert [columns["grades"][i] for i in columns["grade"][:4]] == [
        "detects and acts",
        "detects",
        "contradicted",
        "none",
    ]
    assert columns["labels"] == ["<b>number", "comment", "keyword"]
    assert columns["label"][:4] == [1, 0, 2, -1]
    assert columns["concepts"] == ["<b>number", "comment", "keyword"]
    assert columns["concept"][:4] == [1, 0, 2, 2], "the nearest of a feature that detects none"
    assert (columns["f1"][0], columns["null"][0], columns["excess"][0]) == pytest.approx((0.6, 0.1, 0.5))
    assert (columns["output"][:4], columns["lift"][:4]) == ([1, -1, -1, -1], [3.0, 1.0, 1.0, 1.0])
    assert columns["output_sign"][:7] == [1, -1, 1, -1, 1, -1, 1]
    assert counts_text(index, 48, evidence).endswith("36 detect a concept, of these 12 act, 12 contradicted")


def test_shares_are_shown_with_no_more_digits_than_they_take() -> None:
    assert [percent(share) for share in (0.0, 1e-5, 0.003, 0.1, 1.0)] == ["0 %", "0.001 %", "0.3 %", "10 %", "100 %"]
