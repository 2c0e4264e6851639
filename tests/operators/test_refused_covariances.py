"""What is no covariance, or too large for what is asked of it, is refused."""

import math

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    Dense,
    Diagonal,
    Eigenbasis,
    Identity,
    InnovationCovariance,
    Isotropic,
    LowRankPlusDiagonal,
    Operator,
    Scaling,
)
from appa_prob.operators.dense import LIMIT


@pytest.mark.parametrize("wrong", [-1.0, math.nan])
def test_negative_variances_are_refused(wrong: float) -> None:
    bad, good = torch.tensor([1.0, wrong]), torch.ones(2)
    with pytest.raises(ValueError, match="variances >= 0"):
        Isotropic(wrong, 2)
    with pytest.raises(ValueError, match="variances >= 0"):
        Isotropic(bad, 3)
    with pytest.raises(ValueError, match="variances >= 0"):
        LowRankPlusDiagonal(torch.ones(1, 2), bad)
    with pytest.raises(ValueError, match="eigenvalues >= 0"):
        Eigenbasis(Identity(2), bad)
    with pytest.raises(ValueError, match="eigenvalues >= 0"):
        Eigenbasis(Identity(2), good, wrong)
    for signed in (Diagonal(bad), Scaling(wrong, 2), Dense(torch.diag(bad), symmetric=True)):
        with pytest.raises(ValueError, match=r"sample needs|positive semi-definite"):
            signed.sample()
        with pytest.raises(ValueError, match="logdet needs"):
            signed.logdet()


@pytest.mark.parametrize(
    "singular",
    [
        Isotropic(0.0, 2),
        Diagonal(torch.tensor([1.0, 0.0])),
        LowRankPlusDiagonal(torch.ones(1, 2), torch.zeros(2)),
        Eigenbasis(Dense(torch.eye(2)[:, :1]), torch.ones(1)),
        Dense(torch.zeros(2, 2), symmetric=True),
        0.0 * Dense(torch.eye(2), symmetric=True),
    ],
    ids=repr,
)
def test_singular_covariances_have_no_inverse(singular: Operator) -> None:
    with pytest.raises(ValueError, match="need"):
        singular.solve(torch.ones(2))
    with pytest.raises(ValueError, match="need"):
        singular.logdet()


class Toeplitz(Operator):
    """A covariance without structure to solve by."""

    symmetric = True

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x + (x.roll(1, -1) + x.roll(-1, -1)) / 2

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)


def test_large_covariances_get_no_dense_fallback() -> None:
    A = Toeplitz(LIMIT + 1, LIMIT + 1)
    for call in (A.sample, A.logdet, lambda: A.solve(torch.ones(LIMIT + 1))):
        with pytest.raises(ValueError, match=f"{LIMIT} is the limit"):
            call()
    assert Toeplitz(5, 5).solve(torch.ones(5)) == pytest.approx(torch.ones(5) / 3)
    S = InnovationCovariance(
        Identity(LIMIT + 1), Isotropic(1.0, LIMIT + 1), Isotropic(3.0, LIMIT + 1)
    )
    assert float(S.sample().var()) == pytest.approx(4.0, rel=0.25)


def test_false_declarations_of_symmetry_are_found() -> None:
    A = Dense(torch.randn(6, 6), symmetric=True)
    for call in (A.sample, A.logdet, lambda: A.solve(torch.randn(6))):
        with pytest.raises(ValueError, match="declared symmetric and isn't"):
            call()


def test_the_diagonal_of_a_given_matrix_is_there_at_any_size() -> None:
    matrix = torch.arange(2001.0).diag_embed() + 1.0
    assert torch.equal(Dense(matrix, symmetric=True).diagonal(), matrix.diagonal())
