"""The bilinear autoencoder: it finds planted circles, it is honest about what it reconstructs, its latents can be read."""

from __future__ import annotations

import math
import subprocess
import sys
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_manifolds import (
    Manifold,
    axes_within,
    circle,
    forms_within,
    n_forms_found,
    patch,
    planted,
    raised_circle,
    sphere,
    torus,
)
from safetensors.torch import load_file
from torch import Tensor

from interp.decomposers import LinearDecomposer, load
from interp.decomposers.bilinear.autoencoder import Bilinear, BilinearConfig
from interp.decomposers.forms import unit_rows
from interp.errors import InputError
from interp.manifolds.shape import score_manifolds
from interp.store.source import ArraySource

STRUCTURES = ("vanilla", "ordered", "ordered, rank 4", "mixed", "combined")

SMALL = BilinearConfig(n_features=128, tokens=800 * 1024)


def position_r2(x: Tensor, plane: Tensor, truth: Tensor) -> float:
    """R^2 of the true coordinates, predicted linearly from those on ``plane``."""
    given = torch.cat([x @ plane.T, torch.ones(len(x), 1)], 1)
    residual = truth - given @ torch.linalg.lstsq(given, truth).solution
    return float(1 - residual.square().sum() / (truth - truth.mean(0)).square().sum())


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_planted_circle_is_found_and_ranked_first_without_labels(seed: int) -> None:
    """Against a ceiling, the true plane, and PCA's first two components."""
    x, axes, is_on, _ = planted(seed, circle)
    trained = Bilinear.fit(ArraySource(x), replace(SMALL, seed=seed))
    assert trained.error(x[:8192]) < 0.14
    found = int(score_manifolds(trained, x[:10_000]).ranked("circle")[0])
    assert axes_within(trained, axes, 2)[found] > 0.95
    untrained = Bilinear.untrained(ArraySource(x[:4096]), replace(SMALL, seed=seed))
    assert axes_within(untrained, axes, 2).max() < 0.4
    # the circle's own coordinates, without the features that overlap it
    on = x[is_on]
    truth = torch.nn.functional.normalize(on @ axes.T, dim=1)
    ceiling = position_r2(on, axes, truth)
    assert position_r2(on, trained.form(found).axes(2), truth) > ceiling - 0.05
    components = torch.linalg.svd(x - x.mean(0), full_matrices=False)[2][:2]
    assert position_r2(on, components, truth) < ceiling - 0.1


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (0, 2))])
def test_an_off_centre_circle_is_found_with_a_bias(seed: int) -> None:
    """Of two starts the one of lower error. Along the circle its centre's axis is constant, as the bias is: x 1 and x z are
    nearly one latent, and a plane may lean towards z. One start of twelve, the first for seed 0, leaned to .80 in two latents,
    with the largest error of the four of its rows; the others gave .90 to .99. Without labels it is not ranked first for every
    seed: what is asserted is that a latent's plane is the circle's."""
    x, axes, is_on, _ = planted(seed, raised_circle)
    config = replace(SMALL, biased=True)
    starts = [Bilinear.fit(ArraySource(x), replace(config, seed=start)) for start in (seed, seed + 10)]
    trained = min(starts, key=lambda each: each.error(x[:8192]))
    within = axes_within(trained, axes[:2], 2)
    assert within.max() > 0.85
    on = x[is_on]
    truth = torch.nn.functional.normalize(on @ axes[:2].T, dim=1)
    ceiling = position_r2(unit_rows(on), axes[:2], truth)
    assert position_r2(unit_rows(on), trained.form(int(within.argmax())).axes(2), truth) > ceiling - 0.05


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (0, 2))])
def test_a_torus_is_found_as_planes_of_its_four_dimensions(seed: int) -> None:
    """Not as its two circles: products of a coordinate of each vary twice as much as what either circle adds."""
    x, axes, _, _ = planted(seed, torus)
    trained = Bilinear.fit(ArraySource(x), replace(SMALL, seed=seed))
    assert axes_within(trained, axes, 2).max() > 0.95
    assert n_forms_found(forms_within(trained, axes)) >= 4


def later(*cases: Any) -> list[Any]:
    """The first case always, the others with the slow tests."""
    return [cases[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in cases[1:])]


@pytest.mark.parametrize(("manifold", "seed"), later(*((m, seed) for m in (sphere, patch) for seed in (0, 1, 2))))
def test_a_planted_surface_is_found_as_planes_of_its_three_dimensions(manifold: Manifold, seed: int) -> None:
    """Nearly all six forms of its space are latents; a great circle of the sphere is ranked first without labels."""
    x, axes, _, _ = planted(seed, manifold)
    trained = Bilinear.fit(ArraySource(x), replace(SMALL, seed=seed))
    within = forms_within(trained, axes)
    assert n_forms_found(within) >= 5
    if manifold is sphere:
        assert within[int(score_manifolds(trained, x[:10_000]).ranked("circle")[0])].square().sum() > 0.95
    untrained = Bilinear.untrained(ArraySource(x[:4096]), trained.config)
    assert forms_within(untrained, axes).square().sum((1, 2)).max() < 0.3


@pytest.mark.slow
@pytest.mark.parametrize(("manifold", "rank"), [(sphere, 6), (patch, 4)])
@pytest.mark.parametrize("seed", [0, 2])
def test_a_planted_surface_is_found_in_one_latent_of_higher_rank(manifold: Manifold, rank: int, seed: int) -> None:
    """In two of three seeds the latent ranked first without labels is a form of its space; see examples/bilinear.md."""
    x, axes, _, _ = planted(seed, manifold)
    trained = Bilinear.fit(ArraySource(x), replace(SMALL, n_features=64, rank=rank, seed=seed))
    found = int(score_manifolds(trained, x[:10_000]).ranked("surface")[0])
    assert forms_within(trained, axes)[found].square().sum() > 0.8


# --------------------------------------------------------------------------------------- what it reconstructs, exactly


def rows(n: int = 30, d: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + 0.3


def of_structure(structure: str, biased: bool, d: int = 6, n: int = 10) -> Bilinear:
    """Random weights, not trained."""
    random = torch.Generator().manual_seed(1)
    config = of(structure, BilinearConfig(n_features=n, biased=biased))
    wide = d + biased
    tensors = {name: 0.5 * torch.randn(n * config.rank // 2, wide, generator=random) for name in "LR"}
    if structure in ("mixed", "combined"):
        tensors["D"] = 0.5 * torch.randn(2 * wide, n, generator=random)
    return Bilinear(config, tensors)


def of(structure: str, config: BilinearConfig) -> BilinearConfig:
    kind, _, rank = structure.partition(", rank ")
    return replace(config, structure=kind, rank=int(rank or 2))


def matrices(decomposer: Bilinear) -> Tensor:
    """Every latent's form, on (1, x) where it is biased, summed over its atoms."""
    L, R = decomposer.tensors["L"], decomposer.tensors["R"]
    outer = L[:, :, None] * R[:, None, :]
    atoms, weights = decomposer.composites
    return torch.einsum("fk,fkij->fij", weights, ((outer + outer.mT) / 2)[atoms])


def seen(x: Tensor, biased: bool) -> Tensor:
    u = x / x.norm(dim=1, keepdim=True)
    return torch.cat([torch.ones(len(x), 1), u], 1) if biased else u


every_structure = pytest.mark.parametrize("structure", STRUCTURES)
with_and_without_bias = pytest.mark.parametrize("biased", [False, True])


@every_structure
@with_and_without_bias
def test_fvu_is_that_of_the_outer_products(structure: str, biased: bool) -> None:
    decomposer, u = of_structure(structure, biased), seen(rows(), biased)
    X = (u[:, :, None] * u[:, None, :]).double()
    L, R = decomposer.tensors["L"], decomposer.tensors["R"]
    g = (u @ L.T) * (u @ R.T)
    if "D" in decomposer.tensors:
        g = g @ decomposer.tensors["D"].T @ decomposer.tensors["D"]
    if decomposer.config.rank == 4:
        g = (g[:, ::2] + g[:, 1::2]).repeat_interleave(2, 1)
    outer = L[:, :, None] * R[:, None, :]
    written = torch.einsum("nh,hij->nij", g.double(), ((outer + outer.mT) / 2).double())
    error, variance = (X - written).square().sum(), (X - X.mean(0)).square().sum()
    assert decomposer.fvu(rows()) == pytest.approx(float(error / variance), rel=1e-4)
    assert decomposer.error(rows()) == pytest.approx(float(error / X.square().sum()), rel=1e-4)


def test_the_span_of_the_active_latents_is_that_of_least_squares() -> None:
    decomposer = of_structure("vanilla", False, n=6)
    decomposer.tensors["L"][1] = decomposer.tensors["R"][1] = decomposer.tensors["L"][0]  # of rank 1
    axes = decomposer.spectra[1][:, :2].flatten(0, 1)
    sample = rows(20, 6)
    assert decomposer.span_fvu(sample) == pytest.approx(0, abs=1e-4), "twelve axes of six dimensions hold everything"
    narrow = Bilinear(decomposer.config, {name: tensor[:2] for name, tensor in decomposer.tensors.items()})
    solution = torch.linalg.lstsq(axes[:4].T.double(), sample.T.double(), driver="gelsd", rcond=1e-4).solution
    outside = (sample.double().T - axes[:4].T.double() @ solution).square().sum()
    assert narrow.span_fvu(sample) == pytest.approx(float(outside / (sample - sample.mean(0)).square().sum()), rel=1e-3)
    assert math.isnan(decomposer.span_fvu(torch.ones(3, 6)))


def test_only_the_latents_that_write_most_on_a_row_span_it() -> None:
    """Forty axes of their own in forty dimensions, one latent each: a row of all of them keeps its 32 largest."""
    eye = torch.eye(40)
    decomposer = Bilinear(BilinearConfig(n_features=40), {"L": eye.clone(), "R": eye.clone()})
    x = torch.arange(1.0, 41).repeat(2, 1) * torch.tensor([[1.0], [-1.0]])
    assert decomposer.span_fvu(x) == pytest.approx(float(x[0, :8].square().sum() / x[0].square().sum()), rel=1e-3)


def test_there_is_no_decode() -> None:
    decomposer = of_structure("vanilla", False)
    assert not isinstance(decomposer, LinearDecomposer)
    assert not hasattr(decomposer, "decode")


# ------------------------------------------------------------------------------------------------ latents as objects


@every_structure
@with_and_without_bias
def test_a_code_is_the_value_of_the_latents_form(structure: str, biased: bool) -> None:
    decomposer = of_structure(structure, biased)
    codes, u = decomposer.encode(rows()), seen(rows(), biased)
    expected = torch.einsum("ni,fij,nj->nf", u, matrices(decomposer), u)
    torch.testing.assert_close(codes, expected, rtol=1e-4, atol=1e-5)
    for f in (0, 9):
        torch.testing.assert_close(decomposer.form(f).value(rows() * 7), expected[:, f], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            decomposer.form(f).matrix(), matrices(decomposer)[f][biased:, biased:], atol=1e-5, rtol=0
        )


@every_structure
@with_and_without_bias
def test_cosines_norms_and_importance_are_those_of_the_forms(structure: str, biased: bool) -> None:
    decomposer = of_structure(structure, biased)
    flat = matrices(decomposer).flatten(1)
    torch.testing.assert_close(decomposer.norms, flat.norm(dim=1), rtol=1e-4, atol=1e-5)
    expected = torch.nn.functional.cosine_similarity(flat[3:4], flat)
    torch.testing.assert_close(decomposer.forms[3:4].cosines(decomposer.forms), expected[None], rtol=1e-4, atol=1e-5)
    written = decomposer.encode(rows()).square().mean(0) * flat.square().sum(1)
    torch.testing.assert_close(decomposer.importance(rows()), written, rtol=1e-4, atol=1e-5)


def test_a_direction_is_the_eigenvector_of_largest_magnitude() -> None:
    decomposer = of_structure("mixed", True)
    for f, direction in enumerate(decomposer.write_directions()):
        values, vectors = torch.linalg.eigh(matrices(decomposer)[f][1:, 1:])
        expected = vectors[:, values.abs().argmax()]
        assert abs(float(direction @ expected)) == pytest.approx(1, abs=1e-4)
        assert direction[direction.abs().argmax()] > 0


def test_a_composite_is_made_of_the_atoms_mixed_with_its_own() -> None:
    decomposer = of_structure("combined", False)
    columns = torch.nn.functional.normalize(decomposer.tensors["D"], dim=0)
    cosine = columns.T @ columns
    atoms, weights = decomposer.composites
    assert (atoms[:, 0] == torch.arange(10)).all()
    torch.testing.assert_close(weights, cosine.gather(1, atoms))
    left_out = torch.ones(10, 10, dtype=torch.bool).scatter(1, atoms, False)
    assert (cosine.abs()[left_out].view(10, 2) <= weights.abs().amin(1, keepdim=True)).all()
    assert decomposer.form(0).rank > 2


@with_and_without_bias
def test_latents_whose_atom_is_zero_are_dead_everywhere(biased: bool) -> None:
    decomposer = of_structure("vanilla", biased)
    decomposer.tensors["L"][4] = 0
    assert not decomposer.write_directions()[4].any()
    assert not decomposer.encode(rows())[:, 4].any()
    assert not decomposer.forms.cosines(decomposer.forms)[4].any()
    assert decomposer.form(4).rank == 0


def test_rows_of_another_width_and_unknown_latents_are_refused() -> None:
    decomposer = of_structure("ordered", True)
    with pytest.raises(InputError, match=r"the rows have shape \[3, 7\], but this bilinear was trained on rows 6 wide"):
        decomposer.encode(torch.zeros(3, 7))
    with pytest.raises(InputError, match="no feature 10; this run has 0-9"):
        decomposer.form(10)


# --------------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def x() -> Tensor:
    return planted(0, circle, 4000)[0]


SHORT = BilinearConfig(n_features=48, tokens=200 * 64, batch=64)


@every_structure
@with_and_without_bias
def test_every_structure_learns_and_is_read_back(structure: str, biased: bool, x: Tensor, tmp_path: Path) -> None:
    config = of(structure, replace(SHORT, biased=biased))
    trained = Bilinear.fit(ArraySource(x), config)
    untrained = Bilinear.fit(ArraySource(x), replace(config, tokens=64, lr=1e-9))
    assert trained.error(x) < 0.75 * untrained.error(x)
    trained.save(tmp_path / "decomposer.safetensors")
    assert torch.equal(load(tmp_path / "decomposer.safetensors").encode(x[:50]), trained.encode(x[:50]))


def test_muon_learns_too(x: Tensor) -> None:
    start = Bilinear.fit(ArraySource(x), replace(SHORT, tokens=64, lr=1e-9)).error(x)
    assert Bilinear.fit(ArraySource(x), replace(SHORT, optimizer="muon", lr=0.03)).error(x) < 0.75 * start


def test_the_papers_kernel_ends_in_a_larger_error(x: Tensor) -> None:
    exact, paper = (Bilinear.fit(ArraySource(x), replace(SHORT, gamma=gamma, alpha=0.0)) for gamma in (0.0, 1.0))
    assert exact.error(x) < paper.error(x)


def test_the_first_atoms_of_an_ordered_one_reconstruct_most(x: Tensor) -> None:
    errors = {}
    for structure in ("vanilla", "ordered"):
        whole = Bilinear.fit(ArraySource(x), replace(SHORT, structure=structure, alpha=0.0))
        first = {name: tensor[:8] for name, tensor in whole.tensors.items()}
        errors[structure] = Bilinear(replace(whole.config, n_features=8), first).error(x)
    assert errors["ordered"] < errors["vanilla"] - 0.05


def test_the_density_lowers_the_density(x: Tensor) -> None:
    records: list[dict[str, float]] = []

    class Memory:
        checkpoints: Path | None = None

        def log(self, record: dict[str, float]) -> None:
            records.append(record)

    for alpha in (0.0, 0.3):
        Bilinear.fit(ArraySource(x), replace(SHORT, alpha=alpha), Memory())
    assert {"fvu", "error", "density"} <= records[-1].keys()
    without, with_it = (record["density"] for record in (records[49], records[-1]))
    assert with_it < without - 0.03


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_killed_training_goes_on_to_the_same_bits(optimizer: str, x: Tensor, tmp_path: Path) -> None:
    class Recorder:
        def __init__(self, folder: Path, die_at: int = 0):
            folder.mkdir(exist_ok=True)
            self.checkpoints: Path | None = folder
            self.die_at = die_at

        def log(self, record: dict[str, float]) -> None:
            if record["step"] == self.die_at:
                raise KeyboardInterrupt

    config = replace(SHORT, structure="combined", biased=True, optimizer=optimizer, tokens=50 * 64)
    whole = Bilinear.fit(ArraySource(x), config, Recorder(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        Bilinear.fit(ArraySource(x), config, Recorder(tmp_path / "killed", die_at=20))
    resumed = Bilinear.fit(ArraySource(x), config, Recorder(tmp_path / "killed"))
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, resumed.tensors[name]), name


PARALLEL = """
import sys
import torch
from safetensors.torch import save_file
from interp.decomposers.bilinear.autoencoder import Bilinear, BilinearConfig
from interp.distributed import joined
from interp.store.source import ArraySource

torch.set_num_threads(1)
x = torch.randn(2000, 12, generator=torch.Generator().manual_seed(0)).relu() + 0.1
with joined() as world:
    for structure in ("ordered", "mixed"):
        config = BilinearConfig(n_features=16, structure=structure, tokens=64 * 20, batch=64, alpha=0.3)
        tensors = Bilinear.fit(ArraySource(x), config).tensors
        if world.is_first:
            save_file(tensors, f"{sys.argv[1]}/{structure}-{world.size}")
"""


def test_two_processes_have_the_weights_of_one(tmp_path: Path) -> None:
    """The density is of the whole batch, though each process sees half of it. Measured: 1e-7 apart; were it of
    their own halves, .004 to .011."""
    (tmp_path / "job.py").write_text(PARALLEL)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for command in ([sys.executable], torchrun):
        job = [*command, str(tmp_path / "job.py"), str(tmp_path)]
        done = subprocess.run(job, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    for structure in ("ordered", "mixed"):
        alone, shared = (load_file(tmp_path / f"{structure}-{n}") for n in (1, 2))
        for name, tensor in alone.items():
            assert float((shared[name] - tensor).abs().max()) < 3e-6, f"{structure} {name}"


# ------------------------------------------------------------------------------------------------------- wrong input


def test_rows_of_zeros_are_refused_with_their_number(x: Tensor) -> None:
    broken = x.clone()
    broken[[3, 50, 700]] = 0
    with pytest.raises(InputError, match=rf"3 of {len(x)} activations are zero; .* leave them out, or choose another"):
        Bilinear.fit(ArraySource(broken), SHORT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1.0}, "alpha is -1, but the weight of a penalty must be 0 or more"),
        ({"gamma": 1.5}, "gamma is 1.5, but it must be above -1 and at most 1; 0 is the exact error"),
        ({"batch": 1}, "a batch of 1 row has no density; use a batch of 2 or more"),
        ({"rank": 3}, "rank is 3, but latents are made of atoms of rank 2; give 2, 4, 6 and so on"),
        ({"rank": 0}, "rank is 0, but latents are made of atoms of rank 2"),
        ({"rank": 6, "structure": "mixed"}, "latents of mixed have the rank of their mixture; leave --rank at 2"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SHORT, **options)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("structure", "gated", "structure is 'gated'; it must be 'vanilla' or 'ordered' or 'mixed' or 'combined'"),
        ("optimizer", "sgd", "optimizer is 'sgd'; it must be 'adam' or 'muon'"),
    ],
)
def test_unknown_words_are_refused(option: str, value: str, message: str) -> None:
    config = copy(SHORT)
    object.__setattr__(config, option, value)  # past the type checker that these tests run under
    with pytest.raises(InputError, match=message):
        config.__post_init__()
