"""Densities by the probability flow."""

import math

import pytest
import torch
from torch import Tensor, nn

from appa_prob.operators import Dense, Isotropic
from appa_prob.samplers import (
    GaussianDenoiser,
    MixtureDenoiser,
    PreconditionedDenoiser,
    RectifiedSchedule,
    Schedule,
    VESchedule,
    VPSchedule,
    flow_log_prob,
)

SCHEDULES = [VESchedule(1e-3, 1e3), VPSchedule(1e-3), RectifiedSchedule(1e-3)]


def gaussian(schedule: Schedule) -> tuple[GaussianDenoiser, torch.distributions.Distribution]:
    F = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()
    V, mu = F @ F.mT + 0.1 * torch.eye(4), torch.arange(4.0).double() / 4
    law = torch.distributions.MultivariateNormal(mu, V)
    return GaussianDenoiser(mu, Dense(V, symmetric=True), schedule), law


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_density_of_a_gaussian(schedule: Schedule) -> None:
    d, law = gaussian(schedule)
    x = 2 * torch.randn(5, 4).double()
    found = flow_log_prob(d, x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found, law.log_prob(x), rtol=1e-3, atol=1e-3)


def test_the_density_of_a_mixture() -> None:
    means = torch.tensor([[-2.0, 0.0], [1.0, 1.0]]).double()
    weights, schedule = torch.tensor([0.3, 0.7]).double(), VESchedule(1e-3, 1e3)
    d = MixtureDenoiser(weights, means, Isotropic(torch.tensor(0.25).double(), 2), schedule)
    x = torch.randn(6, 2).double()
    gaps = (x.unsqueeze(1) - means).square().sum(-1)
    expected = torch.logsumexp(weights.log() - gaps / 0.5 - math.log(2 * math.pi * 0.25), -1)
    torch.testing.assert_close(flow_log_prob(d, x), expected, rtol=1e-3, atol=2e-3)


def test_hutchinson_is_unbiased_and_reproducible() -> None:
    d, _ = gaussian(VESchedule(1e-2, 1e2))
    x = torch.randn(4).double()
    exact = flow_log_prob(d, x)
    many = x.expand(300, 4)

    def estimate(seed: int, probes: int) -> torch.Tensor:
        g = torch.Generator().manual_seed(seed)
        return flow_log_prob(d, many, probes=probes, generator=g)

    one, eight = estimate(0, 1), estimate(0, 8)
    # 5 standard errors: a right estimator fails once in 10^6 seeds.
    for sample in (one, eight):
        assert (sample.mean() - exact).abs() < 5 * sample.std() / math.sqrt(300)
    assert 0.5 < float(one.var() / (8 * eight.var())) < 2.0
    assert torch.equal(one, estimate(0, 1)) and not torch.equal(one, estimate(1, 1))


class Zero(nn.Module):
    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return torch.zeros_like(x)


def test_networks_have_a_density_in_single_precision() -> None:
    """A network that corrects nothing leaves the density of its Gaussian prior."""
    d = PreconditionedDenoiser(Zero(), VESchedule(1e-3, 1e3), (2, 2), channels=-2)
    x = torch.randn(3, 2, 2)
    found = flow_log_prob(d, x, rtol=1e-4, atol=1e-4)
    expected = -0.5 * (x.square().sum((1, 2)) + 4 * math.log(2 * math.pi))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_bad_input_is_refused() -> None:
    d, _ = gaussian(SCHEDULES[0])
    with pytest.raises(ValueError, match="at least 1 probe"):
        flow_log_prob(d, torch.zeros(4).double(), probes=0)
    with pytest.raises(ValueError, match="finite states"):
        flow_log_prob(d, torch.full((4,), torch.nan).double())
    with pytest.raises(ValueError, match="expected x_t of shape"):
        flow_log_prob(d, torch.zeros(3).double())
    with pytest.raises(ValueError, match="floor > 0"):
        flow_log_prob(d, torch.zeros(4).double(), floor=0.0)
