"""Semi-NMF: its constraints, its objective against brute force, its codes against scipy, planted features found again."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, nnls

from interp.decomposers.semi_nmf.decomposer import SemiNMF, SemiNMFConfig
from interp.decomposers.semi_nmf.features import badly_explained, hard_threshold_descent, keep_largest
from interp.decomposers.semi_nmf.l1_search import _next
from interp.decomposers.semi_nmf.non_negative import Sweeps, improve_codes, non_negative_codes
from interp.decomposers.semi_nmf.solver import LEAST_SQUARES_PASSES, Solver
from interp.errors import InputError
from interp.metrics import mean_max_cosine
from interp.store.source import ArraySource

K, D = 16, 120
CONFIG = SemiNMFConfig(n_features=K, sparsity=0.05, passes=40, l1=0.0)  # 6 of 120 entries a feature


class Memory:
    """A recorder that keeps the records in a list."""

    checkpoints: Path | None = None

    def __init__(self) -> None:
        self.records: list[dict[str, float]] = []

    def log(self, record: dict[str, float]) -> None:
        self.records.append(record)

    @property
    def losses(self) -> list[float]:
        return [record["loss"] for record in self.records]


@pytest.fixture(scope="module")
def planted() -> tuple[torch.Tensor, np.ndarray]:
    """(rows, true features): sparse features of both signs, a few of them in each row, and noise of a tenth."""
    random = np.random.default_rng(0)
    features = np.zeros((K, D))
    for row in features:
        row[random.choice(D, 6, replace=False)] = random.standard_normal(6)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    codes = random.exponential(size=(2000, K)) * (random.random((2000, K)) < 0.2)
    rows = codes @ features
    rows += 0.1 * rows.std() * random.standard_normal(rows.shape)
    return torch.from_numpy(rows).float(), features


@pytest.fixture(scope="module")
def fitted(planted) -> SemiNMF:
    return SemiNMF.fit(ArraySource(planted[0]), CONFIG)


def objective(x: torch.Tensor, g: torch.Tensor, features: torch.Tensor, l1: float) -> float:
    x, g, features = x.double(), g.double(), features.double()
    return float((x - g @ features).square().sum() + 2 * l1 * g.sum())


# ------------------------------------------------------------------------------------------------------------ features


@pytest.mark.parametrize("l1", [0.0, 0.02])
def test_columns_that_hardly_vary_are_an_offset_and_cost_nothing(planted, fitted, l1):
    """Without the offset features are spent on the columns, and l1 is in units of their size: FVUs of .4 and 3."""
    steady = torch.full((len(planted[0]), 5), 10.0)
    steady[::2, 4] += 0.1
    x, true = torch.cat([steady, planted[0]], 1), np.pad(planted[1], [(0, 0), (5, 0)])
    semi_nmf = SemiNMF.fit(ArraySource(x), replace(CONFIG, l1=l1, seed=1))
    assert semi_nmf.b_dec[:4].tolist() == [10.0] * 4
    assert float(semi_nmf.b_dec[4]) == pytest.approx(10.05, abs=1e-3)
    assert not semi_nmf.b_dec[5:].any()
    assert not fitted.b_dec.any()
    assert not semi_nmf.W_dec[:, :4].any()
    assert semi_nmf.fvu(x) < 0.05
    assert mean_max_cosine(true, semi_nmf.write_directions().numpy()) >= 0.95


def test_untrained_features_are_random_with_as_many_entries_and_the_same_l1(planted, fitted):
    config = replace(CONFIG, l1=0.05, levels=(4,))
    untrained, trained = (make(ArraySource(planted[0]), config) for make in (SemiNMF.untrained, SemiNMF.fit))
    assert ((untrained.W_dec != 0).sum(1) == 6).all()
    torch.testing.assert_close(untrained.W_dec.norm(dim=1), torch.ones(K))
    torch.testing.assert_close(untrained.tensors["l1"], trained.tensors["l1"])
    assert untrained.hierarchy is None
    places = (untrained.W_dec != 0).sum(0)
    assert (places > 0).sum() > 50  # of the 96 entries of 16 features, hardly two in a place
    assert mean_max_cosine(planted[1], untrained.write_directions().numpy()) < 0.5
    assert untrained.fvu(planted[0]) > 0.5
    with pytest.raises(InputError, match="16 features cannot be learned from 10 rows; capture more or ask for fewer"):
        SemiNMF.untrained(ArraySource(planted[0][:10]), CONFIG)


@pytest.mark.parametrize("l1", [0.0, 0.05])
def test_features_have_unit_norm_and_few_entries(planted, l1):
    features = SemiNMF.fit(ArraySource(planted[0]), replace(CONFIG, l1=l1)).W_dec
    assert (features != 0).sum(1).max() == 6
    torch.testing.assert_close(features.norm(dim=1), torch.ones(K))


@pytest.mark.parametrize("l1", [0.0, 0.05])
def test_the_row_by_row_stage_never_raises_the_objective(planted, l1):
    memory = Memory()
    SemiNMF.fit(ArraySource(planted[0]), replace(CONFIG, l1=l1, tolerance=0.0), memory)
    exact = memory.losses[LEAST_SQUARES_PASSES - 1 :]
    assert len(exact) > 5
    # The sums of a pass are float32 products: the loss is known to their rounding, relative to the rows, not to itself.
    rounding = 2e-7 * float(planted[0].square().sum(1).mean())
    assert all(after <= before + rounding for before, after in pairwise(exact))
    assert exact[-1] < exact[0] < memory.losses[0]


@pytest.mark.parametrize("l1", [0.0, 0.05])
def test_the_recorded_loss_and_fvu_are_those_of_the_residual(planted, l1):
    x, memory = planted[0] + 0.2, Memory()
    solver = Solver(ArraySource(x), replace(CONFIG, l1=l1, passes=13))
    solver.run(memory)
    codes, record = solver.codes.whole(), memory.records[-1]
    assert (codes >= 0).all()
    assert record["dead"] == 0
    expected = objective(x, codes, solver.features, solver.l1)
    assert record["loss"] * len(x) == pytest.approx(expected, rel=1e-5)
    error = objective(x, codes, solver.features, 0.0)
    variance = float((x - x.mean(0)).double().square().sum())
    assert record["fvu"] == pytest.approx(error / variance, rel=1e-5)
    assert record["l0"] == pytest.approx(float((codes > 0).sum()) / len(x))


@pytest.mark.parametrize("penalty", [0.0, 0.7, 50.0])
def test_a_feature_becomes_the_exact_minimiser_under_its_constraints(penalty):
    random = torch.Generator().manual_seed(1)
    g, x = torch.rand(9, 3, generator=random).double(), torch.randn(9, 5, generator=random).double()
    features = keep_largest(torch.randn(3, 5, generator=random).double(), 2)
    C, B = g.T @ g, g.T @ x
    others = x - g[:, 1:] @ features[1:]

    def value(row: np.ndarray) -> float:
        return float(((others.numpy() - np.outer(g[:, 0], row)) ** 2).sum() + 2 * penalty * np.linalg.norm(row))

    best = value(np.zeros(5))
    for support in combinations(range(5), 2):
        mask = np.isin(np.arange(5), support)
        found = minimize(lambda v, mask=mask: value(v * mask), np.full(5, 0.3), method="Nelder-Mead", tol=1e-10)
        best = min(best, found.fun)
    once = features[:1].clone()
    hard_threshold_descent(once, B[:1] - C[:1, 1:] @ features[1:], C[:1, :1], torch.tensor([penalty]), s=2)
    assert value(once[0].numpy()) == pytest.approx(best, rel=1e-6)
    assert (once != 0).sum() == (0 if penalty == 50 else 2)
    whole = features.clone()
    hard_threshold_descent(whole, B, C, torch.full((3,), penalty), s=2)
    torch.testing.assert_close(whole[:1], once)  # the first of the sweep sees the others as they were


def test_a_feature_no_row_uses_is_pointed_at_the_row_explained_worst(planted):
    x = planted[0]
    solver = Solver(ArraySource(x), CONFIG)
    solver.features[0] = 0
    solver._update_codes(cold=False)
    before = objective(x, solver.codes.whole(), solver.features, 0.0)
    assert solver._finish_pass(0) == 1
    assert objective(x, solver.codes.whole(), solver.features, 0.0) == pytest.approx(before, rel=1e-6)
    assert not solver.codes.whole()[:, 0].any()
    others = solver.features[1:]
    left = x - non_negative_codes(x @ others.T, others @ others.T) @ others
    expected = keep_largest(left[left.norm(dim=1).argmax()][None], 6)[0]
    assert float(solver.features[0] @ expected / expected.norm()) > 0.99
    memory = Memory()
    solver.run(memory)
    assert memory.records[-1]["dead"] == 0


def test_several_dead_features_are_pointed_at_rows_that_differ(planted):
    features = torch.from_numpy(planted[1]).float()
    found = badly_explained(planted[0], features[4:], l1=0.0, s=6, count=4)
    cosines = found @ features[:4].T
    assert sorted(cosines.argmax(1).tolist()) == [0, 1, 2, 3]
    assert cosines.max(1).values.min() > 0.7
    assert (found != 0).sum(1).tolist() == [6] * 4


def test_the_unit_of_the_activations_does_not_change_the_features(fitted, planted):
    x = planted[0]
    larger = SemiNMF.fit(ArraySource(x * 1024), CONFIG)
    torch.testing.assert_close(larger.W_dec, fitted.W_dec, rtol=0, atol=1e-3)
    torch.testing.assert_close(larger.encode(x * 1024), fitted.encode(x) * 1024, rtol=1e-2, atol=5.0)


def test_it_stops_after_three_passes_without_progress(planted):
    memory = Memory()
    SemiNMF.fit(ArraySource(planted[0]), replace(CONFIG, tolerance=0.9), memory)
    assert len(memory.records) == LEAST_SQUARES_PASSES + 3


def test_keep_largest_keeps_by_magnitude():
    rows = torch.tensor([[1.0, -3.0, 2.0], [0.5, 0.0, -0.1]])
    assert keep_largest(rows, 2).tolist() == [[0, -3, 2], [0.5, 0, pytest.approx(-0.1)]]
    assert keep_largest(rows, 3) is rows


# --------------------------------------------------------------------------------------------------------------- codes


def correlated_features() -> torch.Tensor:
    """Sixty unit rows in forty dimensions that lean towards a common direction: a badly conditioned problem."""
    random = torch.Generator().manual_seed(2)
    features = torch.randn(60, 40, generator=random) + 1.5 * torch.randn(40, generator=random)
    return features / features.norm(dim=1, keepdim=True)


def test_codes_are_the_non_negative_least_squares_of_scipy(fitted, planted):
    x = planted[0][:100]
    exact = np.stack([nnls(fitted.W_dec.double().numpy().T, row)[0] for row in x.double().numpy()])
    difference = np.linalg.norm(fitted.encode(x).numpy() - exact, axis=1)
    assert (difference <= 1e-4 * np.linalg.norm(exact, axis=1)).all()


def test_codes_of_correlated_features_are_those_of_scipy_too():
    features = correlated_features()[:30]
    x = torch.randn(50, 40, generator=torch.Generator().manual_seed(3)) + features.mean(0) * 3
    exact = np.stack([nnls(features.double().numpy().T, row)[0] for row in x.double().numpy()])
    difference = np.linalg.norm(non_negative_codes(x @ features.T, features @ features.T).numpy() - exact, axis=1)
    assert (difference <= 1e-4 * np.linalg.norm(exact, axis=1)).all()


def test_codes_with_l1_satisfy_the_conditions_of_the_optimum(planted):
    x = planted[0]
    semi_nmf = SemiNMF.fit(ArraySource(x), replace(CONFIG, l1=0.05))
    z, l1 = semi_nmf.encode(x), semi_nmf.tensors["l1"]
    assert float(l1) == pytest.approx(0.05 * float(x.norm(dim=1).mean()), rel=1e-5)
    slope = (z @ semi_nmf.W_dec - x) @ semi_nmf.W_dec.T + l1
    tolerance = 1e-4 * float(x.norm(dim=1).max())
    assert slope[z > 0].abs().max() < tolerance
    assert slope[z == 0].min() > -tolerance
    assert (z >= 0).all()


def test_debiased_codes_are_the_least_squares_of_scipy_on_the_support_that_l1_chose(planted):
    x = planted[0][:100]
    biased = SemiNMF.fit(ArraySource(planted[0]), replace(CONFIG, l1=0.05))
    semi_nmf = SemiNMF(replace(biased.config, debias=True), biased.tensors)
    chosen, z = biased.encode(x) > 0, semi_nmf.encode(x)
    exact = np.zeros(z.shape)
    for row, values, support in zip(exact, x.double().numpy(), chosen.numpy(), strict=True):
        if support.any():  # scipy aborts without a column
            row[support] = nnls(semi_nmf.W_dec.double().numpy()[support].T, values)[0]
    assert (chosen.sum(1) < K).all()
    assert not z[~chosen].any()
    difference = np.linalg.norm(z.numpy() - exact, axis=1)
    assert (difference <= 1e-4 * np.linalg.norm(exact, axis=1)).all()
    assert semi_nmf.fvu(x) < 0.8 * biased.fvu(x)


def test_a_rows_codes_do_not_depend_on_the_rows_beside_it():
    features = correlated_features()
    x = torch.randn(40, 40, generator=torch.Generator().manual_seed(4))
    products, gram = (x @ features.T).double(), (features @ features.T).double()
    together = non_negative_codes(products, gram, tolerance=1e-3)
    alone = torch.cat([non_negative_codes(row[None], gram, tolerance=1e-3) for row in products])
    # Far below the tolerance: rows that are done stay as they are while others go on.
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)


def test_sweeps_lower_the_objective_of_the_codes():
    features = correlated_features()
    x = torch.randn(200, 40, generator=torch.Generator().manual_seed(5))
    products, gram = x @ features.T, features @ features.T
    g = torch.rand(200, 60, generator=torch.Generator().manual_seed(6))
    values = [objective(x, g, features, 0.0)]
    for _ in range(20):
        g = improve_codes(products, Sweeps(gram), g, n_sweeps=2)
        values.append(objective(x, g, features, 0.0))
    assert (g >= 0).all()
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(values))
    exact = objective(x, non_negative_codes(products, gram), features, 0.0)
    assert exact <= values[-1] * (1 + 1e-6)
    assert values[-1] <= 1.01 * exact


def test_codes_of_strongly_correlated_features_take_few_sweeps_of_many_blocks():
    random = torch.Generator().manual_seed(7)
    features = torch.randn(100, 150, generator=random) + 2 * torch.randn(150, generator=random)
    features = (features / features.norm(dim=1, keepdim=True)).double()
    x = torch.randn(30, 150, generator=random).double() + 3 * features.mean(0)
    exact = np.stack([nnls(features.numpy().T, row)[0] for row in x.numpy()])
    products, gram = x @ features.T, features @ features.T
    for max_sweeps, share in ((40, 0.9), (300, 1.0)):
        found = non_negative_codes(products, gram, max_sweeps=max_sweeps).numpy()
        near = np.linalg.norm(found - exact, axis=1) <= 1e-4 * np.linalg.norm(exact, axis=1)
        assert near.mean() >= share


def test_two_equal_features_share_the_code_of_one():
    features = correlated_features()[:20]
    x = torch.randn(30, 40, generator=torch.Generator().manual_seed(8)) + features.mean(0) * 3
    twice = torch.cat([features, features])
    one = non_negative_codes(x @ features.T, features @ features.T)
    both = non_negative_codes(x @ twice.T, twice @ twice.T)
    torch.testing.assert_close(both[:, :20] + both[:, 20:], one, rtol=0, atol=1e-3)


def test_l1_makes_fewer_features_fire(planted):
    x = planted[0]
    counts = [
        float((SemiNMF.fit(ArraySource(x), replace(CONFIG, l1=l1)).encode(x) > 0).sum(1).float().mean())
        for l1 in (0.0, 0.02, 0.1)
    ]
    assert counts[0] > counts[1] > counts[2] > 0


def test_the_l1_is_found_through_a_line_of_logarithms():
    steep = {math.log(l1): math.log(40 * l1**-0.5) for l1 in (0.02, 0.08)}
    assert _next(steep, math.log(40)) == pytest.approx(0.64)  # eight times 0.08, though the line goes on to 1
    assert _next(steep, math.log(200)) == pytest.approx(0.04)
    assert _next({math.log(0.02): math.log(30)}, math.log(30)) == pytest.approx(0.02)


# --------------------------------------------------------------------------------------------------------- wrong input


def test_a_target_l0_with_an_l1_or_out_of_reach_is_refused(planted):
    with pytest.raises(InputError, match=r"--target-l0 5 searches for l1, but --l1 0\.02 gives it; give one of them"):
        SemiNMFConfig(target_l0=5.0, l1=0.02)
    for target in (0.0, 16.0):
        with pytest.raises(
            InputError, match=f"--target-l0 is {target:g}; it must be above 0 and below --n-features 16"
        ):
            replace(CONFIG, l1=None, target_l0=target)
    with pytest.raises(
        InputError, match=r"--target-l0 15\.9 cannot be reached: without l1 a row has \d+ features on averag"
    ):
        SemiNMF.fit(ArraySource(planted[0]), replace(CONFIG, l1=None, target_l0=15.9))


def test_options_out_of_range_are_refused():
    with pytest.raises(InputError, match=r"the sparsity is 1\.5, but it is a share: above 0 and at most 1"):
        SemiNMFConfig(sparsity=1.5)
    with pytest.raises(InputError, match="the sparsity is 0, but"):
        SemiNMFConfig(sparsity=0)
    with pytest.raises(InputError, match="tolerance and l1 must not be negative"):
        SemiNMFConfig(l1=-0.1)
    with pytest.raises(InputError, match="passes must be 1 or more"):
        SemiNMFConfig(passes=0)


def test_an_l1_that_leaves_no_code_is_refused(planted):
    with pytest.raises(InputError, match="with --l1 40 no feature is used by any row; give a smaller one"):
        SemiNMF.fit(ArraySource(planted[0]), replace(CONFIG, l1=40.0))
