"""Models of other packages as denoisers: by their shape, and where present themselves."""

import math
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from appa_prob.operators import GMRES, Dense, Mask
from appa_prob.samplers import (
    DDIM,
    MMPS,
    AzulaDenoiser,
    CleanPrediction,
    DPMSolver,
    FunctionSchedule,
    GaussianDenoiser,
    GaussianLikelihood,
    NoisePrediction,
    TabulatedSchedule,
    VESchedule,
    VPrediction,
    VPSchedule,
    diffusers_denoiser,
)
from appa_prob.samplers.testing import affine_law, diffused


def package(name: str) -> Any:
    """A package, whose own warnings are none of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


def exact(schedule: Any) -> GaussianDenoiser:
    F = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()
    return GaussianDenoiser(torch.ones(3).double(), Dense(F @ F.mT, symmetric=True), schedule)


@pytest.mark.parametrize("known", [VESchedule(), VPSchedule()], ids=str)
def test_a_schedule_by_its_function(known: VESchedule | VPSchedule) -> None:
    found = FunctionSchedule(lambda t: (known.alpha(t), known.sigma(t)))
    t = torch.linspace(0.0, 1.0, 50).double()
    torch.testing.assert_close(found.ratio(t), known.ratio(t))
    for a, b in zip(found.derivatives(t), known.derivatives(t), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(found.time(known.ratio(t)), t)
    with torch.no_grad():
        assert found.derivatives(torch.tensor(0.5))[1] > 0


def test_a_schedule_by_its_table() -> None:
    powers = (1 - torch.linspace(1e-4, 2e-2, 1000).double()).cumprod(0)
    schedule = TabulatedSchedule(powers)
    i = torch.arange(1000).double()
    alpha, sigma = schedule(i / 999)
    torch.testing.assert_close(alpha.square(), powers)
    torch.testing.assert_close(sigma.square(), 1 - powers)
    t = (torch.arange(500).double() + 0.3) / 501
    torch.testing.assert_close(schedule.time(schedule.ratio(t)), t)
    t.requires_grad_()
    for value, derivative in zip(schedule(t), schedule.derivatives(t), strict=True):
        torch.testing.assert_close(derivative, torch.autograd.grad(value.sum(), t)[0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: TabulatedSchedule(torch.tensor([0.9, 0.5, 0.0])), ValueError, "without signal"),
        (lambda: TabulatedSchedule(torch.tensor([0.5, 0.9])), ValueError, "decreases strictly"),
        (lambda: FunctionSchedule(lambda t: (t + 1, 1 - t)), ValueError, "that increases"),
        (lambda: FunctionSchedule(lambda t: (1 - t, t)), ValueError, "alpha > 0"),
        (lambda: AzulaDenoiser(nn.Linear(2, 2), (2,)), TypeError, "with a schedule"),  # type: ignore[arg-type]
        (lambda: diffusers_denoiser(nn.Linear(2, 2), object(), (2,)), TypeError, "alphas_cumprod"),
        (lambda: diffusers_denoiser(nn.Linear(2, 2), scheduler("flow"), (2,)), ValueError, "flow"),
    ],
)
def test_bad_arguments_are_refused(
    call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


def scheduler(kind: str, count: int = 1000) -> Any:
    powers = (1 - torch.linspace(1e-4, 2e-2, count)).cumprod(0)
    return SimpleNamespace(alphas_cumprod=powers, config=SimpleNamespace(prediction_type=kind))


@pytest.mark.parametrize(
    ("kind", "wrapper"),
    [("epsilon", NoisePrediction), ("sample", CleanPrediction), ("v_prediction", VPrediction)],
)
def test_a_network_of_diffusers_by_its_shape(kind: str, wrapper: type) -> None:
    seen = list[Tensor]()

    def network(x: Tensor, t: Tensor, **context: Tensor) -> Any:
        seen.append(t)
        return SimpleNamespace(sample=x / 2)

    d = diffusers_denoiser(network, scheduler(kind), (3,))
    assert isinstance(d, wrapper)
    x_t, t = torch.randn(2, 3), torch.tensor([5.0, 999.0]) / 999
    direct = wrapper(lambda x, t: x / 2, d.schedule, (3,))
    torch.testing.assert_close(d(x_t, t), direct(x_t, t))
    torch.testing.assert_close(seen[0], torch.tensor([5.0, 999.0]))


def test_a_denoiser_of_azula_by_its_shape() -> None:
    known = VPSchedule()
    inner = exact(known)

    class Like:
        schedule = known

        def __call__(self, x_t: Tensor, t: Tensor, **context: Any) -> Any:
            assert x_t.ndim == 2 and t.ndim in (0, 1)
            return SimpleNamespace(mean=inner(x_t, t))

    d, x_t = AzulaDenoiser(Like(), (3,)), torch.randn(2, 4, 3).double()
    for t in (torch.tensor(0.3).double(), torch.rand(2, 4).double()):
        torch.testing.assert_close(d(x_t, t), inner(x_t, t))
    V = d.posterior(x_t, t).covariance
    torch.testing.assert_close(V(x_t), inner.posterior(x_t, t).covariance(x_t))


@pytest.mark.parametrize(
    "name", ["VESchedule", "VPSchedule", "CosineSchedule", "RectifiedSchedule"]
)
def test_azula_gives_the_exact_posterior(name: str) -> None:
    azula = package("azula")
    F = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()
    values, Q = torch.linalg.eigh(F @ F.mT)
    covariance = azula.linalg.covariance.FullCovariance(Q, values)
    theirs = azula.denoise.GaussianDenoiser(
        torch.ones(3).double(), covariance, getattr(azula.noise, name)()
    )
    prior = AzulaDenoiser(theirs, (3,))
    A, y = Mask(torch.tensor([True, False, True])), torch.tensor([0.5, 2.0]).double()
    V = F @ F.mT
    H = A.to_dense().double()
    gain = V @ H.mT @ torch.linalg.inv(H @ V @ H.mT + 0.1 * torch.eye(2))
    mean = torch.ones(3).double() + gain @ (y - H @ torch.ones(3).double())
    posterior = V - gain @ H @ V
    sampler = DPMSolver([float(t) for t in torch.linspace(1, 0, 129).double()])
    start = diffused(mean, (posterior + posterior.mT) / 2, prior.schedule, 1.0)
    solver = GMRES(rtol=1e-8, max_iterations=10)
    guided = MMPS(prior, GaussianLikelihood(A, y, 0.1), solver)
    found_mean, found = affine_law(sampler, guided, start=start)
    torch.testing.assert_close(found_mean, mean, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(found, posterior, rtol=3e-2, atol=3e-2)


def test_networks_of_azula_are_guided() -> None:
    azula = package("azula")

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor, t: Tensor, **context: Tensor) -> Tensor:
            y: Tensor = self.linear(x)
            return y

    d = AzulaDenoiser(azula.denoise.KarrasDenoiser(Backbone(), azula.noise.VPSchedule()), (3,))
    assert len(list(d.parameters())) == 2
    x_t, t = torch.randn(3, 3), torch.tensor([0.2, 0.5, 0.9])
    alone = torch.stack([d(x, s) for x, s in zip(x_t, t, strict=True)])
    torch.testing.assert_close(d(x_t, t), alone)
    y = GaussianLikelihood(Mask(torch.tensor([True, False, False])), torch.ones(1), 0.1)
    guided = MMPS(d, y)
    assert DDIM(8)(guided, torch.randn(5, 3)).isfinite().all()


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_ddim_is_that_of_diffusers(kind: str) -> None:
    diffusers = package("diffusers")
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    ).requires_grad_(False)
    theirs = diffusers.DDIMScheduler(
        prediction_type=kind, clip_sample=False, set_alpha_to_one=False
    )
    theirs.set_timesteps(20)
    d = diffusers_denoiser(network, theirs, (1, 8, 8))
    x = noise = torch.randn(2, 1, 8, 8)
    for step in theirs.timesteps:
        x = theirs.step(network(x, step).sample, step, x).prev_sample
    times = [int(step) / 999 for step in theirs.timesteps]
    y = DDIM(times)(d, noise)
    assert times[-1] == 0 and math.isclose(times[0], 950 / 999)
    # Their last step goes from the first entry of the table to itself.
    torch.testing.assert_close(y, x, rtol=1e-4, atol=1e-4)
