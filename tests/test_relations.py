"""Neighbours by direction and by co-activation, against the formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from interp.decomposers.forms import Forms
from interp.index import relations
from interp.index.relations import coactivation_neighbours, cosine_neighbours, nearest


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(relations, "BLOCK", 7)


def slow_neighbours(similarity, k):
    """The k best of each row but its own, best first; -inf is none."""
    found = []
    for i, row in enumerate(similarity):
        others = [j for j in np.argsort(-row, kind="stable") if j != i and np.isfinite(row[j])]
        found.append([(int(j), row[j]) for j in others[:k]])
    return found


def assert_same(neighbours, slow):
    ids, values = neighbours
    for f, expected in enumerate(slow):
        n = len(expected)
        assert ids[f, :n].tolist() == [i for i, _ in expected]
        np.testing.assert_allclose(values[f, :n], [value for _, value in expected], rtol=2e-5, atol=1e-6)
        assert (ids[f, n:] == -1).all()
        assert (values[f, n:] == 0).all()


def test_cosine_equals_the_formula():
    directions = np.random.default_rng(0).normal(size=(40, 6)) * np.arange(1, 41)[:, None]
    directions[11] = 0
    norm = np.linalg.norm(directions, axis=1)
    with np.errstate(invalid="ignore"):
        cosine = directions @ directions.T / norm / norm[:, None]
    cosine[np.isnan(cosine)] = -np.inf
    slow = slow_neighbours(cosine, 5)
    assert slow[11] == []
    assert_same(cosine_neighbours(directions, 5), slow)


def test_neighbours_of_forms_are_those_of_their_matrices():
    rng = np.random.default_rng(0)
    L, R = rng.normal(size=(2, 40, 6)).astype(np.float32)
    L[11] = 0
    outer = L[:, :, None] * R[:, None]
    flat = (outer + outer.transpose(0, 2, 1)).reshape(40, -1)
    norm = np.linalg.norm(flat, axis=1)
    with np.errstate(invalid="ignore"):
        cosine = flat @ flat.T / norm / norm[:, None]
    cosine[np.isnan(cosine)] = -np.inf
    forms = Forms(torch.from_numpy(L), torch.from_numpy(R), torch.arange(40)[:, None], torch.ones(40, 1))
    found = nearest(lambda block: forms[block].cosines(forms).numpy(), forms.norms.numpy() > 0, 5)
    assert_same(found, slow_neighbours(cosine, 5))


def test_more_places_than_features_are_left_empty():
    ids, values = cosine_neighbours(np.eye(3) + 0.1, 5)
    assert sorted(ids[0].tolist()) == [-1, -1, -1, 1, 2]
    assert (values[0, 2:] == 0).all()


def random_firing(n_tokens=3000, n_features=30, seed=1):
    rng = np.random.default_rng(seed)
    firing = rng.random((n_tokens, n_features)) < rng.uniform(0.01, 0.3, n_features)
    firing[:, 4] = firing[:, 3] & (rng.random(n_tokens) < 0.5)  # a feature that fires within another
    firing[:, 5] = False
    firing[:, 6] = True
    return firing


def test_coactivation_equals_the_correlation_of_firing_vectors():
    firing = random_firing()
    with np.errstate(invalid="ignore"):
        phi = np.corrcoef(firing.T.astype(float))
    phi[~(phi > 0)] = -np.inf
    acts = sparse.csc_array(firing * 0.5)
    assert_same(coactivation_neighbours(acts, 6, max_tokens=10**6), slow_neighbours(phi, 6))


def test_coactivation_of_sampled_tokens_is_near():
    firing = random_firing(n_tokens=20_000)
    acts = sparse.csc_array(firing * 1.0)
    ids, values = coactivation_neighbours(acts, 3, max_tokens=256)
    _, exact = coactivation_neighbours(acts, 3, max_tokens=10**6)
    assert ids[3, 0] == 4
    assert ids[4, 0] == 3
    np.testing.assert_allclose(values[3:5, 0], exact[3:5, 0], atol=0.1)
    again = coactivation_neighbours(acts, 3, max_tokens=256)
    assert (ids == again[0]).all()
    assert (values == again[1]).all()


def test_a_feature_that_always_fires_is_nobodys_neighbour():
    ids, _ = coactivation_neighbours(sparse.csc_array(random_firing() * 1.0), 29)
    assert (ids[[5, 6]] == -1).all()
    assert not np.isin(ids, [5, 6]).any()
