"""Operators inside the transforms of `torch.func` and inside `torch.compile`."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    CG,
    GMRES,
    LSMR,
    LSQR,
    MINRES,
    Coarsen,
    Dense,
    Diagonal,
    Factored,
    Isotropic,
    LowRankPlusDiagonal,
    Mask,
    Operator,
)
from tests.operators.registered_cases import CASES

F64 = torch.float64


@pytest.fixture
def no_fallback() -> Iterator[None]:
    """Operations that can only be mapped one by one, with a warning, fail."""
    functorch: Any = torch._C._functorch
    functorch._set_vmap_fallback_enabled(False)
    yield
    functorch._set_vmap_fallback_enabled(True)


@pytest.mark.usefixtures("no_fallback")
@pytest.mark.parametrize("name", sorted(CASES))
def test_products_are_mapped_at_once(name: str, generator: torch.Generator) -> None:
    A, _ = CASES[name](generator)
    x = torch.randn(2, *A.batch_shape, *A.in_shape, generator=generator, dtype=F64)
    y = torch.randn(2, *A.batch_shape, *A.out_shape, generator=generator, dtype=F64)
    torch.testing.assert_close(torch.func.vmap(A)(x), A(x))
    torch.testing.assert_close(torch.func.vmap(A.adjoint)(y), A.adjoint(y))


@pytest.mark.parametrize("name", sorted(CASES))
def test_products_in_forward_mode(name: str, generator: torch.Generator) -> None:
    A, _ = CASES[name](generator)
    x = torch.randn(2, *A.batch_shape, *A.in_shape, generator=generator, dtype=F64)
    value, product = torch.func.jvp(A, (x[0],), (x[1],))[:2]
    torch.testing.assert_close(value, A(x[0]))
    torch.testing.assert_close(product, A(x[1]))


@pytest.mark.parametrize("kind", [CG, MINRES, GMRES])
def test_solvers_are_mapped(kind: type[CG | MINRES | GMRES]) -> None:
    d, b = torch.linspace(1, 4, 5, dtype=F64), torch.randn(3, 5, dtype=F64)
    solve = kind(rtol=1e-12, max_iterations=6)
    x = torch.func.vmap(lambda b: solve(Diagonal(d), b).value)(b)
    torch.testing.assert_close(x, b / d)


@pytest.mark.parametrize("kind", [LSMR, LSQR])
def test_least_squares_are_mapped(kind: type[LSMR | LSQR]) -> None:
    A, b = Dense(torch.randn(6, 3, dtype=F64)), torch.randn(4, 6, dtype=F64)
    x = torch.func.vmap(lambda b: kind(rtol=1e-12, max_iterations=6)(A, b).value)(b)
    torch.testing.assert_close(x, b @ torch.linalg.pinv(A.matrix).mT)


def test_operators_are_made_inside_transforms() -> None:
    d, x = torch.rand(3, 4, dtype=F64), torch.randn(3, 4, dtype=F64)
    mask = torch.tensor([True, False, True, True])
    y = torch.func.vmap(lambda d, x: (Mask(mask) @ Diagonal(d))(x))(d, x)
    torch.testing.assert_close(y, (d * x)[:, mask])


def test_expressions_are_compiled_whole() -> None:
    mask = torch.rand(4, 6) > 0.5
    A = 2.0 * Mask(mask) @ Diagonal(torch.rand(4, 6, dtype=F64)) @ Coarsen(2, (8, 12)).to(F64)
    product = torch.compile(lambda x: A.adjoint(A(x)), backend="aot_eager", fullgraph=True)
    x = torch.randn(8, 12, dtype=F64)
    torch.testing.assert_close(product(x), A.adjoint(A(x)))


# Jacobians by second derivatives are graphs of their own, the spherical one counts by generators,
# and the iterations of an inverse take their time to trace.
NOT_COMPILED = {"batched_jacobian", "jacobian", "tweedie", "spherical_stationary", "inverse"}


@pytest.mark.parametrize("name", sorted(CASES.keys() - NOT_COMPILED))
def test_products_are_compiled_whole(name: str, generator: torch.Generator) -> None:
    A, _ = CASES[name](generator)
    x = torch.randn((*A.batch_shape, *A.in_shape), generator=generator, dtype=A.dtype)
    torch.compiler.reset()
    product = torch.compile(lambda x: A.adjoint(A(x)), backend="eager", fullgraph=True)
    first = product(x)  # before anything is kept
    torch.testing.assert_close(first, A.adjoint(A(x)))


@pytest.mark.parametrize("make", [Dense, Factored, LowRankPlusDiagonal])
def test_batches_of_covariances_are_mapped(make: Any) -> None:
    M, b = torch.randn(5, 3, 3, dtype=F64), torch.randn(5, 3, dtype=F64)
    V = M @ M.mT + torch.eye(3, dtype=F64)

    def covariance(M: Tensor) -> Operator:
        eye = torch.eye(3, dtype=F64)
        V = M @ M.mT + eye
        if make is Factored:
            return Factored(torch.linalg.cholesky(V))
        return Dense(V, symmetric=True) if make is Dense else LowRankPlusDiagonal(M.mT, eye.diag())

    def score(M: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        A = covariance(M)
        return A.solve(b), A.logdet()

    solution, logdet = torch.func.vmap(score)(M, b)
    torch.testing.assert_close(solution, torch.linalg.solve(V, b[..., None])[..., 0])
    torch.testing.assert_close(logdet, torch.logdet(V))


def test_mapped_factors_of_indefinite_matrices_are_not_numbers() -> None:
    M = torch.stack((torch.eye(2), -torch.eye(2)))
    logdet = torch.func.vmap(lambda M: Dense(M, symmetric=True).logdet())(M)
    assert float(logdet[0]) == 0.0 and bool(logdet[1].isnan())


def test_parameters_that_are_checked_are_mapped() -> None:
    w, x = torch.rand(5, 4, 4, dtype=F64), torch.randn(5, 4, 4, dtype=F64)
    means = torch.func.vmap(lambda w, x: Coarsen(2, (4, 4), w)(x))(w, x)
    expected = torch.stack([Coarsen(2, (4, 4), w_)(x_) for w_, x_ in zip(w, x, strict=True)])
    torch.testing.assert_close(means, expected)
    variance = w[:, 0, 0] + 0.1
    solved = torch.func.vmap(lambda s, x: Isotropic(s, (4, 4)).solve(x))(variance, x)
    torch.testing.assert_close(solved, x / variance[:, None, None])
