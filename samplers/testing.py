r"""The exact law of a sampler whose every part is affine."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from .denoiser import Denoiser
from .integrator import Draw, Integrator, Memory

__all__ = ["affine_law"]


def affine_law(
    integrator: Integrator, denoiser: Denoiser, dtype: torch.dtype = torch.float64
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
    count = _draws(integrator, denoiser, dtype)
    units = size * (1 + count)
    probe = torch.randn(units, generator=torch.Generator().manual_seed(0), dtype=dtype)
    noises = torch.cat((torch.zeros(1, units).to(dtype), torch.eye(units).to(dtype), probe[None]))
    streams = noises.reshape(-1, 1 + count, *denoiser.event_shape)
    x_0 = _run(integrator, denoiser, streams).flatten(1)
    mean, columns = x_0[0], x_0[1:-1] - x_0[0]
    gap = (mean + probe @ columns - x_0[-1]).abs().max()
    if not gap <= 1e-6 * x_0.abs().max().clamp_min(1.0):
        raise ValueError(
            f"expected a sampler that is affine in its noise, but it misses by {float(gap):.1e}: "
            "is the denoiser affine, and are its systems solved?"
        )
    return mean, columns.mT @ columns


def _run(integrator: Integrator, denoiser: Denoiser, streams: Tensor) -> Tensor:
    remaining = iter(streams.unbind(1))
    alpha, sigma = denoiser.schedule(streams.new_tensor(integrator.times[0]))
    x_t = torch.hypot(alpha, sigma) * next(remaining)
    times = [streams.new_tensor(t) for t in integrator.times]
    return _steps(integrator, denoiser, x_t, times, lambda x: next(remaining))


def _draws(integrator: Integrator, denoiser: Denoiser, dtype: torch.dtype) -> int:
    count = 0

    def draw(x: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return torch.zeros_like(x)

    x_t = torch.zeros(denoiser.event_shape, dtype=dtype)
    times = [x_t.new_tensor(t) for t in integrator.times]
    _steps(integrator, denoiser, x_t, times, draw)
    return count


def _steps(
    integrator: Integrator, denoiser: Denoiser, x_t: Tensor, times: list[Tensor], draw: Draw
) -> Tensor:
    memory: Memory = {}
    with torch.no_grad():
        for t, s in pairwise(times):
            x_t = integrator.step(denoiser, x_t, t, s, draw, memory)
    return x_t
