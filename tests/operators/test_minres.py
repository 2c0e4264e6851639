"""MINRES minimises the residual in three vectors, for symmetric systems of any kind."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch import Tensor

from appa_prob.operators import GMRES, MINRES, ConvergenceWarning, Dense, Diagonal

F64 = torch.float64


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


def indefinite(n: int, condition: float, *batch: int) -> Tensor:
    """Symmetric matrices, a third of whose eigenvalues are negative."""
    Q = torch.linalg.qr(noise(*batch, n, n)).Q
    values = torch.logspace(0, condition, n, dtype=F64) * (torch.arange(n) % 3 - 0.5).sign()
    M = (Q * values) @ Q.mT
    symmetric: Tensor = (M + M.mT) / 2
    return symmetric


def residual(M: Tensor, u: Tensor, b: Tensor) -> Tensor:
    relative: Tensor = (b - (M @ u[..., None])[..., 0]).norm(dim=-1) / b.norm(dim=-1)
    return relative


@pytest.mark.parametrize("k", [1, 7, 20])
def test_iterates_are_those_of_gmres_and_of_scipy(k: int) -> None:
    M, b = indefinite(60, 1.0, 3), noise(3, 60)
    S = Dense(M, symmetric=True)
    ours, theirs = (
        kind(rtol=0.0, max_iterations=k, on_failure="ignore")(S, b) for kind in (MINRES, GMRES)
    )
    torch.testing.assert_close(ours.value, theirs.value, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(ours.residual, residual(M, ours.value, b))
    for i in range(3):
        minres = scipy.sparse.linalg.minres
        x, _ = minres(M[i].numpy(), b[i].numpy(), rtol=1e-300, maxiter=k)
        np.testing.assert_allclose(ours.value[i], x, rtol=1e-6, atol=1e-8)


def test_accuracy_is_that_of_scipy_when_both_go_as_far_as_they_can() -> None:
    M, b = indefinite(100, 2.0), noise(100)
    ours = MINRES(rtol=1e-12, max_iterations=2000)(Dense(M, symmetric=True), b)
    minres = scipy.sparse.linalg.minres
    x, _ = minres(M.numpy(), b.numpy(), rtol=1e-300, maxiter=2000)
    theirs = residual(M, torch.as_tensor(x), b)
    assert ours.converged and ours.residual < max(1e-12, 10 * float(theirs))


def test_singular_systems_get_the_least_residual_and_a_warning() -> None:
    M = indefinite(20, 1.0)
    values, Q = torch.linalg.eigh(M)
    values[7] = 0.0
    M, b = (Q * values) @ Q.mT, noise(20)
    S = Dense((M + M.mT) / 2, symmetric=True)
    inside = b - Q[:, 7] * (Q[:, 7] @ b)
    solution = MINRES(rtol=1e-9)(S, inside)
    torch.testing.assert_close(S(solution.value), inside, rtol=0, atol=1e-7)
    with pytest.warns(ConvergenceWarning, match="MINRES: 1 of 1"):
        solution = MINRES(rtol=1e-9, max_iterations=40)(S, b)
    least = (Q[:, 7] @ b).abs() / b.norm()
    assert bool(solution.value.isfinite().all()) and solution.iterations < 40
    torch.testing.assert_close(solution.residual, least, rtol=0.1, atol=0)


def test_it_ends_where_the_krylov_space_is_exhausted() -> None:
    S = Diagonal(torch.tensor([1.0, -1.0, 2.0, 2.0], dtype=F64))
    b = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=F64)
    solution = MINRES(rtol=0.0, on_failure="ignore")(S, b)
    assert solution.iterations.tolist() == [1, 2, 3, 0]
    torch.testing.assert_close(solution.value, b / S.entries)
    nothing = MINRES(on_failure="ignore")(Diagonal(torch.zeros(3, dtype=F64)), noise(3))
    assert torch.equal(nothing.value, torch.zeros(3, dtype=F64)) and nothing.residual == 1


def test_preconditioned_residuals_are_the_true_ones() -> None:
    d = torch.logspace(0, 4, 40, dtype=F64) * (torch.arange(40) % 2 - 0.5).sign()
    M = torch.diag(d) + 0.1 * indefinite(40, 0.5)
    S, b = Dense((M + M.mT) / 2, symmetric=True), noise(2, 40)
    plain = MINRES(rtol=1e-8, max_iterations=1000)(S, b)
    helped = MINRES(rtol=1e-8, max_iterations=1000, preconditioner=Diagonal(1 / d.abs()))(S, b)
    assert bool((helped.iterations < plain.iterations / 2).all())
    torch.testing.assert_close(
        helped.residual, residual(S.to_dense(), helped.value, b), rtol=1e-3, atol=1e-14
    )
    torch.testing.assert_close(helped.value, plain.value, rtol=1e-5, atol=1e-7)


def test_a_preconditioner_that_is_not_definite_ends_it_honestly() -> None:
    M, b = indefinite(20, 1.0), noise(20)
    signs = Diagonal((torch.arange(20, dtype=F64) % 2) - 0.5)
    solver = MINRES(preconditioner=signs, on_failure="ignore", verify=True)
    solution = solver(Dense(M, symmetric=True), b)
    assert not solution.converged
    torch.testing.assert_close(solution.residual, residual(M, solution.value, b))
