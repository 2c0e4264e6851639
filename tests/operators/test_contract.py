"""Every operator keeps the promises of `check_operator`, against a matrix made without it."""

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    Operator,
)
from appa_prob.operators.testing import check_operator
from tests.operators.registered_cases import CASES

HOLDS_GRAPHS = {"jacobian", "batched_jacobian", "tweedie"}
UNPICKLABLE = HOLDS_GRAPHS | {"linear_function"}


@pytest.mark.parametrize("name", CASES)
def test_contract(name: str, generator: torch.Generator) -> None:
    operator, matrix = CASES[name](generator)
    check_operator(operator, matrix, generator=generator, picklable=name not in UNPICKLABLE)


@pytest.mark.parametrize("name", CASES)
def test_contract_of_adjoints(name: str, generator: torch.Generator) -> None:
    operator, matrix = CASES[name](generator)
    check_operator(operator.T, matrix.mT, generator=generator, picklable=name not in UNPICKLABLE)


@pytest.mark.parametrize("name", sorted(HOLDS_GRAPHS))
def test_graphs_stay(name: str, generator: torch.Generator) -> None:
    operator, _ = CASES[name](generator)
    with pytest.raises(TypeError, match="linearize again"):
        (2.0 * operator.T @ operator).to(torch.float32)
    assert (
        operator.to(torch.float64)(torch.zeros(operator.in_shape).double()).dtype == torch.float64
    )


def test_check_operator_finds_a_wrong_adjoint(generator: torch.Generator) -> None:
    class Wrong(Operator):
        def forward(self, x: Tensor) -> Tensor:
            return x.cumsum(-1)

        def adjoint(self, y: Tensor) -> Tensor:
            self._check(y, self.out_shape)
            return y.cumsum(-1)

    with pytest.raises(AssertionError, match="adjoint"):
        check_operator(Wrong(3, 3, dtype=torch.float64), generator=generator)
