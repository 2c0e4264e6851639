r"""Heun's method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Denoiser
from .exponential import exponential_step, log_ratio, noise
from .integrator import Draw, Integrator, Memory

__all__ = ["Heun"]


@dataclass(frozen=True)
class Heun(Integrator):
    r"""Heun's method for the probability flow in its exponential form: two evaluations of the
    denoiser a step.

    .. math:: \tilde{x}_s = \frac{\alpha_s}{\alpha_t} x_t + \sigma_s (1 - e^h) \,
        \hat{\epsilon}(x_t, t) \qquad
        x_s = \frac{\alpha_s}{\alpha_t} x_t + \sigma_s \left( w_t \, \hat{\epsilon}(x_t, t)
        + w_s \, \hat{\epsilon}(\tilde{x}_s, s) \right)

    The weights integrate the line through both values exactly, see
    :mod:`~appa_prob.samplers.exponential`, so that no schedule is unstable for few steps. The last
    step is one of :class:`~appa_prob.samplers.DDIM` if there is no noise at its end. Heun's method
    as EDM has it is :class:`~appa_prob.samplers.StochasticHeun` without churn.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
        | https://arxiv.org/abs/2206.00364

        | Exponential integrators (Hochbruck and Ostermann, 2010)
        | https://doi.org/10.1017/S0962492910000048

    Arguments:
        steps: The number of steps, or the times.
    """

    @property
    def order(self) -> int:
        return 2

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        schedule = denoiser.schedule
        start = torch.zeros(1, dtype=torch.float64)
        first = noise(denoiser, x_t, t)
        x_s = exponential_step(schedule, x_t, t, s, [first], start)
        if not float(schedule.sigma(s)):
            return x_s
        h = log_ratio(schedule, s) - log_ratio(schedule, t)
        nodes = torch.cat((start, h.reshape(1)))
        return exponential_step(schedule, x_t, t, s, [first, noise(denoiser, x_s, s)], nodes)
