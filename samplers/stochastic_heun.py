r"""Heun's method with churn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Denoiser
from .integrator import Draw, Integrator, Memory, clean

__all__ = ["StochasticHeun"]


@dataclass(frozen=True)
class StochasticHeun(Integrator):
    r"""The stochastic sampler of EDM: a little noise is added, then Heun's method takes a step of
    the probability flow in the ratio of noise to signal.

    .. math:: \hat{r} = (1 + \gamma) \, r_t \qquad
        \hat{y} = y_t + \sqrt{\hat{r}^2 - r_t^2} \, z \qquad
        y_s = \hat{y} + \frac{r_s - \hat{r}}{2} \left( d(\hat{y}, \hat{r})
        + d(\hat{y} + (r_s - \hat{r}) \, d(\hat{y}, \hat{r}), r_s) \right)

    with :math:`y = x_t / \alpha_t`, :math:`r = \sigma_t / \alpha_t`, the slope
    :math:`d(y, r) = (y - \mathbb{E}[x \mid x_t]) / r`, white :math:`z` and :math:`\gamma =
    \min(c / n, \sqrt{2} - 1)` for :math:`n` steps, never beyond :math:`t = 1`. The last step is
    one of Euler's if there is no noise at its end.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
        | https://arxiv.org/abs/2206.00364

    Arguments:
        steps: The number of steps, or the times.
        churn: The amount :math:`c \geq 0` of noise that is added over all steps.
        low: The lowest ratio :math:`r_t` at which noise is added.
        high: The highest ratio :math:`r_t` at which noise is added.
        inflation: What the noise that is added is multiplied by: a little more than 1 makes up
            for denoisers that take away too much. Only 1 gives the right law.

    Raises:
        ValueError: If an argument is out of its range.
    """

    churn: float = 40.0
    low: float = 0.0
    high: float = math.inf
    inflation: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.churn < math.inf:
            raise ValueError(f"expected churn >= 0, got {self.churn}")
        if not 0 <= self.low < self.high:
            raise ValueError(f"expected 0 <= low < high, got {self.low} and {self.high}")
        if not 0 < self.inflation < math.inf:
            raise ValueError(f"expected inflation > 0, got {self.inflation}")

    @property
    def order(self) -> int:
        return 2

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        schedule = denoiser.schedule
        alpha_s, sigma_s = schedule(s)
        y, r, r_s = x_t / schedule.alpha(t), schedule.ratio(t), sigma_s / alpha_s
        if self.churn and self.low <= float(r) <= self.high:
            gamma = min(self.churn / (len(self.times) - 1), math.sqrt(2) - 1)
            r_hat = torch.minimum((1 + gamma) * r, schedule.ratio(torch.ones_like(t)))
            noise = self.inflation * (r_hat.square() - r.square()).clamp_min(0.0).sqrt()
            y, r, t = y + noise * draw(y), r_hat, schedule.time(r_hat)
        slope = (y - clean(denoiser, schedule.alpha(t) * y, t)) / r
        y_s = y + (r_s - r) * slope
        if not float(sigma_s):
            return alpha_s * y_s
        end = (y_s - clean(denoiser, alpha_s * y_s, s)) / r_s
        return alpha_s * (y + (r_s - r) / 2 * (slope + end))
