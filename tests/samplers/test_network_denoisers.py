"""Denoisers from networks: the same mean, whatever the network predicts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from appa_prob.operators import Dense
from appa_prob.samplers import (
    DDIM,
    CleanPrediction,
    EDMSchedule,
    FlowPrediction,
    GaussianDenoiser,
    LinearVPSchedule,
    NoisePrediction,
    RectifiedSchedule,
    Schedule,
    ScorePrediction,
    VESchedule,
    VPrediction,
    VPSchedule,
)
from appa_prob.samplers.network_denoiser import NetworkDenoiser

SCHEDULES = [VESchedule(), VPSchedule(), LinearVPSchedule(), RectifiedSchedule(), EDMSchedule()]
Target = Callable[[Tensor, Tensor, Tensor, Schedule], Tensor]


def scales(t: Tensor, schedule: Schedule) -> list[Tensor]:
    return [k.reshape(-1, 1) for k in (*schedule(t), *schedule.derivatives(t))]


TARGETS: dict[type[NetworkDenoiser], Callable[..., Tensor]] = {
    CleanPrediction: lambda x, eps, a, s, da, ds: x,
    NoisePrediction: lambda x, eps, a, s, da, ds: eps,
    VPrediction: lambda x, eps, a, s, da, ds: a * eps - s * x,
    FlowPrediction: lambda x, eps, a, s, da, ds: da * x + ds * eps,
    ScorePrediction: lambda x, eps, a, s, da, ds: -eps / s,
}


def gaussian(schedule: Schedule) -> GaussianDenoiser:
    F = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()
    return GaussianDenoiser(torch.ones(3).double(), Dense(F @ F.mT, symmetric=True), schedule)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("kind", TARGETS, ids=lambda k: k.__name__)
def test_the_best_prediction_gives_the_exact_denoiser(
    kind: type[NetworkDenoiser], schedule: Schedule
) -> None:
    exact = gaussian(schedule)

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        """The mean of the target given x_t, which is what training tends to."""
        assert x_t.ndim == 2 and t.shape == x_t.shape[:1]
        x = exact(x_t, t)
        alpha, sigma, *others = scales(t, schedule)
        return TARGETS[kind](x, (x_t - alpha * x) / sigma, alpha, sigma, *others)

    d = kind(network, schedule, (3,))
    x_t = torch.randn(2, 3, 3).double()
    for t in (torch.tensor(0.4).double(), torch.tensor([[0.1, 0.5, 0.9], [0.2, 0.3, 1.0]])):
        torch.testing.assert_close(d(x_t, t.double()), exact(x_t, t.double()))
    one = x_t[0, 0]
    torch.testing.assert_close(d(one, t[0, 0].double()), exact(one, t[0, 0].double()))
    covariance = d.posterior(one, t[0, 0].double()).covariance.to_dense()
    expected = exact.posterior(one, t[0, 0].double()).covariance.to_dense()
    torch.testing.assert_close(covariance, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", TARGETS, ids=lambda k: k.__name__)
def test_times_of_a_batch_as_long_as_an_event(kind: type[NetworkDenoiser]) -> None:
    d = kind(lambda x, t: x.tanh() * t[:, None], VPSchedule(), (3,))
    x_t, t = torch.randn(3, 3), torch.tensor([0.2, 0.5, 0.8])
    alone = torch.stack([d(x, s) for x, s in zip(x_t, t, strict=True)])
    torch.testing.assert_close(d(x_t, t), alone)


class Seeing(nn.Module):
    """Keeps what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor, c: Tensor, **context: Tensor) -> Tensor:
        self.c, self.context = c, context
        y: Tensor = self.linear(x)
        self.computed = y.dtype
        return y


def test_networks_are_told_of_time_and_context(device: torch.device) -> None:
    network = Seeing().to(device)
    d = NoisePrediction(
        network,
        VESchedule(),
        (3,),
        embed=lambda t: 1000 * t,
        precision=torch.bfloat16,
    )
    x_t = torch.randn(2, 4, 3, device=device)
    y = d(x_t, torch.tensor(0.5, device=device), date=torch.ones(2, 4, 5, device=device))
    assert y.dtype == torch.float32 and network.computed == torch.bfloat16
    assert network.c.shape == (8,) and bool((network.c == 500).all())
    assert network.context["date"].shape == (8, 5)
    assert len(list(d.parameters())) == 2
    assert DDIM(4)(d, x_t[0]).shape == (4, 3)
    with pytest.raises(ValueError, match="expected t of shape"):
        d(x_t, torch.zeros(4, device=device))
