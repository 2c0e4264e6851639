r"""What multistep methods of the probability flow share: the noise found at the last times."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Denoiser
from .exponential import exponential_step, log_ratio, noise
from .integrator import Draw, Integrator, Memory
from .schedule import Schedule

__all__ = ["Multistep"]


@dataclass(frozen=True)
class Multistep(Integrator):
    r"""A step by the last :math:`k` values of the noise :math:`\hat{\epsilon}`, one of them new.

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

    @abstractmethod
    def level(self, schedule: Schedule, t: Tensor) -> Tensor:
        r"""The variable that the noise is extrapolated in, at a time."""

    @abstractmethod
    def extrapolate(
        self,
        schedule: Schedule,
        x_t: Tensor,
        t: Tensor,
        s: Tensor,
        noises: Sequence[Tensor],
        levels: Tensor,
    ) -> Tensor:
        r"""Goes from time :math:`t` to :math:`s`.

        Arguments:
            schedule: The schedule.
            x_t: The noisy state.
            t: The time.
            s: The next time.
            noises: The last values of the noise, the newest first.
            levels: The variable where they were found, with shape :math:`(k)`.
        """

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        schedule, past = denoiser.schedule, self.points - 1
        level = self.level(schedule, t)
        kept = [memory[f"noise{j}"] for j in range(past) if f"noise{j}" in memory]
        noises = [noise(denoiser, x_t, t), *kept]
        levels = torch.cat((level.reshape(1), memory.get("levels", level.new_empty(0))))
        memory["levels"] = levels[:past]
        memory.update({f"noise{j}": eps for j, eps in enumerate(noises[:past])})
        if self.starter and len(noises) < past and float(schedule.sigma(s)):
            return third_order(denoiser, x_t, t, s, noises[0])
        return self.extrapolate(schedule, x_t, t, s, noises, levels)


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
