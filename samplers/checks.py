r"""The promises of integrators and guidance, checked for those of a user as for our own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from appa_prob.operators import Cholesky, Dense, Nonlinear

from .denoiser import Denoiser
from .gaussian_denoiser import GaussianDenoiser
from .integrator import Integrator
from .law import affine_law, diffused
from .likelihood import GaussianLikelihood, Likelihood
from .mmps import MMPS
from .schedule import Schedule, VESchedule

__all__ = ["check_sampler"]

Guide = Callable[[Denoiser, Likelihood], Denoiser]


def check_sampler(
    integrator: Callable[[int], Integrator],
    guidance: Guide | None = None,
    *,
    exact: bool = True,
    order: float | None = None,
    schedule: Schedule | None = None,
    steps: Sequence[int] = (32, 64, 128),
) -> None:
    r"""Checks an integrator together with a method of guidance.

    On a Gaussian prior of 4 correlated numbers, of which two combinations are observed:

    - the law of samples, found without Monte Carlo, converges to the posterior of Kalman, at the
      order of the integrator to within 0.3;
    - the same seed gives the same samples, and members of a batch, with a generator each, those
      that they give alone;
    - guidance of a member, at a time of its own, does not depend on the others, also where there
      are as many members as numbers in a state; an offset of the map changes nothing; the type is
      kept.

    Arguments:
        integrator: Makes the integrator with a number of steps.
        guidance: Makes the guided denoiser of a prior and a likelihood; by default
            :class:`MMPS`, solved.
        exact: Whether the guidance is exact for a Gaussian prior. If it is not, the law is not
            looked at.
        order: The order of convergence; by default that of the integrator.
        schedule: The schedule; by default :class:`VESchedule`.
        steps: The numbers of steps, increasing.

    Raises:
        AssertionError: If a promise isn't kept, saying which.

    Example:
        >>> from appa_prob.samplers import DDIM
        >>> check_sampler(DDIM)
    """
    guide = _solved if guidance is None else guidance
    schedule = VESchedule(1e-2, 1e2) if schedule is None else schedule
    check = Checker(integrator, guide, schedule)
    if exact:
        check.law(tuple(steps), order)
    check.seeds(4)
    check.members()
    check.offsets()
    check.types(4)


def _solved(denoiser: Denoiser, likelihood: Likelihood) -> Denoiser:
    return MMPS(denoiser, likelihood, Cholesky())


class Checker:
    r"""The checks of :func:`check_sampler`, one a method.

    Arguments:
        integrator: Makes the integrator.
        guidance: Makes the guided denoiser.
        schedule: The schedule.
    """

    def __init__(
        self, integrator: Callable[[int], Integrator], guidance: Guide, schedule: Schedule
    ) -> None:
        self.integrator, self.guidance, self.schedule = integrator, guidance, schedule
        g = torch.Generator().manual_seed(0)
        F = torch.randn(4, 4, generator=g, dtype=torch.float64)
        self.A, self.y, self.mean = (
            torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((2, 4), (2,), (4,))
        )
        self.V = F @ F.mT / 4 + 0.1 * torch.eye(4, dtype=torch.float64)
        self.R = torch.tensor([0.3, 0.6], dtype=torch.float64)
        self.x = torch.randn(4, 4, generator=g, dtype=torch.float64)
        self.t = torch.tensor([0.2, 0.5, 0.6, 0.9], dtype=torch.float64)

    def guided(self, dtype: torch.dtype = torch.float64) -> Denoiser:
        """The denoiser of the posterior."""
        likelihood = GaussianLikelihood(Dense(self.A), self.y, self.R)
        return self.guidance(self._prior(), likelihood).to(dtype)

    def law(self, steps: tuple[int, ...], order: float | None) -> None:
        """The law converges to the posterior, at its order."""
        gain = self.V @ self.A.mT @ torch.linalg.inv(self.A @ self.V @ self.A.mT + self.R.diag())
        mean = self.mean + gain @ (self.y - self.A @ self.mean)
        covariance = self.V - gain @ self.A @ self.V
        errors = [self._error(self.integrator(count), mean, covariance) for count in steps]
        expected = self.integrator(steps[-1]).order if order is None else order
        slopes = [
            math.log(errors[i] / errors[i + 1]) / math.log(steps[i + 1] / steps[i])
            for i in range(len(steps) - 1)
        ]
        converged = errors[-1] < 1e-9  # to rounding, where there is no slope to see
        assert converged or abs(slopes[-1] - expected) < 0.3, (
            f"expected the law of samples to converge to the posterior at order {expected:g}, got "
            f"errors {_numbers(errors)} at {steps} steps, of order {_numbers(slopes)}: is the "
            "guidance exact for a Gaussian prior (else say exact=False), are its systems solved, "
            "and are the steps enough?"
        )

    def _error(self, sampler: Integrator, mean: Tensor, covariance: Tensor) -> float:
        """The relative error of the law of samples."""
        start, end = (
            diffused(mean, covariance, self.schedule, t)
            for t in (sampler.times[0], sampler.times[-1])
        )
        try:
            found = affine_law(sampler, self.guided(), start=start)
        except ValueError as error:
            raise AssertionError(f"expected an affine sampler of a Gaussian: {error}") from error
        return sum(float((a - b).norm() / b.norm()) for a, b in zip(found, end, strict=True))

    def seeds(self, steps: int) -> None:
        """Seeds make samples, whatever the batch is."""
        sampler, d = self.integrator(steps), self.guided()

        def sample(seeds: Sequence[int]) -> Tensor:
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            noise = sampler.noise(d, (len(seeds),), generator=generators, dtype=torch.float64)
            return sampler(d, noise, generator=generators)

        together = sample((0, 1, 2))
        assert torch.equal(together, sample((0, 1, 2))), (
            "expected the same samples for the same seeds, got others: is there a source of "
            "random numbers beside the generator?"
        )
        alone = torch.cat([sample((seed,)) for seed in (0, 1, 2)])
        assert torch.allclose(together, alone, rtol=1e-6, atol=1e-8), (
            "expected members of a batch to be what they are alone, got a difference of "
            f"{float((together - alone).abs().max()):.1e}: is there a norm over the batch?"
        )

    def members(self) -> None:
        """Guidance of a member, at its own time, does not depend on the others."""
        d = self.guided()
        together = d(self.x, self.t)
        alone = torch.stack([d(x, t) for x, t in zip(self.x, self.t, strict=True)])
        assert torch.allclose(together, alone, rtol=1e-6, atol=1e-8), (
            "expected the guidance of a member not to depend on those beside it, with a time for "
            f"each of {len(self.t)} members, got a difference of "
            f"{float((together - alone).abs().max()):.1e}: is t shaped to multiply states?"
        )

    def offsets(self) -> None:
        """An offset of the map and of the observation changes nothing."""
        map = Nonlinear(lambda x: x @ self.A.mT + 5.0, 4, 2)
        likelihood = GaussianLikelihood(map, self.y + 5.0, self.R)
        offset = self.guidance(self._prior(), likelihood)(self.x, self.t)
        assert torch.allclose(offset, self.guided()(self.x, self.t), rtol=1e-6, atol=1e-8), (
            "expected an offset of the map to change nothing, got a difference: is the map, "
            "instead of its Jacobian, applied to a direction?"
        )

    def types(self, steps: int) -> None:
        """The type of the noise is that of samples."""
        sampler, d = self.integrator(steps), self.guided(torch.float32)
        x = sampler(d, sampler.noise(d, (2,), generator=torch.Generator().manual_seed(0)))
        assert x.dtype == torch.float32, f"expected samples of the type of noise, got {x.dtype}"

    def _prior(self) -> GaussianDenoiser:
        return GaussianDenoiser(self.mean, Dense(self.V, symmetric=True), self.schedule)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2g}" for value in values)
