"""Steps that keep the covariance of the clean state: exact for Gaussians, of second order else."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from appa_prob.operators import Cholesky, Dense, Isotropic, Nonlinear
from appa_prob.samplers import (
    DDPM,
    MMPS,
    TDS,
    Ancestral,
    Denoiser,
    DenseCovariance,
    GaussianDenoiser,
    GaussianLikelihood,
    IteratedMMPS,
    Mixture,
    MixtureDenoiser,
    RectifiedSchedule,
    Schedule,
    VESchedule,
    VPSchedule,
    placed_times,
    ratio_times,
)
from appa_prob.samplers.ancestral import Transition
from appa_prob.samplers.testing import affine_law, diffused

N = 5
SCHEDULES = [VESchedule(0.02, 50.0), VPSchedule(1e-2), RectifiedSchedule()]


class Opaque(Denoiser):
    """A denoiser of which nothing is known, as a network, with what is wrong with its Jacobian."""

    def __init__(self, denoiser: Denoiser, twist: Tensor | None = None) -> None:
        super().__init__(denoiser.event_shape, denoiser.schedule)
        self.denoiser, self.twist, self.calls = denoiser, twist, 0

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        self.calls += 1
        mean: Tensor = self.denoiser(x_t, t)
        return mean if self.twist is None else mean + x_t @ self.twist


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def gaussian(schedule: Schedule) -> GaussianDenoiser:
    F = random(N, N)
    V = Dense(F @ F.mT + 0.01 * torch.eye(N).double(), symmetric=True)
    return GaussianDenoiser(random(N, seed=1), V, schedule)


def linear(m: int = 2) -> GaussianLikelihood:
    return GaussianLikelihood(Dense(random(m, N, seed=2)), random(m, seed=3), 0.1)


def kalman(prior: GaussianDenoiser, likelihood: GaussianLikelihood) -> tuple[Tensor, Tensor]:
    V, H = prior.covariance.to_dense(), likelihood.map.to_dense()  # type: ignore[attr-defined]
    gain = V @ H.mT @ torch.linalg.inv(H @ V @ H.mT + likelihood.covariance.to_dense())
    return prior.mean + gain @ (likelihood.y - H @ prior.mean), V - gain @ H @ V


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_law_of_a_gaussian_posterior_is_exact_at_any_number_of_steps(
    schedule: Schedule, steps: int
) -> None:
    prior, likelihood = gaussian(schedule), linear()
    mean, V = kalman(prior, likelihood)
    guided = DenseCovariance(MMPS(DenseCovariance(Opaque(prior)), likelihood, Cholesky()))
    times = ratio_times(schedule, steps, first=5.0, last=0.02)
    start = diffused(mean, V, schedule, times[0])
    found = affine_law(Ancestral(times), guided, start=start)
    exact = diffused(mean, V, schedule, times[-1])
    torch.testing.assert_close(found[0], exact[0], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found[1], exact[1], rtol=1e-6, atol=1e-7)
    other = affine_law(DDPM(times), guided, start=start)[1]
    assert (other - exact[1]).abs().max() > 0.05  # so that this says something


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_weights_of_a_gaussian_are_those_of_its_start_and_its_evidence_is_exact(
    schedule: Schedule,
) -> None:
    prior, likelihood = gaussian(schedule), linear()
    sampler = TDS(
        ratio_times(schedule, 3, first=5.0, last=0.02),
        likelihood=likelihood,
        covariance=True,
        threshold=0.0,
    )
    mean, V = prior.mean, prior.covariance.to_dense()
    start = diffused(mean, V, schedule, sampler.times[0])
    x_1 = start[0] + random(1, 64, N) @ torch.linalg.cholesky(start[1]).mT
    g = torch.Generator().manual_seed(0)
    found = sampler.particles(Opaque(prior), x_1, generator=g, offspring=3)
    twist = MMPS(prior, likelihood).with_evidence(x_1, torch.tensor(sampler.times[0]).double())[2]
    # The state at the last noise level is taken for clean: what that changes is in the tolerance.
    expected = torch.log_softmax(twist, 1).repeat_interleave(3, 1) - math.log(3)
    without = TDS(sampler.times, likelihood=likelihood, threshold=0.0)
    other = without.particles(Opaque(prior), x_1, generator=g)
    gap = (found.log_weights - expected).std()
    assert gap < 0.5 and gap < 0.2 * (other.log_weights - torch.log_softmax(twist, 1)).std()


def test_weights_are_equal_to_rounding_where_the_noise_ends() -> None:
    schedule = RectifiedSchedule()  # no noise at t = 0
    prior, likelihood = gaussian(schedule), linear()
    sampler = TDS([0.9, 0.5, 0.0], likelihood=likelihood, covariance=True, threshold=0.0)
    x_1 = random(1, 32, N).expand(1, 32, N)
    twist = MMPS(prior, likelihood, Cholesky()).with_evidence(x_1, torch.tensor(0.9).double())[2]
    found = sampler.particles(Opaque(prior), x_1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.log_weights, torch.log_softmax(twist, 1), rtol=0, atol=1e-6)
    evidence = torch.logsumexp(twist, 1) - math.log(32)
    torch.testing.assert_close(found.log_evidences, evidence, rtol=0, atol=1e-6)


def test_a_step_takes_a_product_for_each_number() -> None:
    counted = Opaque(gaussian(SCHEDULES[0]))
    sampler = TDS(ratio_times(counted.schedule, 4), likelihood=linear(), covariance=True)
    sampler.particles(counted, random(1, 8, N), offspring=4)
    assert counted.calls == 4  # evaluations; the last of 4 steps has none after it


def mixture() -> MixtureDenoiser:
    means = torch.tensor([[-2.0], [1.0], [3.0]]).double()
    weights = torch.tensor([0.5, 0.3, 0.2]).double()
    variance = Isotropic(torch.tensor(0.3).double(), 1)
    return MixtureDenoiser(weights, means, variance, VESchedule(0.02, 50.0))


def noisy(law: Mixture, ratio: float, x: Tensor) -> Tensor:
    """The density of a mixture of numbers with white noise."""
    std = math.sqrt(0.3 + ratio**2)
    z = (x[:, None] - law.means[:, 0]) / std
    return torch.exp(law.log_weights - z.square() / 2).sum(1) / (std * math.sqrt(2 * math.pi))


def test_of_second_order_for_a_mixture() -> None:
    """The density that steps lead to, by quadrature; that of DDPM is of first order."""
    d = mixture()
    grid = torch.linspace(-14, 14, 601).double()
    dx = float(grid[1] - grid[0])
    errors: dict[bool, list[float]] = {True: [], False: []}
    for steps in (8, 16, 32):
        times = torch.tensor(ratio_times(d.schedule, steps, first=3.0, last=0.3)).double()
        for wide in errors:
            p = noisy(d.law, 3.0, grid)
            for t, s in pairwise(times):
                posterior = d.posterior(grid[:, None], t)
                step = Transition(d.schedule, t, s)
                mean = step.kept * grid + step.gain * posterior.mean[:, 0]
                V = posterior.covariance.to_dense()[:, 0, 0] if wide else torch.zeros(601)
                std = (step.tau**2 + step.gain**2 * V.double()).sqrt()
                z = (grid[:, None] - mean) / std
                kernel = torch.exp(-z.square() / 2) / (std * math.sqrt(2 * math.pi))
                p = kernel @ p * dx
            errors[wide].append(float((p - noisy(d.law, 0.3, grid)).abs().sum()) * dx)
    slope = {wide: math.log2(e[1] / e[2]) for wide, e in errors.items()}
    assert abs(slope[True] - 2) < 0.3 and abs(slope[False] - 1) < 0.3
    assert errors[True][0] < 0.3 * errors[False][0]
    assert Ancestral(8).order == 2


def test_times_are_placed_where_components_come_apart() -> None:
    d = mixture()
    options = {"generator": torch.Generator().manual_seed(0), "dtype": torch.float64}
    times = placed_times(d, 6, **options)  # type: ignore[arg-type]
    assert len(times) == 7 and all(t > s for t, s in pairwise(times))
    assert times[0] == 1.0 and times[-1] == pytest.approx(0.0)
    inner = d.schedule.ratio(torch.tensor(times[1:-1]))
    assert (inner > 0.1).all() and (inner < 20).all()
    # A Gaussian has no such place: any times will do.
    flat = placed_times(DenseCovariance(gaussian(SCHEDULES[1])), 4, **options)  # type: ignore[arg-type]
    assert all(t > s for t, s in pairwise(flat))
    with pytest.raises(ValueError, match="at least 2 steps and 1 trajectory, got 1 and 16"):
        placed_times(d, 1)


@pytest.mark.parametrize("guidance", [MMPS, IteratedMMPS])
def test_nearer_to_a_mixture_than_steps_without(guidance: type[MMPS]) -> None:
    """The largest gap between distribution functions, in eight steps."""
    d, y = mixture(), torch.tensor([2.0]).double()
    likelihood = GaussianLikelihood(Nonlinear(lambda x: x, 1, 1), y, 4.0)
    exact = d.law.condition(GaussianLikelihood(Isotropic(torch.tensor(1.0).double(), 1), y, 4.0))
    times = placed_times(
        DenseCovariance(guidance(d, likelihood)),
        8,
        generator=torch.Generator().manual_seed(0),
        dtype=torch.float64,
    )
    grid = torch.linspace(-4, 5, 200).double()
    stds = exact.covariances.to_dense().flatten().sqrt()
    parts = torch.special.ndtr((grid[:, None] - exact.means[:, 0]) / stds)
    errors = []
    for covariance in (True, False):
        sampler = TDS(times, likelihood=likelihood, guidance=guidance, covariance=covariance)
        g = torch.Generator().manual_seed(1)
        noise = sampler.noise(d, (8, 400), generator=g, dtype=torch.float64)
        found = sampler.particles(Opaque(d), noise, generator=g, offspring=2)
        below = found.weights[..., None] * (found.x < grid)
        errors.append(float((below.sum((0, 1)) - parts @ exact.log_weights.exp()).abs().max()))
    assert errors[0] < 0.04 and errors[0] < 0.5 * errors[1]


def test_bad_jacobians_give_covariances() -> None:
    """Asymmetric and indefinite ones, as networks have them: the nearest covariance is taken."""
    d = Opaque(gaussian(SCHEDULES[0]), 3 * random(N, N, seed=7))
    posterior = DenseCovariance(d).posterior(random(3, N), torch.tensor(0.5).double())
    V = posterior.covariance.to_dense()
    assert torch.equal(V, V.mT) and torch.linalg.eigvalsh(V).min() > -1e-9
    raw = d.posterior(random(3, N), torch.tensor(0.5).double()).covariance.to_dense()
    assert torch.linalg.eigvalsh((raw + raw.mT) / 2).min() < -1e-3
    sampler = TDS(ratio_times(d.schedule, 4), likelihood=linear(), covariance=True)
    assert sampler.particles(d, random(1, 16, N)).x.isfinite().all()


@pytest.mark.parametrize("shape", [(), (2, 2)])
def test_events_of_any_shape_and_single_precision(shape: tuple[int, ...]) -> None:
    prior = GaussianDenoiser(torch.zeros(shape), Isotropic(1.0, shape), VPSchedule(1e-2))
    likelihood = GaussianLikelihood(Isotropic(1.0, shape), torch.ones(shape), 0.25)
    sampler = TDS(3, likelihood=likelihood, covariance=True)
    g = torch.Generator().manual_seed(0)
    noise = sampler.noise(prior, (2, 4000), generator=g)
    found = sampler.particles(prior, noise, generator=g)
    assert found.x.shape == (2, 4000, *shape) and found.x.dtype == torch.float32
    # Kalman's mean and variance, with five standard errors and the noise that is left.
    assert ((found.mean - 0.8).abs() < 0.03).all()
    x = Ancestral(3)(DenseCovariance(MMPS(prior, likelihood)), noise, generator=g)
    assert ((x.flatten(0, 1).var(0) - 0.2).abs() < 0.02).all()
