"""Streaming moments against float64 over the whole array at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.store.moments import Moments, moments_of


def correlated_rows(n: int, d: int, *, mean: float, spread: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(d, d, generator=generator)
    return mean + spread * (torch.randn(n, d, generator=generator) @ mixing)


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (3.0, 1.0), (1e4, 0.1), (-1e4, 10.0)])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_moments_equal_float64_over_the_whole_array(mean: float, spread: float, chunk: int) -> None:
    rows = correlated_rows(300, 5, mean=mean, spread=spread)
    found, x = moments_of(rows.split(chunk)), rows.double().numpy()
    assert found.n == 300
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-12)
    expected = np.cov(x, rowvar=False, bias=True)
    np.testing.assert_allclose(found.covariance, expected, atol=1e-9 * expected.max())
    assert found.mean_norm == pytest.approx(np.linalg.norm(x, axis=1).mean(), rel=1e-12)
    assert found.total_variance == pytest.approx(((x - x.mean(0)) ** 2).sum(1).mean(), rel=1e-9)


def test_spectrum_is_the_principal_directions_largest_first() -> None:
    moments = moments_of([correlated_rows(500, 6, mean=2.0, spread=1.0)])
    values, vectors = moments.spectrum
    assert np.all(np.diff(values) <= 0)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(6), atol=1e-12)
    np.testing.assert_allclose(vectors.T @ np.diag(values) @ vectors, moments.covariance, atol=1e-12)


@pytest.mark.parametrize(("share", "rank"), [(0.5, 1), (0.69, 1), (0.71, 2), (0.95, 3), (1.0, 3)])
def test_rank_for_variance_is_the_fewest_directions_that_hold_it(share: float, rank: int) -> None:
    moments = Moments(n=10, mean=np.zeros(4), covariance=np.diag([2.0, 7.0, 0.0, 1.0]), mean_norm=1.0)
    assert moments.rank_for_variance(share) == rank


def test_rank_for_all_variance_is_never_more_than_the_width() -> None:
    for seed in range(30):
        values = np.random.default_rng(seed).exponential(size=40)
        moments = Moments(n=1, mean=np.zeros(40), covariance=np.diag(values), mean_norm=1.0)
        assert moments.rank_for_variance(1.0) <= 40


def test_no_rows_and_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="the source is empty"):
        moments_of([])
    rows = torch.ones(4, 2)
    rows[2, 1] = float("inf")
    with pytest.raises(InputError, match=r"not finite; capture them again with --dtype float32"):
        moments_of([rows])
