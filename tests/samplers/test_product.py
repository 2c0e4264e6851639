"""Products and powers of priors, against closed forms."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from appa_prob.operators import GMRES, Dense, Isotropic
from appa_prob.samplers import (
    MMPS,
    Denoiser,
    DPMSolver,
    GaussianDenoiser,
    GaussianLikelihood,
    MixtureDenoiser,
    Product,
    RectifiedSchedule,
    Schedule,
    Tempered,
    VESchedule,
    VPSchedule,
    ratio_times,
)
from appa_prob.samplers.testing import affine_law, diffused

EXACT = GMRES(rtol=1e-10, max_iterations=12)
SCHEDULES = [VESchedule(), VPSchedule(1e-2), RectifiedSchedule(1e-2)]
each = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)


def law(seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    F, mu = torch.randn(4, 4, generator=g).double(), torch.randn(4, generator=g).double()
    return mu, F @ F.mT + 0.2 * torch.eye(4)


def product(*laws: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    precision = sum(torch.linalg.inv(V) for _, V in laws)
    V = torch.linalg.inv(torch.as_tensor(precision))
    mean = V @ torch.as_tensor(sum(torch.linalg.inv(W) @ m for m, W in laws))
    return mean, (V + V.mT) / 2


def denoiser(m: tuple[Tensor, Tensor], schedule: Schedule) -> GaussianDenoiser:
    return GaussianDenoiser(m[0], Dense(m[1], symmetric=True), schedule)


def same(found: Denoiser, expected: Denoiser) -> None:
    g = torch.Generator().manual_seed(0)
    x_t = torch.randn(4, 4, generator=g).double()
    for t in (torch.tensor(0.4).double(), torch.tensor([0.1, 0.4, 0.7, 1.0]).double()):
        p, q = found.posterior(x_t, t), expected.posterior(x_t, t)
        torch.testing.assert_close(found(x_t, t), q.mean, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(p.covariance(x_t), q.covariance(x_t), rtol=1e-6, atol=1e-7)
        adjoint = p.covariance.adjoint(x_t)
        torch.testing.assert_close(adjoint, q.covariance(x_t), rtol=1e-6, atol=1e-7)


@each
def test_the_product_of_gaussians_is_exact(schedule: Schedule) -> None:
    one, two, three = law(1), law(2), law(3)
    pair = Product(denoiser(one, schedule), denoiser(two, schedule), EXACT)
    same(pair, denoiser(product(one, two), schedule))
    triple = Product(pair, denoiser(three, schedule), EXACT)
    same(triple, denoiser(product(one, two, three), schedule))


@each
@pytest.mark.parametrize("power", [0.3, 1.0, 2.5])
def test_the_power_of_a_gaussian_is_exact(schedule: Schedule, power: float) -> None:
    mean, V = law(1)
    tempered = Tempered(denoiser((mean, V), schedule), power, EXACT)
    same(tempered, denoiser((mean, V / power), schedule))


def test_tweedie_of_a_product_agrees_with_its_covariance() -> None:
    pair = Product(denoiser(law(1), VESchedule()), denoiser(law(2), VESchedule()), EXACT)
    x_t, t = torch.randn(4).double(), torch.tensor(0.5).double()
    tweedie = Denoiser.posterior(pair, x_t, t).covariance.to_dense()
    covariance = pair.posterior(x_t, t).covariance.to_dense()
    torch.testing.assert_close(tweedie, covariance, rtol=1e-4, atol=1e-6)


def test_products_are_guided_and_sampled() -> None:
    schedule = VPSchedule(1e-3)
    pair = Product(denoiser(law(1), schedule), denoiser(law(2), schedule), EXACT)
    A, y = torch.randn(2, 4).double(), torch.randn(2).double()
    mean, V = product(law(1), law(2))
    gain = V @ A.mT @ torch.linalg.inv(A @ V @ A.mT + 0.1 * torch.eye(2))
    mean, V = mean + gain @ (y - A @ mean), V - gain @ A @ V
    guided = MMPS(pair, GaussianLikelihood(Dense(A), y, 0.1), GMRES(1e-8, 8))
    sampler = DPMSolver(ratio_times(schedule, 40, first=30.0, last=0.02))
    start = diffused(mean, (V + V.mT) / 2, schedule, sampler.times[0])
    found_mean, found = affine_law(sampler, guided, start=start)
    end_mean, end = diffused(mean, V, schedule, sampler.times[-1])
    torch.testing.assert_close(found_mean, end_mean, rtol=1e-2, atol=1e-2)
    assert (found - end).norm() < 0.03 * end.norm()


def test_sums_of_scores_are_something_else() -> None:
    """Added scores are those of the product without noise only."""
    schedule = VESchedule(1e-3, 1e3)
    one, two = denoiser(law(1), schedule), denoiser(law(2), schedule)
    exact = denoiser(product(law(1), law(2)), schedule)
    x_t, errors = torch.randn(4).double(), []
    for ratio in (0.01, 0.1, 1.0):
        t = schedule.time(torch.tensor(ratio).double())
        added = one(x_t, t) + two(x_t, t) - x_t
        errors.append(float((added - exact(x_t, t)).norm()) / ratio**2)
    assert errors[0] < 0.05 * errors[2] and errors[2] > 0.1, errors


def test_the_product_with_a_mixture_is_right_where_noise_is_low() -> None:
    """The product of a mixture and a Gaussian is a mixture, known in closed form."""
    schedule = VESchedule(1e-3, 1e3)
    means = torch.tensor([[-2.0, 0.0], [2.0, 1.0]]).double()
    s, r = 0.3, 1.5
    mixture = MixtureDenoiser(
        torch.ones(2).double(), means, Isotropic(torch.tensor(s).double(), 2), schedule
    )
    other = GaussianDenoiser(
        torch.zeros(2).double(), Isotropic(torch.tensor(r).double(), 2), schedule
    )
    v = s * r / (s + r)
    weights = torch.exp(-means.square().sum(-1) / (2 * (s + r)))
    exact = MixtureDenoiser(
        weights, means * v / s, Isotropic(torch.tensor(v).double(), 2), schedule
    )
    pair = Product(mixture, other, EXACT)
    x = means[0] * v / s + torch.tensor([[0.3, -0.2], [0.9, 0.4]]).double()
    errors = []
    for ratio in (0.1, 0.4, 1.6):
        t = schedule.time(torch.tensor(ratio).double())
        errors.append(float((pair(x, t) - exact(x, t)).abs().max()))
    assert errors[0] < 1e-6 and errors[1] < 1e-2, errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: Tempered(d, 0.0), "power > 0"),
        (lambda d: Product(d, denoiser(law(1), VPSchedule())), "same events and schedule"),
    ],
)
def test_bad_arguments_are_refused(call: Callable[[Denoiser], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(denoiser(law(1), VESchedule()))
