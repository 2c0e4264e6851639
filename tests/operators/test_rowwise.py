"""Functions of rows, some at once, beside the Jacobian of all."""

import pytest
import torch
from torch import Tensor

from appa_prob.operators import Dense, Nonlinear
from appa_prob.operators.rowwise import Rowwise

W = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double()


class Counting:
    """A function of rows of 3 numbers that notes how many it is given."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.counts.append(len(x))
        return torch.tanh(x @ W.mT)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_products_are_those_of_the_jacobian_of_all_rows(batch: tuple[int, ...]) -> None:
    function = Counting()
    f = Rowwise(function, 5, 3, 4, at_once=2)
    x = torch.randn(*batch, 5, 3).double()
    value, J = f.linearize(x)
    expected, K = Nonlinear(lambda x: torch.tanh(x @ W.mT), (5, 3), (5, 4)).linearize(x)
    torch.testing.assert_close(value, expected)
    v, u = torch.randn(*batch, 5, 3).double(), torch.randn(*batch, 5, 4).double()
    torch.testing.assert_close(J(v), K(v))
    torch.testing.assert_close(J.adjoint(u), K.adjoint(u))
    more = torch.randn(7, *batch, 5, 3).double()
    torch.testing.assert_close(J(more), K(more))
    assert max(function.counts) == 2
    observed = Dense(torch.randn(6, 20).double(), (5, 4)) @ f
    torch.testing.assert_close(observed.linearize(x)[0], observed(x))


def test_gradients_that_are_wanted_are_there() -> None:
    f = Rowwise(Counting(), 5, 3, 4, at_once=2)
    x = torch.randn(5, 3).double().requires_grad_()
    v = torch.randn(5, 3).double()
    assert torch.autograd.gradcheck(lambda x: f.linearize(x)[1](v), x)


def test_no_rows_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 row at once, got 0"):
        Rowwise(Counting(), 5, 3, 4, at_once=0)
