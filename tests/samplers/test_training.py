"""Losses, weights and times of training; conditional networks have the law that they learn."""

import math

import pytest
import torch
from torch import Tensor, nn

from appa_prob.operators import Isotropic
from appa_prob.samplers import (
    DDPM,
    ClassifierFree,
    CleanPrediction,
    DPMSolver,
    EDMWeight,
    GaussianDenoiser,
    LogitNormalTimes,
    LogNormalTimes,
    LogUniformTimes,
    MinSNRWeight,
    PreconditionedDenoiser,
    RectifiedSchedule,
    SNRWeight,
    UniformTimes,
    VESchedule,
    VPSchedule,
    denoising_loss,
    leave_out,
)


def test_times_follow_their_law_one_a_stratum(generator: torch.Generator) -> None:
    schedule = VESchedule(1e-6, 1e6)
    count = 2000
    expected = (torch.arange(count) + 0.5) / count
    normal = torch.special.ndtri(expected)
    for law, value in (
        (UniformTimes(0.2, 0.6), 0.2 + 0.4 * expected),
        (LogUniformTimes(schedule, 0.1, 10.0), schedule.time(0.1 * 100**expected)),
        (LogNormalTimes(schedule, 0.4, 1.3), schedule.time(0.4 * torch.exp(1.3 * normal))),
        (LogitNormalTimes(0.5, 2.0), torch.sigmoid(0.5 + 2 * normal)),
    ):
        t = law(count, generator).cpu()
        assert (t.diff() > 0).all()
        # Within the stratum, but for the tails, which vary more.
        assert (t - value)[20:-20].abs().max() < 0.02, law
    narrow = VESchedule(0.5, 2.0)
    t = LogNormalTimes(narrow, 1.0, 9.0)(100, generator)
    assert t.min() == 0 and t.max() == 1


class Zero(nn.Module):
    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return torch.zeros_like(x)


def test_weights_turn_errors_of_states_into_those_of_predictions() -> None:
    alpha, sigma = VPSchedule()(torch.linspace(0.05, 0.95, 9).double())
    x, eps, error = torch.randn(3, 9).double()
    x_t = alpha * x + sigma * eps
    noise = (x_t - alpha * (x + error)) / sigma - eps
    torch.testing.assert_close(SNRWeight()(alpha, sigma) * error**2, noise**2)
    v = (x_t * alpha - (x + error)) / sigma - (alpha * eps - sigma * x)
    torch.testing.assert_close(EDMWeight()(alpha, sigma) * error**2, v**2)
    assert MinSNRWeight(2.0)(alpha, sigma).max() == 2.0
    karras = PreconditionedDenoiser(
        Zero(),
        VPSchedule(),
        (2,),
        scale=0.5,
        channels=-1,
    )
    t = torch.linspace(0.05, 0.95, 9).double()
    torch.testing.assert_close(EDMWeight(0.5)(alpha, sigma), karras.weight(t))


def test_the_loss_is_one_for_the_best_denoiser_at_all_times() -> None:
    schedule = RectifiedSchedule()
    exact = GaussianDenoiser(torch.zeros(50), Isotropic(torch.tensor(1.0), 50), schedule)
    x, eps = torch.randn(4000, 50), torch.randn(4000, 50)
    for time in (0.1, 0.5, 0.9):
        t = torch.full((4000,), time)
        assert abs(float(denoising_loss(exact, x, t, eps)) - 1) < 0.02
        error = float(denoising_loss(exact, x, t, eps, weighting=SNRWeight()))
        alpha, sigma = schedule(torch.tensor(time))
        assert abs(error / float(alpha**2 / (alpha**2 + sigma**2)) - 1) < 0.02


class Affine(nn.Module):
    """A small network of state, level of noise and observation."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.last = nn.Linear(64, 2)

    def forward(self, x: Tensor, c_noise: Tensor, y: Tensor, given: Tensor) -> Tensor:
        c = c_noise.expand(x.shape[:-1]).unsqueeze(-1)
        out: Tensor = self.last(self.layers(torch.cat((x, c, y * given, given), -1)))
        return out


V = torch.tensor([[1.0, 0.6], [0.6, 1.0]])
H, R = torch.tensor([[1.0, -0.5]]), 0.25
NULL = {"y": torch.zeros(1), "given": torch.zeros(1)}


@pytest.fixture(scope="module")
def trained() -> PreconditionedDenoiser:
    """A conditional network, trained for a few seconds on x ~ N(0, V), y = H x + noise."""
    g = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Affine()
    d = PreconditionedDenoiser(network, VESchedule(0.02, 20.0), (2,), channels=-1)
    root, times = torch.linalg.cholesky(V), LogNormalTimes(d.schedule, 0.5, 1.6)
    optimizer = torch.optim.Adam(network.parameters(), 4e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1200)
    for _ in range(1200):
        x = torch.randn(512, 2, generator=g) @ root.mT
        y = x @ H.mT + math.sqrt(R) * torch.randn(512, 1, generator=g)
        context = leave_out({"y": y, "given": torch.ones(512, 1)}, NULL, 0.3, g)
        eps = torch.randn(512, 2, generator=g)
        loss = denoising_loss(d, x, times(512, g), eps, y=context["y"], given=context["given"])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        decay.step()
    return d.requires_grad_(False)


@pytest.mark.parametrize("weight", [1.0, 0.0])
@pytest.mark.parametrize("value", [-1.5, 0.8])
def test_a_trained_conditional_network_samples_the_posterior(
    trained: PreconditionedDenoiser, weight: float, value: float
) -> None:
    y = torch.tensor([value])
    d = ClassifierFree(trained, {"y": y, "given": torch.ones(1)}, NULL, weight=weight)
    gain = weight * V @ H.mT / (H @ V @ H.mT + R)
    mean, covariance = (gain @ y), V - gain @ H @ V
    g = torch.Generator().manual_seed(1)
    sampler = DPMSolver(24)
    x = sampler(d, sampler.noise(d, (8000,), generator=g), generator=g)
    # What 1200 steps of training leave: a tenth of a standard deviation in the mean, and an eighth
    # of the largest variance in the covariance (sampling errors are 0.011 and 0.016).
    assert (x.mean(0) - mean).abs().max() < 0.1
    assert (x.mT.cov() - covariance).abs().max() < 0.125


def test_members_have_their_own_observations(trained: PreconditionedDenoiser) -> None:
    y = torch.tensor([[-1.0], [0.0], [2.0]])
    one = torch.ones(3, 1)
    together = ClassifierFree(trained, {"y": y, "given": one}, NULL, weight=1.7, batch_ndim=1)
    x_t, t = torch.randn(3, 2), torch.tensor(0.5)
    for i in range(3):
        alone = ClassifierFree(trained, {"y": y[i], "given": one[i]}, NULL, weight=1.7)
        torch.testing.assert_close(together(x_t, t)[i], alone(x_t[i], t))
    more = x_t.expand(5, 3, 2)
    torch.testing.assert_close(together(more, t)[4], together(x_t, t))
    times = torch.tensor([0.2, 0.5, 0.8])
    torch.testing.assert_close(together(x_t, times)[1], together(x_t, t)[1])


def test_guidance_is_a_line_through_both_denoisers(trained: PreconditionedDenoiser) -> None:
    given = {"y": torch.tensor([1.0]), "given": torch.ones(1)}
    x_t, t = torch.randn(4, 2), torch.tensor(0.6)
    without, at, beyond = (
        ClassifierFree(trained, given, NULL, weight=w)(x_t, t) for w in (0.0, 1.0, 3.0)
    )
    torch.testing.assert_close(beyond, without + 3 * (at - without))
    only = ClassifierFree(trained, given)
    torch.testing.assert_close(only(x_t, t), at)
    covariance = only.posterior(x_t, t).covariance
    assert covariance(torch.ones(4, 2)).shape == (4, 2)
    assert DDPM(4)(only, 20 * torch.randn(4, 2)).isfinite().all()


def test_leaving_out_takes_all_of_a_member() -> None:
    g = torch.Generator().manual_seed(0)
    context = {"y": torch.ones(20000, 3), "given": torch.ones(20000, 1)}
    left = leave_out(context, {"y": torch.zeros(3), "given": torch.zeros(1)}, 0.3, g)
    gone = left["given"][:, 0] == 0
    assert torch.equal(left["y"] == 0, gone[:, None].expand(-1, 3))
    assert abs(float(gone.float().mean()) - 0.3) < 0.02
    assert torch.equal(leave_out(context, NULL, 0.0, g)["y"], context["y"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: ClassifierFree(d, {"y": torch.ones(1)}, weight=2.0), "only a weight of 1"),
        (lambda d: ClassifierFree(d, {"y": torch.ones(1)}, NULL, weight=2.0), "names of the"),
        (lambda d: ClassifierFree(d, {}, weight=math.nan), "finite weight"),
        (lambda d: leave_out({"y": torch.ones(2, 1)}, {"y": torch.ones(1)}, 1.5), "probability"),
        (lambda d: leave_out({"y": torch.ones(2, 1)}, NULL, 0.5), "names of the context"),
        (lambda d: MinSNRWeight(0.0), "gamma > 0"),
        (lambda d: EDMWeight(-1.0), "scale > 0"),
        (lambda d: UniformTimes(0.5, 0.5), "low < high"),
        (lambda d: LogUniformTimes(VESchedule(), 0.0, 1.0), "low < high"),
        (lambda d: LogNormalTimes(VESchedule(), -1.0), "median > 0"),
        (lambda d: LogitNormalTimes(0.0, 0.0), "spread > 0"),
    ],
)
def test_bad_arguments_are_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    d = CleanPrediction(lambda x, t, y: x + y, VESchedule(), (2,))
    with pytest.raises(ValueError, match=message):
        call(d)
