"""Counts on a grid with a Gaussian process as the prior of log-intensities, against NUTS."""

from functools import partial

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

from appa_prob import DiffusionPrior, condition
from appa_prob.operators import Dense
from appa_prob.samplers import TDS, DPMSolver, GaussianDenoiser, IteratedMMPS, VESchedule

SIDE, LEVEL = 3, 1.0
PLACE = torch.cartesian_prod(torch.arange(float(SIDE)), torch.arange(float(SIDE))).double()
V = torch.exp(-torch.cdist(PLACE, PLACE).square() / 8) + 1e-2 * torch.eye(SIDE**2).double()
ROOT = torch.linalg.cholesky(V)
Y = torch.tensor([[2.0, 1.0, 0.0], [3.0, 2.0, 2.0], [7.0, 6.0, 3.0]]).double()


SHAPE = (SIDE, SIDE)
DENOISER = GaussianDenoiser(
    torch.full(SHAPE, LEVEL).double(), Dense(V, SHAPE, SHAPE, symmetric=True), VESchedule(0.02)
)
PRIOR = DiffusionPrior(DENOISER, DPMSolver(32), dtype=torch.float64)


def program(y: Tensor) -> None:
    x = pyro.sample("x", PRIOR)
    with pyro.plate_stack("grid", SHAPE):
        pyro.sample("y", dist.Poisson(x.exp()), obs=y)


def plain(y: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(SIDE**2).double(), 1.0).to_event(1))
    x = pyro.deterministic("x", LEVEL + (ROOT @ z).reshape(SIDE, SIDE))
    with pyro.plate_stack("grid", SHAPE):
        pyro.sample("y", dist.Poisson(x.exp()), obs=y)


def exact() -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation, by importance sampling from Laplace's Gaussian."""
    y, level = Y.flatten(), torch.full((SIDE**2,), LEVEL).double()
    x = level
    for _ in range(30):
        rate = x.exp()
        S = V + (1 / rate).diag()
        x = level + V @ torch.linalg.solve(S, (y - rate) / rate + x - level)
    wide = 1.5 * (V - V @ torch.linalg.solve(V + (1 / x.exp()).diag(), V))
    law = dist.MultivariateNormal(x, (wide + wide.mT) / 2)
    draws = law.sample((100_000,))
    prior = dist.MultivariateNormal(level, V).log_prob(draws)
    weights = (prior + (y * draws - draws.exp()).sum(-1) - law.log_prob(draws)).softmax(0)
    assert 1 / weights.square().sum() > 10_000
    mean = weights @ draws
    return mean, (weights @ (draws - mean).square()).sqrt()


def gap(samples: Tensor) -> Tensor:
    """Differences of means in standard deviations."""
    mean, spread = exact()
    return (samples.flatten(1).mean(0) - mean).abs() / spread


def test_nuts_agrees_with_the_reference() -> None:
    pyro.set_rng_seed(0)
    mcmc = MCMC(NUTS(plain), num_samples=250, warmup_steps=100, disable_progbar=True)
    mcmc.run(Y)
    z = mcmc.get_samples()["z"]
    x = LEVEL + z @ ROOT.mT
    # 5 standard errors of at least 100 effective samples.
    assert float(gap(x).max()) < 5 / 100**0.5


def test_twisted_particles_agree_within_monte_carlo_error() -> None:
    pyro.set_rng_seed(0)
    guidance = partial(IteratedMMPS, iterations=2)
    found = condition(
        program,
        Y,
        num_samples=500,
        integrator=lambda y: TDS(64, likelihood=y, guidance=guidance),
    )["x"]
    # 5 standard errors of at least 200 effective particles.
    assert float(gap(found).max()) < 5 / 200**0.5


def test_the_default_guidance_is_close() -> None:
    """The mode, which Gauss and Newton go to, is not quite the mean."""
    pyro.set_rng_seed(0)
    found = condition(program, Y, num_samples=400)["x"]
    assert float(gap(found).mean()) < 0.3
    _, spread = exact()
    assert 0.85 < float((found.flatten(1).std(0) / spread).mean()) < 1.15
