"""Covariances that are factorised once."""

import pytest
import torch

from appa_prob.operators import Dense, Factored, Stationary
from appa_prob.operators.dense import LIMIT

F64 = torch.float64


def test_factors_are_used_below_the_diagonal_only() -> None:
    L = torch.randn(2, 4, 4, dtype=F64).exp()
    V = Factored(L, (2, 2))
    torch.testing.assert_close(V.to_dense(), L.tril() @ L.tril().mT)
    assert V.batch_shape == (2,) and V.sample((3,)).shape == (3, 2, 2, 2)


def test_large_covariances_are_factorised_when_asked_for_by_name() -> None:
    n = LIMIT + 10
    V = Stationary.of(lambda r: torch.exp(-r), n, periodic=False, dtype=F64)
    with pytest.raises(ValueError, match=r"the limit.*Factored\.of"):
        V.logdet()
    factored, x = Factored.of(V), torch.randn(n, dtype=F64)
    torch.testing.assert_close(factored.solve(V(x)), x)
    exact = (n - 1) * torch.log1p(-torch.exp(torch.tensor(-2.0, dtype=F64)))  # a Markov chain
    torch.testing.assert_close(factored.logdet(), exact)
    assert factored.sample((2,)).shape == (2, n)


def test_what_has_no_factor_is_refused() -> None:
    with pytest.raises(ValueError, match=r"factor of shape \(\*, n, n\)"):
        Factored(torch.ones(3, 2))
    with pytest.raises(ValueError, match="events of 4 elements"):
        Factored(torch.eye(3), (2, 2))
    with pytest.raises(ValueError, match="positive diagonal"):
        Factored(-torch.eye(3))
    with pytest.raises(ValueError, match=r"Factored\.of needs a positive definite"):
        Factored.of(Dense(-torch.eye(3), symmetric=True))
    with pytest.raises(ValueError, match=r"Factored\.of needs a symmetric operator"):
        Factored.of(Dense(torch.eye(3)))
