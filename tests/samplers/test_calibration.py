"""Simulation-based calibration: exact methods pass, DPS does not.

A correct sampler fails a test here once in 10^4 seeds; all are seeded.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from appa_prob.operators import Cholesky, Dense, Isotropic
from appa_prob.samplers import (
    DPS,
    MMPS,
    TDS,
    Denoiser,
    DPMSolver,
    GaussianDenoiser,
    GaussianLikelihood,
    Guidance,
    Likelihood,
    MixtureDenoiser,
    VESchedule,
)
from appa_prob.samplers.testing import Calibration, sbc

FAILURE = 1e-4
A = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -1.0]]).double()
VARIANCE = 0.4
SCHEDULE = VESchedule(1e-2, 1e2)


def gaussian() -> GaussianDenoiser:
    F = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()
    V = F @ F.mT + 0.2 * torch.eye(3).double()
    return GaussianDenoiser(torch.ones(3).double(), Dense(V, symmetric=True), SCHEDULE)


def mixture() -> MixtureDenoiser:
    means = torch.tensor([[-3.0, 0.0, 1.0], [2.0, 2.0, -1.0]]).double()
    return MixtureDenoiser(
        torch.tensor([0.4, 0.6]).double(),
        means,
        Isotropic(torch.tensor(0.5).double(), 3),
        SCHEDULE,
    )


def observe(x: Tensor, g: torch.Generator) -> Tensor:
    noise = torch.randn(*x.shape[:-1], 2, generator=g, dtype=x.dtype)
    y: Tensor = x @ A.mT + VARIANCE**0.5 * noise
    return y


def guided(
    prior: Denoiser, make: Callable[[Denoiser, Likelihood], Guidance]
) -> Callable[[Tensor, int, torch.Generator], Tensor]:
    def posterior(y: Tensor, draws: int, g: torch.Generator) -> Tensor:
        d = make(prior, GaussianLikelihood(Dense(A), y, VARIANCE))
        sampler = DPMSolver(48)
        return sampler(
            d, sampler.noise(d, (draws, len(y)), generator=g, dtype=torch.float64), generator=g
        )

    return posterior


def draw_gaussian(n: int, g: torch.Generator) -> Tensor:
    d = gaussian()
    return d.mean + d.covariance.sample((n,), g)


def solved(d: Denoiser, y: Likelihood) -> MMPS:
    return MMPS(d, y, Cholesky())


def test_solved_mmps_is_calibrated_for_a_gaussian() -> None:
    found = sbc(draw_gaussian, observe, guided(gaussian(), solved), trials=256)
    assert found.ranks.shape == (256, 3)
    assert found.pvalue() > FAILURE


def test_dps_is_not() -> None:
    """The test of the test."""
    found = sbc(draw_gaussian, observe, guided(gaussian(), DPS), trials=256)
    assert found.pvalue() < 1e-10


def exact(y: Tensor, draws: int, g: torch.Generator) -> Tensor:
    law = mixture().law
    return torch.stack(
        [
            law.condition(GaussianLikelihood(Dense(A), row, VARIANCE)).sample((draws,), g)
            for row in y
        ],
        1,
    )


def twisted(y: Tensor, draws: int, g: torch.Generator) -> Tensor:
    """A run of 96 particles for each observation, of which some are drawn."""
    sampler = TDS(48, likelihood=GaussianLikelihood(Dense(A), y[:, None], VARIANCE))
    noise = sampler.noise(mixture(), (len(y), 96), generator=g, dtype=torch.float64)
    x = sampler(mixture(), noise, generator=g)
    return x[:, torch.randperm(96, generator=g)[:draws]].transpose(0, 1)


@pytest.mark.parametrize("posterior", [exact, twisted])
def test_exact_methods_are_calibrated_for_a_mixture(
    posterior: Callable[[Tensor, int, torch.Generator], Tensor],
) -> None:
    found = sbc(lambda n, g: mixture().law.sample((n,), g), observe, posterior, trials=192)
    assert found.pvalue() > FAILURE


def test_dps_is_not_calibrated_for_a_mixture() -> None:
    prior = mixture()
    found = sbc(lambda n, g: prior.law.sample((n,), g), observe, guided(prior, DPS), trials=256)
    assert found.pvalue() < 1e-10


def test_pvalues_are_uniform_for_uniform_ranks() -> None:
    g = torch.Generator().manual_seed(0)
    ranks = torch.randint(0, 32, (400, 2000), generator=g)
    found = Calibration(ranks, 31).pvalues(8)
    for level in (0.01, 0.1, 0.5):
        share = float((found < level).double().mean())
        assert abs(share - level) < 5 * (level / 2000) ** 0.5


def test_functions_and_bad_options() -> None:
    found = sbc(
        draw_gaussian,
        observe,
        guided(gaussian(), solved),
        trials=64,
        statistic=lambda x: x.square().sum(-1, keepdim=True),
    )
    assert found.ranks.shape == (64, 1)
    with pytest.raises(ValueError, match="divides 32"):
        found.pvalues(5)
    with pytest.raises(ValueError, match="expected draws of shape"):
        sbc(draw_gaussian, observe, lambda y, n, g: y, trials=8)
