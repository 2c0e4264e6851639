"""Fields of odd types and shapes, what is not a number, and copies of operators in use."""

import copy
import pickle
from collections.abc import Callable
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
    Cholesky,
    Coarsen,
    Convolution,
    Dense,
    Diagonal,
    Factored,
    Fourier,
    Hartley,
    InnovationCovariance,
    Isotropic,
    LowRankPlusDiagonal,
    Mask,
    Operator,
    Sparse,
    Stationary,
)

F64 = torch.float64


def stationary() -> Operator:
    return Stationary.of(lambda r: torch.exp(-r), (8,))


HALVES: dict[str, Callable[[], Operator]] = {
    "fft": lambda: Convolution(torch.rand(5) / 5, 8, "periodic", "fft"),
    "padded": lambda: Convolution(torch.rand(5) / 5, 8, "replicate", "fft"),
    "stationary": stationary,
    "hartley": lambda: Hartley(8),
    "fourier": lambda: Fourier((8,), mask=torch.arange(8) > 3),
    "sparse": lambda: Sparse(torch.eye(8).to_sparse()),
}


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_in_half_precision(name: str, dtype: torch.dtype) -> None:
    A = HALVES[name]()
    x, y = torch.randn(2, *A.in_shape), torch.randn(2, *A.out_shape)
    half = A.to(dtype)
    for found, expected in ((half(x.to(dtype)), A(x)), (half.adjoint(y.to(dtype)), A.adjoint(y))):
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("A", [Hartley(4), Fourier((4,)), Fourier((4,), complex_input=True)])
def test_real_transforms_refuse_complex_fields(A: Operator) -> None:
    with pytest.raises(TypeError, match="expected a real field"):
        A(torch.zeros(A.in_shape, dtype=torch.complex64))
    with pytest.raises(TypeError, match="expected a real field"):
        A.adjoint(torch.zeros(A.out_shape, dtype=torch.complex64))


def test_adjoint_means_of_complex_fields() -> None:
    A, y = Coarsen((2, 3), (2, 4, 6)), torch.randn(3, 2, 2, 2, dtype=torch.complex64)
    torch.testing.assert_close(A.adjoint(y), torch.complex(A.adjoint(y.real), A.adjoint(y.imag)))


@pytest.mark.parametrize("name", ["sparse", "fft", "stationary", "covariance"])
def test_operators_in_use_are_copied_without_what_they_keep(name: str) -> None:
    covariance = InnovationCovariance(
        Mask(torch.arange(200) % 2 == 0), Isotropic(1.0, 200), Isotropic(1.0, 100)
    )
    A = covariance if name == "covariance" else HALVES[name]()
    before = len(pickle.dumps(A))
    x = torch.randn(A.in_shape)
    y = A(x)
    A.adjoint(y)
    if isinstance(A, InnovationCovariance):
        Cholesky()(A, x)
    assert len(pickle.dumps(A)) == before
    assert torch.equal(copy.deepcopy(A)(x), y) and torch.equal(copy.copy(A)(x), y)


@pytest.mark.parametrize("solver", [CG, MINRES, GMRES, LSMR, LSQR])
@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_what_is_not_a_number_never_converges(solver: Any, odd: float) -> None:
    S = Diagonal(torch.tensor([1.0, 2.0, 3.0]))
    b = torch.tensor([[1.0, 2.0, 3.0], [odd, 1.0, 1.0], [0.0, 0.0, 0.0]])
    solution = solver(on_failure="ignore")(S, b)
    assert solution.converged.tolist() == [True, False, True]
    assert bool(solution.residual[1].isnan()) and float(solution.residual[2]) == 0.0
    torch.testing.assert_close(solution.value[0], torch.ones(3))


def test_nothing_observed() -> None:
    H = Mask(torch.zeros(3, dtype=torch.bool))
    S = InnovationCovariance(H, Isotropic(1.0, 3), Isotropic(1.0, 0))
    for solver in (CG(), GMRES(), Cholesky()):
        solution = solver(S, torch.zeros(2, 0))
        assert solution.lifted is not None and torch.equal(solution.lifted, torch.zeros(2, 3))


def solved(A: Operator, b: Tensor) -> Tensor:
    x: Tensor = torch.linalg.solve(A.to_dense(), b[..., None])[..., 0]
    return x


@pytest.mark.parametrize("batch", [(), (5,), (2, 5), (0,)])
@pytest.mark.parametrize("own", [(), (5,)])
def test_matrices_and_vectors_of_all_batches(batch: tuple[int, ...], own: tuple[int, ...]) -> None:
    M, b = torch.randn(*own, 4, 4, dtype=F64), torch.randn(*batch, 4, dtype=F64)
    if own and batch == (0,):
        return
    C = M @ M.mT + torch.eye(4, dtype=F64)
    root = torch.linalg.cholesky(C)
    low_rank = LowRankPlusDiagonal(M[..., :2, :], torch.ones(*own, 4, dtype=F64), 1)
    for A in (Dense(C, symmetric=True), Factored(root, 4), low_rank):
        torch.testing.assert_close(A(b), (A.to_dense() @ b[..., None])[..., 0])
        torch.testing.assert_close(A.adjoint(b), (A.to_dense().mT @ b[..., None])[..., 0])
        torch.testing.assert_close(A.solve(b), solved(A, b))


PRIOR = Dense(torch.eye(5, dtype=F64) + 0.5, symmetric=True)
TRAINED: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Operator]]] = {
    "low rank": ((1, 5), lambda a: LowRankPlusDiagonal(a, torch.ones(5, dtype=F64))),
    "innovation": (
        (3,),
        lambda a: InnovationCovariance(Mask(torch.arange(5) > 1), PRIOR, Diagonal(a)),
    ),
    "pseudo-inverse": ((1, 5), lambda a: Dense(a).pseudo_inverse()),
    "multiple": ((), lambda a: a * PRIOR),
}


@pytest.mark.parametrize("name", TRAINED)
def test_operators_follow_parameters_that_change_in_place(name: str) -> None:
    shape, make = TRAINED[name]
    parameter = (torch.rand(shape, dtype=F64) + 0.5).requires_grad_()
    A = make(parameter)
    x = torch.randn(A.in_shape, dtype=F64)
    for _ in range(2):
        found, expected = (
            Cholesky()(B, x).value if B.symmetric else B(x) for B in (A, make(parameter.detach()))
        )
        torch.testing.assert_close(found, expected)
        (gradient,) = torch.autograd.grad(found.square().sum(), parameter)
        assert bool(gradient.isfinite().all())
        with torch.no_grad():
            parameter.mul_(1.5)
    if A.symmetric:
        for _ in range(2):
            torch.autograd.grad(A.solve(x).sum() + A.logdet(), parameter)
