"""Options and systems that make no sense are refused."""

from collections.abc import Callable

import pytest
import torch

from appa_prob.operators import (
    CG,
    GMRES,
    LSMR,
    LSQR,
    MINRES,
    Cholesky,
    Dense,
    Identity,
    Operator,
    Solver,
)
from appa_prob.operators.iterative import KrylovSolver

F64 = torch.float64
ITERATIVE: list[type[KrylovSolver]] = [CG, MINRES, GMRES]
SOLVERS: dict[str, Solver] = {"CG": CG(), "GMRES": GMRES(), "Cholesky": Cholesky()}
SOLVERS["MINRES"] = MINRES()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"rtol": -1.0}, "rtol"),
        ({"rtol": float("nan")}, "rtol"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"on_failure": "panic"}, "on_failure"),
        ({"check_interval": -1}, "check_interval"),
    ],
)
@pytest.mark.parametrize("kind", [*ITERATIVE, LSMR, LSQR])
def test_wrong_options_are_refused(
    kind: Callable[..., Solver], option: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**option)


@pytest.mark.parametrize("kind", [CG, MINRES])
def test_operators_that_are_not_declared_symmetric_are_refused(kind: type[KrylovSolver]) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} needs a symmetric.*use GMRES"):
        kind()(Dense(torch.eye(3)), torch.ones(3))


def test_gmres_refuses_cycles_of_no_iteration() -> None:
    with pytest.raises(ValueError, match="restart >= 1"):
        GMRES(restart=0)


@pytest.mark.parametrize("solver", [LSMR(), LSQR()])
def test_least_squares_problems_of_wrong_shapes_are_refused(solver: LSMR | LSQR) -> None:
    A = Dense(torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"right-hand side for .* of shape \(\*, 3\), got \(2,\)"):
        solver(A, torch.ones(2))
    with pytest.raises(ValueError, match=r"first guess for .* of shape \(\*, 2\), got \(3,\)"):
        solver(A, torch.ones(3), torch.ones(3))
    with pytest.raises(TypeError, match="real floating right-hand side"):
        solver(A, torch.ones(3, dtype=torch.int64))


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_systems_of_wrong_shapes_are_refused(solver: Solver) -> None:
    S: Operator = Identity(3, dtype=F64)
    rectangular = Dense(torch.ones(1, 2, dtype=F64))
    rectangular.symmetric = True
    with pytest.raises(ValueError, match="expected a square operator"):
        solver(rectangular, torch.ones(1, dtype=F64))
    with pytest.raises(
        ValueError, match=r"right-hand side for Identity.* of shape \(\*, 3\), got \(4,\)"
    ):
        solver(S, torch.ones(4, dtype=F64))
    with pytest.raises(TypeError, match="real floating right-hand side"):
        solver(S, torch.ones(3, dtype=torch.int64))
