r"""Euler's method."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .denoiser import Denoiser
from .flow import velocity
from .integrator import Draw, Integrator, Memory

__all__ = ["Euler"]


@dataclass(frozen=True)
class Euler(Integrator):
    r"""Euler's method for the probability flow, in the time of the schedule.

    .. math:: x_s = x_t + (s - t) \left( \alpha_t' \hat{x} + \sigma_t' \hat{\epsilon} \right)

    with :math:`\hat{x} = \mathbb{E}[x \mid x_t]` and
    :math:`\hat{\epsilon} = (x_t - \alpha_t \hat{x}) / \sigma_t`.
    With :class:`~appa_prob.samplers.RectifiedSchedule` it is the sampler of rectified flows.
    :class:`~appa_prob.samplers.DDIM` is Euler's method in the ratio of noise to signal.

    References:
        | Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow
        (Liu et al., 2022) | https://arxiv.org/abs/2209.03003

    Arguments:
        steps: The number of steps, or the times.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import GaussianDenoiser, RectifiedSchedule
        >>> d = GaussianDenoiser(torch.ones(2), Isotropic(1e-6, 2), RectifiedSchedule(1e-6))
        >>> Euler(2)(d, torch.zeros(2))
        tensor([1., 1.])
    """

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        return x_t + (s - t) * velocity(denoiser, x_t, t)
