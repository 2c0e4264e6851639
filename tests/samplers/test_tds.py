"""Twisted sequential Monte Carlo against exact evidences, means and mixtures."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from appa_prob.operators import Dense, Diagonal, Isotropic, Nonlinear
from appa_prob.samplers import (
    MMPS,
    SDA,
    TDS,
    TMPD,
    Conditioning,
    Denoiser,
    GaussianDenoiser,
    GaussianLikelihood,
    Likelihood,
    MixtureDenoiser,
    Particles,
    PiGDM,
    VESchedule,
    VPSchedule,
)
from appa_prob.samplers.particles import effective_size, systematic

SCHEDULE = VESchedule(0.02, 50.0)
VARIANCE = torch.tensor(0.6).double()
MEANS = torch.tensor([[-3.0, 1.0], [2.0, 2.0], [4.0, -3.0]]).double()


def mixture() -> MixtureDenoiser:
    return MixtureDenoiser(
        torch.tensor([0.5, 0.3, 0.2]).double(),
        MEANS,
        Isotropic(torch.tensor(0.6).double(), 2),
        SCHEDULE,
    )


LIKELIHOOD = GaussianLikelihood(
    Dense(torch.tensor([[1.0, 0.7]]).double()), torch.tensor([1.9]).double(), 0.5
)


def run(sampler: TDS, d: Denoiser, runs: int, count: int, seed: int = 0) -> Particles:
    g = torch.Generator().manual_seed(seed)
    return sampler.particles(
        d, sampler.noise(d, (runs, count), generator=g, dtype=torch.float64), generator=g
    )


def exact_evidence(d: MixtureDenoiser, likelihood: GaussianLikelihood) -> float:
    x = torch.zeros(2).double()
    law = d.law
    return float(law.log_prob(x) + likelihood.log_prob(x) - law.condition(likelihood).log_prob(x))


TWISTS: dict[str, Callable[[Denoiser, Likelihood], Conditioning]] = {
    "MMPS": MMPS,
    "PiGDM": PiGDM,
    "TMPD": TMPD,
    "SDA": lambda d, y: SDA(d, y, gamma=1.0),
}


@pytest.mark.parametrize("guidance", TWISTS.values(), ids=TWISTS)
def test_modes_and_evidence_are_exact_whatever_the_twist(
    guidance: Callable[[Denoiser, Likelihood], Conditioning],
) -> None:
    d = mixture()
    particles = run(TDS(128, likelihood=LIKELIHOOD, guidance=guidance), d, 2, 400)
    posterior = d.law.condition(LIKELIHOOD)
    # Five standard errors, and 0.02 for the steps, of which there are 128.
    error = float(particles.standard_error)
    gap = float(particles.log_evidence) - exact_evidence(d, LIKELIHOOD)
    assert 0 < error < 0.5
    assert abs(gap) < 5 * error + 0.02
    nearest = torch.cdist(particles.x, posterior.means).argmin(-1)
    shares = torch.stack([particles.weights[nearest == k].sum() for k in range(3)])
    exact = posterior.log_weights.exp()
    bound = 5 * (exact * (1 - exact) / particles.effective_size).sqrt() + 0.03
    assert ((shares - exact).abs() < bound).all()
    samples = particles.sample(1000, torch.Generator().manual_seed(0))
    assert samples.shape == (1000, 2)
    bound = 5 * (posterior.covariance.diagonal() / particles.effective_size).sqrt() + 0.05
    assert ((samples.mean(0) - posterior.mean).abs() < bound).all()


def test_guidance_alone_gets_the_modes_wrong() -> None:
    """So that the test above says something."""
    d = mixture()
    sampler = TDS(64, likelihood=LIKELIHOOD, threshold=0.0)
    x = run(sampler, d, 2, 300).x.flatten(0, 1)  # not weighted: ancestral sampling of MMPS
    posterior = d.law.condition(LIKELIHOOD)
    shares = torch.bincount(torch.cdist(x, posterior.means).argmin(-1), minlength=3) / len(x)
    assert (shares - posterior.log_weights.exp()).abs().max() > 0.1


def test_the_standard_error_is_that_of_repeated_runs() -> None:
    d = mixture()
    sampler = TDS(32, likelihood=LIKELIHOOD)
    particles = run(sampler, d, 100, 48)
    spread = float((particles.log_evidences - particles.log_evidence).exp().std())
    within = torch.stack(
        [
            Particles(
                *(
                    field[i : i + 1]
                    for field in (
                        particles.x,
                        particles.log_weights,
                        particles.log_evidences,
                        particles.ancestors,
                        particles.resamplings,
                    )
                )
            ).standard_error
            for i in range(100)
        ]
    )
    assert 0.6 * spread < float(within.square().mean().sqrt()) < 1.6 * spread
    assert float(particles.standard_error) == pytest.approx(spread / 10, rel=0.5)


def test_as_an_integrator_it_returns_equal_samples() -> None:
    d = GaussianDenoiser(
        torch.zeros(3).double(), Diagonal(torch.tensor([1.0, 2.0, 0.5]).double()), VPSchedule()
    )
    A = torch.randn(2, 3).double()
    y = GaussianLikelihood(Dense(A), torch.tensor([1.0, -1.0]).double(), 0.3)
    sampler = TDS(64, likelihood=y)
    g = torch.Generator().manual_seed(0)
    x = sampler(d, sampler.noise(d, (1000,), generator=g, dtype=torch.float64), generator=g)
    V = torch.diag(torch.tensor([1.0, 2.0, 0.5]).double())
    gain = V @ A.mT @ torch.linalg.inv(A @ V @ A.mT + 0.3 * torch.eye(2))
    mean, covariance = gain @ y.y, V - gain @ A @ V
    assert ((x.mean(0) - mean).abs() < 6 * (covariance.diagonal() / 500).sqrt() + 0.02).all()
    assert ((x.mT.cov() - covariance).abs() < 0.15).all()


def test_runs_do_not_depend_on_each_other() -> None:
    d = mixture()
    sampler = TDS(16, likelihood=LIKELIHOOD)
    seeds = [torch.Generator().manual_seed(i) for i in range(3)]
    noise = sampler.noise(d, (3, 20), generator=seeds, dtype=torch.float64)
    together = sampler.particles(d, noise, generator=seeds)
    alone = torch.Generator().manual_seed(1)
    noise = sampler.noise(d, (1, 20), generator=[alone], dtype=torch.float64)
    single = sampler.particles(d, noise, generator=[alone])
    torch.testing.assert_close(together.x[1], single.x[0])
    torch.testing.assert_close(together.log_evidences[1], single.log_evidences[0])


def test_resampling_is_adaptive() -> None:
    d = mixture()
    never = run(TDS(16, likelihood=LIKELIHOOD, threshold=0.0), d, 2, 20)
    always = run(TDS(16, likelihood=LIKELIHOOD, threshold=1.0), d, 2, 20)
    assert never.resamplings.tolist() == [0, 0]
    assert (never.ancestors == torch.arange(20)).all()
    assert (always.resamplings >= 15).all()


def test_systematic_resampling_keeps_shares_to_within_one() -> None:
    weights = torch.softmax(torch.randn(5, 30).double(), -1)
    index = systematic(weights, torch.rand(5).double(), 100)
    counts = torch.stack([torch.bincount(row, minlength=30) for row in index])
    assert ((counts - 100 * weights).abs() < 1).all()
    assert effective_size(weights.log()).max() <= 30


def test_nonlinear_maps_of_any_likelihood() -> None:
    """A map with two roots: the weights know both, the Gauss-Newton twist one at a time."""
    d = GaussianDenoiser(
        torch.zeros(1).double(), Isotropic(torch.tensor(1.0).double(), 1), SCHEDULE
    )
    square = Nonlinear(torch.square, 1, 1)
    likelihood: Likelihood = GaussianLikelihood(square, torch.tensor([1.0]).double(), 0.1)
    particles = run(TDS(100, likelihood=likelihood), d, 2, 400)
    grid = torch.linspace(-5, 5, 20001).double()[:, None]
    joint = likelihood.log_prob(grid) - grid[:, 0].square() / 2 - 0.5 * math.log(2 * math.pi)
    exact = float(torch.logsumexp(joint, 0) + math.log(10 / 20000))
    assert abs(float(particles.log_evidence) - exact) < 5 * float(particles.standard_error) + 0.03
    moment = (joint - torch.logsumexp(joint, 0)).exp() @ grid[:, 0].square()
    found = (particles.weights * particles.x[..., 0].square()).sum()
    assert abs(float(found - moment)) < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [({"threshold": 1.5}, "threshold"), ({"eta": 0.0}, "eta in"), ({"steps": 0}, "1 step")],
)
def test_bad_options_are_refused(options, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        TDS(likelihood=LIKELIHOOD, **options)


def test_states_need_particles() -> None:
    d, sampler = mixture(), TDS(4, likelihood=LIKELIHOOD)
    x: Tensor = torch.randn(2).double()
    with pytest.raises(ValueError, match="two particles or more"):
        sampler(d, x)
    with pytest.raises(ValueError, match=r"\(runs, particles, 2\)"):
        sampler.particles(d, x)
