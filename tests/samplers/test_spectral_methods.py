"""DDNM, DDRM and RePaint: their formulas, and the biases that theory predicts, as exact laws."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    BlockDiagonal,
    Coarsen,
    Dense,
    Diagonal,
    Identity,
    Isotropic,
    Mask,
    Nonlinear,
    Operator,
    Stack,
)
from appa_prob.samplers import (
    DDIM,
    DDNM,
    DDRM,
    Denoiser,
    DPMSolver,
    GaussianDenoiser,
    GaussianLikelihood,
    Integrator,
    LatentLikelihood,
    Likelihood,
    MixtureDenoiser,
    RePaint,
    VESchedule,
    VPSchedule,
)
from appa_prob.samplers.modes import Modes
from appa_prob.samplers.testing import affine_law

SCHEDULE = VESchedule(1e-3, 1e2)
ETA = 0.85
Q = math.sqrt(1 - ETA**2)
SAMPLERS: dict[str, Callable[[int, Likelihood], Integrator]] = {
    "DDRM": lambda steps, y: DDRM(steps, likelihood=y),
    "RePaint": lambda steps, y: RePaint(steps, likelihood=y, rewinds=2),
}


def gaussian(covariance: Operator) -> GaussianDenoiser:
    return GaussianDenoiser(torch.zeros(covariance.in_shape).double(), covariance, SCHEDULE)


def scalar(p: float) -> GaussianDenoiser:
    return gaussian(Isotropic(torch.tensor(p).double(), 1))


def observed(y: float, rho: float, size: int = 1) -> GaussianLikelihood:
    """The first number of a state."""
    mask = torch.arange(size) == 0
    return GaussianLikelihood(Mask(mask), torch.tensor([y]).double(), rho)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


NOISES: dict[str, Callable[[Tensor], float | Tensor | Operator]] = {
    "isotropic": lambda R: 0.5,
    "diagonal": lambda R: R.diagonal(),
    "correlated": lambda R: Dense(R, symmetric=True),
}


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_modes_are_the_observation(noise: str, batch: tuple[int, ...]) -> None:
    """The likelihood of the modes is that of the observation, up to what no state explains."""
    A, F, y = random(3, 5), random(3, 3, seed=1), random(*batch, 3, seed=2)
    given = NOISES[noise](F @ F.mT + 0.2 * torch.eye(3).double())
    likelihood = GaussianLikelihood(Dense(A), y, given)
    modes = Modes.of(likelihood, "DDRM")
    x = random(7, *batch, 5, seed=3)
    r = (modes.y - modes.basis.adjoint(x)) / modes.std
    gap = likelihood.log_prob(x) + r.square().sum(-1) / 2
    torch.testing.assert_close(gap, gap[:1].expand_as(gap))
    basis = modes.basis.to_dense()
    torch.testing.assert_close(basis.mT @ basis, torch.eye(3).double())


def test_rows_that_say_the_same_are_one_mode() -> None:
    A = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0]]).double()
    modes = Modes.of(GaussianLikelihood(Dense(A), A[:, 0] * 3.0, 0.6), "DDRM")
    assert modes.y.abs().item() == pytest.approx(3.0)
    assert modes.std.item() == pytest.approx(math.sqrt(0.6 / 6))


def test_masks_need_no_matrix() -> None:
    mask = torch.rand(100, 100, generator=torch.Generator().manual_seed(0)) < 0.3
    A, y = Mask(mask), torch.zeros(int(mask.sum())).double()
    modes = Modes.of(GaussianLikelihood(A, y, torch.linspace(1, 2, len(y)).double()), "DDRM")
    assert not isinstance(modes.basis, Dense)
    whole = Modes.of(GaussianLikelihood(Identity((2, 3)), torch.ones(2, 3), 4.0), "DDRM")
    torch.testing.assert_close(whole.basis.forward(whole.y), torch.ones(2, 3))
    torch.testing.assert_close(whole.std, torch.full((6,), 2.0))


@pytest.mark.parametrize("noise", NOISES)
def test_null_space_guidance_by_dense_algebra(noise: str) -> None:
    means = random(3, 5)
    d = MixtureDenoiser(torch.ones(3).double(), means, Isotropic(0.3, 5), VPSchedule())
    A, F, y = random(3, 5, seed=1), random(3, 3, seed=2), random(3, seed=3)
    R = F @ F.mT + 0.2 * torch.eye(3).double()
    given = NOISES[noise](R)
    dense = {"isotropic": 0.5 * torch.eye(3).double(), "diagonal": torch.diag(R.diagonal())}
    white = torch.linalg.inv(torch.linalg.cholesky(dense.get(noise, R)))
    U, s, V = torch.linalg.svd(white @ A, full_matrices=False)
    x_t, t = random(4, 5, seed=4), torch.tensor([0.1, 0.3, 0.6, 0.9]).double()
    guided = DDNM(d, GaussianLikelihood(Dense(A), y, given))(x_t, t)
    for i in range(4):
        mean, r = d(x_t[i], t[i]), float(d.schedule.ratio(t[i]))
        gain = V.mT @ torch.diag((r * s).clamp_max(1.0) / s) @ U.mT @ white
        torch.testing.assert_close(guided[i], mean + gain @ (y - A @ mean))


def test_an_exact_observation_is_replaced_in_the_range() -> None:
    A, y = random(2, 4), random(2, seed=1)
    d = gaussian(Isotropic(torch.tensor(1.0).double(), 4))
    x_t, t = random(3, 4, seed=2), torch.tensor(0.5).double()
    x = DDNM(d, GaussianLikelihood(Dense(A), y, 1e-12))(x_t, t)
    inverse = torch.linalg.pinv(A)
    torch.testing.assert_close(x, d(x_t, t) + (y - d(x_t, t) @ A.mT) @ inverse.mT)


@pytest.mark.parametrize(("p", "rho"), [(1.5, 0.3), (0.5, 2.0)])
def test_null_space_guidance_has_the_variance_of_theory(p: float, rho: float) -> None:
    _, found = affine_law(DPMSolver(128), DDNM(scalar(p), observed(0.7, rho)))
    theta = math.sqrt(rho / p)
    expected = p * rho / (p + rho) * math.exp(-2 / theta * math.atan(theta))
    # The integrator's error is near 1e-3, and the kink of the gain adds to it.
    assert float(found) == pytest.approx(expected, rel=1e-2)


def test_restoration_in_many_steps_has_the_biases_of_theory() -> None:
    p, y = 1.5, 0.7
    d = gaussian(Isotropic(torch.tensor(p).double(), 2))
    spreads, gaps = [], []
    for steps in (32, 64, 128):
        mean, V = affine_law(DDRM(steps, likelihood=observed(y, 0.3, 2), eta=ETA), d)
        spreads.append(float(V[0, 0]))
        gaps.append(p * (1 + Q) / 2 - float(V[1, 1]))
        assert abs(float(V[0, 1])) < 1e-12
    # What is observed ends at y without spread, like 1 / steps; what isn't, short of its variance.
    assert abs(float(mean[0]) - y) < 0.1 and float(mean[1]) == pytest.approx(0.0, abs=1e-9)
    assert all(1.6 < a / b < 2.2 for a, b in pairwise(spreads)), spreads
    assert all(1.4 < a / b < 2.4 for a, b in pairwise(gaps)), gaps


def test_a_step_of_restoration_is_its_formula() -> None:
    A, y = random(2, 4), random(2, seed=1)
    d = gaussian(Dense(torch.diag(torch.tensor([1.0, 2.0, 0.5, 3.0])).double(), symmetric=True))
    sampler = DDRM(8, likelihood=GaussianLikelihood(Dense(A), y, 0.04), eta=0.6, eta_observed=0.8)
    x_t, z = random(4, seed=2), random(4, seed=3)
    U, singular, V = torch.linalg.svd(A / 0.2)
    for pair in ((0.9, 0.8), (0.5, 0.4), (0.45, 0.2)):
        t, s = torch.tensor(pair).double()
        r_t, r_s = d.schedule.ratio(t), d.schedule.ratio(s)
        mean, noise, u = V @ d(x_t, t), V @ z, V @ x_t
        expected = mean + 0.8 * r_s / r_t * (u - mean) + 0.6 * r_s * noise
        for i in range(2):
            target, std = (U.mT @ y)[i] / 0.2 / singular[i], 1 / singular[i]
            if r_s < std:
                expected[i] = mean[i] + 0.8 * r_s / std * (target - mean[i]) + 0.6 * r_s * noise[i]
            else:
                spread = (r_s**2 - (0.8 * std) ** 2).sqrt()
                expected[i] = mean[i] + 0.8 * (target - mean[i]) + spread * noise[i]
        found = sampler.step(d, x_t, t, s, lambda x: z, {})
        torch.testing.assert_close(found, V.mT @ expected)


def test_rewinds_tune_what_is_not_observed_to_what_is() -> None:
    c, y = 0.6, 0.7
    d = gaussian(Dense(torch.tensor([[1.0, c], [c, 1.0]]).double(), symmetric=True))
    likelihood = observed(y, 1e-8, 2)
    errors = []
    for rewinds in (0, 2, 8):
        mean, V = affine_law(RePaint(24, likelihood=likelihood, rewinds=rewinds), d)
        assert float(mean[0]) == pytest.approx(y, abs=1e-6) and float(V[0, 0]) < 1e-5
        errors.append(abs(float(mean[1]) - c * y))
    assert errors[0] > 0.4 * c * y  # without rewinds it is far from the posterior
    assert errors[1] < 0.6 * errors[0] and errors[2] < 0.3 * errors[0], errors
    gaps = []
    for steps in (16, 48):
        _, V = affine_law(RePaint(steps, likelihood=likelihood, rewinds=5), d)
        gaps.append(abs(float(V[1, 1]) - (1 - c**2)))
    assert gaps[1] < 0.5 * gaps[0], gaps


@pytest.mark.parametrize("method", SAMPLERS)
def test_several_observations_members_and_batches(method: str) -> None:
    """A stack of instruments with errors of their own, and an observation for each member."""
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, :2] = True
    A = Stack([Coarsen((2, 2), (4, 4)), Mask(mask)])
    R = BlockDiagonal([Isotropic(torch.tensor(0.01).double(), 4), Diagonal(random(2).exp())])
    d = gaussian(Isotropic(torch.tensor(1.0).double(), (4, 4)))
    y = random(3, 6, seed=1)

    def run(y: Tensor, seeds: range) -> Tensor:
        sampler = SAMPLERS[method](6, GaussianLikelihood(A, y, R))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        shape = (len(seeds),)
        noise = sampler.noise(d, shape, generator=generators, dtype=torch.float64)
        return sampler(d, noise, generator=generators)

    together = run(y, range(3))
    for i in range(3):
        alone = run(y[i], range(i, i + 1))[0]
        torch.testing.assert_close(together[i], alone)
    assert (A(together)[:, :4] - y[:, :4]).abs().max() < 0.5


@pytest.mark.parametrize("method", ["DDNM", *SAMPLERS])
def test_mixtures_keep_to_exact_observations_and_to_their_components(method: str) -> None:
    means = torch.tensor([[-3.0, 1.0], [3.0, -1.0]]).double()
    d = MixtureDenoiser(
        torch.ones(2).double(), means, Isotropic(torch.tensor(0.05).double(), 2), SCHEDULE
    )
    likelihood = observed(3.0, 1e-4, 2)
    sampler: Integrator = DDIM(48, eta=1.0)
    guided: Denoiser = d
    if method == "DDNM":
        guided = DDNM(d, likelihood)
    else:
        sampler = SAMPLERS[method](48, likelihood)
    g = torch.Generator().manual_seed(0)
    noise = sampler.noise(d, (200,), generator=g, dtype=torch.float64)
    x = sampler(guided, noise, generator=g)
    posterior = d.law.condition(likelihood)
    assert (x[:, 0] - 3.0).abs().max() < 0.1
    assert ((x.mean(0) - posterior.mean).abs() < torch.tensor([0.02, 0.1])).all()
    assert x[:, 1].std() < 1.2 * posterior.covariance.diagonal()[1].sqrt()


def test_latents_with_linear_decoders_are_linear() -> None:
    D, A, y = Dense(random(4, 2)), Dense(random(3, 4, seed=1)), random(3, seed=2)
    latent = Modes.of(LatentLikelihood(GaussianLikelihood(A, y, 0.3), D), "DDRM")
    direct = Modes.of(GaussianLikelihood(A @ D, y, 0.3), "DDRM")
    torch.testing.assert_close(latent.std, direct.std)


@pytest.mark.parametrize("method", ["DDNM", "DDRM", "RePaint"])
def test_other_likelihoods_are_refused(method: str) -> None:
    def make(likelihood: Likelihood) -> object:
        if method == "DDNM":
            return DDNM(gaussian(Isotropic(torch.tensor(1.0).double(), 2)), likelihood)
        return SAMPLERS[method](4, likelihood)

    curved = GaussianLikelihood(Nonlinear(torch.exp, 2, 2), torch.ones(2).double(), 0.1)
    with pytest.raises(ValueError, match=f"{method} works along the singular vectors"):
        make(curved)
    maps = Dense(random(3, 2, 2))
    with pytest.raises(ValueError, match=f"{method} needs one map"):
        make(GaussianLikelihood(maps, random(3, 2), 0.1))


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="eta and eta_observed"):
        DDRM(8, likelihood=observed(0.0, 1.0), eta=1.5)
    with pytest.raises(ValueError, match="rewinds >= 0"):
        RePaint(8, likelihood=observed(0.0, 1.0), rewinds=-1)
