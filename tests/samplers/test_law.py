"""Samplers have the law that theory gives, found without Monte Carlo."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from appa_prob.operators import GMRES, Cholesky, Dense
from appa_prob.samplers import (
    DDIM,
    DDPM,
    MMPS,
    DPMSolver,
    Gaussian,
    GaussianDenoiser,
    GaussianLikelihood,
    Integrator,
    PredictorCorrector,
    RectifiedSchedule,
    Schedule,
    VESchedule,
    VPSchedule,
)
from appa_prob.samplers.gaussian import ConditionalCovariance
from appa_prob.samplers.testing import affine_law

EXACT = GMRES(rtol=1e-12, max_iterations=40)
SCHEDULES = [VESchedule(1e-3, 1e3), VPSchedule(1e-3), RectifiedSchedule(1e-3)]


def problem(seed: int, n: int = 5, m: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A mean, a covariance, a matrix, an observation and its variances."""
    g = torch.Generator().manual_seed(seed)
    mu, F = (torch.randn(*shape, generator=g).double() for shape in ((n,), (n, n)))
    sigma = F @ F.mT / n + 0.1 * torch.eye(n)
    A, y = (torch.randn(*shape, generator=g).double() for shape in ((m, n), (m,)))
    r = 0.05 + torch.rand(m, generator=g).double()
    return mu, sigma, A, y, r


def kalman(mu: Tensor, sigma: Tensor, A: Tensor, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    gain = sigma @ A.mT @ torch.linalg.inv(A @ sigma @ A.mT + torch.diag(r))
    return mu + gain @ (y - A @ mu), sigma - gain @ A @ sigma


def guided(schedule: Schedule, mu: Tensor, sigma: Tensor, A: Tensor, y: Tensor, r: Tensor) -> MMPS:
    prior = GaussianDenoiser(mu, Dense(sigma, symmetric=True), schedule)
    return MMPS(prior, GaussianLikelihood(Dense(A), y, r), EXACT)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**20),
    schedule=st.sampled_from(SCHEDULES),
    t=st.floats(0.05, 1.0),
    n=st.integers(2, 24),
    m=st.integers(1, 6),
)
def test_mmps_is_the_denoiser_of_the_exact_posterior(
    seed: int, schedule: Schedule, t: float, n: int, m: int
) -> None:
    mu, sigma, A, y, r = problem(seed, n, m)
    posterior_mean, posterior_covariance = kalman(mu, sigma, A, y, r)
    exact = GaussianDenoiser(
        posterior_mean,
        Dense((posterior_covariance + posterior_covariance.mT) / 2, symmetric=True),
        schedule,
    )
    denoiser = guided(schedule, mu, sigma, A, y, r)
    time = torch.tensor(t).double()
    x_t = torch.randn(4, n, generator=torch.Generator().manual_seed(seed)).double()
    x_t = x_t * float(torch.hypot(*schedule(time)))
    expected, actual = exact.posterior(x_t, time), denoiser.posterior(x_t, time)
    torch.testing.assert_close(actual.mean, expected.mean, rtol=1e-7, atol=1e-7)
    v = torch.eye(n).double().unsqueeze(1).expand(n, 4, n)
    torch.testing.assert_close(actual.covariance(v), expected.covariance(v), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(
    "make",
    [
        lambda steps: DDIM(steps),
        lambda steps: DDIM(steps, eta=0.5),
        lambda steps: DDPM(steps),
        lambda steps: PredictorCorrector(steps, corrections=1, delta=1.0 / steps),
    ],
    ids=["DDIM", "DDIM-0.5", "DDPM", "PredictorCorrector"],
)
def test_law_converges_to_the_posterior_at_order_one(schedule: Schedule, make) -> None:  # type: ignore[no-untyped-def]
    mu, sigma, A, y, r = problem(1)
    mean, covariance = kalman(mu, sigma, A, y, r)
    denoiser = guided(schedule, mu, sigma, A, y, r)
    errors = []
    for steps in (32, 64, 128):
        found_mean, found = affine_law(make(steps), denoiser)
        gap = torch.linalg.matrix_norm(found - covariance) / torch.linalg.matrix_norm(covariance)
        errors.append(float(gap + (found_mean - mean).norm() / mean.norm()))
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert errors[-1] < 0.3, errors
    assert all(0.7 < slope < 1.5 for slope in slopes), (errors, slopes)


@pytest.mark.parametrize("schedule", SCHEDULES[:2], ids=lambda s: type(s).__name__)
def test_the_law_of_dpm_solver_converges_at_order_two(schedule: Schedule) -> None:
    mu, sigma, A, y, r = problem(1)
    denoiser = guided(schedule, mu, sigma, A, y, r)

    def law(steps: int) -> tuple[Tensor, Tensor]:
        # Equal steps of the logarithm of the noise-to-signal ratio.
        ratios = torch.logspace(math.log10(100.0), math.log10(0.05), steps + 1)
        return affine_law(DPMSolver(schedule.time(ratios.double()).tolist()), denoiser)

    mean, covariance = law(640)
    errors = []
    for steps in (20, 40, 80):
        found_mean, found = law(steps)
        gap = torch.linalg.matrix_norm(found - covariance) / torch.linalg.matrix_norm(covariance)
        errors.append(float(gap + (found_mean - mean).norm() / mean.norm()))
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert errors[-1] < 0.01, errors
    assert all(1.7 < slope < 2.3 for slope in slopes), (errors, slopes)


def test_unconverged_systems_leave_a_bias_that_steps_do_not_mend() -> None:
    mu, sigma, A, y, r = problem(2, n=6, m=5)
    mean, _ = kalman(mu, sigma, A, y, r / 50)
    prior = GaussianDenoiser(mu, Dense(sigma, symmetric=True), SCHEDULES[0])
    likelihood = GaussianLikelihood(Dense(A), y, r / 50)
    one = MMPS(prior, likelihood, GMRES(max_iterations=1, on_failure="ignore"))
    converged = MMPS(prior, likelihood, EXACT)
    x_t, t = torch.randn(6).double(), torch.tensor(0.6).double()
    assert (one(x_t, t) - converged(x_t, t)).norm() > 1e-2
    exact, _ = affine_law(DDIM(256), converged)
    assert (exact - mean).norm() < 0.1 * mean.norm()


def test_monte_carlo_agrees_with_the_affine_law() -> None:
    mu, sigma, A, y, r = problem(3)
    denoiser = guided(VPSchedule(1e-3), mu, sigma, A, y, r)
    sampler: Integrator = DDPM(24)
    mean, covariance = affine_law(sampler, denoiser)
    g = torch.Generator().manual_seed(0)
    noise = sampler.noise(denoiser, (20000,), generator=g, dtype=torch.float64)
    x = sampler(denoiser, noise, generator=g)
    # Bounds of 6 standard errors: a correct sampler fails once in 10^7 seeds.
    error = 6 * (covariance.diagonal() / len(x)).sqrt()
    assert ((x.mean(0) - mean).abs() < error).all()
    spread = torch.outer(covariance.diagonal(), covariance.diagonal()) + covariance.square()
    assert ((x.mT.cov() - covariance).abs() < 6 * (spread / len(x)).sqrt()).all()


def test_conditioning_twice_is_conditioning_on_both() -> None:
    mu, sigma, A, y, r = problem(4, n=6, m=4)
    prior = GaussianDenoiser(mu, Dense(sigma, symmetric=True), VESchedule())
    first = GaussianLikelihood(Dense(A[:2]), y[:2], r[:2])
    second = GaussianLikelihood(Dense(A[2:]), y[2:], r[2:])
    nested = MMPS(MMPS(prior, first, EXACT), second, EXACT)
    joint = MMPS(prior, GaussianLikelihood(Dense(A), y, r), EXACT)
    x_t, t = torch.randn(3, 6).double(), torch.tensor([0.2, 0.5, 0.8]).double()
    torch.testing.assert_close(nested(x_t, t), joint(x_t, t), rtol=1e-7, atol=1e-8)


def test_gaussian_condition_is_the_update_of_kalman() -> None:
    mu, sigma, A, y, r = problem(5, n=8, m=4)
    mean, covariance = kalman(mu, sigma, A, y, r)
    prior = Gaussian(mu, Dense(sigma, symmetric=True))
    posterior = prior.condition(GaussianLikelihood(Dense(A), y, r), EXACT)
    torch.testing.assert_close(posterior.mean, mean, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(posterior.covariance.to_dense(), covariance, rtol=1e-8, atol=1e-9)
    x = posterior.sample((20000,), torch.Generator().manual_seed(0))
    spread = torch.outer(covariance.diagonal(), covariance.diagonal()) + covariance.square()
    assert ((x.mT.cov() - covariance).abs() < 6 * (spread / len(x)).sqrt()).all()


def test_affine_law_refuses_what_is_not_affine() -> None:
    class Cubic(GaussianDenoiser):
        def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
            return super().forward(x_t, t).tanh()

    denoiser = Cubic(
        torch.zeros(2).double(), Dense(torch.eye(2).double(), symmetric=True), VESchedule()
    )
    with pytest.raises(ValueError, match="affine"):
        affine_law(DDIM(8), denoiser)


def test_variances_that_are_left_need_no_products_with_the_posterior() -> None:
    mu, sigma, A, y, r = problem(6, n=8, m=4)
    _, covariance = kalman(mu, sigma, A, y, r)
    likelihood = GaussianLikelihood(Dense(A), y, r)
    for solver in (EXACT, Cholesky()):
        posterior = Gaussian(mu, Dense(sigma, symmetric=True)).condition(likelihood, solver)
        torch.testing.assert_close(posterior.covariance.diagonal(), covariance.diagonal())
    small = Gaussian(mu, Dense(sigma, symmetric=True)).condition(likelihood, Cholesky(limit=4))
    covariance_left = small.covariance
    assert isinstance(covariance_left, ConditionalCovariance)
    covariance_left.solver = Cholesky(limit=3)
    with pytest.raises(ValueError, match="3 is the limit"):
        small.covariance.diagonal()
