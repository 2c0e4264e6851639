"""Solvers solve, stop each system by itself, and say the truth about what they reached."""

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    CG,
    GMRES,
    MINRES,
    Cholesky,
    ConvergenceWarning,
    Dense,
    Diagonal,
    Solver,
)
from appa_prob.operators.iterative import KrylovSolver

F64 = torch.float64
ITERATIVE: list[type[KrylovSolver]] = [CG, MINRES, GMRES]
SOLVERS: dict[str, Solver] = {
    "CG": CG(rtol=1e-12, max_iterations=200),
    "MINRES": MINRES(rtol=1e-12, max_iterations=200),
    "GMRES": GMRES(rtol=1e-12, max_iterations=60),
    "GMRES(8)": GMRES(rtol=1e-12, max_iterations=400, restart=8),
    "Cholesky": Cholesky(rtol=1e-12),
}


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


def definite(n: int, *conditions: float) -> Tensor:
    """Symmetric positive definite matrices of given condition numbers, one a batch entry."""
    Q = torch.linalg.qr(noise(len(conditions), n, n)).Q
    values = torch.stack([torch.logspace(0, c, n, dtype=F64) for c in conditions])
    M = (Q * values[:, None]) @ Q.mT
    symmetric: Tensor = (M + M.mT) / 2
    return symmetric


def solved(M: Tensor, b: Tensor) -> Tensor:
    u: Tensor = torch.linalg.solve(M, b[..., None])[..., 0]
    return u


def residuals(M: Tensor, u: Tensor, b: Tensor) -> Tensor:
    """The true relative residuals, in double precision."""
    r = b.double() - (M.double() @ u.double()[..., None])[..., 0]
    relative: Tensor = r.norm(dim=-1) / b.double().norm(dim=-1)
    return relative


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_matches_a_direct_solution(solver: Solver) -> None:
    M, b = definite(12, 0.5, 1.0, 2.0), noise(4, 3, 12)
    solution = solver(Dense(M, symmetric=True), b)
    torch.testing.assert_close(solution.value, solved(M, b), rtol=1e-8, atol=1e-8)
    assert bool(solution.converged.all()) and solution.converged.shape == (4, 3)
    assert bool((solution.residual <= 1e-12).all())


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_events_keep_their_shape(solver: Solver) -> None:
    M, b = definite(6, 1.0)[0], noise(5, 2, 3)
    solution = solver(Dense(M, (2, 3), symmetric=True), b)
    torch.testing.assert_close(solution.value.flatten(1), solved(M, b.flatten(1)))
    assert solution.value.shape == (5, 2, 3)


@pytest.mark.parametrize("kind", ITERATIVE)
def test_a_batch_solves_each_system_as_alone(kind: type[KrylovSolver]) -> None:
    M, b = definite(20, 0.0, 0.5, 1.0, 1.5), noise(4, 20)
    b[1] *= 1e6
    solver = kind(rtol=1e-5, max_iterations=60)
    batch = solver(Dense(M, symmetric=True), b)
    alone = [solver(Dense(M[i], symmetric=True), b[i]) for i in range(4)]
    assert batch.iterations.tolist() == [int(s.iterations) for s in alone]
    assert len(set(batch.iterations.tolist())) == 4
    assert batch.iterations[0] == 1
    torch.testing.assert_close(batch.value, torch.stack([s.value for s in alone]))
    torch.testing.assert_close(batch.residual, torch.stack([s.residual for s in alone]))


@pytest.mark.parametrize("interval", [0, 3])
@pytest.mark.parametrize("kind", ITERATIVE)
def test_rare_looks_change_no_solution(kind: type[KrylovSolver], interval: int) -> None:
    M, b = definite(10, 0.0, 1.0), noise(2, 10)
    often, rare = (
        kind(rtol=1e-8, max_iterations=40, check_interval=n)(Dense(M, symmetric=True), b)
        for n in (1, interval)
    )
    assert often.iterations.tolist() == rare.iterations.tolist()
    torch.testing.assert_close(often.value, rare.value)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_zero_right_hand_sides_give_zero(solver: Solver) -> None:
    M, b = definite(5, 1.0, 1.0), noise(2, 5)
    b[0] = 0
    for x0 in (None, noise(2, 5)):
        solution = solver(Dense(M, symmetric=True), b, x0)
        assert torch.equal(solution.value[0], torch.zeros(5, dtype=F64))
        assert solution.residual[0] == 0 and solution.iterations[0] == 0
        assert bool(solution.converged.all())
        torch.testing.assert_close(solution.value[1], solved(M[1], b[1]))


@pytest.mark.parametrize("kind", ITERATIVE)
def test_the_cap_is_kept_and_residuals_are_the_true_ones(kind: type[KrylovSolver]) -> None:
    M, b = definite(30, 0.0, 3.0), noise(2, 30)
    S = Dense(M, symmetric=True)
    solution = kind(rtol=1e-8, max_iterations=5, on_failure="ignore", verify=True)(S, b)
    assert solution.iterations.tolist() == [1, 5]
    assert solution.converged.tolist() == [True, False]
    torch.testing.assert_close(solution.residual[1], residuals(M, solution.value, b)[1])
    assert solution.residual[1] > 1e-3


@pytest.mark.parametrize("kind", ITERATIVE)
def test_failures_warn_raise_or_are_ignored(kind: type[KrylovSolver]) -> None:
    S, b = Dense(definite(30, 3.0, 0.0), symmetric=True), noise(2, 30)
    with pytest.warns(ConvergenceWarning, match="1 of 2 systems did not converge") as record:
        kind(max_iterations=2)(S, b)
    assert record[0].filename == __file__
    with pytest.raises(ConvergenceWarning, match="in 2 iterations, the worst"):
        kind(max_iterations=2, on_failure="raise")(S, b)
    assert not kind(max_iterations=2, on_failure="ignore")(S, b).converged[0]


def test_gmres_solves_systems_that_are_not_symmetric() -> None:
    M, b = noise(3, 15, 15) + 3 * torch.eye(15, dtype=F64), noise(3, 15)
    solution = GMRES(rtol=1e-11)(Dense(M), b)
    torch.testing.assert_close(solution.value, solved(M, b), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("solver", [MINRES, GMRES])
def test_indefinite_systems_are_solved(solver: type[KrylovSolver]) -> None:
    M = definite(12, 1.0)[0]
    values, Q = torch.linalg.eigh(M)
    M = (Q * values * torch.tensor([-1.0, 1.0] * 6, dtype=F64)) @ Q.mT
    b = noise(12)
    solution = solver(rtol=1e-10, max_iterations=40)(Dense((M + M.mT) / 2, symmetric=True), b)
    torch.testing.assert_close(solution.value, solved(M, b), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_residuals_of_gmres_never_grow_nor_exceed_1(shift: float) -> None:
    M, b = noise(4, 20, 20) + shift * torch.eye(20, dtype=F64), noise(4, 20)
    history = [torch.ones(4, dtype=F64)]
    for k in range(1, 21):
        solver = GMRES(rtol=1e-9, max_iterations=k, on_failure="ignore")
        solution = solver(Dense(M), b)
        torch.testing.assert_close(
            solution.residual, residuals(M, solution.value, b), rtol=1e-4, atol=1e-10
        )
        history.append(solution.residual)
    steps = torch.stack(history).diff(dim=0)
    assert bool((steps <= 1e-12).all())
    assert bool((history[-1] < 1e-6).all()) and bool((history[10] > 1e-2).all())


def test_gmres_ends_where_the_krylov_space_is_exhausted() -> None:
    shift = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=F64)
    solution = GMRES(on_failure="ignore")(Dense(shift), torch.tensor([0.0, 1.0], dtype=F64))
    assert not solution.converged and bool(solution.value.isfinite().all())
    assert solution.residual == 1.0
    solution = GMRES()(Dense(shift.mT + shift), torch.tensor([0.0, 1.0], dtype=F64))
    torch.testing.assert_close(solution.value, torch.tensor([1.0, 0.0], dtype=F64))
    assert solution.iterations == 2


def test_cg_stops_at_indefinite_systems_with_a_finite_iterate() -> None:
    S = Diagonal(torch.tensor([[1.0, 2.0, 3.0], [1.0, -2.0, -3.0]], dtype=F64), event_ndim=1)
    with pytest.warns(ConvergenceWarning, match="1 of 2"):
        solution = CG()(S, torch.ones(2, 3, dtype=F64))
    assert solution.converged.tolist() == [True, False]
    assert bool(solution.value.isfinite().all())
    torch.testing.assert_close(
        solution.residual[1], residuals(S.to_dense(), solution.value, torch.ones(2, 3))[1]
    )


@pytest.mark.parametrize("kind", ITERATIVE)
def test_a_preconditioner_saves_iterations(kind: type[KrylovSolver]) -> None:
    d = torch.logspace(0, 4, 40, dtype=F64)
    M = torch.diag(d) + 0.1 * definite(40, 0.5)[0]
    S, b = Dense(M, symmetric=True), noise(40)
    plain = kind(rtol=1e-8, max_iterations=400)(S, b)
    helped = kind(rtol=1e-8, max_iterations=400, preconditioner=Diagonal(1 / d))(S, b)
    assert helped.iterations < plain.iterations / 2
    torch.testing.assert_close(helped.value, solved(M, b), rtol=1e-5, atol=1e-7)
    exact = kind(rtol=1e-8, preconditioner=Dense(M.inverse(), symmetric=True))(S, b)
    assert exact.iterations == 1


@pytest.mark.parametrize(
    ("kind", "condition"), [(CG, 4.0), (CG, 6.0), (MINRES, 6.0), (GMRES, 6.0), (GMRES, 8.0)]
)
def test_stagnation_in_single_precision_is_reported_as_it_is(
    kind: type[KrylovSolver], condition: float
) -> None:
    M, b = definite(60, *[-condition] * 4).float(), noise(4, 60).float()
    for iterations in (50, 200):
        solver = kind(rtol=1e-7, max_iterations=iterations, on_failure="ignore", verify=True)
        solution = solver(Dense(M, symmetric=True), b)
        true = residuals(M, solution.value, b)
        assert bool((true > 1e-5).all())
        assert bool((solution.residual > 0.5 * true).all())
        assert not bool(solution.converged.any())


@pytest.mark.parametrize("kind", ITERATIVE)
def test_first_guesses_are_used(kind: type[KrylovSolver]) -> None:
    M, b = definite(10, 1.0)[0], noise(3, 10)
    S, exact = Dense(M, symmetric=True), solved(M, b)
    solution = kind(rtol=1e-8)(S, b, exact)
    assert solution.iterations.tolist() == [0, 0, 0]
    near = kind(rtol=1e-8)(S, b, exact + 1e-6 * noise(3, 10))
    assert bool((near.iterations < kind(rtol=1e-8)(S, b).iterations).all())
    torch.testing.assert_close(near.value, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ITERATIVE)
def test_solutions_are_differentiable(kind: type[KrylovSolver]) -> None:
    M, b = definite(4, 0.5)[0].requires_grad_(), noise(4).requires_grad_()
    solver = kind(rtol=1e-12, max_iterations=8, on_failure="ignore")

    def solve(M: Tensor, b: Tensor) -> Tensor:
        return solver(Dense((M + M.mT) / 2, symmetric=True), b).value

    assert torch.autograd.gradcheck(solve, (M, b))
