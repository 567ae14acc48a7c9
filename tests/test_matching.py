"""Features matched between runs: pairs worked by hand, and chance told from what is shared."""

from __future__ import annotations

import shutil
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.decomposers.baselines.pca import PCA, PCAConfig
from interp.decomposers.bilinear.autoencoder import Bilinear, BilinearConfig
from interp.decomposers.forms import Forms
from interp.decomposers.sae.initialisation import random_directions
from interp.decomposers.semi_nmf.decomposer import SemiNMF, SemiNMFConfig
from interp.errors import InputError
from interp.evaluation.matching import N_DRAWS, best_matches, chance_cosines, match, random_forms
from interp.runs.record import Run
from interp.runs.training import keep_run, train_run
from interp.store.moments import Moments
from interp.store.reader import ActivationStore

SITE = "blocks.1.hook_resid_post"


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def round_moments(variances: np.ndarray) -> Moments:
    return Moments(n=100, mean=np.ones(len(variances)), covariance=np.diag(variances), mean_norm=1.0)


def test_matches_are_those_worked_by_hand() -> None:
    directions = np.array([[1.0, 0, 0], [0.8, 0.6, 0], [0, 0, 0], [0, 0, 1]])
    candidates = np.array([[0.0, 0, 0], [1, 0, 0], [0.6, 0.8, 0], [0, 0, -1]])
    # cosines with candidates 1, 2, 3:   1 .6 0   .8 .96 0   0 0 -1
    options = {"signless": False, "pairing": "greatest"}
    features, cosines = match(directions, candidates, **options)
    assert features.tolist() == [1, 2, -1, 1]
    assert cosines == pytest.approx([1, 0.96, 0, 0])
    features, cosines = match(directions, candidates, signless=True, pairing="greatest")
    assert features.tolist() == [1, 2, -1, 3]
    assert cosines == pytest.approx([1, 0.96, 0, 1])
    # two that want the same candidate: the second takes what is left
    features, cosines = match(directions[:2], candidates[[1, 3]], signless=True, pairing="one-to-one")
    assert features.tolist() == [0, 1]
    assert cosines == pytest.approx([1, 0])
    # one candidate for two: the pair with the greater cosine has it
    features, cosines = match(directions[:2], candidates[[2]], signless=False, pairing="one-to-one")
    assert features.tolist() == [-1, 0]
    assert cosines == pytest.approx([0, 0.96])
    features, cosines = match(directions, np.zeros((2, 3)), signless=False, pairing="one-to-one")
    assert features.tolist() == [-1] * 4
    assert not cosines.any()


@pytest.mark.parametrize("signless", [True, False])
def test_pairs_have_the_largest_sum_of_all_pairings(signless: bool) -> None:
    random = np.random.default_rng(0)
    left, right = unit(random.normal(size=(5, 4))), unit(random.normal(size=(6, 4)))
    products = np.abs(left @ right.T) if signless else left @ right.T
    best = max(products[np.arange(5), list(chosen)].sum() for chosen in permutations(range(6), 5))
    features, cosines = match(left, right, signless=signless, pairing="one-to-one")
    assert len(set(features.tolist())) == 5
    assert cosines.sum() == pytest.approx(best)
    assert cosines == pytest.approx(products[np.arange(5), features])


def test_random_directions_have_the_covariance_of_the_activations() -> None:
    random = np.random.default_rng(0)
    axes = np.linalg.qr(random.normal(size=(6, 6)))[0]
    variances = np.array([9.0, 4, 1, 0.1, 0, 0])
    moments = Moments(n=9, mean=np.ones(6), covariance=axes @ np.diag(variances) @ axes.T, mean_norm=1.0)
    rows = random_directions(20_000, moments, 0, shaped=True).double().numpy()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(rows.mean(0), 0, atol=0.02)
    plain = unit(random.normal(size=(20_000, 6)) * np.sqrt(variances))
    np.testing.assert_allclose(((rows @ axes) ** 2).mean(0), (plain**2).mean(0), atol=0.01)


def test_chance_is_the_mean_over_draws_of_the_same_matching() -> None:
    moments = round_moments(np.array([9.0, 1, 1, 0.01]))
    directions = np.concatenate([np.eye(4), np.zeros((1, 4))])
    for pairing in ("one-to-one", "greatest"):
        for signless in (True, False):
            slow = []
            for draw in range(N_DRAWS):
                drawn = random_directions(6, moments, 7 * N_DRAWS + draw, shaped=True).numpy()
                slow.append(match(directions, drawn, signless=signless, pairing=pairing)[1])
            found = chance_cosines(directions, np.eye(6, 4), moments, signless=signless, pairing=pairing, seed=7)
            assert found == pytest.approx(np.mean(slow, axis=0))
            assert found[4] == 0
            assert found[0] > 0.6 > 0.3 > found[3]  # activations lie along the first axis, none along the last


@pytest.fixture
def store(tiny_store: ActivationStore, tmp_path: Path) -> ActivationStore:
    return ActivationStore(shutil.copytree(tiny_store.path, tmp_path / "workspace" / "tiny"))


def kept(store: ActivationStore, directions: np.ndarray, name: str, *, signed: bool) -> Run:
    """A run with the given directions, of a method whose codes are signed or not."""
    rows = torch.from_numpy(directions).float()
    if signed:
        tensors = {"W_dec": rows, "b_dec": torch.zeros(rows.shape[1])}
        return keep_run(store, SITE, PCA(PCAConfig(n_features=len(rows)), tensors), name)
    tensors = {"features": rows, "b_dec": torch.zeros(rows.shape[1]), "l1": torch.zeros(())}
    return keep_run(store, SITE, SemiNMF(SemiNMFConfig(n_features=len(rows)), tensors), name)


def test_runs_are_matched_with_the_sign_that_their_methods_have(store: ActivationStore) -> None:
    random = np.random.default_rng(0)
    first = unit(random.normal(size=(8, 32)))
    order = random.permutation(8)
    turned = first[order] * np.where(np.arange(8) % 2, 1, -1)[:, None]
    run = kept(store, first, "first", signed=False)
    same, unsigned, signed = (
        kept(store, first[order], "same", signed=False),
        kept(store, turned, "unsigned", signed=False),
        kept(store, turned, "signed", signed=True),
    )
    by_same, by_unsigned, by_signed = best_matches(run, [same, unsigned, signed], pairing="one-to-one")
    assert by_same.run is same
    for matches in (by_same, by_signed):
        assert np.array_equal(matches.features, np.argsort(order))
        np.testing.assert_allclose(matches.cosines, 1, atol=1e-6)
        assert 0 < matches.chance.max() < 0.9
    assert np.count_nonzero(by_unsigned.cosines > 0.99) == 4
    assert np.array_equal(by_same.chance, by_unsigned.chance)
    assert (by_signed.chance >= 0).all()
    assert by_signed.chance.mean() > by_same.chance.mean()
    again = best_matches(run, [same], pairing="one-to-one")[0]
    assert np.array_equal(again.chance, by_same.chance)
    other = best_matches(run, [same], pairing="one-to-one", seed=1)[0]
    assert not np.array_equal(other.chance, by_same.chance)


def test_features_without_counterpart_are_at_chance(store: ActivationStore) -> None:
    moments = store.site(SITE).moments()
    first, unrelated = (random_directions(20, moments, draw, shaped=True).numpy() for draw in (103, 104))
    unrelated[:5] = first[:5]
    runs = [kept(store, rows, name, signed=True) for rows, name in ((first, "first"), (unrelated, "unrelated"))]
    for pairing in ("one-to-one", "greatest"):
        (found,) = best_matches(runs[0], runs[1:], pairing=pairing)
        assert (found.features[:5] == np.arange(5)).all()
        assert (found.cosines[:5] > 0.999).all()
        assert (found.cosines - found.chance)[:5].min() > 0.1
        assert abs((found.cosines - found.chance)[5:].mean()) < 0.1


def test_a_dead_feature_has_no_counterpart_and_the_null_as_many_directions_as_live(store: ActivationStore) -> None:
    first = np.eye(6, 32)
    first[2] = 0
    run, other = kept(store, first, "first", signed=False), kept(store, first[1:4], "other", signed=False)
    (found,) = best_matches(run, [other], pairing="greatest")
    assert found.features.tolist() == [found.features[0], 0, -1, 2, *found.features[4:]]
    assert found.cosines[2] == found.chance[2] == 0
    moments = store.site(SITE).moments()
    expected = chance_cosines(
        first.astype(np.float32), np.eye(2, 32), moments, signless=False, pairing="greatest", seed=0
    )
    assert np.array_equal(found.chance, expected)


def saddles(axes: np.ndarray, *, angle: float = 0.0) -> dict[str, torch.Tensor]:
    """Atoms a^2 - b^2 of pairs of orthonormal axes [n, 2, d_in]; turned by ``angle`` in their planes."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    a, b = torch.from_numpy(turn @ axes).float().unbind(1)
    return {"L": a + b, "R": a - b}


def test_quadratic_latents_are_matched_by_their_forms(store: ActivationStore) -> None:
    """The same forms in another order, of other size, sign and factors; both eigenvalues are as large, so that either axis may
    come first. Turned by an eighth of a circle in their planes they read sin 2a where they read cos 2a: cosine 0."""
    planes = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 12)))[0].T.reshape(6, 2, 32)
    order = np.random.default_rng(1).permutation(6)
    config = BilinearConfig(n_features=6)
    first, same, turned = saddles(planes), saddles(planes[order]), saddles(planes, angle=np.pi / 4)
    same = {"L": -3 * same["R"], "R": 0.5 * same["L"]}
    run, *others = (
        keep_run(store, SITE, Bilinear(config, tensors), name)
        for name, tensors in (("first", first), ("same", same), ("turned", turned))
    )
    by_same, by_turned = best_matches(run, others, pairing="one-to-one")
    assert np.array_equal(by_same.features, np.argsort(order))
    np.testing.assert_allclose(by_same.cosines, 1, atol=1e-5)
    np.testing.assert_allclose(by_turned.cosines, 0, atol=1e-5)
    assert 0 < by_same.chance.mean() < 0.5
    assert np.array_equal(by_same.chance, best_matches(run, [others[0]], pairing="one-to-one")[0].chance)
    linear = kept(store, planes[2], "linear", signed=True)
    (by_linear,) = best_matches(linear, [run], pairing="greatest")
    assert by_linear.features.tolist() == [2, 2]
    np.testing.assert_allclose(by_linear.cosines, 2**-0.5, atol=1e-5)


def test_random_forms_keep_spectra_and_bias_and_look_where_activations_are() -> None:
    generator = torch.Generator().manual_seed(0)
    L, R = torch.randn(2, 4000, 5, generator=generator)
    given = Forms(L, R, torch.arange(4000)[:, None], torch.ones(4000, 1))
    drawn = random_forms(given, round_moments(np.array([9.0, 1, 1, 0.01])), 3)
    assert torch.equal(drawn.L[:, 0], L[:, 0])
    assert torch.equal(drawn.R[:, 0], R[:, 0])
    left, right = (torch.stack([(one[:, 1:] * two[:, 1:]).sum(1) for one, two in ((a, a), (a, b), (b, b))])
                   for a, b in ((L, R), (drawn.L, drawn.R)))  # fmt: skip
    torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3)
    lengths = drawn.L[:, 1:].square().mean(0)
    assert lengths[0] > 3 * lengths[1]
    assert lengths[3] < lengths[1] / 10


def test_runs_that_read_other_activations_are_refused(store: ActivationStore) -> None:
    run = train_run(store, SITE, PCAConfig(n_features=3), "here")
    other = train_run(store, "blocks.0.hook_resid_post", PCAConfig(n_features=3), "there")
    with pytest.raises(InputError, match=r"'there' reads blocks\.0\.hook_resid_post of .*, but 'here' blocks\.1\.hook"):
        best_matches(run, [other], pairing="greatest")
