"""Shape scores on point clouds whose shape is known, the curve of a label, and the ranking of a decomposer's latents."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from interp.decomposers.bilinear.autoencoder import Bilinear, BilinearConfig
from interp.errors import InputError
from interp.manifolds import planes as planes_module
from interp.manifolds.label_curve import LabelCurve
from interp.manifolds.planes import lay_out, of_the_same_rank
from interp.manifolds.shape import points_of, score_manifolds, shape_scores, strongest
from interp.store.source import ArraySource

N, SHARE = 6000, 0.3


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(seed: int, d: int) -> Tensor:
    return 0.03 * torch.randn(N, d, generator=generator(seed + 100))


def ring(seed: int) -> Tensor:
    angle = 2 * math.pi * torch.rand(N, generator=generator(seed))
    return torch.stack([angle.cos(), angle.sin()], 1) + noise(seed, 2)


def arc(seed: int) -> Tensor:
    angle = math.pi * torch.rand(N, generator=generator(seed))
    return torch.stack([angle.cos(), angle.sin()], 1) + noise(seed, 2)


def cloud(seed: int) -> Tensor:
    return torch.randn(N, 2, generator=generator(seed))


def rays(seed: int) -> Tensor:
    """Three directions, each present to a varying degree: what ordinary features look like."""
    which = torch.randint(3, (N,), generator=generator(seed))
    direction = torch.stack([which.mul(2.1).cos(), which.mul(2.1).sin()], 1)
    return direction * torch.rand(N, 1, generator=generator(seed + 1)) + noise(seed, 2)


def cluster(seed: int) -> Tensor:
    return torch.tensor([0.7, 0.2]) + noise(seed, 2)


def sphere_patch(seed: int) -> Tensor:
    p = torch.randn(N, 3, generator=generator(seed))
    p[:, 2] = p[:, 2].abs() + 0.5
    return p / p.norm(dim=1, keepdim=True) + noise(seed, 3)


def solid(seed: int) -> Tensor:
    return torch.randn(N, 3, generator=generator(seed))


def fan(seed: int) -> Tensor:
    """A plane through the origin in three dimensions: two ordinary features."""
    return torch.cat([torch.rand(N, 2, generator=generator(seed)), torch.zeros(N, 1)], 1) + noise(seed, 3)


def cap(seed: int) -> Tensor:
    """Rows of unit length about one feature, beside which two others are rarely and weakly there."""
    random = generator(seed)
    rare = torch.rand(N, 2, generator=random) * (torch.rand(N, 2, generator=random) < 0.05)
    p = torch.cat([torch.ones(N, 1), 0.5 * rare + 0.03 * torch.randn(N, 2, generator=random)], 1)
    return p / p.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("which", "shape", "others"),
    [
        (0, ring, (arc, cloud, rays, cluster)),
        (1, ring, (cloud, rays, cluster)),
        (1, arc, (cloud, rays, cluster)),
        (2, sphere_patch, (solid, fan, cap)),
    ],
    ids=["circle: ring", "curve: ring", "curve: arc", "surface: sphere patch"],
)
def test_the_shape_scores_above_what_it_is_not(
    which: int, shape: Callable[[int], Tensor], others: tuple[Callable[[int], Tensor], ...], seed: int
) -> None:
    score = shape_scores(shape(seed), SHARE)[which]
    assert 0 <= score <= 1
    for other in others:
        assert score > shape_scores(other(seed), SHARE)[which] + 0.2, other.__name__


def test_scores_do_not_depend_on_size_or_rotation() -> None:
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    for shape in (ring, arc, rays):
        assert shape_scores(shape(0) @ turn * 37, SHARE)[0] == pytest.approx(shape_scores(shape(0), SHARE)[0], abs=1e-3)
    assert shape_scores(ring(0) @ turn * 37, SHARE)[1] == pytest.approx(shape_scores(ring(0), SHARE)[1], abs=0.05)
    assert math.isnan(shape_scores(ring(0), SHARE)[2])  # a plane has no surfaces


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3])
def test_the_furthest_tokens_of_a_gaussian_cloud_are_no_circle(share: float) -> None:
    cloud = torch.randn(100_000, 2, generator=generator(0))
    assert shape_scores(cloud, share)[0] < 0.05


# ------------------------------------------------------------------------------------------------- a decomposer's latents


def planes(rows: list[tuple[int, int]], d: int = 8) -> Bilinear:
    """Latents that are the saddles a^2 - b^2 of two coordinates: l = a + b, r = a - b."""
    L, R = torch.zeros(len(rows), d), torch.zeros(len(rows), d)
    for i, (a, b) in enumerate(rows):
        L[i, [a, b]], R[i, a], R[i, b] = 1.0, 1.0, -1.0
    return Bilinear(BilinearConfig(n_features=len(rows)), {"L": L, "R": R})


@pytest.fixture(scope="module")
def x() -> Tensor:
    """A circle in coordinates 0 and 1 on a fifth of the rows; other coordinates are sparse features."""
    random = generator(5)
    rows = torch.rand(6000, 8, generator=random) * (torch.rand(6000, 8, generator=random) < 0.3)
    rows[:, :2] = 0
    on = slice(0, 1200)
    angle = 2 * math.pi * torch.rand(1200, generator=random)
    rows[on, 0], rows[on, 1] = 2 * angle.cos(), 2 * angle.sin()
    return rows + 0.02 * torch.randn(6000, 8, generator=random)


def test_the_latent_whose_tokens_lie_on_a_circle_ranks_first(x: Tensor) -> None:
    decomposer = planes([(2, 3), (4, 5), (0, 1), (0, 6)])
    scores = score_manifolds(decomposer, x)
    assert scores.ranked("circle")[0] == 2
    assert scores.of("circle")[2] > 0.6
    assert scores.shares[2, 0] in (0.1, 0.03)  # a fifth of the rows are on the circle
    assert np.isnan(scores.of("surface")).all()
    assert sorted(scores.ranked("surface")) == [0, 1, 2, 3]


def test_the_strongest_tokens_are_those_of_the_manifold_all_around(x: Tensor) -> None:
    points = points_of(planes([(0, 1)]).form(0), x)
    rows = strongest(points, 0.1)
    points = points[rows]
    assert (rows < 1200).all()
    octants = torch.bincount(((torch.atan2(points[:, 1], points[:, 0]) + math.pi) / (math.pi / 4)).long() % 8)
    assert (octants > 25).all()  # the value itself is zero on the diagonals


def test_a_latent_of_rank_below_two_has_no_score(x: Tensor) -> None:
    decomposer = planes([(0, 1), (2, 2)])
    scores = score_manifolds(decomposer, x)
    assert np.isnan(scores.of("circle")[1])
    assert scores.ranked("circle")[-1] == 1


def test_too_few_rows_and_unknown_shapes_are_refused(x: Tensor) -> None:
    with pytest.raises(
        InputError, match="500 rows are too few to see a shape among their strongest; give 4000 or more"
    ):
        score_manifolds(planes([(0, 1)]), x[:500])
    with pytest.raises(InputError, match="no shape 'blob' is scored; there are circle, curve, surface"):
        score_manifolds(planes([(0, 1)]), x).ranked("blob")


# ------------------------------------------------------------------------------------------------------------ labels


def spiral(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    label = random.integers(0, 8, n)
    angle = 0.6 * label + 0.05 * random.standard_normal(n)
    return np.stack([np.cos(angle), np.sin(angle)], 1) + 0.02 * random.standard_normal((n, 2)), label


def test_a_label_along_a_curve_is_read_off_on_other_tokens() -> None:
    curve = LabelCurve.fit(*spiral(1000, 0))
    points, label = spiral(500, 1)
    assert curve.r2(points, label) > 0.97
    assert np.abs(curve.read(points) - label).mean() < 0.25
    shuffled = LabelCurve.fit(points, np.random.default_rng(0).permutation(label))
    assert shuffled.r2(*spiral(500, 2)) < 0.2
    np.testing.assert_allclose(curve.at(3.0), [math.cos(1.8), math.sin(1.8)], atol=0.02)
    np.testing.assert_allclose(curve.at(99.0), curve.points[-1])


def test_r2_is_its_formula() -> None:
    curve = LabelCurve(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]]), np.array([0.0, 1.0, 5.0]))
    points = np.array([[-1.0, 0.3], [0.25, -1.0], [1.4, 1.0], [1.0, 9.0]])
    read = [0.0, 0.25, 3.0, 5.0]
    np.testing.assert_allclose(curve.read(points), read)
    label = np.array([0, 1, 3, 4])
    expected = 1 - ((label - read) ** 2).sum() / ((label - 2) ** 2).sum()
    assert curve.r2(points, label) == pytest.approx(expected)


def test_a_label_of_many_values_is_grouped_in_its_order() -> None:
    label = np.arange(1000)
    curve = LabelCurve.fit(np.stack([label, label**2 / 1000], 1).astype(float), label, n_knots=10)
    assert len(curve.labels) == 10
    assert (np.diff(curve.labels) > 0).all()
    with pytest.raises(InputError, match=r"the label is \[3\] on all 4 tokens; an order needs two values or more"):
        LabelCurve.fit(np.zeros((4, 2)), np.full(4, 3))


# ------------------------------------------------------------------------------------------------ a label and all planes


def test_a_label_around_a_circle_is_found_in_the_latent_of_that_plane(x: Tensor) -> None:
    """Chosen on half of the documents, judged on the other; PCA looks elsewhere, since another plane varies more."""
    random = generator(9)
    label = torch.randint(0, 9, (800,), generator=random)
    rows = 0.05 * torch.randn(800, 8, generator=random)
    rows[:, 0], rows[:, 1] = (0.6 * label).cos(), (0.6 * label).sin()
    rows[:, 4:6] += 2 * torch.randn(800, 2, generator=random)
    is_fit = np.arange(800) % 2 == 0
    moments = ArraySource(rows).moments()
    layout = lay_out(
        planes([(2, 3), (4, 5), (0, 1)]),
        rows,
        label.numpy(),
        name="depth",
        is_fit=is_fit,
        components=moments.spectrum[1],
    )
    assert layout.fits[0].plane == "latent 2"
    assert layout.view.feature == 2
    own, *others = layout.fits
    assert own.nearest_r2 > 0.8
    assert own.r2 > max(fit.r2 for fit in others) + 0.3
    assert own.nearest_r2 > max(fit.nearest_r2 for fit in others) + 0.1
    assert layout.view.label_r2["depth"]["the latent's plane"] == own.r2
    np.testing.assert_array_equal(layout.view.ordinals["depth"], label.numpy())
    assert others[-1].plane == "the best of 3 random planes", "as many as there are latents"
    with pytest.raises(InputError, match="800 tokens to fit and 0 to judge are too few; give over 20 each"):
        lay_out(planes([(0, 1)]), rows, label.numpy(), name="d", is_fit=is_fit | True, components=moments.spectrum[1])


def test_latents_and_random_planes_are_chosen_on_the_half_that_does_not_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coordinates 2 and 3 show the label perfectly, but on the judged half alone; 0 and 1 show it with noise on both."""
    random = generator(4)
    label = torch.randint(0, 9, (600,), generator=random)
    is_fit = np.arange(600) % 2 == 0
    circle = torch.stack([(0.6 * label).cos(), (0.6 * label).sin()], 1)
    rows = 0.02 * torch.randn(600, 8, generator=random)
    rows[:, :2] = circle + 0.15 * torch.randn(600, 2, generator=random)
    rows[:, 2:4] = circle
    rows[is_fit, 2:4] = circle[is_fit][torch.randperm(300, generator=random)]
    both = [torch.eye(8)[[2, 3]], torch.eye(8)[[0, 1]]]
    monkeypatch.setattr(planes_module, "random_planes", lambda d_in, n, *, seed: both[:n])
    components = ArraySource(rows).moments().spectrum[1]
    layout = lay_out(planes([(2, 3), (0, 1)]), rows, label.numpy(), name="depth", is_fit=is_fit, components=components)
    own, *_, null = layout.fits
    assert own.plane == "latent 1"
    assert own.r2 > 0.5
    assert null.r2 == pytest.approx(own.r2, abs=0.05), "the same plane is the best of the random ones"
    swapped = lay_out(
        planes([(2, 3), (0, 1)]), rows, label.numpy(), name="depth", is_fit=~is_fit, components=components
    )
    assert swapped.fits[0].plane == "latent 0"
    assert swapped.fits[0].r2 < own.r2 - 0.3


def test_beside_each_latent_stands_the_random_plane_of_the_same_rank() -> None:
    nan = np.nan
    fit_r2 = np.array([[0.1, 0.5], [0.9, nan], [nan, 0.7], [0.4, 0.6]])
    null_fit_r2 = np.array([[0.3, nan], [0.2, nan], [0.8, 0.1], [nan, 0.2]])
    null_r2 = np.array([[3.0, nan], [2.0, nan], [8.0, 1.0], [nan, 2.0]])
    found = of_the_same_rank(fit_r2, null_fit_r2, null_r2)
    np.testing.assert_array_equal(found, [[2, nan], [8, nan], [nan, 2], [3, 1]])
