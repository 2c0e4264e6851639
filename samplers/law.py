r"""The exact law of a sampler whose every part is affine."""

from __future__ import annotations

import torch
from torch import Size, Tensor

from appa_prob.operators.stack import cut

from .denoiser import Denoiser
from .integrator import Draw, Integrator
from .schedule import Schedule

__all__ = ["affine_law", "diffused"]


def affine_law(
    integrator: Integrator,
    denoiser: Denoiser,
    dtype: torch.dtype = torch.float64,
    start: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The mean and the covariance of what an integrator samples, without Monte Carlo.

    For a Gaussian prior and linear-Gaussian observations a denoiser is affine in :math:`x_t`, and
    a sample is an affine map of the noise that goes into it,

    .. math:: x_0 = b + \sum_k A_k \epsilon_k \qquad \epsilon_k \sim \mathcal{N}(0, I)

    where :math:`\epsilon_0` is the first state and the others are the noises of the steps. The map
    is found by running the integrator on zeros and on each unit vector.

    Arguments:
        integrator: The integrator.
        denoiser: The denoiser, affine in :math:`x_t`; that it is so is checked at one point.
        dtype: The floating type.
        start: The mean and the covariance of the first state, flattened; by default those of
            :meth:`Integrator.noise`. Those of :func:`diffused` leave no error but that of steps.

    Returns:
        The mean :math:`b`, with shape :math:`(n)`, and the covariance :math:`\sum_k A_k A_k^T`,
        with shape :math:`(n, n)`, of flattened states.

    Raises:
        ValueError: If the sample is not an affine map of the noise.

    Example:
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import DDIM, GaussianDenoiser, VESchedule
        >>> schedule = VESchedule(1e-3, 1e3)
        >>> d = GaussianDenoiser(torch.ones(1).double(), Isotropic(4.0, 1), schedule)
        >>> mean, covariance = affine_law(DDIM(256), d)
        >>> bool((mean - 1).abs() < 0.01), bool((covariance - 4).abs() < 0.2)
        (True, True)
    """
    size = denoiser.event_shape.numel()
    shapes = [denoiser.event_shape, *_draws(integrator, denoiser, dtype)]
    units = sum(shape.numel() for shape in shapes)
    probe = torch.randn(units, generator=torch.Generator().manual_seed(0), dtype=dtype)
    noises = torch.cat((torch.zeros(1, units).to(dtype), torch.eye(units).to(dtype), probe[None]))
    streams = cut(noises, shapes)
    if start is None:
        alpha, sigma = denoiser.schedule(torch.tensor(integrator.times[0], dtype=torch.float64))
        start = noises.new_zeros(size), torch.eye(size).to(noises) * (alpha**2 + sigma**2)
    first = start[0] + streams[0].flatten(1) @ torch.linalg.cholesky(start[1]).mT
    streams[0] = first.reshape(-1, *denoiser.event_shape)
    x_0 = _run(integrator, denoiser, streams).flatten(1)
    mean, columns = x_0[0], x_0[1:-1] - x_0[0]
    gap = (mean + probe @ columns - x_0[-1]).abs().max()
    if not gap <= 1e-6 * x_0.abs().max().clamp_min(1.0):
        raise ValueError(
            f"expected a sampler that is affine in its noise, but it misses by {float(gap):.1e}: "
            "is the denoiser affine, and are its systems solved?"
        )
    return mean, columns.mT @ columns


def diffused(
    mean: Tensor, covariance: Tensor, schedule: Schedule, t: float
) -> tuple[Tensor, Tensor]:
    r"""The moments :math:`\alpha_t m` and :math:`\alpha_t^2 V + \sigma_t^2 I` of a noisy state.

    Whatever an integrator starts from at this law has this law at any later time, but for the
    error of its steps.

    Arguments:
        mean: The mean :math:`m` of clean states, with shape :math:`(n)`.
        covariance: The covariance :math:`V`, with shape :math:`(n, n)`.
        schedule: The schedule.
        t: The time.

    Example:
        >>> from appa_prob.samplers import VESchedule
        >>> diffused(torch.ones(1), torch.eye(1), VESchedule(0.1, 10.0), 0.5)
        (tensor([1.]), tensor([[2.]]))
    """
    alpha, sigma = (c.to(covariance) for c in schedule(torch.tensor(t, dtype=torch.float64)))
    noise = sigma.square() * torch.eye(len(covariance)).to(covariance)
    return alpha * mean, alpha.square() * covariance + noise


def _run(integrator: Integrator, denoiser: Denoiser, streams: list[Tensor]) -> Tensor:
    first, *others = streams
    remaining = iter(others)
    return _last(integrator, denoiser, first, lambda x: next(remaining))


def _draws(integrator: Integrator, denoiser: Denoiser, dtype: torch.dtype) -> list[Size]:
    """The shapes of the noises of the steps."""
    shapes = []

    def draw(x: Tensor) -> Tensor:
        shapes.append(x.shape)
        return torch.zeros_like(x)

    _last(integrator, denoiser, torch.zeros(denoiser.event_shape, dtype=dtype), draw)
    return shapes


def _last(integrator: Integrator, denoiser: Denoiser, x_t: Tensor, draw: Draw) -> Tensor:
    state = integrator.init(denoiser, x_t)
    with torch.no_grad():
        *_, last = integrator.run(denoiser, state, draw)
    return last.x_t
