r"""Exponential multistep methods of the probability flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Denoiser
from .exponential import exponential_step, log_ratio, noise
from .integrator import Draw, Integrator, Memory

__all__ = ["AdamsBashforth"]


@dataclass(frozen=True)
class AdamsBashforth(Integrator):
    r"""The exponential method of Adams and Bashforth: the noise is extrapolated by the polynomial
    through its last values, and integrated exactly.

    .. math:: x_s = \frac{\alpha_s}{\alpha_t} x_t + \sigma_s \sum_{j=0}^{k-1} w_j \hat{\epsilon}_j
        \qquad w_j = -\int_0^h e^{h - \tau} L_j(\tau) \, d\tau

    in :math:`\lambda = \log (\alpha_t / \sigma_t)`, with the polynomials :math:`L_j` of Lagrange
    for the last :math:`k` times, however they are spaced. It takes one evaluation of the denoiser
    a step. For :math:`k = 1`, and in a step without noise at its end, it is
    :class:`~appa_prob.samplers.DDIM`.

    The first steps have fewer values. Where noise hides the data, as it should at first, nothing
    is lost, since :math:`\hat{\epsilon}` is as good as constant. From less noise the order is 2,
    unless the first steps are of Runge and Kutta.

    References:
        | Fast Sampling of Diffusion Models with Exponential Integrator (Zhang and Chen, 2023)
        | https://arxiv.org/abs/2204.13902

        | Exponential integrators (Hochbruck and Ostermann, 2010)
        | https://doi.org/10.1017/S0962492910000048

    Arguments:
        steps: The number of steps, or the times.
        points: The number :math:`k` of values, the order of the method, from 1 to 4.
        starter: Whether to start by Runge-Kutta steps of the third order, one for :math:`k = 3`
            and two for :math:`k = 4`, of three evaluations each.

    Raises:
        ValueError: If the number of values is out of its range.
    """

    points: int = 3
    starter: bool = False

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
        kept = [memory[f"noise{j}"] for j in range(past) if f"noise{j}" in memory]
        noises = [noise(denoiser, x_t, t), *kept]
        levels = torch.cat((level.reshape(1), memory.get("levels", level.new_empty(0))))
        memory["levels"] = levels[:past]
        memory.update({f"noise{j}": eps for j, eps in enumerate(noises[:past])})
        if self.starter and len(noises) < past and float(schedule.sigma(s)):
            return third_order(denoiser, x_t, t, s, noises[0])
        return exponential_step(schedule, x_t, t, s, noises, levels - level)


def third_order(denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, eps: Tensor) -> Tensor:
    r"""An exponential Runge-Kutta step of the third order, with Heun's nodes 0, 1/3 and 2/3.

    Arguments:
        denoiser: The denoiser.
        x_t: The noisy state, with shape :math:`(*, event)`.
        t: The time, with shape :math:`()`.
        s: The next time, with noise, with shape :math:`()`.
        eps: The noise at :math:`x_t`.
    """
    schedule = denoiser.schedule
    level = log_ratio(schedule, t)
    h = log_ratio(schedule, s) - level
    noises, nodes = [eps], torch.zeros(1, dtype=torch.float64)
    for part in (1 / 3, 2 / 3):
        inner = schedule.time((-level - part * h).exp())
        x = exponential_step(schedule, x_t, t, inner, noises, nodes)
        noises = [eps, noise(denoiser, x, inner)]
        nodes = torch.stack((torch.zeros_like(h), part * h))
    # The value at 1/3 has no weight at the third order.
    return exponential_step(schedule, x_t, t, s, noises, nodes)
