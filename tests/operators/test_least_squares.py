"""LSMR and LSQR find least-squares solutions, of the least norm where there are many."""

from typing import Any

import pytest
import scipy.sparse.linalg
import torch
from torch import Tensor

from appa_prob.operators import LSMR, LSQR, ConvergenceWarning, Dense, Diagonal, Identity, Stack
from appa_prob.operators.leastsquares import LeastSquaresSolver

F64 = torch.float64
SOLVERS: list[type[LeastSquaresSolver]] = [LSMR, LSQR]
both = pytest.mark.parametrize("kind", SOLVERS)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


def rectangular(m: int, n: int, *conditions: float) -> Tensor:
    """Matrices of given condition numbers, one a batch entry."""
    k = min(m, n)
    U, V = (torch.linalg.qr(noise(len(conditions), size, k)).Q for size in (m, n))
    values = torch.stack([torch.logspace(0, -c, k, dtype=F64) for c in conditions])
    matrix: Tensor = (U * values[:, None]) @ V.mT
    return matrix


def solved(A: Tensor, b: Tensor) -> Tensor:
    x: Tensor = (torch.linalg.pinv(A) @ b[..., None])[..., 0]
    return x


def optimality(A: Tensor, x: Tensor, b: Tensor) -> Tensor:
    """The norm of A^T r relative to that of A^T b."""
    A, x, b = A.double(), x.double(), b.double()
    r = b - (A @ x[..., None])[..., 0]
    gradient, start = (A.mT @ torch.stack((r, b), dim=-1)).norm(dim=-2).unbind(-1)
    relative: Tensor = gradient / start
    return relative


@both
@pytest.mark.parametrize(("m", "n"), [(30, 12), (12, 30), (20, 20)])
def test_solutions_are_those_of_the_pseudo_inverse(
    kind: type[LeastSquaresSolver], m: int, n: int
) -> None:
    A, b = rectangular(m, n, 0.0, 1.0, 2.0), noise(4, 3, m)
    solution = kind(rtol=1e-12, max_iterations=400)(Dense(A), b)
    torch.testing.assert_close(solution.value, solved(A, b), rtol=1e-6, atol=1e-6)
    assert bool(solution.converged.all()) and solution.residual.shape == (4, 3)
    assert len(set(solution.iterations[0].tolist())) == 3


@both
def test_deficient_ranks_give_the_least_norm(kind: type[LeastSquaresSolver]) -> None:
    A, b = noise(20, 3) @ noise(3, 15), noise(20)
    solution = kind(rtol=1e-10)(Dense(A), b)
    torch.testing.assert_close(solution.value, solved(A, b))
    assert solution.iterations <= 4
    x0 = noise(15)
    nearest = kind(rtol=1e-10)(Dense(A), b, x0)
    null = x0 - torch.linalg.pinv(A) @ (A @ x0)
    torch.testing.assert_close(nearest.value, solved(A, b) + null, rtol=1e-6, atol=1e-6)


@both
def test_a_batch_solves_each_problem_as_alone(kind: type[LeastSquaresSolver]) -> None:
    A, b = rectangular(25, 10, 0.0, 0.5, 1.0), noise(3, 25)
    b[1] *= 1e6
    solver = kind(rtol=1e-6)
    batch = solver(Dense(A), b)
    alone = [solver(Dense(A[i]), b[i]) for i in range(3)]
    assert batch.iterations.tolist() == [int(s.iterations) for s in alone]
    torch.testing.assert_close(batch.value, torch.stack([s.value for s in alone]))
    torch.testing.assert_close(batch.residual, torch.stack([s.residual for s in alone]))


@both
def test_events_keep_their_shapes(kind: type[LeastSquaresSolver]) -> None:
    A, b = rectangular(12, 6, 0.5)[0], noise(5, 3, 4)
    solution = kind(rtol=1e-10)(Dense(A, (2, 3), (3, 4)), b)
    torch.testing.assert_close(solution.value.flatten(1), solved(A, b.flatten(1)))
    assert solution.value.shape == (5, 2, 3) and solution.lifted is None


@both
def test_problems_that_need_no_step_take_none(kind: type[LeastSquaresSolver]) -> None:
    A = Dense(torch.eye(4, 2, dtype=F64))
    b = torch.tensor([[0.0, 0, 0, 0], [0, 0, 3, 4], [1, 2, 3, 4]], dtype=F64)
    solution = kind()(A, b)
    assert solution.iterations.tolist() == [0, 0, 1] and bool(solution.converged.all())
    torch.testing.assert_close(solution.value, b[:, :2])
    exact = kind()(A, b, b[:, :2].clone())
    assert exact.iterations.tolist() == [0, 0, 0]
    torch.testing.assert_close(exact.value, b[:, :2])
    nothing = kind()(Dense(torch.zeros(3, 2, dtype=F64)), noise(3))
    assert torch.equal(nothing.value, torch.zeros(2, dtype=F64)) and nothing.converged


def test_what_each_method_promises_never_grows() -> None:
    A, b = rectangular(40, 20, 0.5)[0], noise(40)
    misfits, gradients = [], []
    for k in range(1, 21):
        options: dict[str, Any] = {"rtol": 0.0, "max_iterations": k, "on_failure": "ignore"}
        misfits.append((b - A @ LSQR(**options)(Dense(A), b).value).norm())
        solution = LSMR(**options)(Dense(A), b)
        gradients.append(optimality(A, solution.value, b))
        torch.testing.assert_close(solution.residual, gradients[-1], rtol=1e-6, atol=1e-10)
    for history in (misfits, gradients):
        assert bool((torch.stack(history).diff() <= 1e-12).all())
    assert gradients[-1] < 1e-6 < 1e-2 < gradients[5]


@pytest.mark.parametrize("k", [1, 5, 15])
def test_iterates_are_those_of_scipy(k: int) -> None:
    A, b = rectangular(40, 30, 1.0)[0], noise(40)
    for kind, name, cap in ((LSMR, "lsmr", "maxiter"), (LSQR, "lsqr", "iter_lim")):
        ours = kind(rtol=0.0, max_iterations=k, on_failure="ignore")(Dense(A), b).value
        options = {"atol": 0.0, "btol": 0.0, "conlim": 0.0, cap: k}
        theirs = getattr(scipy.sparse.linalg, name)(A.numpy(), b.numpy(), **options)[0]
        torch.testing.assert_close(ours, torch.as_tensor(theirs), rtol=1e-8, atol=1e-10)


@both
def test_accuracy_is_that_of_scipy_on_a_hard_problem(kind: type[LeastSquaresSolver]) -> None:
    A, b = rectangular(80, 50, 3.0)[0], noise(80)
    ours = kind(rtol=1e-11, max_iterations=3000)(Dense(A), b)
    name, cap = ("lsmr", "maxiter") if kind is LSMR else ("lsqr", "iter_lim")
    options = {"atol": 1e-15, "btol": 1e-15, "conlim": 0.0, cap: 3000}
    theirs = getattr(scipy.sparse.linalg, name)(A.numpy(), b.numpy(), **options)[0]
    exact = solved(A, b)
    errors = [(x - exact).norm() / exact.norm() for x in (ours.value, torch.as_tensor(theirs))]
    assert ours.converged and errors[0] < 10 * errors[1] + 1e-7


@both
def test_single_precision_says_the_truth(kind: type[LeastSquaresSolver]) -> None:
    A, b = rectangular(60, 40, 0.5, 4.0).float(), noise(2, 60).float()
    solution = kind(rtol=1e-5, max_iterations=2000, on_failure="ignore", verify=True)(Dense(A), b)
    true = optimality(A, solution.value, b)
    assert solution.value.dtype == torch.float32 and bool(solution.value.isfinite().all())
    assert bool((solution.residual > 0.5 * true).all()) and true[0] < 1e-5
    hard = kind(rtol=1e-7, max_iterations=200, on_failure="ignore", verify=True)
    solution = hard(Dense(A[1]), (A[1] @ noise(40).float()) * 1e3)
    assert bool(solution.value.isfinite().all())


@both
def test_failures_warn_or_raise(kind: type[LeastSquaresSolver]) -> None:
    A, b = Dense(rectangular(30, 20, 0.0, 2.0)), noise(2, 30)
    with pytest.warns(ConvergenceWarning, match=f"{kind.__name__}: 1 of 2 .*scale the columns"):
        solution = kind(max_iterations=3)(A, b)
    assert solution.converged.tolist() == [True, False]
    with pytest.raises(ConvergenceWarning, match="in 3 iterations, the worst"):
        kind(max_iterations=3, on_failure="raise")(A, b)


@both
def test_a_stack_regularises(kind: type[LeastSquaresSolver]) -> None:
    A, b, weight = noise(10, 15), noise(10), 0.5
    stacked = Stack([Dense(A), weight * Identity(15, dtype=F64)])
    solution = kind(rtol=1e-10)(stacked, torch.cat((b, torch.zeros(15, dtype=F64))))
    ridge = torch.linalg.solve(A.mT @ A + weight**2 * torch.eye(15, dtype=F64), A.mT @ b)
    torch.testing.assert_close(solution.value, ridge)


@both
def test_solutions_are_differentiable(kind: type[LeastSquaresSolver]) -> None:
    A, b = rectangular(5, 3, 0.3)[0].requires_grad_(), noise(5).requires_grad_()
    solver = kind(rtol=1e-12, max_iterations=6, on_failure="ignore")
    assert torch.autograd.gradcheck(lambda A, b: solver(Dense(A), b).value, (A, b))


@both
def test_square_diagonal_operators_are_inverted(kind: type[LeastSquaresSolver]) -> None:
    d = torch.tensor([1.0, -2.0, 4.0], dtype=F64)
    solution = kind(rtol=1e-12)(Diagonal(d), torch.ones(3, dtype=F64))
    torch.testing.assert_close(solution.value, 1 / d)
    assert solution.iterations == 3
