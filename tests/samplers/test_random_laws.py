"""Random priors, maps, noises and schedules: samples have the law of the posterior.

``HYPOTHESIS_PROFILE=long pytest`` looks at many more of them.
"""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from appa_prob.operators import Cholesky, Dense, Diagonal, Isotropic, Mask, Operator
from appa_prob.samplers import (
    DDIM,
    MMPS,
    DPMSolver,
    GaussianDenoiser,
    GaussianLikelihood,
    Integrator,
    RectifiedSchedule,
    Schedule,
    VESchedule,
    VPSchedule,
    ratio_times,
)
from appa_prob.samplers.testing import affine_law, diffused

SCHEDULES: list[Schedule] = [VESchedule(1e-2, 1e3), VPSchedule(1e-3), RectifiedSchedule(1e-3)]


def conditioned(n: int, condition: float, g: torch.Generator) -> Tensor:
    """A correlated covariance of a given condition."""
    Q = torch.linalg.qr(torch.randn(n, n, generator=g).double())[0]
    values = torch.logspace(0, -torch.tensor(condition).log10().item(), n).double()
    covariance: Tensor = (Q * values) @ Q.mT
    return covariance


def noise(kind: str, m: int, g: torch.Generator) -> tuple[Operator, Tensor]:
    if kind == "isotropic":
        return Isotropic(torch.tensor(0.1).double(), m), 0.1 * torch.eye(m).double()
    if kind == "diagonal":
        variances = 0.02 + torch.rand(m, generator=g).double()
        return Diagonal(variances), torch.diag(variances)
    R = conditioned(m, 100.0, g)
    return Dense(R, symmetric=True), R


def gap(
    integrator: type[Integrator], steps: int, denoiser: MMPS, mean: Tensor, covariance: Tensor
) -> float:
    schedule = denoiser.schedule
    sampler = integrator(ratio_times(schedule, steps, last=0.02))
    start, end = (
        diffused(mean, covariance, schedule, t) for t in (sampler.times[0], sampler.times[-1])
    )
    found = affine_law(sampler, denoiser, start=start)
    return sum(float((a - b).norm() / b.norm()) for a, b in zip(found, end, strict=True))


@settings(max_examples=max(settings().max_examples // 4, 1))
@given(
    seed=st.integers(0, 2**20),
    n=st.integers(20, 28),
    m=st.integers(1, 12),
    condition=st.sampled_from([1.0, 1e2, 1e4]),
    kind=st.sampled_from(["isotropic", "diagonal", "correlated"]),
    schedule=st.sampled_from(SCHEDULES),
    integrator=st.sampled_from([DDIM, DPMSolver]),
)
def test_solved_mmps_converges_to_the_posterior_at_the_order_of_the_integrator(
    seed: int,
    n: int,
    m: int,
    condition: float,
    kind: str,
    schedule: Schedule,
    integrator: type[Integrator],
) -> None:
    g = torch.Generator().manual_seed(seed)
    mu, V = torch.randn(n, generator=g).double(), conditioned(n, condition, g)
    A, y = torch.randn(m, n, generator=g).double(), torch.randn(m, generator=g).double()
    operator, R = noise(kind, m, g)
    prior = GaussianDenoiser(mu, Dense(V, symmetric=True), schedule)
    denoiser = MMPS(prior, GaussianLikelihood(Dense(A), y, operator), Cholesky())
    gain = V @ A.mT @ torch.linalg.inv(A @ V @ A.mT + R)
    mean, covariance = mu + gain @ (y - A @ mu), V - gain @ A @ V
    coarse, fine = (gap(integrator, s, denoiser, mean, covariance) for s in (64, 128))
    order = integrator().order
    assert fine < (0.5 if order == 1 else 0.05)
    assert fine < coarse * 2.0 ** -(order - 0.3), (coarse, fine)


def regression(x: Tensor, y: Tensor) -> tuple[Any, Any]:
    """A model of GPyTorch and its noise; imported after operators, which know its warnings."""
    import gpytorch

    class Regression(gpytorch.models.ExactGP):  # type: ignore[misc]
        def __init__(self, likelihood: Any) -> None:
            super().__init__(x, y, likelihood)
            self.mean_module = gpytorch.means.ConstantMean()
            kernel = gpytorch.kernels.MaternKernel(nu=2.5)
            self.covar_module = gpytorch.kernels.ScaleKernel(kernel)

        def forward(self, x: Tensor) -> Any:
            mean, covariance = self.mean_module(x), self.covar_module(x)
            return gpytorch.distributions.MultivariateNormal(mean, covariance)

    noise = gpytorch.likelihoods.GaussianLikelihood()
    return Regression(noise).double(), noise


def test_a_prior_of_gaussian_processes_samples_the_regression_of_gpytorch() -> None:
    g = torch.Generator().manual_seed(0)
    grid = torch.linspace(0, 1, 24).double()
    seen = torch.zeros(24, dtype=torch.bool)
    seen[torch.randperm(24, generator=g)[:7]] = True
    y = torch.sin(6 * grid[seen]) + 0.1 * torch.randn(7, generator=g).double()
    model, noise = regression(grid[seen], y)
    model.covar_module.base_kernel.lengthscale = 0.3
    model.covar_module.outputscale = 1.5
    model.mean_module.constant = 0.2
    noise.noise = 0.02
    model.eval()
    with torch.no_grad():
        exact = model(grid)
        mean, covariance = exact.mean, exact.covariance_matrix
        kernel = model.covar_module(grid).to_dense()
        prior = GaussianDenoiser(
            model.mean_module(grid), Dense(kernel, symmetric=True), VESchedule(1e-3, 1e3)
        )
        likelihood = GaussianLikelihood(Mask(seen), y, float(noise.noise))
        posterior = MMPS(prior, likelihood, Cholesky())
        # Conditioning is the regression itself, and samples have its law.
        direct = posterior.posterior(torch.zeros(24).double(), torch.tensor(1.0).double())
        torch.testing.assert_close(direct.mean, mean, rtol=1e-4, atol=1e-4)
        found, spread = affine_law(DPMSolver(256), posterior)
    assert (found - mean).norm() < 2e-3 * mean.norm()
    assert (spread - covariance).norm() < 1e-2 * covariance.norm()
    x = DPMSolver(48)
    samples = x(posterior, x.noise(posterior, (2000,), generator=g, dtype=torch.float64))
    bound = 5 * (covariance.diagonal() / 2000).sqrt() + 0.02
    assert ((samples.mean(0) - mean).abs() < bound).all()


@pytest.mark.parametrize("condition", [1.0, 1e4])
def test_covariances_have_their_condition(condition: float) -> None:
    V = conditioned(20, condition, torch.Generator().manual_seed(0))
    assert float(torch.linalg.cond(V)) == pytest.approx(condition, rel=1e-6)
