r"""Times placed where the law of the clean state is far from Gaussian."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from .ancestral import Ancestral, Transition
from .denoiser import Denoiser
from .integrator import Generators, drawing
from .times import ratio_times

__all__ = ["placed_times"]

TAIL = 0.98  # of the error lies before the last step


def placed_times(
    denoiser: Denoiser,
    steps: int,
    *,
    particles: int = 16,
    pilot: int = 28,
    generator: Generators | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> tuple[float, ...]:
    r"""Times for :class:`~appa_prob.samplers.Ancestral`, and for TDS with covariances, from a few
    trajectories of many steps.

    Steps with the covariance of the clean state are exact for Gaussians, however long they are.
    How far a law is from one shows in the covariance, which for a Gaussian is known ahead: with
    :math:`r = \sigma / \alpha`,

    .. math:: \tilde{V}_s = \left( V_t^{-1} + (r_s^{-2} - r_t^{-2}) I \right)^{-1} \qquad
        e = \mathbb{E} \frac{\|V_s - \tilde{V}_s\|}{\|V_s\| + \|\tilde{V}_s\|}

    The times divide :math:`\int \sqrt{e}` into equal parts. Before the first components that
    compete come apart, and once they are apart, there is one step.

    It takes `particles` x `pilot` evaluations with their covariances.

    Arguments:
        denoiser: The denoiser of what is sampled: guided, if it is a posterior, by what has a
            posterior covariance, with a matrix as that of :class:`DenseCovariance`.
        steps: The number of steps.
        particles: The number of trajectories.
        pilot: The number of their steps.
        generator: A source of random numbers.
        dtype: The floating type.
        device: The device; by default that of the generator.

    Returns:
        The times, which an integrator takes in place of a number of steps.

    Raises:
        ValueError: If there are too few steps, or trajectories.

    Example:
        Two components at -8 and 8, of unit variance.

        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import MixtureDenoiser, VESchedule
        >>> means, schedule = torch.tensor([[-8.0], [8.0]]), VESchedule(1e-2, 1e2)
        >>> d = MixtureDenoiser(torch.ones(2), means, Isotropic(1.0, 1), schedule)
        >>> times = placed_times(d, 6, generator=torch.Generator().manual_seed(0))
        >>> inner = schedule.ratio(torch.tensor(times[1:-1]))
        >>> bool((inner > 1).all() and (inner < 40).all())
        True
    """
    if steps < 2 or particles < 1:
        raise ValueError(
            f"expected at least 2 steps and 1 trajectory, got {steps} and {particles}"
        )
    schedule, draw = denoiser.schedule, drawing(generator)
    sampler = Ancestral(ratio_times(schedule, pilot))
    times = torch.tensor(sampler.times, dtype=torch.float64)
    x = sampler.noise(denoiser, (particles,), generator=generator, dtype=dtype, device=device)
    errors, before = [], None
    with torch.no_grad():
        for t, s in pairwise(times):
            posterior = denoiser.posterior(x, t.to(x))
            V = posterior.covariance.to_dense()
            if before is not None:
                errors.append(_departure(V, *before))
            more = schedule.ratio(s) ** -2 - schedule.ratio(t) ** -2
            before = V, float(more)
            x = Transition(schedule, t, s).kernel(x, posterior).move(draw(x))
    # The last of the errors is about a Gaussian's: no evaluation is spent on it.
    density = torch.tensor([*errors, 0.0], dtype=torch.float64).sqrt() + 1e-6
    total = torch.cat((density.new_zeros(1), density.cumsum(0)))
    levels = schedule.ratio(times).log()
    shares = torch.linspace(0, TAIL, steps, dtype=torch.float64) * total[-1]
    k = torch.searchsorted(total, shares).clamp(1, len(density)) - 1
    part = (shares - total[k]) / density[k]
    placed = schedule.time((levels[k] + part * (levels[k + 1] - levels[k])).exp())
    inner = placed.tolist()[1:]
    return (float(times[0]), *inner, float(times[-1]))


def _departure(V: Tensor, before: Tensor, more: float) -> float:
    """The mean distance of covariances from those that follow from the ones before."""
    eye = torch.eye(V.shape[-1], dtype=V.dtype, device=V.device)
    ahead = torch.linalg.solve(eye + more * before, before)
    norms = [torch.linalg.matrix_norm(A) for A in (V - ahead, V, ahead)]
    least = torch.finfo(V.dtype).tiny
    return float((norms[0] / (norms[1] + norms[2]).clamp_min(least)).mean())
