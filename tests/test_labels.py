"""Labels, notes and bookmarks: kept, changed one at a time, safe between threads."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from interp.errors import InputError
from interp.runs.feature_labels import FeatureLabel, FeatureLabels


@pytest.fixture
def labels(tmp_path):
    return FeatureLabels(tmp_path / "labels.sqlite")


def test_reading_makes_no_file(labels):
    assert labels.get(3) == FeatureLabel(label="", note="", bookmarked=False)
    assert labels.all() == {}
    assert labels.bookmarks() == []
    assert labels.search("x") == []
    assert not labels.path.exists()


def test_a_change_leaves_the_rest_and_outlives_the_object(labels):
    labels.set(3, label="  raise ")
    labels.set(3, note="also 'return'; DROP TABLE labels")
    assert labels.set(3, bookmarked=True) == FeatureLabel("raise", "also 'return'; DROP TABLE labels", True)
    labels.set(1, bookmarked=True)
    again = FeatureLabels(labels.path)
    assert again.get(3) == FeatureLabel("raise", "also 'return'; DROP TABLE labels", True)
    assert again.bookmarks() == [1, 3]
    assert list(again.all()) == [1, 3]
    assert again.set(3, label="").label == ""
    assert again.get(3).note.startswith("also")


def test_a_feature_of_which_nothing_is_said_is_forgotten(labels):
    labels.set(3, label="raise", bookmarked=True)
    labels.set(3, label=" ", bookmarked=False)
    assert labels.all() == {}


def test_search_reads_labels_and_notes_in_any_case(labels):
    labels.set(7, label="Comparison operators")
    labels.set(2, note="fires on ÜBERSCHRIFT and OPERATORS")
    labels.set(5, label="imports")
    assert labels.search("operator") == [2, 7]
    assert labels.search("überschrift") == [2]
    assert labels.search("%") == []


def test_concurrent_changes_are_all_kept(labels):
    def change(i):
        FeatureLabels(labels.path).set(i % 10, **({"label": f"feature {i % 10}"} if i < 20 else {"bookmarked": True}))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(40)))
    assert labels.all() == {f: FeatureLabel(f"feature {f}", "", True) for f in range(10)}


def test_wrong_files_are_refused(tmp_path):
    (tmp_path / "text").write_text("not a database, and long enough to be read as one " * 20)
    with pytest.raises(InputError, match="cannot be read or written: file is not a database"):
        FeatureLabels(tmp_path / "text").all()
    with pytest.raises(InputError, match="cannot be opened"):
        FeatureLabels(tmp_path / "absent" / "labels.sqlite").set(0, label="x")
    newer = sqlite3.connect(tmp_path / "newer")
    newer.execute("PRAGMA user_version = 2")
    newer.execute("CREATE TABLE other (x)")
    newer.close()
    with pytest.raises(InputError, match="holds labels of version 2, this program reads 1"):
        FeatureLabels(tmp_path / "newer").set(0, label="x")
    with pytest.raises(InputError, match="no feature -1; features are numbered from 0"):
        FeatureLabels(tmp_path / "labels.sqlite").set(-1, label="x")
