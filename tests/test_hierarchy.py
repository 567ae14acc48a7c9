"""The hierarchy of semi-NMF: planted families of features become branches; constraints hold at every level; it is saved."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from interp.decomposers import load
from interp.decomposers.hierarchy import Hierarchy
from interp.decomposers.semi_nmf.decomposer import SemiNMF, SemiNMFConfig
from interp.decomposers.semi_nmf.levels import grow_levels, shuffled
from interp.decomposers.semi_nmf.solver import Solver
from interp.errors import InputError
from interp.store.source import ArraySource

D, S, FAMILIES, EACH = 200, 10, 4, 5
CONFIG = SemiNMFConfig(n_features=FAMILIES * EACH, sparsity=S / D, l1=0.0, levels=(FAMILIES, 2))


def families() -> torch.Tensor:
    """Twenty unit features of ten neurons: seven that its family shares (alike but not equal), three of its own."""
    random = torch.Generator().manual_seed(0)
    features = torch.zeros(FAMILIES * EACH, D)
    for i, feature in enumerate(features):
        family = slice(7 * (i // EACH), 7 * (i // EACH) + 7)
        feature[family] = 1 + 0.2 * torch.randn(7, generator=random)
        feature[50 + 3 * i : 53 + 3 * i] = torch.randn(3, generator=random).sign()
    return features / features.norm(dim=1, keepdim=True)


def rows() -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    return (torch.rand(2000, 20, generator=random) * (torch.rand(2000, 20, generator=random) < 0.15)) @ families()


@pytest.fixture(scope="module")
def fitted() -> tuple[SemiNMF, torch.Tensor]:
    """(semi-NMF of three levels above the planted features themselves, rows they make)."""
    own = {"features": families(), "b_dec": torch.zeros(D), "l1": torch.tensor(0.0)}
    hierarchy, notes = grow_levels(families(), CONFIG)
    return SemiNMF(CONFIG, own | hierarchy.to_tensors(), notes), rows()


def test_planted_families_are_the_branches(fitted):
    hierarchy = fitted[0].hierarchy
    branches = [hierarchy.branch(1, parent) for parent in range(FAMILIES)]
    assert sorted(branches) == [list(range(first, first + EACH)) for first in range(0, FAMILIES * EACH, EACH)]


def test_a_fit_has_its_levels_and_constraints_hold_at_each():
    hierarchy = SemiNMF.fit(ArraySource(rows()), CONFIG).hierarchy
    assert hierarchy.ranks == (20, 4, 2)
    for level, features in enumerate(hierarchy.features):
        assert (features != 0).sum(1).max() <= S * 2**level
        torch.testing.assert_close(features.norm(dim=1), torch.ones(len(features)))
    for weights, (below, above) in zip(hierarchy.weights, pairwise(hierarchy.ranks), strict=True):
        assert weights.shape == (below, above)
        assert (weights >= 0).all()
        assert (weights > 0).any()


def test_what_a_level_leaves_stands_between_its_bound_and_its_null(fitted):
    """Planted families: seven of ten neurons are shared. Shuffled features have nothing in common."""
    hierarchy, notes = fitted[0].hierarchy, fitted[0].notes
    below = hierarchy.features[0].double()
    made = hierarchy.weights[0].double() @ hierarchy.features[1].double()
    assert notes["level1_unexplained"] == pytest.approx(float(((below - made) ** 2).sum() / (below**2).sum()), abs=1e-6)
    u, s, v = torch.linalg.svd(below, full_matrices=False)
    best = (u[:, :FAMILIES] * s[:FAMILIES]) @ v[:FAMILIES]
    assert notes["level1_bound"] == pytest.approx(float(((below - best) ** 2).sum() / (below**2).sum()))
    assert notes["level1_bound"] <= notes["level1_unexplained"] < 0.5
    assert 0.6 < notes["level1_null_least"] < notes["level1_null"] < notes["level1_null_most"] < 1
    assert {f"level2_{name}" for name in ("unexplained", "null", "null_least", "null_most", "bound")} < set(notes)


def test_a_null_has_the_entries_of_each_feature_elsewhere():
    features = families()
    null = shuffled(features, 3)
    torch.testing.assert_close(null.sort(dim=1).values, features.sort(dim=1).values)
    assert (null @ null.T).fill_diagonal_(0).abs().mean() < 0.3 * (features @ features.T).fill_diagonal_(0).abs().mean()
    assert torch.equal(null, shuffled(features, 3))
    assert not torch.equal(null, shuffled(features, 4))


def test_the_step_that_draws_features_to_a_target_minimises_its_objective():
    x = rows().double()
    config = replace(CONFIG, n_features=3, levels=(2,), sparsity=1.0, pull=0.7)
    target = torch.randn(3, D, generator=torch.Generator().manual_seed(4))
    solver = Solver(ArraySource(x), config, toward=lambda features: target)
    g = solver.codes.whole().double()
    free = torch.zeros(3, D, dtype=torch.float64, requires_grad=True)
    used = g.square().sum(0)
    optimizer = torch.optim.LBFGS([free], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        value = (x - g @ free).square().sum() + 0.7 * (used[:, None] * (free - target.double()) ** 2).sum()
        value.backward()
        return value

    optimizer.step(objective)
    solver.sums.C, solver.sums.B = g.T @ g, g.T @ x
    B, C = solver._pulled()
    torch.testing.assert_close(torch.linalg.solve(C, B), free.detach(), rtol=1e-4, atol=1e-5)


def test_drawing_features_to_their_parents_leaves_less_of_them_and_more_of_the_rows():
    x, config = rows()[:600], replace(CONFIG, passes=13, levels=(4,))
    found = {pull: SemiNMF.fit(ArraySource(x), replace(config, pull=pull)) for pull in (0.0, 1.0)}
    assert found[1.0].notes["level1_unexplained"] < 0.8 * found[0.0].notes["level1_unexplained"]
    assert found[1.0].fvu(x) > found[0.0].fvu(x)
    # The null that is refitted has been drawn to its parents too: it is the harder one.
    assert found[1.0].notes["level1_refitted_null_most"] < found[1.0].notes["level1_null_least"]
    assert "level1_refitted_null" not in found[0.0].notes


def test_a_pull_without_levels_is_refused():
    with pytest.raises(InputError, match=r"--pull is 0\.5; it must not be negative, and needs --levels"):
        SemiNMFConfig(pull=0.5)
    with pytest.raises(InputError, match="--pull is -1; it must not be negative"):
        SemiNMFConfig(pull=-1, levels=(4,))


def test_rows_are_reconstructed_from_every_level_by_the_products_of_weights(fitted):
    semi_nmf, x = fitted
    hierarchy, z = semi_nmf.hierarchy, semi_nmf.encode(x[:300])
    errors = []
    for level in range(3):
        whole = z
        for weights in hierarchy.weights[:level]:
            whole = whole @ weights
        assert (whole >= 0).all()
        torch.testing.assert_close(hierarchy.lift(z, level), whole)
        reconstruction = hierarchy.decode(z, level)
        torch.testing.assert_close(reconstruction, whole @ hierarchy.features[level])
        errors.append(float((x[:300] - reconstruction).norm() / x[:300].norm()))
    torch.testing.assert_close(hierarchy.decode(z), semi_nmf.decode(z))
    assert errors[0] < 1e-3
    assert errors[0] < errors[1] < errors[2] < 1


def test_parents_and_children_are_rows_and_columns_of_the_weights_heaviest_first():
    first = torch.tensor([[0.0, 2.0], [3.0, 4.0], [0.0, 0.0], [5.0, 0.0]])
    hierarchy = Hierarchy(
        (torch.zeros(4, 3), torch.zeros(2, 3), torch.zeros(1, 3)), (first, torch.tensor([[1.0], [0.5]]))
    )
    assert hierarchy.parents(0, 1) == [(1, 4.0), (0, 3.0)]
    assert hierarchy.children(1, 0) == [(3, 5.0), (1, 3.0)]
    assert hierarchy.children(2, 0) == [(0, 1.0), (1, 0.5)]
    assert hierarchy.parents(2, 0) == hierarchy.children(0, 3) == hierarchy.parents(0, 2) == []
    assert [hierarchy.path(leaf) for leaf in range(4)] == [[0, 1, 0], [1, 1, 0], [2], [3, 0, 0]]
    assert hierarchy.branch(1, 1) == [0, 1]
    assert hierarchy.branch(2, 0) == [0, 1, 3]
    assert hierarchy.branch(0, 2) == [2]


def test_it_is_saved_with_the_features_and_read_back(fitted, tmp_path):
    path = tmp_path / "decomposer.safetensors"
    fitted[0].save(path)
    read = load(path)
    assert isinstance(read, SemiNMF)
    assert read.config == CONFIG
    assert read.hierarchy.ranks == (20, 4, 2)
    for saved, back in zip(fitted[0].hierarchy.weights, read.hierarchy.weights, strict=True):
        assert torch.equal(saved, back)


def test_a_level_is_a_decomposer_of_its_own(fitted):
    semi_nmf, x = fitted
    level = semi_nmf.at_level(1)
    assert (level.n_features, level.config.levels) == (4, (2,))
    assert level.hierarchy.ranks == (4, 2)
    assert torch.equal(level.W_dec, semi_nmf.hierarchy.features[1])
    assert semi_nmf.fvu(x) < level.fvu(x) < semi_nmf.at_level(2).fvu(x)


def test_without_levels_there_is_no_hierarchy(fitted):
    alone = fitted[0].at_level(2)
    assert alone.hierarchy is None
    assert len(alone.W_dec) == 2


@pytest.mark.parametrize("levels", [(20,), (30,), (4, 4), (4, 5), (4, 0)])
def test_levels_that_do_not_fall_are_refused(levels):
    with pytest.raises(InputError, match=r"the levels .* must fall from below --n-features 20, to 1 or more"):
        SemiNMFConfig(n_features=20, levels=levels)


def test_an_unknown_level_or_feature_is_refused(fitted):
    hierarchy = fitted[0].hierarchy
    with pytest.raises(InputError, match="there is no level 3; the hierarchy has levels 0 to 2"):
        hierarchy.parents(3, 0)
    with pytest.raises(InputError, match=r"feature 4"):
        hierarchy.children(1, 4)
