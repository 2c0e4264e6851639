r"""The biases that theory predicts for the methods of guidance, and no others.

Let a scalar of variance :math:`p` be observed with errors of variance :math:`\rho`, and
:math:`u = \sigma^2` run from 0 to infinity, with :math:`\alpha = 1`. The clean state has the
variance :math:`V = p u / (p + u)` given the noisy one. A method that takes :math:`S` for the
covariance of the observation, and :math:`W` for :math:`V` outside, has the denoiser

.. math:: d(x, u) = (1 - W / S) \frac{p}{p + u} x + \frac{W}{S} y

and the probability flow :math:`dx / du = (x - d) / (2 u)`, linear in :math:`x`, multiplies the
standard deviation of the noise such that samples have the variance

.. math:: p \, \exp \left( - \int_0^\infty \frac{p}{p + u} \frac{W}{S} \frac{du}{u} \right)

It is :math:`p \rho / (p + \rho)`, that of the posterior, for :math:`S = V + \rho` and
:math:`W = V`. The integrals for the other methods are below.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from appa_prob.operators import CG, Dense, Isotropic
from appa_prob.samplers import (
    DPS,
    JFPS,
    MMPS,
    SDA,
    TMPD,
    Denoiser,
    DPMSolver,
    GaussianDenoiser,
    GaussianLikelihood,
    Guidance,
    PiGDM,
    VESchedule,
)
from appa_prob.samplers.testing import affine_law

SCHEDULE = VESchedule(1e-3, 1e3)
SAMPLER = DPMSolver(256)


def scalar(p: float) -> GaussianDenoiser:
    return GaussianDenoiser(
        torch.zeros(1).double(), Isotropic(torch.tensor(p).double(), 1), SCHEDULE
    )


def observed(y: float, rho: float) -> GaussianLikelihood:
    return GaussianLikelihood(Isotropic(1.0, 1), torch.tensor([y]).double(), rho)


def exact(p: float, rho: float) -> float:
    return p * rho / (p + rho)


def sda(p: float, rho: float, gamma: float) -> float:
    r""":math:`S = \rho + \gamma u`."""
    delta = rho - gamma * p
    return p * math.exp(-p / delta + gamma * p**2 / delta**2 * math.log(rho / (gamma * p)))


def pigdm(p: float, rho: float, v: float) -> float:
    r""":math:`S = v u / (v + u) + \rho`: partial fractions of
    :math:`p^2 (v + u) / ((p + u)^2 ((v + \rho) u + v \rho))`."""
    a, b = v + rho, v * rho
    double = (v - p) / (b - a * p)
    single = (v - b / a) / (p - b / a) ** 2 / a
    return p * math.exp(-(p**2) * (double / p + single * math.log(a * p / b)))


def jfps(p: float, rho: float, q: float) -> float:
    r""":math:`W = q u / (q + u)` and :math:`S = W + \rho`."""
    power = p * q / (p * (q + rho) - rho * q)
    return p * math.pow(rho * q / (p * (q + rho)), power)


CASES: list[tuple[Callable[[Denoiser, GaussianLikelihood], Guidance], float, float, float]] = [
    (MMPS, 1.5, 0.3, exact(1.5, 0.3)),
    (TMPD, 1.5, 0.3, exact(1.5, 0.3)),
    (lambda d, y: SDA(d, y, gamma=0.1), 1.5, 0.3, sda(1.5, 0.3, 0.1)),
    (lambda d, y: SDA(d, y, gamma=1.0), 0.7, 0.5, sda(0.7, 0.5, 1.0)),
    (lambda d, y: PiGDM(d, y, variance=1.0), 0.4, 0.3, pigdm(0.4, 0.3, 1.0)),
    (lambda d, y: PiGDM(d, y, variance=1.0), 1.8, 0.5, pigdm(1.8, 0.5, 1.0)),
    (lambda d, y: JFPS(d, y, Isotropic(2.0, 1)), 0.5, 0.3, jfps(0.5, 0.3, 2.0)),
    (lambda d, y: JFPS(d, y, Isotropic(0.5, 1)), 2.0, 0.3, jfps(2.0, 0.3, 0.5)),
]


@pytest.mark.parametrize(("make", "p", "rho", "expected"), CASES)
def test_variances_are_those_of_theory(make, p: float, rho: float, expected: float) -> None:  # type: ignore[no-untyped-def]
    _, found = affine_law(SAMPLER, make(scalar(p), observed(0.7, rho)))
    # The integrator has an error of second order, 1e-4 at 256 steps from u = 1e6 to 1e-6.
    assert float(found) == pytest.approx(expected, rel=2e-3)
    if make not in (MMPS, TMPD):
        assert abs(expected - exact(p, rho)) > 0.05 * exact(p, rho)


def test_methods_with_the_right_variance_have_no_bias() -> None:
    p, rho = 0.8, 0.4
    limits = [pigdm(p, rho, p * (1 + 1e-6)), jfps(p, rho, p)]
    assert limits == pytest.approx([exact(p, rho)] * 2, rel=1e-5)


def test_row_sums_bias_differences_as_if_they_varied_like_sums() -> None:
    """TMPD for two correlated numbers, both observed."""
    p, c, rho = 1.0, 0.6, 0.3
    covariance = torch.tensor([[p, c], [c, p]]).double()
    prior = GaussianDenoiser(torch.zeros(2).double(), Dense(covariance, symmetric=True), SCHEDULE)
    y = GaussianLikelihood(Isotropic(1.0, 2), torch.tensor([0.3, -0.2]).double(), rho)
    _, found = affine_law(SAMPLER, TMPD(prior, y))
    total, difference = torch.tensor([1.0, 1.0]).double(), torch.tensor([1.0, -1.0]).double()
    assert float(total @ found @ total) / 2 == pytest.approx(exact(p + c, rho), rel=2e-3)
    expected = pigdm(p - c, rho, p + c)
    assert float(difference @ found @ difference) / 2 == pytest.approx(expected, rel=2e-3)
    assert abs(expected - exact(p - c, rho)) > 0.05 * exact(p - c, rho)


def samples(guided: Guidance, count: int) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return SAMPLER(guided, SAMPLER.noise(guided, (count,), generator=g, dtype=torch.float64))


def test_dps_shifts_the_prior_towards_what_is_far() -> None:
    r"""Far from :math:`y` the unit residual is constant, :math:`d = p x / (p + u) + \zeta V`, and
    the flow leads to :math:`\mathcal{N}(\zeta p, p)`, whatever :math:`y` and :math:`\rho` are."""
    p, zeta = 1.5, 0.8
    for y, rho in ((1e5, 0.1), (1e6, 10.0)):
        mean, found = affine_law(SAMPLER, DPS(scalar(p), observed(y, rho), zeta))
        assert float(mean) == pytest.approx(zeta * p, rel=2e-3)
        assert float(found) == pytest.approx(p, rel=2e-3)


def test_dps_collapses_on_what_is_near() -> None:
    r"""Where :math:`d = y` the flow slides along :math:`x = y (p + u) / p` if the guidance is
    strong enough, :math:`|y| \leq \zeta p`: samples are :math:`y`, with no spread at all."""
    p, rho, y = 1.0, 0.3, 0.4
    x = samples(DPS(scalar(p), observed(y, rho), 4.0), 500)
    assert float((x - y).abs().mean()) < 0.1 * math.sqrt(exact(p, rho))
    y_free = 3.0  # too far to slide: it gets no nearer than zeta p and the spread of the prior
    x = samples(DPS(scalar(p), observed(y_free, rho), 0.2), 500)
    assert float(x.mean()) < 0.5 * y_free * p / (p + rho)


def test_monte_carlo_agrees() -> None:
    """The same law from samples: within 5 standard errors, which fails once in 10^6 seeds."""
    p, rho = 0.5, 0.3
    guided = JFPS(scalar(p), observed(0.7, rho), Isotropic(2.0, 1), CG())
    x = samples(guided, 4000)
    expected = jfps(p, rho, 2.0)
    assert abs(float(x.var()) - expected) < 5 * expected * math.sqrt(2 / len(x)) + 2e-3 * expected
