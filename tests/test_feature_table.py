"""The feature table of the dashboard: which features pass, in which order, and what is said of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from dashboard_workspace import make_workspace

from interp.browse.features import TableFilter, counts_text, feature_payload, percent, select_features, table_payload
from interp.errors import InputError
from interp.index.reader import FeatureIndex


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureIndex]:
    with FeatureIndex(make_workspace(tmp_path_factory.mktemp("table")).run.index_path) as opened:
        yield opened


def test_importance_order_lists_every_feature_once_largest_first(index: FeatureIndex) -> None:
    order = select_features(index, TableFilter())
    assert sorted(order) == list(range(48))
    importance = index.summary["importance"][order].to_list()
    assert importance == sorted(importance, reverse=True)


def test_labelled_features_come_first_in_label_order(index: FeatureIndex) -> None:
    order = select_features(index, TableFilter(order="label", labels={7: "beta", 3: "Alpha"}))
    assert order[:4] == [3, 7, 0, 1]


def test_search_finds_numbers_labels_and_tokens(index: FeatureIndex) -> None:
    labels = {7: "opens a file", 9: "numbers"}
    assert select_features(index, TableFilter(query="12")) == [12]
    assert select_features(index, TableFilter(query="FILE", labels=labels)) == [7]
    by_token = select_features(index, TableFilter(query="tok: <b>"))
    assert by_token == index.search_tokens("<b>") != []
    assert select_features(index, TableFilter(query="tok: ")) == []


def test_an_unknown_feature_is_named_with_the_range_there_is(index: FeatureIndex) -> None:
    for number in ("99999", "-1", "one"):
        with pytest.raises(InputError, match=re.escape(f"no feature {number}; this run has 0-47")):
            feature_payload(index, number)
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
    columns = table_payload(index)
    for feature in (0, 7, 47):
        about = index.feature(feature)
        assert columns["density"][feature] == pytest.approx(about["density"], rel=1e-3)
        assert columns["max"][feature] == pytest.approx(about["max"], rel=1e-3)
        assert columns["dead"][feature] == about["dead"]
    assert {len(column) for column in columns.values()} == {48}


def test_the_counts_name_what_is_left_out(index: FeatureIndex) -> None:
    n_dead = len(select_features(index, TableFilter(shown=("dead",))))
    assert counts_text(index, 48) == f"48 features · {n_dead} dead · 3,000 tokens · L0 4.0"
    assert counts_text(index, 5).startswith("5 of 48 features · ")


def test_shares_are_shown_with_no_more_digits_than_they_take() -> None:
    assert [percent(share) for share in (0.0, 1e-5, 0.003, 0.1, 1.0)] == ["0 %", "0.001 %", "0.3 %", "10 %", "100 %"]
