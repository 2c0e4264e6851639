"""Options and systems that make no sense are refused."""

from collections.abc import Callable

import pytest
import torch

from appa_prob.operators import CG, GMRES, Cholesky, Dense, Identity, Operator, Solver

F64 = torch.float64
ITERATIVE: list[type[CG] | type[GMRES]] = [CG, GMRES]
SOLVERS: dict[str, Solver] = {"CG": CG(), "GMRES": GMRES(), "Cholesky": Cholesky()}


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
@pytest.mark.parametrize("kind", ITERATIVE)
def test_wrong_options_are_refused(
    kind: Callable[..., Solver], option: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**option)


def test_cg_refuses_operators_that_are_not_declared_symmetric() -> None:
    with pytest.raises(ValueError, match="use GMRES"):
        CG()(Dense(torch.eye(3)), torch.ones(3))


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_systems_of_wrong_shapes_are_refused(solver: Solver) -> None:
    S: Operator = Identity(3, dtype=F64)
    rectangular = Dense(torch.ones(1, 2, dtype=F64))
    rectangular.symmetric = True
    with pytest.raises(ValueError, match="expected a square operator"):
        solver(rectangular, torch.ones(1, dtype=F64))
    with pytest.raises(ValueError, match="expected a right-hand side of shape"):
        solver(S, torch.ones(4, dtype=F64))
    with pytest.raises(TypeError, match="real floating right-hand side"):
        solver(S, torch.ones(3, dtype=torch.int64))
