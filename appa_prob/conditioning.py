r"""Posterior samples of programs of Pyro."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from appa_prob.operators import CG, GMRES
from appa_prob.samplers import (
    DAPS,
    MMPS,
    Denoiser,
    Integrator,
    IteratedMMPS,
    Likelihood,
    Schedule,
)
from appa_prob.samplers.times import ratio_times

from .program import Program
from .program_likelihood import ProgramLikelihood

__all__ = ["condition", "sample_program"]


def condition(
    model: Callable[..., Any],
    *args: Any,
    num_samples: int = 256,
    guidance: Callable[[Denoiser, Likelihood], Denoiser] | None = None,
    integrator: Integrator | Callable[[Likelihood], Integrator] | None = None,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
    values: Mapping[str, Tensor] | None = None,
    progress: bool = False,
    **kwargs: Any,
) -> dict[str, Tensor]:
    r"""Samples the fields of a program given its observed sites, :math:`p(x \mid y)`.

    The program is read as a prior and a likelihood, see :class:`~appa_prob.program.Program`, and
    these are sampled as any others: guidance makes a denoiser of the posterior, and an integrator
    samples from it. Gaussian observations whose means are linear are conditioned on exactly, up to
    what the guidance approximates; Gaussian ones with other means by Gauss and Newton. Those of
    other laws, as counts, would be off by up to a third of a standard deviation by that: they are
    sampled by decoupled annealing, whose Markov chain corrects the linearisation.

    Arguments:
        model: The program, with one or more sites of :class:`DiffusionPrior` and observed sites.
        args: Its arguments.
        num_samples: The number of samples.
        guidance: What makes the denoiser of a posterior from a prior and a likelihood, as
            :class:`~appa_prob.samplers.DPS`; by default :class:`~appa_prob.samplers.MMPS` where
            means are linear, and elsewhere :class:`~appa_prob.samplers.IteratedMMPS`, both with
            up to 32 iterations of GMRES.
        integrator: The integrator, by default that of the first field, or
            :class:`~appa_prob.samplers.DAPS` in 128 steps where errors are not Gaussian and no
            guidance is given; or a function that makes
            one of the likelihood, which then samples from the prior without guidance:
            ``lambda y: TDS(64, likelihood=y, guidance=IteratedMMPS)`` is exact as samples and
            steps become many.
        batch_size: The number of samples that are drawn at a time, all by default.
        generator: A source of random numbers; by default torch's, which ``pyro.set_rng_seed``
            seeds.
        values: Values of latent sites that are not fields, held fixed, by their names.
        progress: Whether to show a progress bar.
        kwargs: Arguments of the program by name.

    Returns:
        The samples by the names of sites, as of ``MCMC.get_samples()``: fields and deterministic
        sites, with shapes :math:`(n, *)`.

    Raises:
        ValueError: If there is no sample to draw, or if the program is none of those, naming the
            site.
        TypeError: If an observed site is of a law whose Fisher information is not known.
        FloatingPointError: If samples are not finite.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from appa_prob.diffusion_prior import DiffusionPrior
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import GaussianDenoiser, VESchedule
        >>> prior = DiffusionPrior(
        ...     GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule())
        ... )
        >>> def model(y=None):
        ...     x = pyro.sample("x", prior)
        ...     pyro.sample("y", dist.Normal(x.sum(-1), 0.1), obs=y)
        >>> samples = condition(model, torch.tensor(3.0), num_samples=64)
        >>> samples["x"].shape
        torch.Size([64, 2])
        >>> bool((samples["x"].sum(-1).mean() - 3.0).abs() < 0.2)
        True
    """
    return sample_program(
        Program(model, args, kwargs, values=values),
        num_samples,
        guidance=guidance,
        integrator=integrator,
        batch_size=batch_size,
        generator=generator,
        progress=progress,
    )


def sample_program(
    program: Program,
    num_samples: int,
    *,
    guidance: Callable[[Denoiser, Likelihood], Denoiser] | None = None,
    integrator: Integrator | Callable[[Likelihood], Integrator] | None = None,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> dict[str, Tensor]:
    r"""Samples a program that has been read: :func:`condition` does both.

    Arguments:
        program: The program.
        num_samples: The number of samples.
        guidance: As of :func:`condition`.
        integrator: As of :func:`condition`.
        batch_size: As of :func:`condition`.
        generator: As of :func:`condition`.
        progress: As of :func:`condition`.
    """
    batch_size = num_samples if batch_size is None else batch_size
    if num_samples < 1 or batch_size < 1:
        raise ValueError(
            f"expected at least one sample at a time, got {num_samples} in batches of {batch_size}"
        )
    while True:  # again, if a program is not as linear as it seemed
        denoiser, sampler = _method(program, guidance, integrator)
        batches = []
        for start in range(0, num_samples, batch_size):
            shape = (min(batch_size, num_samples - start),)
            noise = sampler.noise(
                denoiser, shape, generator=generator, dtype=program.dtype, device=program.device
            )
            batches.append(sampler(denoiser, noise, generator=generator, progress=progress))
        x = torch.cat(batches)
        if program.likelihood.holds(x):
            return program.samples(x)


def _method(
    program: Program,
    guidance: Callable[[Denoiser, Likelihood], Denoiser] | None,
    integrator: Integrator | Callable[[Likelihood], Integrator] | None,
) -> tuple[Denoiser, Integrator]:
    """What is sampled, and what samples it."""
    sampler = program.integrator if integrator is None else integrator
    if integrator is None and guidance is None and not program.likelihood.gaussian:
        sampler = partial(_annealing, program.prior.schedule)
    if isinstance(sampler, Integrator):
        guide = _guidance if guidance is None else guidance
        return guide(program.prior, program.likelihood), sampler
    if guidance is None:
        return program.prior, sampler(program.likelihood)
    raise ValueError(
        "expected guidance or an integrator made of the likelihood, got both; let the "
        "integrator guide by itself, as TDS(steps, likelihood=y, guidance=...)"
    )


def _annealing(schedule: Schedule, likelihood: Likelihood) -> Integrator:
    solver = CG(rtol=1e-3, max_iterations=32, on_failure="ignore")
    times = _annealing_times(schedule)
    return DAPS(times, likelihood=likelihood, moves=1, iterations=1, solver=solver)


def _annealing_times(schedule: Schedule) -> int | tuple[float, ...]:
    """Times for DAPS: most of them below a fiftieth of the largest noise, about where data are.
    What is larger is forgotten soon."""
    low, high = schedule.ratio(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    low, high = max(low, 2e-3), min(high, 1e3)
    if low >= high / 100:
        return 128
    coarse = ratio_times(schedule, 16, first=high, last=high / 50)
    return (*coarse, *ratio_times(schedule, 112, first=high / 50, last=low)[1:])


def _guidance(prior: Denoiser, likelihood: ProgramLikelihood) -> Denoiser:
    solver = GMRES(rtol=1e-3, max_iterations=32, on_failure="ignore")
    if likelihood.linear:
        return MMPS(prior, likelihood, solver)
    return IteratedMMPS(prior, likelihood, solver=solver)
