"""Denoisers, schedules, preconditioning and the loss."""

import copy

import pytest
import torch
from torch import Tensor, nn

from appa_prob import samplers
from appa_prob.operators import Dense, Diagonal, Eigenbasis, Isotropic, Operator
from appa_prob.samplers import (
    Denoiser,
    GaussianDenoiser,
    MixtureDenoiser,
    PreconditionedDenoiser,
    RectifiedSchedule,
    Schedule,
    VESchedule,
    VPSchedule,
    denoising_loss,
)
from appa_prob.samplers.spectral import diagonalise

SCHEDULES = [VESchedule(0.01, 50.0), VPSchedule(1e-2), RectifiedSchedule(1e-2)]


def covariance(kind: str) -> Operator:
    g = torch.Generator().manual_seed(0)
    F = torch.randn(6, 6, generator=g).double()
    if kind == "dense":
        return Dense(F @ F.mT, (2, 3), (2, 3), symmetric=True)
    if kind == "diagonal":
        return Diagonal(F[0].square().reshape(2, 3) + 0.1)
    if kind == "isotropic":
        return Isotropic(torch.tensor(2.5).double(), (2, 3))
    basis = Dense(torch.linalg.qr(F[:, :4]).Q, (4,), (2, 3))
    return Eigenbasis(basis, F[0, :4].square() + 0.1, torch.tensor(0.3).double())


KINDS = ["dense", "diagonal", "isotropic", "eigenbasis"]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_times_of_ratios(schedule: Schedule) -> None:
    t = torch.linspace(0.05, 1.0, 20).double()
    alpha, sigma = schedule(t)
    torch.testing.assert_close(schedule.time(sigma / alpha), t)
    assert (alpha > 0).all() and (sigma.diff() > 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_gaussian_denoiser_is_the_conditional_expectation(kind: str, schedule: Schedule) -> None:
    V, mu = covariance(kind), torch.arange(6.0).double().reshape(2, 3)
    d, t = GaussianDenoiser(mu, V, schedule), torch.tensor([0.1, 0.6, 0.9]).double()
    x_t = torch.randn(3, 2, 3).double()
    posterior = d.posterior(x_t, t)
    sigma_0 = V.to_dense()
    for i in range(3):
        alpha, sigma = schedule(t[i])
        total = alpha**2 * sigma_0 + sigma**2 * torch.eye(6)
        gain = alpha * sigma_0 @ torch.linalg.inv(total)
        mean = mu.flatten() + gain @ (x_t[i] - alpha * mu).flatten()
        left = sigma_0 - alpha * gain @ sigma_0
        torch.testing.assert_close(posterior.mean[i].flatten(), mean)
        torch.testing.assert_close(posterior.covariance.to_dense()[i], left, rtol=1e-6, atol=1e-9)
    tweedie = Denoiser.posterior(d, x_t, t).covariance
    v = torch.randn(3, 2, 3).double()
    torch.testing.assert_close(tweedie(v), posterior.covariance(v))


@pytest.mark.parametrize("kind", ["dense", "isotropic"])
def test_a_state_without_noise_is_clean(kind: str) -> None:
    """At the last time of VP and rectified schedules, where 0 over 0 is no variance."""
    for schedule in (VPSchedule(1e-2), RectifiedSchedule(1e-2)):
        x, t = torch.ones(4, 2, 3).double(), torch.tensor(0.0).double()
        V, means = covariance(kind), torch.randn(2, 2, 3).double()
        V = V + Isotropic(0.1, (2, 3)) if kind == "dense" else V
        for d in (
            GaussianDenoiser(means[0], V, schedule),
            MixtureDenoiser(torch.ones(2).double(), means, V, schedule),
        ):
            torch.testing.assert_close(d(x, t), x)
        left = GaussianDenoiser(means[0], V, schedule).covariance_given(t)
        assert float(left(x).abs().max()) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_those_of_the_prior(kind: str) -> None:
    V, schedule = covariance(kind), VPSchedule(1e-2)
    d = GaussianDenoiser(torch.zeros(2, 3).double(), V, schedule)
    t = torch.tensor([0.2, 0.7]).double()
    clean, noisy = d.moments(t)
    for i in range(2):
        ratio = (schedule.sigma(t[i]) / schedule.alpha(t[i])).square()
        M = V.to_dense()
        error = ratio * M @ torch.linalg.inv(M + ratio * torch.eye(6))
        rest = ratio**2 * torch.linalg.inv(M + ratio * torch.eye(6))
        torch.testing.assert_close(clean[i], error.trace() / 6)
        torch.testing.assert_close(noisy[i], rest.trace() / 6)


def test_batched_times_where_the_batch_is_as_long_as_an_event() -> None:
    d = GaussianDenoiser(torch.zeros(3), Diagonal(torch.tensor([1.0, 2.0, 3.0])), VESchedule())
    x_t, t = torch.randn(3, 3), torch.tensor([0.2, 0.5, 0.8])
    together = d(x_t, t)
    alone = torch.stack([d(x, s) for x, s in zip(x_t, t, strict=True)])
    torch.testing.assert_close(together, alone)


class Network(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, 2, 1)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, c_noise: Tensor, **context: Tensor) -> Tensor:
        self.seen = [x.detach(), c_noise.detach()]
        y: Tensor = self.conv(x.reshape(-1, *x.shape[-2:])).reshape(*x.shape[:-2], 2, x.shape[-1])
        return y + sum(context.values())


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_isotropic_preconditioning_is_that_of_karras(schedule: Schedule) -> None:
    network = Network(2).double()
    d = PreconditionedDenoiser(network, schedule, (2, 4), scale=0.5, channels=-2)
    x_t, t = torch.randn(5, 2, 4).double(), torch.linspace(0.2, 0.9, 5).double()
    alpha, sigma_t = schedule(t)
    s = (sigma_t / alpha)[:, None, None]
    x = x_t / alpha[:, None, None]
    c_skip = 0.25 / (s**2 + 0.25)
    c_out, c_in = s * 0.5 / (s**2 + 0.25).sqrt(), 1 / (s**2 + 0.25).sqrt()
    expected = c_skip * x + c_out * network(c_in * x, s[:, 0, 0].log() / 4)
    torch.testing.assert_close(d(x_t, t), expected)
    torch.testing.assert_close(network.seen[0], c_in * x)
    torch.testing.assert_close(network.seen[1], s.flatten().log() / 4)
    torch.testing.assert_close(d.weight(t), 1 / c_out.flatten() ** 2)


def test_network_sees_unit_variance_under_a_gaussian_prior(generator: torch.Generator) -> None:
    g = generator
    F = torch.randn(8, 8, generator=g, device=g.device)
    V = Dense(F @ F.mT, (2, 4), (2, 4), symmetric=True)
    schedule, network = VESchedule(), Network(4).to(g.device)
    prior = GaussianDenoiser(torch.zeros(2, 4, device=g.device), V, schedule)
    d = PreconditionedDenoiser(network, schedule, (2, 4), prior=prior, channels=-2)
    x = V.sample((20000,), g)
    t = torch.tensor(0.6, device=g.device)
    x_t = x + schedule.sigma(t) * torch.randn(x.shape, generator=g, device=g.device)
    d(x_t, t)
    assert abs(float(network.seen[0][..., :2, :].square().mean()) - 1) < 0.05


def test_loss_of_the_prior_itself_is_one(generator: torch.Generator) -> None:
    g = generator
    F = torch.randn(8, 8, generator=g, device=g.device)
    V = Dense(F @ F.mT, (2, 4), (2, 4), symmetric=True)
    schedule, network = VESchedule(), Network(4).to(g.device)
    nn.init.zeros_(network.conv.weight)
    assert network.conv.bias is not None
    nn.init.zeros_(network.conv.bias)
    prior = GaussianDenoiser(torch.zeros(2, 4, device=g.device), V, schedule)
    d = PreconditionedDenoiser(network, schedule, (2, 4), prior=prior, channels=-2)
    x = V.sample((20000,), g)
    t = torch.linspace(0.1, 0.9, len(x), device=g.device)
    loss = denoising_loss(d, x, t, torch.randn(x.shape, generator=g, device=g.device))
    assert abs(float(loss.detach()) - 1) < 0.02


def test_context_reaches_the_network_and_copies_move() -> None:
    schedule = VESchedule()
    prior = GaussianDenoiser(torch.zeros(2, 4), Isotropic(torch.tensor(1.0), (2, 4)), schedule)
    d = PreconditionedDenoiser(Network(4), schedule, (2, 4), prior=prior, channels=-2)
    x_t, t = torch.randn(2, 4), torch.tensor(0.5)
    shift = d(x_t, t, date=torch.ones(2, 4)) - d(x_t, t, date=torch.zeros(2, 4))
    assert (shift > 0).all()
    double = copy.deepcopy(d).to(torch.float64)
    y = double(x_t.double(), t.double(), date=torch.zeros(2, 4).double())
    assert y.dtype == torch.float64
    torch.testing.assert_close(y.float(), d(x_t, t, date=torch.zeros(2, 4)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VESchedule(1.0, 0.5), "sigma_min"),
        (lambda: VPSchedule(0.0), "alpha_min"),
        (lambda: GaussianDenoiser(torch.zeros(3), Isotropic(1.0, 2), VESchedule()), "covariance"),
        (lambda: diagonalise(Dense(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))), "semi-definite"),
        (lambda: diagonalise(Dense(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))), "symmetric"),
        (
            lambda: GaussianDenoiser(
                torch.zeros(3), Diagonal(torch.ones(2, 3), event_ndim=1), VESchedule()
            ),
            "batch",
        ),
    ],
)
def test_bad_input_is_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


def test_the_docstring_of_the_package_is_a_map_of_it() -> None:
    for name in samplers.__all__:
        assert f":`{name}`" in str(samplers.__doc__), f"{name} is missing in the map"


def test_wrong_shapes_are_refused() -> None:
    d = GaussianDenoiser(torch.zeros(3), Isotropic(torch.tensor(1.0), 3), VESchedule())
    with pytest.raises(ValueError, match=r"expected x_t of shape \(\*, 3\)"):
        d(torch.zeros(4), torch.tensor(0.5))
    with pytest.raises(ValueError, match="expected t of shape"):
        d(torch.zeros(4, 3), torch.zeros(3))
