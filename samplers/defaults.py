r"""Posterior sampling with nothing but a prior and a likelihood: what is chosen, and why.

=================================================  ==============================================
the prior and the likelihood                       what is done
=================================================  ==============================================
a Gaussian or a mixture; linear, Gaussian errors   the posterior itself, without diffusion
8 dimensions or fewer, one observation             twisted SMC with covariances, 64 calls
any other; linear, Gaussian errors                 MMPS and DPM-Solver++, 8 steps, 64 calls
any other; not linear, Gaussian errors             IteratedMMPS and DPM-Solver++, 32 steps
any other                                          DAPS, 256 steps, 256 calls
=================================================  ==============================================

Calls are evaluations of the denoiser and products with its Jacobian. In few dimensions a product
for each number of a state gives its covariance as a matrix, with which steps are exact for
Gaussians however long they are: 10 steps of 9 calls for 8 numbers, at times that 16 trajectories
place where the law is far from Gaussian. On six mixtures that is 1.1 to 4.5 times nearer to the
posterior than the 32 steps which the same calls buy without (``docs/accuracy.md``); with more
numbers too few steps or particles would be left. Elsewhere MMPS needs the fewest calls; where
errors have heavy tails its linearisation of the likelihood fails, and that of DAPS is corrected.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor

from appa_prob.operators import CG, GMRES, Cholesky
from appa_prob.operators.dense import LIMIT

from .daps import DAPS
from .denoiser import Denoiser, check_denoiser
from .dense_covariance import DenseCovariance
from .dpm_solver import DPMSolver
from .gaussian import Gaussian
from .gaussian_denoiser import GaussianDenoiser
from .guidance import Conditioning
from .integrator import Integrator
from .iterated import IteratedMMPS
from .likelihood import Likelihood, check_likelihood
from .mixture_denoiser import MixtureDenoiser
from .mmps import MMPS
from .placed_times import placed_times
from .tds import TDS
from .times import ratio_times

__all__ = ["Samples", "sample"]

TINY = 8
PARTICLES = 1024
LOGGER = logging.getLogger(__name__)

Draws = Callable[[int, torch.Generator | None], Tensor]


@dataclass(frozen=True, eq=False)
class Samples:
    r"""Samples from a posterior, with what was chosen to draw them.

    Arguments:
        x: The samples, with shape :math:`(N, *, event)`.
        method: The method, as code.
        reason: Why it was chosen.
        calls: The evaluations of the denoiser, and products with its Jacobian, that a sample took
            at most; 0 where there was no diffusion.
        integrator: The integrator, if there was one.
        guided: The denoiser that it was given, if there was one: more samples can be drawn by
            both.
    """

    x: Tensor
    method: str
    reason: str
    calls: int
    integrator: Integrator | None = None
    guided: Denoiser | None = None

    def __repr__(self) -> str:
        return (
            f"Samples({len(self.x)} of shape {tuple(self.x.shape[1:])} by {self.method}, "
            f"{self.calls} calls each: {self.reason})"
        )


def sample(
    prior: Denoiser,
    likelihood: Likelihood,
    count: int = 16,
    *,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Samples:
    r"""Draws from the posterior :math:`p(x \mid y) \propto p(x) \, p(y \mid x)`, by a method,
    integrator and number of steps chosen from what the prior and the likelihood are.

    The choice is in the result, and is logged.

    Arguments:
        prior: The denoiser of the prior.
        likelihood: The likelihood :math:`p(y \mid x)`, of one observation or of a batch of them.
        count: The number :math:`N` of samples, for each observation.
        generator: A source of random numbers.
        progress: Whether to show a progress bar, where there are steps.

    Raises:
        TypeError: If the prior is no denoiser, the likelihood none, or the count no integer.
        ValueError: If the likelihood is not one of the denoiser's states, or the count is not
            positive.

    Example:
        >>> from appa_prob.operators import Isotropic, Mask
        >>> from appa_prob.samplers import GaussianLikelihood, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule())
        >>> y = GaussianLikelihood(Mask(torch.tensor([True, False])), torch.tensor([1.0]), 0.5)
        >>> sample(prior, y, 100)  # doctest: +NORMALIZE_WHITESPACE
        Samples(100 of shape (2,) by Gaussian.condition, 0 calls each: the prior is a Gaussian and
        the observation linear with Gaussian errors, so that the posterior is known)
    """
    _check(prior, likelihood, count)
    linear = bool(getattr(likelihood, "linear", False))
    event, observed = likelihood.in_shape, _observed(prior, likelihood)
    batch = likelihood.y.shape[: likelihood.y.ndim - len(observed)]
    if linear and isinstance(prior, GaussianDenoiser):
        found = _gaussian(prior, likelihood, count, batch, observed, generator)
    elif linear and isinstance(prior, MixtureDenoiser) and not batch and observed.numel() <= LIMIT:
        found = _mixture(prior, likelihood, count, generator)
    elif event.numel() <= TINY and not batch and observed.numel() <= LIMIT:
        found = _particles(prior, likelihood, linear, count, generator)
    else:
        found = _guided(prior, likelihood, linear, (count, *batch), generator, progress)
    LOGGER.info("%r", found)
    return found


def _check(prior: Denoiser, likelihood: Likelihood, count: int) -> None:
    check_denoiser(prior)
    check_likelihood(likelihood, prior.event_shape)
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"expected the number of samples, an integer, got {count!r}")
    if count < 1:
        raise ValueError(f"expected a count >= 1, got {count}")


def _observed(prior: Denoiser, likelihood: Likelihood) -> Size:
    """The shape of one observation, from the likelihood at the mean of the prior."""
    y = likelihood.y
    with torch.no_grad():
        zero = torch.zeros(prior.event_shape, dtype=y.dtype, device=y.device)
        return likelihood.linearize(prior(zero, y.new_ones(())))[2].in_shape


def _gaussian(
    prior: GaussianDenoiser,
    likelihood: Likelihood,
    count: int,
    batch: Size,
    observed: Size,
    generator: torch.Generator | None,
) -> Samples:
    small = observed.numel() <= LIMIT
    solver = Cholesky() if small else CG(rtol=1e-6, max_iterations=1000)
    posterior = Gaussian(prior.mean, prior.spectrum).condition(likelihood, solver, bounded=False)
    x = posterior.mean + posterior.covariance.sample((count, *batch), generator)
    reason = (
        "the prior is a Gaussian and the observation linear with Gaussian errors, so that the "
        "posterior is known"
    )
    return Samples(x, "Gaussian.condition", reason, 0)


def _mixture(
    prior: MixtureDenoiser,
    likelihood: Likelihood,
    count: int,
    generator: torch.Generator | None,
) -> Samples:
    x = prior.law.condition(likelihood).sample((count,), generator)
    reason = (
        "the prior is a mixture of Gaussians and the observation linear with Gaussian errors, so "
        "that the posterior is known"
    )
    return Samples(x, "Mixture.condition", reason, 0)


def _particles(
    prior: Denoiser,
    likelihood: Likelihood,
    linear: bool,
    count: int,
    generator: torch.Generator | None,
) -> Samples:
    def method(denoiser: Denoiser, likelihood: Likelihood) -> Conditioning:
        if linear:
            return MMPS(denoiser, likelihood, Cholesky())
        return IteratedMMPS(denoiser, likelihood, solver=Cholesky())

    y, size = likelihood.y, prior.event_shape.numel()
    options: dict[str, Any] = {"generator": generator, "dtype": y.dtype, "device": y.device}
    number, each = max(PARTICLES, count), 1 + size  # calls, of the covariance as a matrix
    pilot = 16 * 28 * each
    parents = 5 * number // 8
    steps = (64 * number - pilot) // (parents * each)
    guided = DenseCovariance(method(DenseCovariance(prior), likelihood))
    times = placed_times(guided, steps, particles=16, pilot=28, **options)
    sampler = TDS(times, likelihood=likelihood, guidance=method, covariance=True)
    noise = sampler.noise(prior, (1, parents), **options)
    particles = sampler.particles(prior, noise, generator=generator, offspring=4)
    name = (
        f"TDS of {parents} particles and 4 offspring, in {steps} steps with the covariance of "
        f"{'MMPS' if linear else 'IteratedMMPS'}"
    )
    reason = (
        f"a state has {size} numbers, few enough for particles and for covariances as matrices; "
        f"the effective number of offspring is {float(particles.effective_size):.0f}"
    )
    calls = (parents * steps * each + pilot) // count
    return Samples(particles.sample(count, generator), name, reason, calls, sampler)


def _guided(
    prior: Denoiser,
    likelihood: Likelihood,
    linear: bool,
    shape: tuple[int, ...],
    generator: torch.Generator | None,
    progress: bool,
) -> Samples:
    solver = GMRES(rtol=1e-3, max_iterations=7 if linear else 3, on_failure="ignore")
    guided: Denoiser = prior
    sampler: Integrator
    schedule = prior.schedule
    if linear:
        guided, sampler = MMPS(prior, likelihood, solver), DPMSolver(ratio_times(schedule, 8))
        name, calls = "MMPS of 7 iterations and DPMSolver of 8 steps", 64
        kind = "linear with Gaussian errors"
    elif hasattr(likelihood, "linear"):
        guided = IteratedMMPS(prior, likelihood, 3, solver)
        sampler = DPMSolver(ratio_times(schedule, 32))
        name, calls = "IteratedMMPS, linearised 3 times, and DPMSolver of 32 steps", 32 * 10
        kind = "not linear"
    else:
        sampler = DAPS(ratio_times(schedule, 256), likelihood=likelihood)
        name, calls, kind = "DAPS of 256 steps", 256, "not known to have Gaussian errors"
    y = likelihood.y
    noise = sampler.noise(prior, shape, generator=generator, dtype=y.dtype, device=y.device)
    x = sampler(guided, noise, generator=generator, progress=progress)
    reason = (
        f"the posterior of a {type(prior).__name__} is not known, and the observation is {kind}"
    )
    return Samples(x, name, reason, calls, sampler, guided)
