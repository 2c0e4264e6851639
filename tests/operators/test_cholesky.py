"""The direct solver refuses what it can't factorise, and checks what it did."""

import pytest
import torch
from torch import Tensor

from appa_prob.operators import Cholesky, ConvergenceWarning, Dense, Diagonal, Identity
from appa_prob.operators.dense import LIMIT

F64 = torch.float64


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


def definite(n: int) -> Tensor:
    """A symmetric positive definite matrix."""
    factor = noise(n, n)
    return factor @ factor.mT / n + torch.eye(n, dtype=F64)


def test_cholesky_refuses_large_operators() -> None:
    S = Identity(LIMIT + 1, dtype=F64)
    with pytest.raises(ValueError, match=f"at most {LIMIT} rows"):
        Cholesky()(S, torch.ones(LIMIT + 1, dtype=F64))


def test_cholesky_refuses_operators_that_are_not_declared_symmetric() -> None:
    with pytest.raises(ValueError, match="GMRES if it isn't symmetric"):
        Cholesky()(Dense(definite(3)), noise(3))


def test_cholesky_reports_false_declarations_and_indefinite_systems() -> None:
    wrong = Dense(definite(4) + noise(4, 4).triu(1), symmetric=True)
    with pytest.warns(ConvergenceWarning, match="isn't symmetric positive definite"):
        assert not Cholesky()(wrong, noise(4)).converged
    S = Diagonal(torch.tensor([[1.0, 2.0], [1.0, -2.0]], dtype=F64), event_ndim=1)
    solution = Cholesky(on_failure="ignore")(S, torch.ones(2, dtype=F64))
    assert solution.converged.tolist() == [True, False]
    expected = torch.tensor([[1.0, 0.5], [0.0, 0.0]], dtype=F64)
    torch.testing.assert_close(solution.value, expected)
    torch.testing.assert_close(solution.residual, torch.tensor([0.0, 1.0], dtype=F64))
