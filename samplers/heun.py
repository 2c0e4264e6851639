r"""Heun's method."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .denoiser import Denoiser
from .flow import velocity
from .integrator import Draw, Integrator, Memory

__all__ = ["Heun"]


@dataclass(frozen=True)
class Heun(Integrator):
    r"""Heun's method for the probability flow, in the time of the schedule: two evaluations of the
    denoiser a step.

    .. math:: x_s = x_t + \frac{s - t}{2}
        \left( v(x_t, t) + v(x_t + (s - t) \, v(x_t, t), s) \right)
        \qquad v(x_t, t) = \alpha_t' \hat{x} + \sigma_t' \hat{\epsilon}

    The last step is one of Euler's if there is no noise at its end. For
    :class:`~appa_prob.samplers.EDMSchedule` with :math:`\rho = 1`, and times by
    :func:`~appa_prob.samplers.karras_times`, this is the deterministic sampler of EDM.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
        | https://arxiv.org/abs/2206.00364

    Arguments:
        steps: The number of steps, or the times.
    """

    @property
    def order(self) -> int:
        return 2

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        v = velocity(denoiser, x_t, t)
        x_s = x_t + (s - t) * v
        if not float(denoiser.schedule.sigma(s)):
            return x_s
        return x_t + (s - t) / 2 * (v + velocity(denoiser, x_s, s))
