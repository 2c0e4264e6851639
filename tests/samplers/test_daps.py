"""Decoupled annealing: exact laws for Gaussians, quadrature for the rest."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from appa_prob.likelihoods import Poisson
from appa_prob.operators import (
    CG,
    BlockDiagonal,
    Dense,
    Diagonal,
    Identity,
    Isotropic,
    Nonlinear,
)
from appa_prob.samplers import (
    DAPS,
    GaussianDenoiser,
    GaussianLikelihood,
    MixtureDenoiser,
    VESchedule,
    VPSchedule,
)
from appa_prob.samplers.integrator import drawing
from appa_prob.samplers.linearised import Linearised, coloured
from appa_prob.samplers.testing import affine_law

SCHEDULE = VESchedule(1e-3, 1e2)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def scalar(p: float) -> GaussianDenoiser:
    variance = Isotropic(torch.tensor(p).double(), 1)
    return GaussianDenoiser(torch.zeros(1).double(), variance, SCHEDULE)


def observed(y: float, rho: float) -> GaussianLikelihood:
    return GaussianLikelihood(Isotropic(1.0, 1), torch.tensor([y]).double(), rho)


@pytest.mark.parametrize("schedule", [SCHEDULE, VPSchedule(1e-2)], ids=["VE", "VP"])
def test_the_law_tends_to_the_posterior_at_order_one(schedule: VESchedule | VPSchedule) -> None:
    F, A, y, G = random(3, 3), random(2, 3, seed=1), random(2, seed=2), random(2, 2, seed=3)
    V, R = F @ F.mT + 0.3 * torch.eye(3).double(), G @ G.mT + 0.1 * torch.eye(2).double()
    prior = GaussianDenoiser(random(3, seed=4), Dense(V, symmetric=True), schedule)
    likelihood = GaussianLikelihood(Dense(A), y, Dense(R, symmetric=True))
    gain = V @ A.mT @ torch.linalg.inv(A @ V @ A.mT + R)
    mean, covariance = prior.mean + gain @ (y - A @ prior.mean), V - gain @ A @ V
    errors = []
    for steps in (32, 64, 128):
        found, spread = affine_law(DAPS(steps, likelihood=likelihood), prior)
        gap = (spread - covariance).norm() / covariance.norm()
        errors.append(float(gap + (found - mean).norm() / mean.norm()))
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert errors[-1] < 0.1, errors
    assert all(0.7 < slope < 1.4 for slope in slopes), (errors, slopes)


def test_a_solved_flow_counts_the_spread_of_the_prior_twice() -> None:
    p, rho, y = 1.5, 0.3, 0.7
    gaps = []
    for flow in (2, 4, 12):
        times = torch.linspace(1, 0.2, 64).tolist()
        mean, V = affine_law(DAPS(times, likelihood=observed(y, rho), flow=flow), scalar(p))
        wide = 2 * p
        gaps.append(abs(float(mean) - y * wide / (wide + rho)) / y)
    # A few steps of the flow leave some of the way to it.
    assert gaps[2] < 0.5 * gaps[1] < 0.5 * gaps[0] and gaps[2] < 0.02, gaps
    assert float(V) == pytest.approx(wide * rho / (wide + rho), rel=0.05)


def test_modes_are_right_and_their_weights_only_roughly() -> None:
    """Each mode of a mixture is sampled as it is; how often was decided where noise was large."""
    means = torch.tensor([[-3.0, 1.0], [2.0, 2.0], [4.0, -3.0]]).double()
    d = MixtureDenoiser(
        torch.tensor([0.5, 0.3, 0.2]).double(),
        means,
        Isotropic(torch.tensor(0.6).double(), 2),
        VESchedule(0.02, 50.0),
    )
    likelihood = GaussianLikelihood(
        Dense(torch.tensor([[1.0, 0.7]]).double()), torch.tensor([1.9]).double(), 0.5
    )
    posterior = d.law.condition(likelihood)
    sampler, g = DAPS(96, likelihood=likelihood), torch.Generator().manual_seed(0)
    x = sampler(d, sampler.noise(d, (1500,), generator=g, dtype=torch.float64), generator=g)
    nearest = torch.cdist(x, posterior.means).argmin(-1)
    for k in (1, 2):
        own, V = x[nearest == k], posterior.covariances.to_dense().expand(3, 2, 2)[k]
        # Five standard errors, and some for the steps.
        bound = 5 * (V.diagonal() / len(own)).sqrt() + 0.05
        assert ((own.mean(0) - posterior.means[k]).abs() < bound).all()
        assert ((own.var(0) / V.diagonal() - 1).abs() < 5 * math.sqrt(2 / len(own)) + 0.1).all()
    shares = torch.bincount(nearest, minlength=3) / len(x)
    assert (shares[1:] > 0.2).all() and shares[0] < 0.1
    assert (shares - posterior.log_weights.exp()).abs().max() > 0.1  # as is said


def quadrature(d: GaussianDenoiser, likelihood: GaussianLikelihood) -> tuple[float, float]:
    """The mean and the variance of the posterior of a scalar."""
    x = torch.linspace(-8, 8, 4001).double()[:, None]
    variance = float(d.covariance.diagonal())
    log = likelihood.log_prob(x) - x[:, 0].square() / (2 * variance)
    weights = torch.softmax(log, 0)
    mean = float((weights * x[:, 0]).sum())
    return mean, float((weights * (x[:, 0] - mean).square()).sum())


def test_nonlinear_maps_by_quadrature() -> None:
    d = scalar(1.0)
    map = Nonlinear(lambda x: x + x.pow(3) / 3, 1, 1)
    likelihood = GaussianLikelihood(map, torch.tensor([0.5]).double(), 0.3)
    mean, variance = quadrature(d, likelihood)
    sampler, g = DAPS(192, likelihood=likelihood), torch.Generator().manual_seed(0)
    x = sampler(d, sampler.noise(d, (4000,), generator=g, dtype=torch.float64), generator=g)
    # Five standard errors, and a hundredth for the steps.
    assert abs(float(x.mean()) - mean) < 5 * math.sqrt(variance / len(x)) + 0.01
    assert abs(float(x.var()) / variance - 1) < 5 * math.sqrt(2 / len(x)) + 0.05


def test_the_chain_leaves_what_it_samples_as_it_is() -> None:
    """Draws from N(x, r^2) p(y | x) by quadrature: with few moves it is biased, with many not."""
    likelihood = GaussianLikelihood(Nonlinear(torch.exp, 1, 1), torch.tensor([2.0]).double(), 0.5)
    start, r = torch.full((20000, 1), -1.0).double(), 1.0
    grid = torch.linspace(-8, 6, 4001).double()[:, None]
    log = likelihood.log_prob(grid) - (grid[:, 0] + 1.0).square() / (2 * r**2)
    weights = torch.softmax(log, 0)
    mean = float((weights * grid[:, 0]).sum())
    g = torch.Generator().manual_seed(0)

    def draw(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=g, dtype=x.dtype)

    gaps = {
        moves: float(DAPS(2, likelihood=likelihood, moves=moves)._given(start, r, draw).mean())
        - mean
        for moves in (0, 60)
    }
    assert abs(gaps[60]) < 0.02 < abs(gaps[0]), gaps


@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "correlated", "blocks"])
def test_noise_gets_its_colour(kind: str) -> None:
    F = random(3, 3)
    R = {
        "isotropic": Isotropic(torch.tensor(2.0).double(), 3),
        "diagonal": Diagonal(random(3).exp()),
        "correlated": Dense(F @ F.mT, symmetric=True),
        "blocks": BlockDiagonal(
            [Isotropic(torch.tensor(2.0).double(), 1), Dense((F @ F.mT)[:2, :2], symmetric=True)]
        ),
    }[kind]
    L = coloured(R, torch.eye(3).double()).mT
    torch.testing.assert_close(L @ L.mT, R.to_dense())


def test_the_linearised_likelihood_is_its_own_for_linear_maps() -> None:
    likelihood = GaussianLikelihood(Dense(random(2, 3)), random(2, seed=1), 0.2)
    laplace = Linearised(likelihood, random(4, 3, seed=2), 0.7, CG(rtol=1e-6))
    excess = laplace.excess(random(5, 4, 3, seed=3))
    torch.testing.assert_close(excess, excess[:1].expand_as(excess))


def test_members_do_not_depend_on_each_other() -> None:
    prior = GaussianDenoiser(
        torch.zeros(2).double(), Isotropic(torch.tensor(1.0).double(), 2), SCHEDULE
    )
    y = random(3, 2)

    def run(y: Tensor, seeds: range) -> Tensor:
        likelihood = GaussianLikelihood(Nonlinear(torch.sinh, 2, 2), y, 0.1)
        sampler = DAPS(12, likelihood=likelihood)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = sampler.noise(prior, (len(seeds),), generator=generators, dtype=torch.float64)
        return sampler(prior, noise, generator=generators)

    together = run(y, range(3))
    for i in range(3):
        torch.testing.assert_close(together[i], run(y[i], range(i, i + 1))[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"flow": 0}, "flow >= 1"), ({"moves": -1}, "moves >= 0"), ({"beta": 0.0}, "beta in")],
)
def test_bad_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DAPS(8, likelihood=observed(0.0, 1.0), **options)  # type: ignore[arg-type]


def test_a_linearisation_at_the_mode_does_not_overshoot() -> None:
    """Counts of 3 where the prior expects none: the Gaussian at the start lies at 40, where
    10^17 are expected; that at the mode is nearly what it approximates, and the chain from there
    leaves its law."""
    y = Poisson(Identity(1)).given(torch.tensor([3.0]).double())
    start, r = torch.full((4000, 1), -6.0).double(), 4.0
    assert float(Linearised(y, start, r, CG()).mean.max()) > 40
    mode = Linearised(y, start, r, CG(), iterations=8)
    x = torch.linspace(-8, 6, 4001).double()[:, None]
    density = (y.log_prob(x) - (x[:, 0] + 6).square() / (2 * r**2)).softmax(0)
    assert float((mode.mean - x[density.argmax()]).abs().max()) < 0.01
    g = torch.Generator().manual_seed(0)
    for found in (mode, Linearised(y, start, r, CG(), iterations=2)):
        drawn = found.sample(drawing(g), moves=40, beta=0.7)[:, 0]
        mean = density @ x[:, 0]
        spread = (density @ (x[:, 0] - mean).square()).sqrt()
        # 5 standard errors of 4000 independent chains
        assert abs(float((drawn.mean() - mean) / spread)) < 5 / 4000**0.5
        assert abs(float(drawn.std() / spread) - 1) < 5 / 8000**0.5
