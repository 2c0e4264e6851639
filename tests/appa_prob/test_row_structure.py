"""Structure that is found in the rows of a Jacobian by its products."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from appa_prob import DiffusionPrior
from appa_prob.operators import Dense, Gather, Identity, Isotropic, Jacobian, Mask
from appa_prob.program import Program
from appa_prob.row_structure import row_structure, selection
from appa_prob.samplers import DPMSolver, GaussianDenoiser, VESchedule

POINTS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).double()


def jacobians(function) -> list[Jacobian]:  # type: ignore[no-untyped-def]
    return [Jacobian(function, x) for x in POINTS]


@pytest.mark.parametrize(
    ("function", "indices"),
    [
        (lambda x: x.exp(), [0, 1, 2, 3, 4, 5]),
        (lambda x: x[1::2].tanh(), [1, 3, 5]),
        (lambda x: torch.stack((x[4] ** 2, 3 * x[0], x[4])), [4, 0, 4]),
    ],
)
def test_rows_of_single_elements_are_found(function, indices: list[int]) -> None:  # type: ignore[no-untyped-def]
    found = selection(jacobians(function))
    assert found is not None and found.indices.tolist() == indices
    assert isinstance(found, Mask) == (indices == sorted(set(indices)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.cumsum(0),
        lambda x: x.diff(),  # rows whose sum is 0
        lambda x: x.sort().values,  # one element, but not always the same
        lambda x: x * x.mean(),
        lambda x: torch.cat((x[:5], 0 * x[5:])),  # of the last row nothing is known
        lambda x: torch.where(x > 0, x, x.flip(0)),
    ],
)
def test_others_are_not_mistaken(function) -> None:  # type: ignore[no-untyped-def]
    assert selection(jacobians(function)) is None


def test_rows_are_what_gives_the_same_products() -> None:
    A = torch.randn(3, 6, generator=torch.Generator().manual_seed(1)).double()
    J = Jacobian(lambda x: torch.cat((x[[5, 1]], A @ x, 2 * x[::3])), POINTS[0])
    first = row_structure(J, slice(0, 2))
    assert isinstance(first, Gather) and first.indices.tolist() == [5, 1]
    known = Dense(A)
    assert row_structure(J, slice(2, 5), [None, Identity(6), Dense(2 * A), known]) is known
    found = row_structure(J, slice(2, 5), [Dense(2 * A)])
    assert isinstance(found, Dense)
    torch.testing.assert_close(found.matrix, A)
    last = row_structure(J, slice(5, 7))
    assert last is not None
    torch.testing.assert_close(last.to_dense(), 2 * torch.eye(6).double()[::3])


def test_counts_at_the_points_of_a_field_are_seen_one_by_one() -> None:
    """So that the covariance of what is seen is diagonal, where the state's is white."""
    denoiser = GaussianDenoiser(torch.zeros(2, 3), Isotropic(1.0, (2, 3)), VESchedule())

    def model(y: Tensor) -> None:
        x = pyro.sample("x", DiffusionPrior(denoiser, DPMSolver(8)))
        law = dist.Poisson(x[..., 1:].exp())
        pyro.sample("y", law.to_event(2), obs=y)

    likelihood = Program(model, (torch.ones(2, 2),)).likelihood
    x = torch.randn(5, 2, 3)
    residual, H, R = likelihood.linearize(x)
    rate = x[..., 1:].exp().flatten(1)
    torch.testing.assert_close(residual, (1 - rate) / rate.sqrt())
    expected = torch.diag_embed(rate.sqrt()) @ torch.eye(6)[[1, 2, 4, 5]]
    torch.testing.assert_close(H.to_dense(), expected)
    assert repr(H @ H.T + R) == "Diagonal((4,))"
