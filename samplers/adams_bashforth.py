r"""Exponential multistep methods of the probability flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Denoiser
from .exponential import exponential_step, log_ratio
from .integrator import Draw, Integrator, Memory, clean

__all__ = ["AdamsBashforth"]


@dataclass(frozen=True)
class AdamsBashforth(Integrator):
    r"""The exponential method of Adams and Bashforth: the denoiser is extrapolated by the
    polynomial through its last values, and integrated exactly.

    .. math:: x_s = \frac{\sigma_s}{\sigma_t} x_t + \alpha_s \sum_{j=0}^{k-1} w_j \hat{x}_j \qquad
        w_j = \int_0^h e^{-(h - \tau)} L_j(\tau) \, d\tau

    in :math:`\lambda = \log (\alpha_t / \sigma_t)`, with the polynomials :math:`L_j` of Lagrange
    for the last :math:`k` times, however they are spaced. It takes one evaluation of the denoiser
    a step, and two more in the first step for :math:`k = 3` and in each of the first two for
    :math:`k = 4`: these are Runge-Kutta steps of the third order, without which the error of the
    start would hide the order of the method. A step without noise at its end is one of
    :class:`~appa_prob.samplers.DDIM`, which is :math:`k = 1`.

    References:
        | Fast Sampling of Diffusion Models with Exponential Integrator (Zhang and Chen, 2023)
        | https://arxiv.org/abs/2204.13902

        | Exponential integrators (Hochbruck and Ostermann, 2010)
        | https://doi.org/10.1017/S0962492910000048

    Arguments:
        steps: The number of steps, or the times.
        points: The number :math:`k` of values, the order of the method, from 1 to 4.

    Raises:
        ValueError: If the number of values is out of its range.
    """

    points: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.points not in (1, 2, 3, 4):
            raise ValueError(f"expected 1 to 4 points, got {self.points}")

    @property
    def order(self) -> int:
        return self.points

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        schedule, past = denoiser.schedule, self.points - 1
        level = log_ratio(schedule, t)
        kept = [memory[f"mean{j}"] for j in range(past) if f"mean{j}" in memory]
        means = [clean(denoiser, x_t, t), *kept]
        levels = torch.cat((level.reshape(1), memory.get("levels", level.new_empty(0))))
        memory["levels"] = levels[:past]
        memory.update({f"mean{j}": mean for j, mean in enumerate(means[:past])})
        if len(means) < past and bool(log_ratio(schedule, s).isfinite()):
            return third_order(denoiser, x_t, t, s, means[0])
        return exponential_step(schedule, x_t, t, s, means, levels - level)


def third_order(denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, mean: Tensor) -> Tensor:
    r"""An exponential Runge-Kutta step of the third order, with Heun's nodes 0, 1/3 and 2/3.

    Arguments:
        denoiser: The denoiser.
        x_t: The noisy state, with shape :math:`(*, event)`.
        t: The time, with shape :math:`()`.
        s: The next time, with noise, with shape :math:`()`.
        mean: The value of the denoiser at :math:`x_t`.
    """
    schedule = denoiser.schedule
    level = log_ratio(schedule, t)
    h = log_ratio(schedule, s) - level
    means, places = [mean], torch.zeros(1, dtype=torch.float64)
    for part in (1 / 3, 2 / 3):
        inner = schedule.time((-level - part * h).exp())
        x = exponential_step(schedule, x_t, t, inner, means, places)
        means = [mean, clean(denoiser, x, inner)]
        places = torch.stack((torch.zeros_like(h), part * h))
    # The value at 1/3 has no weight at the third order.
    return exponential_step(schedule, x_t, t, s, means, places)
