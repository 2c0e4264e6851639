"""Guidance linearised where the posterior is."""

import math

import pytest
import torch
from torch import Tensor

from appa_prob.operators import Cholesky, Dense, Identity, Nonlinear
from appa_prob.samplers import (
    MMPS,
    GaussianDenoiser,
    GaussianLikelihood,
    IteratedMMPS,
    VESchedule,
)

F = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()
V = F @ F.mT + 0.2 * torch.eye(3).double()
PRIOR = GaussianDenoiser(torch.ones(3).double(), Dense(V, symmetric=True), VESchedule(1e-2, 1e3))
T = torch.tensor(0.7).double()


def exponential() -> GaussianLikelihood:
    y = torch.tensor([30.0, 0.5, 4.0]).double()
    return GaussianLikelihood(Nonlinear(torch.exp, 3, 3), y, 0.25)


def test_linear_likelihoods_are_conditioned_on_as_by_mmps() -> None:
    A = Dense(torch.randn(2, 3).double())
    likelihood = GaussianLikelihood(A, torch.randn(2).double(), 0.3)
    x_t = torch.randn(5, 3).double()
    iterated = IteratedMMPS(PRIOR, likelihood, 2, Cholesky())
    expected = MMPS(PRIOR, likelihood, Cholesky())
    torch.testing.assert_close(iterated(x_t, T), expected(x_t, T))
    _, posterior, evidence = iterated.with_evidence(x_t, T)
    _, exact, exact_evidence = expected.with_evidence(x_t, T)
    torch.testing.assert_close(evidence, exact_evidence)
    torch.testing.assert_close(posterior.covariance.to_dense(), exact.covariance.to_dense())


def test_it_ends_at_the_mode_where_one_step_overshoots() -> None:
    likelihood = exponential()
    x_t = 3 * torch.randn(5, 3).double()
    prior = PRIOR.posterior(x_t, T)
    P = torch.linalg.inv(prior.covariance.to_dense())

    def objective(x: Tensor) -> Tensor:
        d = x - prior.mean
        found: Tensor = likelihood.log_prob(x) - 0.5 * (d @ P * d).sum(-1)
        return found

    found = IteratedMMPS(PRIOR, likelihood, 12, Cholesky())(x_t, T).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(found).sum(), found)
    assert float(gradient.abs().max()) < 1e-4
    once = MMPS(PRIOR, likelihood, Cholesky(), bounded=False)(x_t, T)
    assert bool((objective(once) < objective(found) - 10).all())


def test_members_do_not_depend_on_each_other() -> None:
    guided = IteratedMMPS(PRIOR, exponential(), 3, Cholesky())
    x_t = 3 * torch.randn(4, 3).double()
    alone = torch.stack([guided(x, T) for x in x_t])
    torch.testing.assert_close(guided(x_t, T), alone)


def test_the_evidence_is_that_of_laplace() -> None:
    """In one dimension, by a sum over a fine grid."""
    schedule = VESchedule(1e-2, 1e3)
    prior = GaussianDenoiser(
        torch.zeros(1).double(), Dense(torch.eye(1).double(), symmetric=True), schedule
    )
    y = torch.tensor([8.0]).double()
    likelihood = GaussianLikelihood(Nonlinear(torch.exp, 1, 1), y, 0.01)
    _, _, found = IteratedMMPS(prior, likelihood, 8).with_evidence(torch.zeros(1).double(), T)
    x = torch.linspace(1.5, 2.5, 20_001, dtype=torch.float64)[:, None]
    density = likelihood.log_prob(x) - 0.5 * (x[:, 0].square() + math.log(2 * math.pi))
    assert abs(float(found - (density.logsumexp(0) + math.log(1.0 / 20_000)))) < 0.01


def test_bad_input_is_refused() -> None:
    likelihood = GaussianLikelihood(Identity(3), torch.zeros(3).double(), 1.0)
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        IteratedMMPS(PRIOR, likelihood, 0)
