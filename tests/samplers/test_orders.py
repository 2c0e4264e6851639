"""Every integrator has the order that it declares, in the exact law of what it samples.

All start from the exact law at a noise level in the middle and end at another, so that no error is
there but that of the steps, and none cancels because the range is as good as infinite.
"""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from appa_prob.operators import GMRES, Dense
from appa_prob.samplers import (
    DDIM,
    DDPM,
    MMPS,
    AdamsBashforth,
    AdaptiveODE,
    Denoiser,
    DPMSolver,
    DPMSolverSDE,
    EDMSchedule,
    Euler,
    EulerMaruyama,
    GaussianDenoiser,
    GaussianLikelihood,
    Heun,
    Integrator,
    LinearMultistep,
    LinearVPSchedule,
    LogLogitSchedule,
    PredictorCorrector,
    RectifiedSchedule,
    RewindDDIM,
    Schedule,
    StochasticHeun,
    VESchedule,
    VPSchedule,
    karras_times,
    ratio_times,
)
from appa_prob.samplers.testing import affine_law, diffused

Times = Sequence[float]
MAKERS: dict[str, Callable[[Times], Integrator]] = {
    "Euler": Euler,
    "Heun": Heun,
    "DDIM": DDIM,
    "DDIM-0.5": lambda times: DDIM(times, eta=0.5),
    "DDPM": DDPM,
    "DPMSolver": DPMSolver,
    "DPMSolverSDE": DPMSolverSDE,
    "EulerMaruyama": EulerMaruyama,
    "EulerMaruyama-0.5": lambda times: EulerMaruyama(times, eta=0.5),
    "StochasticHeun": lambda times: StochasticHeun(times, churn=5.0),
    # The bias of a correction is of the order of its size.
    "PredictorCorrector": lambda times: PredictorCorrector(times, delta=1 / len(times)),
    "RewindDDIM": RewindDDIM,
    **{
        f"{kind.__name__}-{k}": lambda times, k=k, kind=kind: kind(times, points=k, starter=True)  # type: ignore[misc]
        for kind in (AdamsBashforth, LinearMultistep)
        for k in (1, 2, 3, 4)
    },
}


def posterior(seed: int, n: int, condition: float) -> tuple[Tensor, Tensor, MMPS]:
    """A Gaussian posterior, and the guided denoiser of it, for the schedule that is put in."""
    g = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(n, n, generator=g).double()).Q
    V = Q * torch.logspace(0, -math.log10(condition), n).double() @ Q.mT
    V = 4 * (V + V.mT) / 2
    mu, A = torch.randn(n, generator=g).double(), torch.randn(3, n, generator=g).double()
    y, r = torch.randn(3, generator=g).double(), 0.1 + torch.rand(3, generator=g).double()
    gain = V @ A.mT @ torch.linalg.inv(A @ V @ A.mT + torch.diag(r))
    covariance = V - gain @ A @ V
    prior = GaussianDenoiser(mu, Dense(V, symmetric=True), VESchedule())
    likelihood = GaussianLikelihood(Dense(A), y, r)
    guided = MMPS(prior, likelihood, GMRES(rtol=1e-12, max_iterations=10))
    return mu + gain @ (y - A @ mu), (covariance + covariance.mT) / 2, guided


def exact(mean: Tensor, covariance: Tensor, schedule: Schedule) -> GaussianDenoiser:
    return GaussianDenoiser(mean, Dense(covariance, symmetric=True), schedule)


def error(integrator: Integrator, d: Denoiser, mean: Tensor, covariance: Tensor) -> float:
    """The relative error of the law of the last state."""
    times = integrator.times
    start, (m, V) = (diffused(mean, covariance, d.schedule, times[i]) for i in (0, -1))
    found_m, found_V = affine_law(integrator, d, start=start)
    return float((found_m - m).norm() / m.norm() + (found_V - V).norm() / V.norm())


def slope(errors: Sequence[float]) -> float:
    """The fitted power of the step, each number of steps being twice the one before."""
    x = torch.arange(len(errors)).double()
    y = -torch.tensor(errors).double().log2()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


@pytest.mark.parametrize(
    "schedule", [VPSchedule(1e-3), LinearVPSchedule()], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("name", MAKERS)
def test_the_law_converges_at_the_declared_order(name: str, schedule: Schedule) -> None:
    mean, covariance, _ = posterior(1, 4, 20.0)
    d = exact(mean, covariance, schedule)
    integrators = [
        MAKERS[name](ratio_times(schedule, n, first=4.0, last=0.15)) for n in (40, 80, 160)
    ]
    errors = [error(integrator, d, mean, covariance) for integrator in integrators]
    assert abs(slope(errors) - integrators[0].order) < 0.3, (errors, slope(errors))
    assert errors[-1] < 0.05, errors


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 2**20),
    name=st.sampled_from(sorted(set(MAKERS) - {"DDPM", "EulerMaruyama", "Euler"})),
    schedule=st.sampled_from(
        [VESchedule(), EDMSchedule(), RectifiedSchedule(1e-3), LogLogitSchedule(), VPSchedule()]
    ),
    condition=st.sampled_from([10.0, 1e2, 1e4]),
    n=st.integers(20, 24),
    grid=st.sampled_from([ratio_times, karras_times]),
)
def test_guided_samplers_converge_to_the_posterior(
    seed: int,
    name: str,
    schedule: Schedule,
    condition: float,
    n: int,
    grid: Callable[..., tuple[float, ...]],
) -> None:
    mean, covariance, guided = posterior(seed, n, condition)
    guided.schedule = guided.denoiser.schedule = schedule
    integrators = [MAKERS[name](grid(schedule, n, first=4.0, last=0.15)) for n in (12, 24)]
    coarse, fine = (error(integrator, guided, mean, covariance) for integrator in integrators)
    order = integrators[0].order
    assert fine < 0.15 and math.log2(coarse / fine) > order - 0.6, (coarse, fine)


@pytest.mark.parametrize("points", [3, 4])
def test_many_points_need_a_start_amid_noise_only(points: int) -> None:
    """Without Runge-Kutta steps first, methods of order 3 and 4 are of order 2, unless noise hides
    the data at first."""
    mean, covariance, _ = posterior(1, 4, 20.0)
    d = exact(mean, covariance, VPSchedule(1e-3))
    for first, order in ((4.0, 2), (300.0, points)):
        grids = [ratio_times(d.schedule, n, first=first, last=0.15) for n in (64, 128, 256)]
        found = [error(AdamsBashforth(g, points=points), d, mean, covariance) for g in grids]
        assert abs(slope(found) - order) < 0.3, (first, found)


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_the_adaptive_flow_is_as_accurate_as_asked(method: str) -> None:
    mean, covariance, _ = posterior(2, 4, 100.0)
    for schedule in (VESchedule(), RectifiedSchedule(1e-3)):
        d = exact(mean, covariance, schedule)
        times = ratio_times(schedule, 2, first=30.0, last=0.05)
        errors = [
            error(AdaptiveODE(times, rtol=tol, atol=tol, method=method), d, mean, covariance)  # type: ignore[arg-type]
            for tol in (1e-3, 1e-7)
        ]
        assert errors[1] < 1e-4 and errors[1] < errors[0] / 50, errors


@pytest.mark.parametrize(
    "schedule", [VPSchedule(1e-3), RectifiedSchedule(1e-3), EDMSchedule(0.0, 200.0)], ids=str
)
def test_all_steps_end_well_without_noise(schedule: Schedule) -> None:
    mean, covariance, _ = posterior(3, 4, 10.0)
    d = exact(mean, covariance, schedule)
    makers: dict[str, Callable[[Times], Integrator]] = {**MAKERS, "AdaptiveODE": AdaptiveODE}
    for name, make in makers.items():
        integrator = make(karras_times(schedule, 40, last=0.02, zero=True))
        assert integrator.times[-1] == 0
        found_mean, found = affine_law(integrator, d)
        gap = (found - covariance).norm() / covariance.norm()
        limit = 0.8 if "Euler" in name else 0.4
        assert gap < limit and (found_mean - mean).norm() < 0.1 * mean.norm(), (name, gap)


def test_a_last_denoising_step_takes_away_the_noise() -> None:
    mean, covariance, _ = posterior(4, 4, 10.0)
    d = exact(mean, covariance, VESchedule(0.5, 100.0))
    kept, denoised = (DPMSolver(64, denoise=flag) for flag in (False, True))
    _, noisy = affine_law(kept, d)
    _, clean = affine_law(denoised, d)
    gain = covariance @ torch.linalg.inv(covariance + 0.25 * torch.eye(4))
    torch.testing.assert_close(clean, gain @ noisy @ gain.mT)
    assert (noisy - clean).trace() > 0.5


@pytest.mark.parametrize("delta", [0.5, 1.0])
def test_corrections_tend_to_the_law_that_is_documented(delta: float) -> None:
    mean, covariance, _ = posterior(5, 4, 10.0)
    schedule = VPSchedule(1e-3)
    d = exact(mean, covariance, schedule)
    # Wrong at first, then corrected often at one time, and a step of next to nothing.
    sampler = PredictorCorrector([0.6, 0.5, 0.5 - 1e-9], corrections=100, delta=delta)
    found_mean, found = affine_law(sampler, d)
    m, V = diffused(mean, covariance, schedule, 0.5)
    values, Q = torch.linalg.eigh(V)
    noise = schedule.sigma(torch.tensor(0.5)).double().square()
    biased = values + delta * noise / (2 - delta * noise / values)
    torch.testing.assert_close(found_mean, m, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, Q * biased @ Q.mT, rtol=1e-5, atol=1e-5)
