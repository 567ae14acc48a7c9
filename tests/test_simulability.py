"""Simulability on features planted in text, and against scikit-learn on the same design."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csc_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from interp.errors import InputError
from interp.evaluation.simulability import design, simulability

N, WIDTH, VOCABULARY = 2000, 6, 60


def text() -> tuple[np.ndarray, np.ndarray]:
    """(windows, is_test): running text in sequences of 50 tokens, its words as unequal in frequency as a language's."""
    random = np.random.default_rng(0)
    tokens = np.minimum(random.zipf(1.5, N), VOCABULARY) - 1
    windows = np.full((N, WIDTH), -1)
    for back in range(WIDTH):
        has = np.arange(N) % 50 >= back
        windows[has, back] = tokens[np.flatnonzero(has) - back]
    return windows, np.arange(N) // 50 % 2 == 1


def as_codes(fires: np.ndarray) -> csc_array:
    return csc_array(fires.astype(np.float32) * np.random.default_rng(1).random(fires.shape, np.float32))


def test_features_of_the_text_are_simulable():
    windows, is_test = text()
    columns = [
        windows[:, 0] == 5,
        windows[:, 1] == 3,
        windows[:, 2] == 9,
        (windows[:, 0] == 1) & (windows[:, 1] == 0),
        (windows[:, 2:] == 4).any(1),
    ]
    result = simulability(windows, as_codes(np.stack(columns, 1)), is_test)
    assert result[0] > 0.99
    assert result[1] > 0.99
    assert result[2] > 0.9  # its token may lie anywhere in the rest of the window
    assert result[3] > 0.99
    assert result[4] > 0.99


def test_random_firing_is_not():
    windows, is_test = text()
    random = np.random.default_rng(2)
    result = simulability(windows, as_codes(random.random((N, 80)) < np.linspace(0.02, 0.4, 80)), is_test)
    assert np.nanmean(result) == pytest.approx(0.5, abs=0.03)
    assert np.isfinite(result).all()


def test_what_is_learned_is_judged_on_other_rows():
    """Firing of select alone follows the token; on test it is random."""
    windows, is_test = text()
    fires = np.where(is_test, np.random.default_rng(3).random(N) < 0.2, windows[:, 0] == 0)
    assert simulability(windows, as_codes(fires[:, None]), is_test)[0] == pytest.approx(0.5, abs=0.06)


def test_scikit_learn_finds_the_same_on_the_same_design():
    windows, is_test = text()
    random = np.random.default_rng(4)
    logits = 3.0 * (windows[:, [0]] == np.arange(6)) + 2.0 * (windows[:, [1]] == np.arange(3, 9)) - 2
    fires = random.random((N, 6)) < 1 / (1 + np.exp(-logits))
    result = simulability(windows, as_codes(fires), is_test)
    table = design(windows, is_test)
    for feature in range(6):
        model = LogisticRegression(max_iter=5000, tol=1e-8).fit(table[~is_test], fires[~is_test, feature])
        expected = roc_auc_score(fires[is_test, feature], model.decision_function(table[is_test]))
        assert result[feature] == pytest.approx(expected, abs=0.005)


def test_the_design_by_hand():
    windows = np.array([[7, 5, 7, 7], [5, 7, 5, 9], [7, -1, -1, -1], [8, 5, 9, 4]])
    is_test = np.array([False, False, False, True])
    # Select has as token 5, 7; before it 5, 7; in the rest 5, 7, 9. Token 8 and the 4 in the rest are test's alone.
    expected = [
        [0, 1, 1, 0, 0, 1, 0],
        [1, 0, 0, 1, 0.5, 0, 0.5],
        [0, 1, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0.5],
    ]
    table = design(windows, is_test)
    assert table.dtype == np.float32
    np.testing.assert_array_equal(table.toarray(), expected)
    np.testing.assert_array_equal(design(windows[:, :1], is_test).toarray(), np.array(expected)[:, :2])


def test_features_that_hardly_fire_or_hardly_rest_are_nan_and_blocks_change_nothing():
    windows, is_test = text()
    fires = np.random.default_rng(5).random((N, 40)) < 0.1
    on = {part: np.flatnonzero(is_test == part) for part in (False, True)}
    fires[:, 33] = False
    fires[on[False], 34] = np.arange(len(on[False])) < 9
    fires[on[True], 35] = np.arange(len(on[True])) < 9
    fires[on[True], 36] = np.arange(len(on[True])) >= 9
    fires[on[True], 37] = np.arange(len(on[True])) < 10
    result = simulability(windows, as_codes(fires), is_test)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(result)), [33, 34, 35, 36])
    assert np.isfinite(simulability(windows, as_codes(fires[:, 34:36]), is_test, min_fires=9)).all()
    np.testing.assert_array_equal(simulability(windows, as_codes(fires), is_test), result)
    np.testing.assert_allclose(simulability(windows, as_codes(fires[:, 30:]), is_test), result[30:], atol=1e-3)


def test_strength_of_firing_does_not_matter():
    windows, is_test = text()
    codes = as_codes(np.random.default_rng(6).random((N, 3)) < 0.1)
    np.testing.assert_array_equal(simulability(windows, codes * 100, is_test), simulability(windows, codes, is_test))


def test_windows_without_tokens_are_refused():
    windows, is_test = text()
    with pytest.raises(InputError, match="no window has a token on select"):
        simulability(np.where(is_test, 1, -1)[:, None], as_codes(windows[:, :1] == 0), is_test)
