"""The baselines against scikit-learn and the covariance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA as SklearnPCA

from interp.decomposers.baselines.pca import PCA, PCAConfig
from interp.errors import InputError
from interp.store.source import ArraySource


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    spread = torch.linspace(3, 0.1, 12)
    return (torch.randn(500, 12, generator=random) * spread) @ torch.randn(12, 12, generator=random) + 4


def test_components_are_those_of_scikit_learn_up_to_sign(rows):
    pca = PCA.fit(ArraySource(rows), PCAConfig(n_features=5))
    reference = SklearnPCA(5, svd_solver="full").fit(rows.double().numpy())
    cosines = (pca.W_dec.double().numpy() * reference.components_).sum(1)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-6)
    codes = reference.transform(rows.double().numpy()) * np.sign(cosines)
    np.testing.assert_allclose(pca.encode(rows).numpy(), codes, atol=1e-3)


def test_the_largest_entry_of_a_component_is_positive(rows):
    components = PCA.fit(ArraySource(rows), PCAConfig(n_features=12)).W_dec
    largest = components.abs().argmax(1)
    assert (components[torch.arange(12), largest] > 0).all()


def test_all_components_reconstruct_and_fewer_leave_the_rest_of_the_variance(rows):
    source = ArraySource(rows)
    assert PCA.fit(source, PCAConfig(n_features=12)).fvu(rows) < 1e-9
    records: list[dict[str, float]] = []

    class Memory:
        checkpoints: Path | None = None

        def log(self, record: dict[str, float]) -> None:
            records.append(record)

    pca = PCA.fit(source, PCAConfig(n_features=3), Memory())
    values = np.linalg.eigvalsh(np.cov(rows.double().numpy().T, bias=True))
    assert pca.fvu(rows) == pytest.approx(values[:-3].sum() / values.sum(), rel=1e-4)
    assert records[0]["fvu"] == pytest.approx(pca.fvu(rows), rel=1e-4)
    assert records[0]["loss"] == pytest.approx(values[:-3].sum(), rel=1e-6)


def test_more_components_than_there_are_dimensions_are_refused(rows):
    with pytest.raises(InputError, match="13 components were asked for, but the site is 12 wide"):
        PCA.fit(ArraySource(rows), PCAConfig(n_features=13))
    with pytest.raises(InputError, match="8 components were asked for, but 8 rows differ in at most 7 dimensions"):
        PCA.fit(ArraySource(rows[:8]), PCAConfig(n_features=8))
