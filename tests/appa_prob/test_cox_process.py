"""Counts on a grid with a Gaussian process as the prior of log-intensities, against NUTS.

NUTS samples the same posterior in the coordinates in which the prior is white, in eight chains at
once. Differences are of means, in units of their standard errors by the effective number of draws:
5 of these, in the worst of 9 cells, are exceeded by a right sampler once in 10^5 seeds.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from appa_prob import DiffusionPrior, condition
from appa_prob.operators import Dense
from appa_prob.samplers import TDS, DPMSolver, GaussianDenoiser, IteratedMMPS, VESchedule

SIDE, CHAINS = 3, 8
SHAPE = (SIDE, SIDE)
PLACE = torch.cartesian_prod(torch.arange(float(SIDE)), torch.arange(float(SIDE))).double()
V = torch.exp(-torch.cdist(PLACE, PLACE).square() / 8) + 1e-2 * torch.eye(SIDE**2).double()
ROOT = torch.linalg.cholesky(V)
COUNTS = {  # and the mean of their log-intensities
    "some": (1.0, torch.tensor([[2.0, 1.0, 0.0], [3.0, 2.0, 2.0], [7.0, 6.0, 3.0]]).double()),
    "few": (-1.0, torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [2.0, 0.0, 0.0]]).double()),
}


def program(y: Tensor, level: float) -> None:
    denoiser = GaussianDenoiser(
        torch.full(SHAPE, level).double(), Dense(V, SHAPE, SHAPE, symmetric=True), VESchedule(0.02)
    )
    x = pyro.sample("x", DiffusionPrior(denoiser, DPMSolver(32), dtype=torch.float64))
    with pyro.plate_stack("grid", SHAPE):
        pyro.sample("y", dist.Poisson(x.exp()), obs=y)


def white(y: Tensor, level: float) -> None:
    """Copies of the same problem, one for each chain."""
    with pyro.plate("chains", CHAINS):
        z = pyro.sample("z", dist.Normal(torch.zeros(SIDE**2).double(), 1.0).to_event(1))
        x = level + z @ ROOT.mT
        pyro.sample("y", dist.Poisson(x.exp()).to_event(1), obs=y.flatten().expand(CHAINS, -1))


class Law(NamedTuple):
    """Means and standard deviations, and what they are worth in independent draws."""

    mean: Tensor
    spread: Tensor
    draws: Tensor

    def gap(self, x: Tensor, draws: float) -> float:
        """The worst difference of means, in standard errors."""
        error = self.spread * (1 / self.draws + 1 / draws).sqrt()
        return float(((x.flatten(1).mean(0) - self.mean) / error).abs().max())

    def ratio(self, x: Tensor) -> float:
        """The standard deviation of samples over that of the law, on average."""
        return float((x.flatten(1).std(0) / self.spread).mean())


@cache
def nuts(name: str) -> Law:
    level, y = COUNTS[name]
    pyro.set_rng_seed(0)
    mcmc = MCMC(NUTS(white), num_samples=150, warmup_steps=60, disable_progbar=True)
    mcmc.run(y, level)
    x = level + mcmc.get_samples()["z"] @ ROOT.mT
    assert x.shape == (150, CHAINS, SIDE**2)
    assert float(split_gelman_rubin(x, sample_dim=0, chain_dim=1).max()) < 1.03
    n = effective_sample_size(x, sample_dim=0, chain_dim=1).clamp_max(150.0 * CHAINS)
    assert float(n.min()) > 400
    return Law(x.mean((0, 1)), x.flatten(0, 1).std(0), n)


def importance(name: str) -> Law:
    """By importance sampling from the Gaussian of Laplace, widened."""
    level, y = COUNTS[name]
    y, x = y.flatten(), torch.full((SIDE**2,), level).double()
    start = x
    for _ in range(30):
        rate = x.exp()
        step = start + V @ torch.linalg.solve(V + (1 / rate).diag(), (y - rate) / rate + x - start)
        x = x + (step - x).clamp(-1, 1)
    wide = 1.5 * (V - V @ torch.linalg.solve(V + (1 / x.exp()).diag(), V))
    law = dist.MultivariateNormal(x, (wide + wide.mT) / 2)
    draws = law.sample((100_000,))
    prior = dist.MultivariateNormal(start, V).log_prob(draws)
    weights = (prior + (y * draws - draws.exp()).sum(-1) - law.log_prob(draws)).softmax(0)
    mean = weights @ draws
    spread = (weights @ (draws - mean).square()).sqrt()
    return Law(mean, spread, (1 / weights.square().sum()).expand(SIDE**2))


@pytest.mark.parametrize("name", COUNTS)
def test_nuts_agrees_with_importance_sampling(name: str) -> None:
    found, exact = nuts(name), importance(name)
    assert float(exact.draws.min()) > 10_000
    error = exact.spread * (1 / found.draws + 1 / exact.draws).sqrt()
    assert float(((found.mean - exact.mean) / error).abs().max()) < 5
    assert float((found.spread / exact.spread - 1).abs().max()) < 0.15


def annealing(y: Tensor, level: float) -> Tensor:
    return condition(program, y, level, num_samples=500)["x"]


def twisted(y: Tensor, level: float) -> Tensor:
    guidance = partial(IteratedMMPS, iterations=2)
    sampler: Any = lambda likelihood: TDS(64, likelihood=likelihood, guidance=guidance)  # noqa: E731
    return condition(program, y, level, num_samples=500, integrator=sampler)["x"]


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize(("sampler", "share"), [(annealing, 1.0), (twisted, 0.4)])
def test_counts_match_nuts_within_monte_carlo_error(
    name: str, sampler: Callable[[Tensor, float], Tensor], share: float
) -> None:
    """Samples of annealing are independent; twisted ones share ancestors."""
    level, y = COUNTS[name]
    law = nuts(name)
    pyro.set_rng_seed(0)
    x = sampler(y, level)
    assert law.gap(x, 500 * share) < 5
    assert 0.9 < law.ratio(x) < 1.1


def test_gauss_and_newton_alone_do_not() -> None:
    """The mode is not the mean, where counts are few: the comparison sees it."""
    level, y = COUNTS["few"]
    pyro.set_rng_seed(0)
    x = condition(program, y, level, num_samples=1000, guidance=IteratedMMPS)["x"]
    assert 5 < importance("few").gap(x, 1000) < 12
    assert 0.9 < importance("few").ratio(x) < 1.1
