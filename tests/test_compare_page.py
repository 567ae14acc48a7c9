"""What the Compare page shows: a text's codes in several runs, their counterparts, and what has none."""

from __future__ import annotations

import json
import shutil
import urllib.parse
from typing import Any

import numpy as np
import pytest
from dashboard_workspace import SITE, DashboardWorkspace, add_other_kinds, make_workspace
from msgspec import structs
from scipy import sparse
from streamlit.testing.v1 import AppTest

from interp.browse.code_matches import CodeMatches, greatest_correlations, match_codes
from interp.browse.comparison import RunOnText, TextCodes, compared, indexed_text, partner, run_on_text
from interp.browse.evidence import ShownLabel
from interp.browse.prompt import encode_prompt
from interp.browse.stored_text import stored_text, typed_text
from interp.errors import InputError
from interp.index.reader import FeatureIndex
from interp.model.language_model import load_model
from interp.runs.record import Run
from interp.store.reader import ActivationStore


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DashboardWorkspace:
    made = make_workspace(tmp_path_factory.mktemp("compared"), n_tokens=4200)
    add_other_kinds(made)
    return made


def run_in(made: DashboardWorkspace, name: str) -> Run:
    return Run.load(made.folder / "tiny/runs" / name)


# Codes of the text


def test_the_index_holds_the_codes_of_every_passage(made: DashboardWorkspace) -> None:
    store, decomposer = made.run.store(), made.run.decomposer()
    names, of_token = store.documents()
    with FeatureIndex(made.run.index_path) as index:
        assert index.documents == names
        rows = [passage for document in range(len(names)) for passage in index.passages(document)]
        assert np.concatenate(rows).tolist() == list(range(store.n_rows)), "all tokens, each once, in order"
        assert all(len({sequence for sequence, _ in store.positions()[one]}) == 1 for one in rows)
        text = indexed_text(index, 2, 2)
        expected = decomposer.encode(store.site(SITE).rows(index.passages(2)[1])).numpy()
        cut = index.summary["cut"].to_numpy()
        np.testing.assert_allclose(text.codes.toarray(), np.where(expected > cut, expected, 0), rtol=2e-3, atol=1e-3)
        assert (of_token[tuple(store.positions()[index.passages(2)[1]].T)] == 2).all()
        with pytest.raises(InputError, match="there is no passage 99 of document 2: it has"):
            indexed_text(index, 2, 99)
        with pytest.raises(InputError, match="there is no passage 1 of document 999: it has 0"):
            indexed_text(index, 999, 1)


def test_small_parts_of_the_index_give_the_same_codes(
    made: DashboardWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.array([5, 400, 7, 3999])
    with FeatureIndex(made.run.index_path) as index:
        whole = index.codes_on(rows).toarray()
        monkeypatch.setattr("interp.index.reader.BLOCK", 1000)
        np.testing.assert_array_equal(index.codes_on(rows).toarray(), whole)
        assert whole.any(axis=1).all()


def test_stored_text_without_an_index_has_the_same_tokens_and_codes(made: DashboardWorkspace) -> None:
    model, store = load_model(made.run.model_id), made.run.store()
    with FeatureIndex(made.run.index_path) as index:
        from_index = indexed_text(index, 1, 1)
    from_store = stored_text(made.run, store, 1, 1, model.token_strings)
    assert from_store.tokens == from_index.tokens
    difference = np.abs(from_store.codes.toarray() - from_index.codes.toarray())
    assert np.median(difference[from_index.codes.toarray() > 0]) < 1e-2
    other = ActivationStore(store.path)
    other.manifest = structs.replace(other.manifest, model_fingerprint="another")
    with pytest.raises(InputError, match="trained on another model than the store"):
        stored_text(made.run, other, 1, 1, model.token_strings)


def test_typed_text_has_no_bos(made: DashboardWorkspace) -> None:
    model = load_model(made.run.model_id)
    prompt = encode_prompt(model, made.run, "with open(path)")
    text = typed_text(prompt)
    assert text.tokens == prompt.tokens[1:]
    np.testing.assert_array_equal(text.codes.toarray(), prompt.codes[1:])


# Counterparts


def test_greatest_correlations_are_those_of_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    first, second = (np.maximum(rng.normal(size=(300, n)) - 1, 0) for n in (23, 17))
    second[:, 4] = 3 * first[:, 7]  # a counterpart
    first[:, 2], second[:, 9] = 0, 2  # constant
    with np.errstate(invalid="ignore"):
        r = np.corrcoef(first.T, second.T)[:23, 23:]
    r = np.where(np.isfinite(r), r, -np.inf)
    for block in (5, 1024):
        monkeypatch.setattr("interp.browse.code_matches._BLOCK", block)
        left, right = greatest_correlations(sparse.csr_array(first), sparse.csr_array(second))
        for (features, values), matrix in ((left, r), (right, r.T)):
            constant = ~np.isfinite(matrix).any(1)
            np.testing.assert_array_equal(features, np.where(constant, -1, matrix.argmax(1)))
            np.testing.assert_allclose(values, np.where(constant, 0, matrix.max(1)), atol=1e-9)
        assert (left[0][7], left[0][2], right[0][9]) == (4, -1, -1)
        assert left[1][7] == pytest.approx(1)


def test_features_of_a_run_are_matched_with_themselves_and_chance_is_far_below(made: DashboardWorkspace) -> None:
    with FeatureIndex(made.run.index_path) as index:
        fires = index.summary["n_fire"].to_numpy() > 0
        there, back = match_codes(index, index)
        again, _ = match_codes(index, index)
    np.testing.assert_allclose(there.correlations[fires], 1, atol=1e-6)
    np.testing.assert_array_equal(there.features, back.features)
    np.testing.assert_array_equal(there.chance, again.chance)
    assert there.is_matched[fires].mean() > 0.9
    assert not there.is_matched[~fires].any()
    assert 0 < there.chance[fires].mean() < 0.6


def test_a_match_is_above_chance_and_above_the_threshold() -> None:
    found = CodeMatches(np.array([1, 2, 3, -1]), np.array([0.9, 0.6, 0.4, 0]), np.array([0.1, 0.7, 0.1, 0]), 100)
    assert found.is_matched.tolist() == [True, False, False, False]


def test_runs_of_other_text_are_not_matched(made: DashboardWorkspace) -> None:
    with FeatureIndex(made.run.index_path) as index, FeatureIndex(made.run.index_path) as other:
        other.record = structs.replace(other.record, store_identity="another", store="elsewhere")
        with pytest.raises(InputError, match="cannot be matched: their indexes are of different text"):
            match_codes(index, other)


# The payload


def on_text(run: str, codes: list[list[float]], site: str = SITE, **parts: Any) -> RunOnText:
    matrix = sparse.csr_array(np.array(codes, dtype=np.float32))
    tokens = tuple(f"t{i}" for i in range(matrix.shape[0]))
    return RunOnText(run, "sae", site, TextCodes(tokens, matrix), **parts)


def test_features_stand_strongest_first_with_codes_labels_and_counterparts() -> None:
    a = on_text("s/a", [[0, 2, -2.5], [0, 0, -3], [0, 0, 0]], labels={1: ShownLabel("<b>", True)})
    b = on_text("s/b", [[1], [0], [0]])
    matches = {
        ("s/a", "s/b"): CodeMatches(np.array([-1, 0, 0]), np.array([0, 0.8, 0.2]), np.array([0, 0.1, 0.1]), 50),
        ("s/b", "s/a"): CodeMatches(np.array([1]), np.array([0.8]), np.array([0.1]), 50),
    }
    shown = compared([a, b], matches, 99)
    json.dumps(shown)
    left, right = shown["columns"]
    assert left["strongest"] == [[2, 1], [2], []], "by absolute value"
    assert left["n_on"] == [2, 1, 0]
    assert left["features"]["1"] == {
        "feature": 1,
        "label": "<b>",
        "is_automatic": True,
        "largest": 2.0,
        "codes": [(0, 2.0)],
        "matches": [{"run": "s/b", "feature": 0, "text": "r .80, by chance .10", "is_matched": True}],
    }
    assert left["features"]["2"]["largest"] == -3.0
    assert left["features"]["2"]["codes"] == [(0, -2.5), (1, -3.0)]
    assert left["alone"] == [{"run": "s/b", "n": 1, "of": 2, "features": [2]}]
    assert right["alone"] == [{"run": "s/a", "n": 0, "of": 1, "features": []}]
    assert shown["token"] == 2, "the last that there is"
    assert len(shown["notes"]) == 1
    assert (
        "from r .50 on, and above chance (mean of 5 draws), two features are called matched; over 50 tokens."
        in shown["notes"][0]
    )


def test_what_has_no_counterpart_is_ordered_by_the_share_of_its_maximum() -> None:
    a = on_text("s/a", [[4, 1, 0]], maxima=np.array([40.0, 1.0, 1.0]))
    none = CodeMatches(np.array([-1, -1, -1]), np.zeros(3), np.zeros(3), 50)
    (column, _) = compared([a, on_text("s/b", [[1]])], {("s/a", "s/b"): none}, 0)["columns"]
    assert column["alone"][0]["features"] == [1, 0]
    assert column["strongest"] == [[0, 1]]


def test_other_sites_and_other_tokens_are_said() -> None:
    a, b = on_text("s/a", [[1]]), on_text("s/b", [[1], [1]], site="blocks.9.hook_resid_post")
    notes = compared([a, b], {}, 0, ["why not"])["notes"]
    assert notes[0].startswith("These runs are of different sites")
    assert notes[1].startswith("The runs cut this text into different tokens")
    assert notes[2:] == ["why not"]
    assert compared([a, a], {}, 0)["notes"] == []


def test_the_run_beside_is_of_the_same_store_and_site_if_there_is_one(made: DashboardWorkspace) -> None:
    runs = {name: run_in(made, name) for name in ("forms", "levels", "sae")}
    assert partner("levels", runs) == "forms"
    assert partner("sae", {"sae": runs["sae"]}) is None


def test_the_index_says_how_large_codes_get(made: DashboardWorkspace) -> None:
    with FeatureIndex(made.run.index_path) as index:
        column = run_on_text("tiny/sae", made.run, indexed_text(index, 0, 1), {}, index)
        np.testing.assert_array_equal(column.maxima, index.summary["max"])
    with FeatureIndex(run_in(made, "forms").index_path) as index:
        assert indexed_text(index, 0, 1).note.startswith("codes have both signs")


# The page


def page_of(**address: str) -> AppTest:
    page = AppTest.from_string("from app.views import compare\ncompare.show()", default_timeout=60)
    page.query_params.update(address)
    page.run()
    assert not page.exception
    return page


def address_of(page: AppTest) -> dict[str, str]:
    return dict(urllib.parse.parse_qsl(urllib.parse.urlencode(page.query_params, doseq=True)))


def test_the_view_is_in_the_address(copied: DashboardWorkspace) -> None:
    view = {"run": "tiny/sae", "with": "tiny/levels", "third": "tiny/forms", "store": "tiny", "doc": "3", "part": "2"}
    page = page_of(**view, token="5")
    assert not page.error
    assert address_of(page) == view | {"token": "5"}
    nonsense = page_of(run="tiny/sae", doc="999", part="x", store="nowhere", token="-1", source="dream")
    assert address_of(nonsense) == {"run": "tiny/sae", "with": "tiny/forms", "store": "tiny", "doc": "0", "part": "1"}
    typed = page_of(run="tiny/sae", source="typed", words="with open")
    assert address_of(typed) == {"run": "tiny/sae", "with": "tiny/forms", "source": "typed", "words": "with open"}


def test_a_run_beside_that_is_gone_is_said_to_be(copied: DashboardWorkspace) -> None:
    page = page_of(**{"run": "tiny/sae", "with": "tiny/levels", "third": "tiny/<b>"})
    assert [error.value for error in page.error] == [
        rf"There is no run \'tiny\/\<b\>\' in {''.join(c if c.isalnum() else chr(92) + c for c in str(copied.folder))}\: "
        r"it was deleted or renamed\, or never made\. Choose another run under **and**, or none."
    ]
    assert address_of(page)["third"] == "tiny/<b>"
    shutil.move(copied.folder / "tiny/runs/levels", copied.folder / "moved")
    page.run()
    assert not page.exception
    assert len(page.error) == 2
    assert page.selectbox[1].value is None, "no other run takes its place"
    page.selectbox[1].select("tiny/forms").run()
    assert len(page.error) == 1
    assert address_of(page)["with"] == "tiny/forms"


def test_a_run_without_index_is_encoded_and_said_not_to_be_matched(copied: DashboardWorkspace) -> None:
    page = page_of(**{"run": "tiny/sae", "with": "tiny/pca"})
    assert not page.error
    assert address_of(page)["with"] == "tiny/pca"


def test_no_second_run_is_kept_and_its_absence_is_in_the_address(copied: DashboardWorkspace) -> None:
    page = page_of(**{"run": "tiny/sae", "with": "-"})
    assert page.selectbox[1].value is None
    assert "Choose a second run" in page.info[0].value
    assert address_of(page)["with"] == "-"
    page.selectbox[0].select("tiny/levels").run()
    assert not page.exception
    assert page.selectbox[1].value is None
