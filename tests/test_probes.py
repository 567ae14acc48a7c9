"""Probes against scikit-learn's logistic regression, on select and test alone, and whatever the scale of the features."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csc_array, csr_array
from sklearn.linear_model import LogisticRegression

from interp.errors import InputError
from interp.evaluation.logistic import fit_logistic, fit_logistic_outputs
from interp.evaluation.probes import full_probe, sparse_probes
from interp.metrics import best_threshold_f1


def reference(x: np.ndarray, y: np.ndarray, l2: float) -> tuple[np.ndarray, float]:
    """scikit-learn's weights and intercept, converged."""
    model = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=20_000).fit(np.asarray(x, np.float64), y)
    return model.coef_[0], model.intercept_[0]


# --------------------------------------------------------------------------------------------------- logistic regression


@pytest.mark.parametrize("l2", [0.1, 1.0, 30.0])
def test_few_columns_have_the_weights_of_scikit_learn(l2):
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 3, 200, 4)) * [1, 20, 0.1, 1] + [0, 50, 0, 0]
    y = random.random((2, 3, 200)) < 1 / (1 + np.exp(-x[..., 0] - 10 * x[..., 2] + 2))
    weights, intercepts = fit_logistic(x, y, l2=l2)
    assert weights.shape == (2, 3, 4)
    assert intercepts.shape == (2, 3)
    for at in np.ndindex(2, 3):
        coefficients, intercept = reference(x[at], y[at], l2)
        np.testing.assert_allclose(weights[at], coefficients, atol=1e-4)
        assert intercepts[at] == pytest.approx(intercept, abs=1e-4)


def test_separable_rows_of_a_rare_class_converge():
    """A full Newton step from w = 0 overshoots here by far."""
    x = np.zeros((1, 5000, 2))
    x[0, :5, 0] = 1000.0
    weights, intercepts = fit_logistic(x, x[..., 0] > 0, l2=1e-3)
    coefficients, intercept = reference(x[0], x[0, :, 0] > 0, 1e-3)
    np.testing.assert_allclose(weights[0], coefficients, rtol=1e-2)  # what scikit-learn reaches
    probability = 1 / (1 + np.exp(-(x[0] @ weights[0] + intercepts[0])))
    residual = probability - (x[0, :, 0] > 0)
    np.testing.assert_allclose(x[0].T @ residual + 1e-3 * weights[0], 0, atol=1e-5)
    assert residual.sum() == pytest.approx(0, abs=1e-5)
    assert intercept == pytest.approx(intercepts[0], rel=0.05)


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance", "error"), [(np.float64, 1e-6, 1e-5), (np.float32, 1e-3, 5e-3)])
def test_many_columns_have_the_weights_of_scikit_learn(is_sparse, dtype, tolerance, error):
    random = np.random.default_rng(1)
    dense = random.standard_normal((300, 40)) * np.geomspace(0.1, 3, 40)
    dense = (dense * (dense > 0.5) if is_sparse else dense).astype(dtype)
    y = dense @ random.standard_normal((40, 5)) + random.standard_normal((300, 5)) > [0, 1, 2, 3, 4]
    weights, intercepts = fit_logistic_outputs(csr_array(dense) if is_sparse else dense, y, l2=2.0, tolerance=tolerance)
    assert weights.dtype == dtype
    for output in range(5):
        coefficients, intercept = reference(dense, y[:, output], 2.0)
        np.testing.assert_allclose(weights[:, output], coefficients, atol=error)
        assert intercepts[output] == pytest.approx(intercept, abs=10 * error)  # it is pinned down least


def test_an_output_keeps_its_fit_whatever_is_fitted_beside_it():
    """Histories, step sizes and the end are each output's own, up to the rounding of shared products."""
    random = np.random.default_rng(2)
    x = random.standard_normal((200, 10))
    y = x @ random.standard_normal((10, 6)) > random.random(6) * 4
    together, _ = fit_logistic_outputs(x, y)
    for output in range(6):
        alone, _ = fit_logistic_outputs(x, y[:, [output]])
        np.testing.assert_allclose(together[:, [output]], alone, atol=1e-9)


def test_a_label_that_all_rows_share_is_refused():
    x = np.ones((1, 4, 1))
    for y in (np.ones((1, 4), bool), np.zeros((1, 4), bool)):
        with pytest.raises(InputError, match="rows of both classes for every output"):
            fit_logistic(x, y)
        with pytest.raises(InputError, match="rows of both classes for every output"):
            fit_logistic_outputs(x[0], y.T)
    with pytest.raises(InputError, match="l2 must be above 0, got 0"):
        fit_logistic(x, np.array([[True, False, True, False]]), l2=0)


# --------------------------------------------------------------------------------------------------------- sparse probes


def planted(n: int = 600, n_features: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(codes, labels, is_test): feature 7 is label 0, features 3 and 11 together are label 1, on all but some rows."""
    random = np.random.default_rng(3)
    codes = random.random((n, n_features)) * (random.random((n, n_features)) < 0.1)
    flips = random.random((n, 2)) < [0.02, 0.01]
    labels = np.stack([codes[:, 7] > 0, (codes[:, 3] > 0) | (codes[:, 11] > 0)], 1) ^ flips
    return codes.astype(np.float32), labels, random.random(n) < 0.5


def f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    return 2 * (predicted & labels).sum() / (predicted.sum() + labels.sum())


def test_sparse_probes_find_the_planted_features():
    codes, labels, is_test = planted()
    probes = sparse_probes(csc_array(codes), labels, is_test, ks=(1, 2, 5))
    assert probes.ks == (1, 2, 5)
    assert probes.features.shape == (2, 5)
    assert probes.predicted.shape == (2, 3, is_test.sum())
    assert probes.features[0, 0] == 7
    assert set(probes.features[1, :2]) == {3, 11}
    assert f1(probes.predicted[0, 0], labels[is_test, 0]) > 0.8
    assert f1(probes.predicted[1, 0], labels[is_test, 1]) < 0.8 < f1(probes.predicted[1, 1], labels[is_test, 1])


def test_sparse_probes_are_what_scikit_learn_makes_of_the_same_features():
    codes, labels, is_test = planted()
    probes = sparse_probes(csc_array(codes), labels, is_test, ks=(1, 5))
    select = codes[~is_test].astype(np.float64)
    for label in range(2):
        has = labels[~is_test, label]
        difference = np.abs(select[has].mean(0) - select[~has].mean(0)) / select.std(0)
        np.testing.assert_array_equal(probes.features[label], np.argsort(-difference)[:5])
        for at, k in enumerate((1, 5)):
            features = probes.features[label, :k]
            coefficients, _ = reference(select[:, features] / select[:, features].std(0), has, 1.0)
            scores = codes[:, features] / select[:, features].std(0) @ coefficients
            threshold = best_threshold_f1(scores[~is_test][:, None], has)[0]
            assert (probes.predicted[label, at] != (scores[is_test] >= threshold - 1e-4)).sum() <= 1  # a tie at most


def test_sparse_and_dense_columns_give_the_same_probes_at_every_scale():
    codes, labels, is_test = planted()
    expected = sparse_probes(csc_array(codes), labels, is_test)
    scales = np.exp2(np.random.default_rng(4).integers(-20, 20, codes.shape[1])).astype(np.float32)
    for columns in (codes, csc_array(codes * scales), codes * scales):
        probes = sparse_probes(columns, labels, is_test)
        np.testing.assert_array_equal(probes.features, expected.features)
        np.testing.assert_array_equal(probes.predicted, expected.predicted)
    moved = sparse_probes(codes * scales + 5 * scales, labels, is_test)  # coordinates of an activation have means
    np.testing.assert_array_equal(moved.features, expected.features)
    assert (moved.predicted != expected.predicted).mean() < 0.01


def test_probes_learn_nothing_from_the_rows_of_test():
    codes, labels, is_test = planted()
    other = labels.copy()
    other[is_test] = ~other[is_test]
    before, after = (sparse_probes(csc_array(codes), y, is_test) for y in (labels, other))
    np.testing.assert_array_equal(before.features, after.features)
    np.testing.assert_array_equal(before.predicted, after.predicted)
    whole, again = (full_probe(codes, y, is_test) for y in (labels, other))
    np.testing.assert_array_equal(whole.directions, again.directions)
    np.testing.assert_array_equal(whole.predicted, again.predicted)
    louder = codes.copy()
    louder[is_test] *= 100
    np.testing.assert_array_equal(sparse_probes(csc_array(louder), labels, is_test).features, before.features)
    np.testing.assert_array_equal(full_probe(louder, labels, is_test).directions, whole.directions)


def test_constant_columns_come_last_and_more_features_than_there_are_is_all():
    codes, labels, is_test = planted()
    columns = np.stack([np.full(len(codes), 0.1, np.float32), codes[:, 7], np.zeros(len(codes), np.float32)], 1)
    probes = sparse_probes(csc_array(columns), labels, is_test, ks=(1, 16))
    np.testing.assert_array_equal(probes.features, [[1, 0, 2]] * 2)
    np.testing.assert_array_equal(probes.predicted[:, 0], probes.predicted[:, 1])


# ------------------------------------------------------------------------------------------------------------ full probe


def test_the_full_probe_is_scikit_learns_in_the_space_of_the_activations():
    random = np.random.default_rng(5)
    x = (random.standard_normal((500, 12)) * np.geomspace(0.01, 100, 12) + 3).astype(np.float32)
    x[:, 4] = 7.5
    is_test = random.random(500) < 0.5
    standard = (x - x[~is_test].mean(0, dtype=np.float64)) / np.where(np.arange(12) == 4, 1, x[~is_test].std(0))
    labels = standard @ random.standard_normal((12, 3)) + random.standard_normal((500, 3)) > [0, 1, 3]
    probe = full_probe(x, labels, is_test, l2=1.0)
    assert probe.directions.shape == (3, 12)
    for label in range(3):
        coefficients, _ = reference(standard[~is_test], labels[~is_test, label], 1.0)
        np.testing.assert_allclose(
            np.delete(probe.directions[label] * x[~is_test].std(0), 4), np.delete(coefficients, 4), atol=5e-3
        )
        scores = (x @ probe.directions.T)[:, label]
        np.testing.assert_array_equal(probe.predicted[label], scores[is_test] >= probe.thresholds[label])
        assert probe.thresholds[label] == best_threshold_f1(scores[~is_test][:, None], labels[~is_test, label])[0][0]
    assert not probe.directions[:, 4].any()
