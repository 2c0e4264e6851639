"""Preconditioners are what they claim to be, and save iterations."""

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    CG,
    GMRES,
    MINRES,
    BlockDiagonal,
    Cholesky,
    Dense,
    Diagonal,
    Gather,
    InnovationCovariance,
    Isotropic,
    Jacobi,
    LowRankPlusDiagonal,
    Mask,
    Nystrom,
    PivotedCholesky,
    Preconditioner,
    Surrogate,
)
from appa_prob.operators.dense import LIMIT
from appa_prob.operators.iterative import KrylovSolver
from appa_prob.operators.nystrom import nystrom
from appa_prob.operators.pivoted import pivoted_cholesky, uncorrelated

F64 = torch.float64
SOLVERS: list[type[KrylovSolver]] = [CG, MINRES, GMRES]


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


def kernel(n: int, length: float = 0.05) -> Tensor:
    place = torch.linspace(0, 1, n, dtype=F64)
    return torch.exp(-0.5 * ((place[:, None] - place) / length).square())


def innovation(n: int = 120, m: int = 60) -> InnovationCovariance:
    """Observations of a smooth field, some of them 100 times as exact as others."""
    H = Gather(torch.randint(n, (m,)), n).to(F64)
    variances = torch.where(torch.arange(m) % 4 == 0, 1e-3, 0.1).to(F64)
    return InnovationCovariance(H, Dense(kernel(n), symmetric=True), Diagonal(variances))


ROUGH = LowRankPlusDiagonal(kernel(120)[::4] / 2, torch.full((120,), 0.05, dtype=F64))


@pytest.mark.parametrize("kind", SOLVERS)
@pytest.mark.parametrize(
    ("recipe", "share"),
    [
        (Nystrom(40), 0.8),
        (PivotedCholesky(30), 0.4),
        (Surrogate(Dense(kernel(120, 0.06), symmetric=True)), 0.6),
        (Surrogate(ROUGH), 1),
    ],
    ids=["Nystrom", "PivotedCholesky", "Surrogate", "rough surrogate"],
)
def test_iterations_are_saved_and_solutions_stay(
    recipe: Preconditioner, share: float, kind: type[KrylovSolver]
) -> None:
    S, b = innovation(), noise(3, 60)
    plain = kind(rtol=1e-8, max_iterations=300)(S, b)
    helped = kind(rtol=1e-8, max_iterations=300, preconditioner=recipe)(S, b)
    assert bool((helped.iterations < share * plain.iterations).all())
    torch.testing.assert_close(helped.value, plain.value, rtol=1e-4, atol=1e-6)
    assert helped.lifted is not None
    ready = recipe.prepare(S)
    again = kind(rtol=1e-8, max_iterations=300, preconditioner=ready)(S, b)
    torch.testing.assert_close(again.value, plain.value, rtol=1e-4, atol=1e-6)


def test_an_exact_surrogate_leaves_one_iteration() -> None:
    S, b = innovation(), noise(2, 60)
    for recipe in (Surrogate(S.V), Surrogate(lambda S: S.V, Cholesky(on_failure="ignore"))):
        assert GMRES(rtol=1e-8, preconditioner=recipe)(S, b).iterations.tolist() == [1, 1]


def test_a_surrogate_may_be_solved_by_iteration_inside_gmres() -> None:
    S, b = innovation(), noise(60)
    inner = CG(rtol=1e-2, max_iterations=30, on_failure="ignore")
    plain = GMRES(rtol=1e-8, max_iterations=60)(S, b)
    helped = GMRES(rtol=1e-8, preconditioner=Surrogate(S.V, inner))(S, b)
    assert helped.iterations < plain.iterations / 3
    torch.testing.assert_close(helped.value, plain.value, rtol=1e-4, atol=1e-6)


def test_batches_of_systems_are_preconditioned_each_by_its_own() -> None:
    M = torch.stack([kernel(40, length) for length in (0.02, 0.05, 0.2)])
    S = Dense(M, symmetric=True) + Isotropic(torch.tensor([0.1, 0.01, 0.001], dtype=F64), 40)
    b = noise(3, 40)
    for recipe in (Nystrom(20), PivotedCholesky(20), Jacobi()):
        solution = CG(rtol=1e-8, max_iterations=400, preconditioner=recipe)(S, b)
        torch.testing.assert_close(S(solution.value), b, rtol=0, atol=1e-6)
    errors = uncorrelated(S)
    assert errors is not None
    F, left = pivoted_cholesky(S, 10, errors)
    for i in range(3):
        one = Dense(M[i], symmetric=True)
        alone, rest = pivoted_cholesky(one, 10)
        torch.testing.assert_close(F[i], alone, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(left[i], rest, rtol=1e-6, atol=1e-8)


def test_nystrom_finds_the_leading_eigenvalues() -> None:
    values = torch.cat((torch.tensor([100.0, 50.0, 20.0]), 1e-6 * torch.ones(27))).to(F64)
    Q = torch.linalg.qr(noise(30, 30)).Q
    approximation = nystrom(Dense((Q * values) @ Q.mT, symmetric=True), 6)
    torch.testing.assert_close(approximation.eigenvalues[:3], values[:3], rtol=1e-5, atol=0)
    torch.testing.assert_close(approximation.to_dense(), (Q * values) @ Q.mT, rtol=0, atol=1e-5)
    complete = nystrom(Dense(kernel(10) + torch.eye(10, dtype=F64), symmetric=True), 50)
    torch.testing.assert_close(complete.to_dense(), kernel(10) + torch.eye(10, dtype=F64))


def test_pivoted_cholesky_interpolates_its_rows_and_never_exceeds_the_matrix() -> None:
    K = kernel(50)
    F, left = pivoted_cholesky(Dense(K, symmetric=True), 12)
    torch.testing.assert_close(left, (K - F.mT @ F).diagonal(), rtol=1e-6, atol=1e-12)
    assert float(torch.linalg.eigvalsh(K - F.mT @ F).min()) > -1e-10
    best = torch.linalg.eigvalsh(K).flip(0)[12:].sum()
    assert best <= left.sum() < 12 * best
    rank = pivoted_cholesky(Dense(torch.ones(4, 4, dtype=F64), symmetric=True), 3)[0]
    torch.testing.assert_close(rank.mT @ rank, torch.ones(4, 4, dtype=F64))


def test_jacobi_is_the_diagonal_and_reads_it_from_structure() -> None:
    n = 3 * LIMIT
    V = LowRankPlusDiagonal(noise(2, n), noise(n).square() + 1)
    where = torch.arange(n) % 2 == 0
    S = InnovationCovariance(Mask(where), V, Isotropic(0.5, n // 2))
    expected = V.diagonal()[where] + 0.5
    torch.testing.assert_close(Jacobi().prepare(S)(torch.ones(n // 2, dtype=F64)), 1 / expected)
    zero = Jacobi().prepare(Diagonal(torch.tensor([0.0, -2.0])))
    torch.testing.assert_close(zero(torch.ones(2)), torch.tensor([1.0, 0.5]))


def test_uncorrelated_errors_are_read_from_expressions() -> None:
    d = noise(4).square()
    R = BlockDiagonal([Diagonal(d), Isotropic(2.0, 2)])
    expected = torch.cat((d, torch.full((2,), 2.0, dtype=F64)))
    S = InnovationCovariance(Dense(noise(6, 3)), Dense(kernel(3), symmetric=True), R)
    found = uncorrelated(S), uncorrelated(R + Dense(kernel(6), symmetric=True))
    for variances in found:
        assert variances is not None
        torch.testing.assert_close(variances, expected)
    assert uncorrelated(BlockDiagonal([Isotropic(1.0, 2), Dense(noise(2, 2))])) is None


def test_recipes_refuse_what_they_cannot_work_with() -> None:
    dense, b = Dense(kernel(5), symmetric=True), noise(5)
    with pytest.raises(ValueError, match="Nystrom needs a symmetric operator"):
        GMRES(preconditioner=Nystrom(2))(Dense(kernel(5)), b)
    with pytest.raises(ValueError, match="PivotedCholesky needs a symmetric operator"):
        PivotedCholesky(2, noise=1.0).prepare(Dense(kernel(5)))
    with pytest.raises(ValueError, match="shows none; give noise, or use Nystrom"):
        CG(preconditioner=PivotedCholesky(2))(dense, b)
    for recipe in (Nystrom(0), PivotedCholesky(0, noise=1.0)):
        with pytest.raises(ValueError, match="rank >= 1, got 0"):
            recipe.prepare(dense)
    with pytest.raises(TypeError, match="InnovationCovariance, got Dense"):
        CG(preconditioner=Surrogate(dense))(dense, b)
    large = Diagonal(torch.ones(LIMIT + 1)) @ Dense(torch.ones(LIMIT + 1, LIMIT + 1))
    with pytest.raises(ValueError, match=f"{LIMIT} rows are the limit"):
        Jacobi().prepare(large)
