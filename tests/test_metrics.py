"""Metrics against scikit-learn, brute force and numbers worked out by hand."""

from __future__ import annotations

import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score

from interp import metrics
from interp.errors import InputError
from interp.metrics import (
    ReconstructionStats,
    auroc,
    auroc_matrix,
    average_precision,
    best_threshold_f1,
    bootstrap_interval,
    ce_recovered,
    distinct_n,
    f1_at,
    fvu,
    kl_divergence,
    matched_cosine,
    mean_max_cosine,
)


def score_columns(n: int = 300) -> np.ndarray:
    """Columns of every kind: dense, sparse, sparse with negative values, few levels, constant, all zero, whole numbers."""
    random = np.random.default_rng(0)
    dense = random.standard_normal((n, 2))
    sparse = np.maximum(random.standard_normal((n, 2)) - 1.5, 0)
    signed = random.standard_normal((n, 2)) * (random.random((n, 2)) < 0.2)
    levels = np.round(random.standard_normal((n, 2)))
    rest = np.stack([np.full(n, 3.0), np.zeros(n), -np.ones(n), random.integers(-2, 3, n)], 1)
    return np.concatenate([dense, sparse, signed, levels, rest], 1)


def some_labels(n: int = 300) -> np.ndarray:
    return np.random.default_rng(1).random((n, 4)) < [0.02, 0.3, 0.5, 0.95]


# --------------------------------------------------------------------------------------------------------------- ranks


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_auroc_is_exactly_that_of_scikit_learn_with_ties(dtype):
    scores, labels = score_columns().astype(dtype), some_labels()
    result = auroc_matrix(scores, labels)
    assert result.shape == (4, scores.shape[1])
    for concept, column in itertools.product(range(4), range(scores.shape[1])):
        expected = roc_auc_score(labels[:, concept], scores[:, column])
        assert result[concept, column] == pytest.approx(expected, abs=1e-14)
    np.testing.assert_array_equal(auroc(scores, labels[:, 1]), result[1])


def test_auroc_counts_pairs_with_ties_as_one_half():
    scores, positive = np.array([[0.0], [2.0], [2.0], [-1.0], [0.0]]), np.array([True, True, False, False, False])
    # Pairs of (positive, negative): 0 over -1, ties 0; 2 over -1 and 0, ties 2. Below: 0 under 2.
    assert auroc(scores, positive)[0] == (1 + 0.5 + 2 + 0.5) / 6


def test_auroc_is_the_same_in_blocks_and_for_whole_numbers(monkeypatch):
    scores, labels = np.round(score_columns() * 5).astype(np.int64), some_labels()
    whole = auroc_matrix(scores, labels)
    monkeypatch.setattr(metrics, "_BLOCK_VALUES", 700)
    np.testing.assert_array_equal(auroc_matrix(scores, labels), whole)


def test_auroc_keeps_under_monotone_maps_and_turns_with_the_sign():
    scores, labels = score_columns(), some_labels()
    result = auroc_matrix(scores, labels)
    np.testing.assert_array_equal(auroc_matrix(np.exp(scores), labels), result)
    np.testing.assert_allclose(auroc_matrix(-scores, labels), 1 - result, atol=1e-14)
    np.testing.assert_allclose(auroc_matrix(scores, ~labels), 1 - result, atol=1e-14)


def test_a_concept_that_never_or_always_occurs_has_no_auroc():
    scores = score_columns(10)
    assert np.isnan(auroc(scores, np.zeros(10, bool))).all()
    assert np.isnan(auroc(scores, np.ones(10, bool))).all()
    assert auroc_matrix(np.zeros((0, 3)), np.zeros((0, 2), bool)).shape == (2, 3)


def test_infinite_scores_are_ranked_and_nan_is_refused():
    scores = np.array([[-np.inf], [0.0], [np.inf]])
    assert auroc(scores, np.array([False, False, True])).tolist() == [1.0]
    scores = np.array([[0.0, 1.0], [0.0, np.nan]])
    with pytest.raises(InputError, match="scores of column 1 hold NaN"):
        auroc(scores, np.array([True, False]))


def test_labels_that_do_not_fit_are_refused():
    # Unwrapped, since the test run checks annotations, which outside of it nothing does.
    plain = inspect.unwrap(auroc_matrix)
    with pytest.raises(InputError, match=r"scores \(3, 2\) and labels \(4, 1\) must be tables with the same number"):
        plain(np.zeros((3, 2)), np.zeros((4, 1), bool))
    with pytest.raises(InputError, match="labels must be True or False, got uint8; compare with 0 first"):
        plain(np.zeros((3, 2)), np.zeros((3, 1), np.uint8))


def test_average_precision_is_that_of_scikit_learn():
    scores, labels = score_columns(), some_labels()
    for concept in range(4):
        expected = [average_precision_score(labels[:, concept], column) for column in scores.T]
        np.testing.assert_allclose(average_precision(scores, labels[:, concept]), expected, atol=1e-12)
    assert np.isnan(average_precision(scores, np.zeros(300, bool))).all()


def test_f1_is_that_of_scikit_learn():
    scores, positive = score_columns(), some_labels()[:, 1]
    thresholds = np.linspace(-1, 1, scores.shape[1])
    expected = [f1_score(positive, column >= t) for column, t in zip(scores.T, thresholds, strict=True)]
    np.testing.assert_allclose(f1_at(scores, positive, thresholds), expected)
    np.testing.assert_allclose(f1_at(scores, positive, 0.5), [f1_score(positive, c >= 0.5) for c in scores.T])
    assert math.isnan(f1_at(np.zeros((2, 1)), np.array([False, False]), 1.0)[0])


def test_the_best_threshold_has_the_highest_f1_of_all_thresholds():
    scores, positive = score_columns(), some_labels()[:, 1]
    thresholds, best = best_threshold_f1(scores, positive)
    for column, threshold, f1 in zip(scores.T, thresholds, best, strict=True):
        precision, recall, _ = precision_recall_curve(positive, column)
        total = precision + recall
        assert f1 == pytest.approx(np.max(2 * precision * recall / np.where(total > 0, total, 1)))
        assert threshold in column
    np.testing.assert_allclose(f1_at(scores, positive, thresholds), best)


# ------------------------------------------------------------------------------------------------------ reconstruction


def rows_and_codes(offset: float = 0.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 6, generator=generator) + offset
    x_hat = x + 0.3 * torch.randn(500, 6, generator=generator)
    z = torch.randn(500, 9, generator=generator).sub(1).relu()
    z[:, 4] = 0
    return x, x_hat, z


def test_fvu_is_one_ratio_of_sums():
    x, x_hat, _ = rows_and_codes()
    a, b = x.double().numpy(), x_hat.double().numpy()
    assert fvu(x, x_hat) == pytest.approx(((a - b) ** 2).sum() / ((a - a.mean(0)) ** 2).sum(), rel=1e-12)
    assert fvu(x, x) == 0
    assert fvu(x, x.mean(0).expand_as(x)) == pytest.approx(1, abs=1e-6)
    assert math.isnan(fvu(torch.ones(3, 2), torch.zeros(3, 2)))
    assert math.isnan(fvu(torch.full((7, 2), 0.1), torch.zeros(7, 2)))


@pytest.mark.parametrize("sizes", [[500], [1, 0, 99, 400], [250, 250]])
def test_reconstruction_stats_do_not_depend_on_the_chunks(sizes):
    x, x_hat, z = rows_and_codes()
    stats = ReconstructionStats()
    for chunk in zip(x.split(sizes), x_hat.split(sizes), z.split(sizes), strict=True):
        stats.add(*chunk)
    assert stats.n_rows == 500
    assert stats.fvu == pytest.approx(fvu(x, x_hat), rel=1e-12)
    assert stats.l0 == pytest.approx(float((z != 0).sum(1).double().mean()))
    assert stats.n_dead == 1
    torch.testing.assert_close(stats.density, (z != 0).double().mean(0))
    expected = (x_hat.double().norm(dim=1) / x.double().norm(dim=1)).mean()
    assert stats.shrinkage == pytest.approx(float(expected), rel=1e-12)


def test_fvu_survives_a_mean_far_larger_than_the_spread():
    x, x_hat, z = rows_and_codes(offset=3e4)
    stats = ReconstructionStats()
    for chunk in zip(x.split(100), x_hat.split(100), z.split(100), strict=True):
        stats.add(*chunk)
    a, b = x.double(), x_hat.double()
    expected = float((a - b).square().sum() / (a - a.mean(0)).square().sum())
    assert stats.fvu == pytest.approx(expected, rel=1e-9)


def test_shrinkage_leaves_out_rows_of_zeros():
    stats = ReconstructionStats()
    stats.add(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2, 1))
    assert stats.shrinkage == pytest.approx(0.4)


def test_reconstruction_stats_refuse_what_does_not_fit():
    stats = ReconstructionStats()
    with pytest.raises(InputError, match="there are no rows to judge a reconstruction by"):
        _ = stats.fvu
    add = inspect.unwrap(ReconstructionStats.add)
    with pytest.raises(InputError, match=r"rows \(2, 3\), reconstructions \(2, 4\) and codes \(2, 5\) do not fit"):
        add(stats, torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 5))
    with pytest.raises(InputError, match="hold NaN or infinite"):
        stats.add(torch.tensor([[math.nan]]), torch.zeros(1, 1), torch.zeros(1, 1))
    stats = ReconstructionStats()
    stats.add(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 5))
    with pytest.raises(InputError, match="width 4 with 5 features follows chunks of width 3 with 5 features"):
        stats.add(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(2, 5))


def test_ce_recovered_is_one_for_the_clean_model_and_zero_for_ablation():
    assert ce_recovered(2.0, 6.0, 2.0) == 1
    assert ce_recovered(2.0, 6.0, 6.0) == 0
    assert ce_recovered(2.0, 6.0, 3.0) == 0.75
    assert ce_recovered(2.0, 6.0, 8.0) == -0.5
    for clean, ablated, spliced in ((2.0, 2.0, 2.0), (2.0, 2.0 + 1e-9, 2.5), (0, 1e-8, 1e-8), (math.nan, 6, 2)):
        assert math.isnan(ce_recovered(clean, ablated, spliced))
    for wrong in (math.nan, math.inf):
        assert math.isnan(ce_recovered(2.0, wrong, 3.0))
        assert math.isnan(ce_recovered(2.0, 6.0, wrong))
    assert ce_recovered(0, 1e-3, 5e-4) == pytest.approx(0.5)


# --------------------------------------------------------------------------------------------------- what models write


def test_kl_divergence_is_that_of_torch_in_nats():
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 3, 4, 11, generator=generator, dtype=torch.float64)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=q)
    )
    torch.testing.assert_close(kl_divergence(p, q), expected)
    assert kl_divergence(p, p).abs().max() == 0
    torch.testing.assert_close(kl_divergence(p + 5, q - 2), expected)
    two = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).log()
    assert float(kl_divergence(two[0], two[1])) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_kl_divergence_of_half_precision_and_excluded_tokens():
    p, q = torch.tensor([0.0, 1.0, -torch.inf]), torch.tensor([0.0, 0.0, 0.0])
    expected = kl_divergence(p[:2], q[:2]) + math.log(3 / 2)
    assert kl_divergence(p, q) == pytest.approx(float(expected), rel=1e-6)
    assert kl_divergence(p, p) == 0
    assert kl_divergence(q, p) == torch.inf
    half = kl_divergence(p[:2].half(), q[:2].half())
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(kl_divergence(p[:2], q[:2])))


def test_distinct_n_is_the_share_of_different_n_grams():
    assert distinct_n([1, 2, 3, 4]) == 1
    assert distinct_n(np.array([1, 2, 1, 2, 1])) == 2 / 4
    assert distinct_n([7] * 10, n=1) == 1 / 10
    assert distinct_n([1, 2, 3, 1, 2, 3], n=3) == 3 / 4
    assert math.isnan(distinct_n([1]))
    with pytest.raises(InputError, match="n of at least 1, got 0"):
        distinct_n([1], n=0)


# ----------------------------------------------------------------------------------------------------------- directions


def test_mean_max_cosine_against_brute_force():
    random = np.random.default_rng(0)
    a, b = random.standard_normal((1100, 5)), random.standard_normal((30, 5))
    cosines = (a / np.linalg.norm(a, axis=1)[:, None]) @ (b / np.linalg.norm(b, axis=1)[:, None]).T
    assert mean_max_cosine(a, b) == pytest.approx(cosines.max(1).mean())
    assert mean_max_cosine(a, b, absolute=True) == pytest.approx(np.abs(cosines).max(1).mean())
    own = (a / np.linalg.norm(a, axis=1)[:, None]) @ (a / np.linalg.norm(a, axis=1)[:, None]).T
    np.fill_diagonal(own, -1)
    assert mean_max_cosine(a) == pytest.approx(own.max(1).mean())


def test_mean_max_cosine_of_known_dictionaries():
    axes = np.eye(3)
    assert mean_max_cosine(axes) == 0
    assert mean_max_cosine(np.concatenate([axes, 2 * axes])) == 1
    assert mean_max_cosine(np.concatenate([axes, -axes])) == 0
    assert mean_max_cosine(np.concatenate([axes, -axes]), absolute=True) == 1
    assert mean_max_cosine(np.concatenate([axes, np.zeros((2, 3))]), axes) == 1
    assert math.isnan(mean_max_cosine(axes[:1]))
    with pytest.raises(InputError, match="widths 3 and 2 cannot be compared"):
        inspect.unwrap(mean_max_cosine)(axes, np.eye(2))


def test_matched_cosine_is_the_best_of_all_matchings():
    random = np.random.default_rng(0)
    found, true = random.standard_normal((5, 3)), random.standard_normal((4, 3))
    cosines = np.abs(
        (found / np.linalg.norm(found, axis=1)[:, None]) @ (true / np.linalg.norm(true, axis=1)[:, None]).T
    )
    best = max(cosines[list(rows), range(4)].mean() for rows in itertools.permutations(range(5), 4))
    value, pairs = matched_cosine(found, true)
    assert value == pytest.approx(best)
    assert cosines[pairs[:, 0], pairs[:, 1]].mean() == pytest.approx(best)


def test_matched_cosine_does_not_mind_order_sign_or_length_but_what_is_missing():
    true = np.random.default_rng(0).standard_normal((6, 8))
    order = np.array([3, 1, 5, 0, 2, 4])
    value, pairs = matched_cosine(-2 * true[order], true)
    assert value == pytest.approx(1)
    np.testing.assert_array_equal(pairs, np.stack([np.arange(6), order], 1))
    assert matched_cosine(true[:3], true)[0] == pytest.approx(0.5)
    dead = np.concatenate([true[:3], np.zeros((3, 8))])
    assert matched_cosine(dead, true)[0] == pytest.approx(0.5)
    with pytest.raises(InputError, match="directions hold NaN"):
        matched_cosine(true * np.nan, true)
    with pytest.raises(InputError, match="no true directions"):
        matched_cosine(true, true[:0])


# ------------------------------------------------------------------------------------------------------------ intervals


def test_bootstrap_interval_covers_the_true_mean_as_often_as_it_says():
    random = np.random.default_rng(0)
    samples = random.exponential(size=(200, 60))
    intervals = [bootstrap_interval(sample, seed=0, n=300, level=0.9) for sample in samples]
    assert 0.83 < np.mean([low <= 1 <= high for low, high in intervals]) < 0.95


def test_bootstrap_interval_is_near_the_normal_one_and_repeats_with_its_seed():
    values = np.random.default_rng(0).standard_normal(400)
    low, high = bootstrap_interval(values, seed=1)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert bootstrap_interval(values, seed=1) == (low, high)
    assert bootstrap_interval([0.5], seed=0) == (0.5, 0.5)


def test_bootstrap_interval_refuses_what_has_no_mean():
    for values in ([], [1.0, math.nan]):
        with pytest.raises(InputError, match="at least one finite value"):
            bootstrap_interval(values, seed=0)
    with pytest.raises(InputError, match="between 0 and 1, got 95"):
        bootstrap_interval([1.0], seed=0, level=95)
