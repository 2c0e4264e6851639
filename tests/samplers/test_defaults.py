"""`sample(prior, likelihood)`: the choice, and the law of what it draws."""

import logging
import math

import pytest
import torch
from torch import Tensor

from appa_prob.operators import Dense, Isotropic, Mask, Nonlinear
from appa_prob.samplers import (
    DDIM,
    Denoiser,
    GaussianDenoiser,
    GaussianLikelihood,
    JointLikelihood,
    MixtureDenoiser,
    Samples,
    VESchedule,
    VPSchedule,
    sample,
)

N = 12


class Opaque(Denoiser):
    """A denoiser of which nothing is known, as a network."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser.event_shape, denoiser.schedule)
        self.denoiser = denoiser

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        mean: Tensor = self.denoiser(x_t, t)
        return mean


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def gaussian(n: int = N) -> GaussianDenoiser:
    F = random(n, n)
    V = Dense(F @ F.mT / n + 0.1 * torch.eye(n).double(), symmetric=True)
    return GaussianDenoiser(random(n, seed=1), V, VPSchedule(1e-2))


def mixture() -> MixtureDenoiser:
    means = torch.tensor([[-3.0, 1.0], [2.0, 2.0], [4.0, -3.0]]).double()
    weights = torch.tensor([0.5, 0.3, 0.2]).double()
    variance = Isotropic(torch.tensor(0.6).double(), 2)
    return MixtureDenoiser(weights, means, variance, VESchedule(0.02, 50.0))


def linear(n: int = N, m: int = 3) -> GaussianLikelihood:
    A, y = random(m, n, seed=2), random(m, seed=3)
    return GaussianLikelihood(Dense(A), y, 0.2 + random(m, seed=4).square())


def run(prior: Denoiser, likelihood: GaussianLikelihood, count: int) -> Samples:
    return sample(prior, likelihood, count, generator=torch.Generator().manual_seed(0))


def kalman(prior: GaussianDenoiser, likelihood: GaussianLikelihood) -> tuple[Tensor, Tensor]:
    V, H = prior.covariance.to_dense(), likelihood.map.to_dense()  # type: ignore[attr-defined]
    gain = V @ H.mT @ torch.linalg.inv(H @ V @ H.mT + likelihood.covariance.to_dense())
    return prior.mean + gain @ (likelihood.y - H @ prior.mean), V - gain @ H @ V


@pytest.mark.parametrize("exact", [True, False])
def test_linear_gaussian_problems_give_the_posterior_of_kalman(exact: bool) -> None:
    prior, likelihood, count = gaussian(), linear(), 2000
    mean, V = kalman(prior, likelihood)
    found = run(prior if exact else Opaque(prior), likelihood, count)
    assert found.x.shape == (count, N) and found.calls == (0 if exact else 64)
    # Five standard errors; 8 steps have an error of their own, of a few percent.
    slack = 0.0 if exact else 0.05
    std = V.diagonal().sqrt()
    assert ((found.x.mean(0) - mean).abs() < std * (5 / math.sqrt(count) + slack)).all()
    ratio = found.x.var(0) / V.diagonal() - 1
    assert (ratio.abs() < 5 * math.sqrt(2 / count) + 2 * slack).all()


def test_mixtures_give_their_posterior() -> None:
    d, A = mixture(), Dense(torch.tensor([[1.0, 0.7]]).double())
    likelihood = GaussianLikelihood(A, torch.tensor([1.9]).double(), 0.5)
    posterior = d.law.condition(likelihood)
    exact = posterior.log_weights.exp()
    for prior, method in ((d, "Mixture.condition"), (Opaque(d), "TDS")):
        found = run(prior, likelihood, 1000)
        assert method in found.method and found.reason in repr(found)
        nearest = torch.cdist(found.x, posterior.means).argmin(-1)
        shares = torch.bincount(nearest, minlength=3) / 1000
        # Five standard errors of some 300 effective particles at least.
        assert ((shares - exact).abs() < 5 * (exact * (1 - exact) / 300).sqrt() + 0.01).all()


def test_tiny_nonlinear_problems_by_quadrature() -> None:
    variance = Isotropic(torch.tensor(1.0).double(), 1)
    prior = GaussianDenoiser(torch.zeros(1).double(), variance, VESchedule())
    map = Nonlinear(torch.square, 1, 1)  # two modes
    likelihood = GaussianLikelihood(map, torch.tensor([2.0]).double(), 0.2)
    x = torch.linspace(-6, 6, 4001).double()
    weights = torch.softmax(likelihood.log_prob(x[:, None]) - x.square() / 2, 0)
    found = run(prior, likelihood, 1000)
    assert "TDS" in found.method
    assert abs(float((found.x > 0).double().mean()) - 0.5) < 0.12
    for power in (2, 4):
        exact = float((weights * x**power).sum())
        assert float(found.x.pow(power).mean()) == pytest.approx(exact, rel=0.1)


def test_larger_nonlinear_problems_come_near_the_posterior() -> None:
    """Independent numbers, whose posterior is an integral; linearisation biases it a little."""
    n = N
    prior = GaussianDenoiser(
        torch.zeros(n).double(), Isotropic(torch.tensor(1.0).double(), n), VPSchedule(1e-2)
    )
    y = torch.full((n,), 0.8).double()
    found = run(prior, GaussianLikelihood(Nonlinear(torch.sinh, n, n), y, 0.04), 500)
    assert "IteratedMMPS" in found.method and "not linear" in found.reason
    x = torch.linspace(-6, 6, 4001).double()
    weights = torch.softmax(-(x.sinh() - 0.8).square() / 0.08 - x.square() / 2, 0)
    mean = float((weights * x).sum())
    std = math.sqrt(float((weights * (x - mean).square()).sum()))
    assert float(found.x.mean()) == pytest.approx(mean, abs=0.15 * std)
    assert float(found.x.std()) == pytest.approx(std, rel=0.15)


def test_several_observations_at_once() -> None:
    """A joint likelihood of two instruments is that of both in one."""
    prior, A, y = gaussian(), random(3, N, seed=2), random(3, seed=3)
    joint = JointLikelihood(
        [
            GaussianLikelihood(Dense(A[:1]), y[:1], 0.2),
            GaussianLikelihood(Dense(A[1:]), y[1:], 0.5),
        ]
    )
    variances = torch.tensor([0.2, 0.5, 0.5]).double()
    mean, V = kalman(prior, GaussianLikelihood(Dense(A), y, variances))
    g = torch.Generator().manual_seed(0)
    found = sample(prior, joint, 2000, generator=g)  # type: ignore[arg-type]
    assert found.calls == 0
    assert ((found.x.mean(0) - mean).abs() < 5 * (V.diagonal() / 2000).sqrt()).all()


def test_batches_of_observations_and_types() -> None:
    y = random(3, 2, seed=5)
    likelihood = GaussianLikelihood(Dense(random(2, N, seed=2)), y, 0.3)
    for prior in (gaussian(), Opaque(gaussian())):
        found = run(prior, likelihood, 4)
        assert found.x.shape == (4, 3, N)
    single = gaussian().to(torch.float32)
    found = sample(single, likelihood.to(torch.float32))
    assert found.x.shape == (16, 3, N) and found.x.dtype == torch.float32


def test_more_samples_come_from_what_was_chosen() -> None:
    found = run(Opaque(gaussian()), linear(), 4)
    assert found.integrator is not None and found.guided is not None
    g = torch.Generator().manual_seed(0)
    noise = found.integrator.noise(found.guided, (4,), generator=g, dtype=torch.float64)
    torch.testing.assert_close(found.integrator(found.guided, noise, generator=g), found.x)


def test_the_choice_is_logged_and_seeded(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "appa_prob.samplers"):
        first = run(Opaque(gaussian()), linear(), 4)
    assert caplog.messages == [repr(first)]
    assert "MMPS of 7 iterations and DPMSolver of 8 steps, 64 calls each" in repr(first)
    assert torch.equal(first.x, run(Opaque(gaussian()), linear(), 4).x)


def test_what_is_none_is_refused() -> None:
    likelihood = linear()
    with pytest.raises(TypeError, match="expected a Denoiser as the prior, got Linear"):
        sample(torch.nn.Linear(N, N), likelihood)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"without \['y', 'in_shape'"):
        sample(gaussian(), torch.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected a Denoiser as the prior, got DDIM"):
        sample(DDIM(8), likelihood)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"likelihood of states of shape \(12,\)"):
        sample(gaussian(), GaussianLikelihood(Mask(torch.tensor([True])), torch.zeros(1), 1.0))
    with pytest.raises(ValueError, match="count >= 1"):
        sample(gaussian(), likelihood, 0)
    with pytest.raises(TypeError, match=r"number of samples, an integer, got \(3,\)"):
        sample(gaussian(), likelihood, (3,))  # type: ignore[arg-type]
