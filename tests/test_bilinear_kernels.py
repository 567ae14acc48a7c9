"""The tiled evaluation of the bilinear loss against brute force in float64: every token's d x d matrix, formed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interp.decomposers.bilinear.kernels import gram_energy, hoyer_density, read_atoms, reconstruction_error
from interp.decomposers.forms import atom_products

TOLERANCE = 1e-10
KINDS = {
    "vanilla": {"mixed": False, "ordered": False},
    "ordered": {"mixed": False, "ordered": True},
    "mixed": {"mixed": True, "ordered": False},
    "combined": {"mixed": True, "ordered": True},
}


def forms(L: Tensor, R: Tensor) -> Tensor:
    """Every atom's matrix [n_atoms, d, d]."""
    outer = L[:, :, None] * R[:, None, :]
    return (outer + outer.mT) / 2


def brute_force(x: Tensor, L: Tensor, R: Tensor, D: Tensor | None, *, ordered: bool, gamma: float) -> Tensor:
    """Mean over rows (and prefixes) of |X - X^|^2, plus gamma times the squared antisymmetric part of what is written."""
    Q, X = forms(L, R), x[:, :, None] * x[:, None, :]
    f = torch.einsum("nij,hij->nh", X, Q)
    g = f if D is None else f @ D.T @ D
    outer = L[:, :, None] * R[:, None, :]
    n_atoms = len(L)
    errors = []
    for n in range(1, n_atoms + 1) if ordered else [n_atoms]:
        written = torch.einsum("nh,hij->nij", g[:, :n], Q[:n])
        skew = torch.einsum("nh,hij->nij", g[:, :n], ((outer - outer.mT) / 2)[:n])
        errors.append((X - written).square().sum((1, 2)) + gamma * skew.square().sum((1, 2)))
    return torch.stack(errors).mean()


def example(seed: int, *, n: int, d: int, n_atoms: int, m: int | None, biased: bool) -> list[Tensor]:
    """x, L, R and D (where m is given), float64, requiring gradients; x with a leading 1 where biased."""
    random = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.normalize(torch.randn(n, d, generator=random, dtype=torch.float64), dim=1)
    if biased:
        x = torch.cat([torch.ones(n, 1, dtype=torch.float64), x], 1)
    shapes = [(n_atoms, x.shape[1])] * 2 + ([(m, n_atoms)] if m else [])
    others = [0.5 * torch.randn(*shape, generator=random, dtype=torch.float64) for shape in shapes]
    return [tensor.requires_grad_() for tensor in (x, *others)]


@pytest.mark.parametrize("gamma", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_error_and_gradients_equal_brute_force_over_random_sizes(kind: str, biased: bool, gamma: float) -> None:
    ordered, mixed = KINDS[kind]["ordered"], KINDS[kind]["mixed"]
    sizes = [(7, 5, 9, 4), (3, 4, 6, 8), (12, 6, 5, 3), (1, 3, 1, 2)]  # more rows than m, and fewer
    for seed, (n, d, n_atoms, m) in enumerate(sizes):
        tensors = example(seed, n=n, d=d, n_atoms=n_atoms, m=m if mixed else None, biased=biased)
        expected = brute_force(*tensors, *([] if mixed else [None]), ordered=ordered, gamma=gamma)
        found, f = reconstruction_error(*tensors, ordered=ordered, gamma=gamma)
        assert float((found - expected).detach().abs()) < TOLERANCE
        torch.testing.assert_close(f, read_atoms(*tensors[:3]))
        for one, other in zip(torch.autograd.grad(found, tensors), torch.autograd.grad(expected, tensors), strict=True):
            assert float((one - other).abs().max()) < TOLERANCE


@pytest.mark.parametrize("gamma", [0.0, 0.3])
@pytest.mark.parametrize("ordered", [False, True])
def test_latents_of_several_atoms_are_sums_of_forms(ordered: bool, gamma: float) -> None:
    """Two atoms a latent: brute force reads and writes with the sums of their matrices, prefix by prefix of latents."""
    x, L, R = example(0, n=5, d=6, n_atoms=8, m=None, biased=False)
    outer = (L[:, :, None] * R[:, None, :]).unflatten(0, (4, 2)).sum(1)
    Q, skew = (outer + outer.mT) / 2, (outer - outer.mT) / 2
    X = x[:, :, None] * x[:, None, :]
    values = torch.einsum("nij,hij->nh", X, Q)
    errors = []
    for n in range(1, 5) if ordered else [4]:
        symmetric, rest = (torch.einsum("nh,hij->nij", values[:, :n], part[:n]) for part in (Q, skew))
        errors.append((X - symmetric).square().sum((1, 2)) + gamma * rest.square().sum((1, 2)))
    expected = torch.stack(errors).mean()
    found, f = reconstruction_error(x, L, R, n_each=2, ordered=ordered, gamma=gamma)
    torch.testing.assert_close(f, values)
    assert float((found - expected).detach().abs()) < TOLERANCE
    given = (x, L, R)
    for one, other in zip(torch.autograd.grad(found, given), torch.autograd.grad(expected, given), strict=True):
        assert float((one - other).abs().max()) < TOLERANCE


@pytest.mark.parametrize("tile", [1, 2, 3, 4, 7, 100])
@pytest.mark.parametrize("with_middle", [False, True])
@pytest.mark.parametrize("with_prefix", [False, True])
def test_every_tile_size_gives_the_same_energy_and_gradients(tile: int, with_middle: bool, with_prefix: bool) -> None:
    random = torch.Generator().manual_seed(tile)
    A, L, R = (torch.randn(*shape, generator=random, dtype=torch.float64) for shape in ((5, 7), (7, 3), (7, 3)))
    root = torch.randn(5, 5, generator=random, dtype=torch.float64)
    middle = root @ root.T if with_middle else None
    prefix = torch.arange(7, 0, -1, dtype=torch.float64) / 7 if with_prefix else None
    given = [t.requires_grad_() for t in (A, L, R, *([middle] if middle is not None else []))]
    C = A.T @ (A if middle is None else middle @ A)
    weighted = C if prefix is None else C * torch.minimum(prefix[:, None], prefix)
    expected = (weighted * atom_products(L, R, L, R)).sum()
    found = gram_energy(A, L, R, middle=middle, prefix=prefix, tile=tile)
    assert float((found - expected).detach().abs()) < TOLERANCE
    for one, other in zip(torch.autograd.grad(3 * found, given), torch.autograd.grad(3 * expected, given), strict=True):
        assert float((one - other).abs().max()) < 1e-9


def test_the_energy_alone_needs_no_gradients() -> None:
    A, L, R = torch.randn(3, 6), torch.randn(6, 4), torch.randn(6, 4)
    with torch.no_grad():
        without = gram_energy(A, L, R, tile=4)
    torch.testing.assert_close(without, gram_energy(A, L.requires_grad_(), R, tile=4).detach())


def test_the_unsymmetric_kernel_is_larger_by_the_antisymmetric_part() -> None:
    x, L, R = example(0, n=6, d=4, n_atoms=5, m=None, biased=False)
    exact, paper = (reconstruction_error(x, L, R, gamma=gamma)[0] for gamma in (0.0, 1.0))
    written = torch.einsum("nh,hi,hj->nij", read_atoms(x, L, R), L, R)
    skew = ((written - written.mT) / 2).square().sum((1, 2)).mean()
    torch.testing.assert_close(paper - exact, skew)
    assert skew > 0.01


def test_hoyer_density_by_its_formula_and_at_its_ends() -> None:
    f = torch.randn(9, 4, dtype=torch.float64)
    each = torch.stack([(c.abs().sum() / c.square().sum().sqrt() - 1) / (3 - 1) for c in f.T])
    torch.testing.assert_close(hoyer_density(f), each.mean())
    prefixes = torch.stack([each[:n].mean() for n in range(1, 5)])
    torch.testing.assert_close(hoyer_density(f, ordered=True), prefixes.mean())
    one_row, constant, silent = torch.eye(9, 1), torch.ones(9, 1), torch.zeros(9, 1, requires_grad=True)
    assert float(hoyer_density(one_row)) == pytest.approx(0, abs=1e-6)
    assert float(hoyer_density(constant)) == pytest.approx(1)
    assert float(hoyer_density(silent).detach()) == 0
    (gradient,) = torch.autograd.grad(hoyer_density(silent), silent)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("n", [2, 9])
def test_single_precision_agrees_with_double(n: int) -> None:
    tensors = example(3, n=n, d=20, n_atoms=30, m=3, biased=True)
    double = reconstruction_error(*tensors)[0].detach()
    single = reconstruction_error(*(t.detach().float() for t in tensors))[0]
    assert float(single) == pytest.approx(float(double), rel=1e-5)
