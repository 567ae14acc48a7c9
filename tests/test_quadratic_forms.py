"""Quadratic forms: closed-form spectra against eigh of the formed matrix, and what a form says without inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from interp.decomposers.forms import Forms, QuadraticForm, atom_products, atom_spectra, composite_spectra, unit_rows
from interp.errors import InputError


def matrix_of(L: Tensor, R: Tensor, weights: Tensor | None = None) -> Tensor:
    """Q of weighted atoms [k, d], formed."""
    weights = torch.ones(len(L), dtype=L.dtype) if weights is None else weights
    outer = torch.einsum("k,ki,kj->ij", weights, L, R)
    return (outer + outer.T) / 2


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same_spectrum(values: Tensor, vectors: Tensor, Q: Tensor) -> None:
    expected = torch.linalg.eigvalsh(Q)
    expected = expected[expected.abs().argsort(descending=True)][: len(values)]
    torch.testing.assert_close(values.abs(), expected.abs(), rtol=0, atol=1e-10)
    torch.testing.assert_close((vectors.T * values) @ vectors, Q, rtol=0, atol=1e-10)


def test_the_closed_form_of_an_atom_is_its_eigendecomposition() -> None:
    L, R = random(20, 7), random(20, 7, seed=1)
    values, vectors = atom_spectra(L, R)
    for i in range(20):
        assert_same_spectrum(values[i], vectors[i], matrix_of(L[i : i + 1], R[i : i + 1]))
    torch.testing.assert_close(vectors.norm(dim=2), torch.ones(20, 2, dtype=torch.float64))
    assert (vectors.gather(2, vectors.abs().argmax(2, keepdim=True)) > 0).all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_atom_of_parallel_vectors_has_rank_one(sign: float) -> None:
    vector = random(1, 6)
    values, vectors = atom_spectra(vector, sign * 2 * vector)
    torch.testing.assert_close(values[0], torch.tensor([sign * 2 * float(vector.square().sum()), 0.0]).double())
    assert not vectors[0, 1].any()
    form = QuadraticForm(values[0], vectors[0], torch.zeros(6), 0.0)
    assert form.rank == 1
    assert form.effective_rank == pytest.approx(1)
    with pytest.raises(InputError, match="a form of rank 1 has no 2 axes; ask for at most its rank"):
        form.axes(2)


def test_an_atom_of_zeros_has_no_axis() -> None:
    values, vectors = atom_spectra(torch.zeros(1, 5), random(1, 5).float())
    form = QuadraticForm(values[0], vectors[0], torch.zeros(5), 0.0)
    assert (form.rank, form.effective_rank) == (0, 0.0)
    with pytest.raises(InputError, match="a form of rank 0 has no 1 axes"):
        form.project(torch.randn(3, 5), 1)


@pytest.mark.parametrize(("k", "d"), [(1, 6), (3, 9), (4, 5)])
def test_the_spectrum_of_a_composite_is_that_of_its_matrix(k: int, d: int) -> None:
    L, R, weights = random(10, k, d), random(10, k, d, seed=1), random(10, k, seed=2)
    values, vectors = composite_spectra(L, R, weights)
    for i in range(10):
        assert_same_spectrum(values[i], vectors[i], matrix_of(L[i], R[i], weights[i]))


def test_the_value_of_a_form_is_its_formula() -> None:
    L, R, x = random(3, 6).float(), random(3, 6, seed=1).float(), random(8, 6, seed=2).float()
    values, vectors = composite_spectra(L[None], R[None], torch.ones(1, 3))
    form = QuadraticForm(values[0], vectors[0], torch.arange(6) / 10, 0.7)
    u, Q = x / x.norm(dim=1, keepdim=True), matrix_of(L, R)
    expected = torch.einsum("ni,ij,nj->n", u, Q, u) + 2 * u @ (torch.arange(6) / 10) + 0.7
    torch.testing.assert_close(form.value(x), expected)
    torch.testing.assert_close(form.matrix(), Q, rtol=0, atol=1e-5)
    torch.testing.assert_close(form.project(x, 2), u @ form.eigenvectors[:2].T)
    assert form.has_bias


def test_effective_rank_counts_equal_eigenvalues() -> None:
    form = QuadraticForm(torch.tensor([2.0, -2.0, 2.0, 0.0]), torch.eye(4), torch.zeros(4), 0.0)
    assert form.effective_rank == pytest.approx(3)
    assert form.rank == 3
    assert not form.has_bias


def test_unit_rows_leaves_zeros() -> None:
    rows = unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-12, 0.0]]))
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]]))


# ---------------------------------------------------------------------------------------------------------- many forms


def some_forms(n: int, k: int, d: int, seed: int) -> tuple[Forms, Tensor]:
    """(forms of k atoms each out of seven that they share, their matrices)."""
    L, R, weights = random(7, d, seed=seed), random(7, d, seed=seed + 1), random(n, k, seed=seed + 2)
    atoms = torch.randint(7, (n, k), generator=torch.Generator().manual_seed(seed))
    matrices = torch.stack([matrix_of(L[a], R[a], w) for a, w in zip(atoms, weights, strict=True)])
    return Forms(L, R, atoms, weights), matrices


def test_products_of_atoms_are_those_of_the_matrices() -> None:
    L, R, L2, R2 = random(4, 5), random(4, 5, seed=1), random(3, 5, seed=2), random(3, 5, seed=3)
    mine = torch.stack([matrix_of(*each) for each in zip(L.split(1), R.split(1), strict=True)])
    theirs = torch.stack([matrix_of(*each) for each in zip(L2.split(1), R2.split(1), strict=True)])
    expected = torch.einsum("hij,kij->hk", mine, theirs)
    torch.testing.assert_close(atom_products(L, R, L2, R2), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [1, 3])
def test_cosines_of_forms_are_those_of_the_matrices(k: int) -> None:
    one, mine = some_forms(5, k, 6, seed=0)
    two, theirs = some_forms(4, 2, 6, seed=10)
    torch.testing.assert_close(one.products(two), torch.einsum("aij,bij->ab", mine, theirs), rtol=0, atol=1e-12)
    torch.testing.assert_close(one.norms, mine.flatten(1).norm(dim=1), rtol=0, atol=1e-12)
    expected = torch.nn.functional.cosine_similarity(mine.flatten(1)[:, None], theirs.flatten(1), dim=2)
    torch.testing.assert_close(one.cosines(two), expected, rtol=0, atol=1e-12)
    for picked in (slice(1, 4), np.array([3, 0, 0])):
        torch.testing.assert_close(one[picked].cosines(two), expected[picked], rtol=0, atol=1e-12)
    nothing = Forms(two.L, two.R, two.atoms, torch.zeros_like(two.weights))
    assert not one.cosines(nothing).any()


def test_beside_forms_with_a_bias_others_do_not_look_at_the_one() -> None:
    biased, mine = some_forms(5, 2, 7, seed=0)
    plain, theirs = some_forms(4, 2, 6, seed=10)
    expected = torch.einsum("aij,bij->ab", mine[:, 1:, 1:], theirs)
    torch.testing.assert_close(biased.products(plain), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(plain.products(biased), expected.T, rtol=0, atol=1e-12)


def test_a_direction_is_the_square_of_what_it_reads() -> None:
    w = unit_rows(random(3, 6)).float()
    squares, matrix = Forms.of_directions(w), some_forms(1, 2, 6, seed=4)[1][0].float()
    torch.testing.assert_close(squares.cosines(squares), (w @ w.T).square())
    values, vectors = torch.linalg.eigh(matrix)
    form = Forms(vectors.T, vectors.T, torch.arange(6)[None], values[None])
    expected = torch.einsum("ni,ij,nj->n", w, matrix, w) / matrix.norm()
    torch.testing.assert_close(squares.cosines(form)[:, 0], expected)
