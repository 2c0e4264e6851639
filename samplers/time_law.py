r"""Laws of the times that a denoiser is trained at.

Times of a batch are stratified: one in each of as many intervals of equal probability as there are
members, which makes the loss vary less.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from .schedule import Schedule

__all__ = ["LogNormalTimes", "LogUniformTimes", "LogitNormalTimes", "TimeLaw", "UniformTimes"]


class TimeLaw(ABC):
    r"""A law of times in :math:`[0, 1]`, by its quantiles.

    Example:
        >>> UniformTimes()(4, torch.Generator().manual_seed(0)).diff() > 0
        tensor([True, True, True])
    """

    def __call__(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        r"""Draws times, one in each of `count` intervals of equal probability, in order.

        Arguments:
            count: The number of times.
            generator: A source of random numbers, on whose device the times are.
        """
        device = None if generator is None else generator.device
        uniform = torch.rand(count, generator=generator, device=device)
        return self.quantile((torch.arange(count, device=device) + uniform) / count)

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        r"""The time that a part :math:`u` of times is less than, with the shape of :math:`u`."""


@dataclass(frozen=True)
class UniformTimes(TimeLaw):
    r"""Uniform times.

    Arguments:
        low: The lowest time, where there should be some noise.
        high: The highest time.

    Raises:
        ValueError: Unless :math:`0 \leq low < high \leq 1`.
    """

    low: float = 1e-3
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"expected 0 <= low < high <= 1, got {self.low} and {self.high}")

    def quantile(self, u: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * u


@dataclass(frozen=True)
class LogUniformTimes(TimeLaw):
    r"""Times whose ratio :math:`\sigma_t / \alpha_t` has a uniform logarithm.

    Arguments:
        schedule: The schedule.
        low: The lowest ratio.
        high: The highest ratio.

    Raises:
        ValueError: Unless :math:`0 < low < high`.
    """

    schedule: Schedule
    low: float = 1e-2
    high: float = 1e2

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise ValueError(f"expected 0 < low < high, got {self.low} and {self.high}")

    def quantile(self, u: Tensor) -> Tensor:
        ratio = self.low * torch.exp(math.log(self.high / self.low) * u)
        return _within(self.schedule, ratio)


@dataclass(frozen=True)
class LogNormalTimes(TimeLaw):
    r"""Times whose ratio :math:`\sigma_t / \alpha_t` has a normal logarithm.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
        | https://arxiv.org/abs/2206.00364

    Arguments:
        schedule: The schedule, within whose ratios they are kept.
        median: The median of the ratio.
        spread: The standard deviation of its logarithm.

    Raises:
        ValueError: Unless the median and the spread are positive.
    """

    schedule: Schedule
    median: float = math.exp(-1.2)
    spread: float = 1.2

    def __post_init__(self) -> None:
        if not (0 < self.median < math.inf and 0 < self.spread < math.inf):
            raise ValueError(
                f"expected median > 0 and spread > 0, got {self.median} and {self.spread}"
            )

    def quantile(self, u: Tensor) -> Tensor:
        normal = torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4))
        return _within(self.schedule, self.median * torch.exp(self.spread * normal))


@dataclass(frozen=True)
class LogitNormalTimes(TimeLaw):
    r"""Times with a normal logit, in the middle for the most part.

    References:
        | Scaling Rectified Flow Transformers for High-Resolution Image Synthesis (Esser et al.,
        2024) | https://arxiv.org/abs/2403.03206

    Arguments:
        mean: The mean of the logit.
        spread: Its standard deviation.

    Raises:
        ValueError: Unless the spread is positive and the mean finite.
    """

    mean: float = 0.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        if not (abs(self.mean) < math.inf and 0 < self.spread < math.inf):
            raise ValueError(
                f"expected a finite mean and spread > 0, got {self.mean} and {self.spread}"
            )

    def quantile(self, u: Tensor) -> Tensor:
        normal = torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4))
        return torch.sigmoid(self.mean + self.spread * normal)


def _within(schedule: Schedule, ratio: Tensor) -> Tensor:
    low, high = schedule.ratio(ratio.new_tensor([0.0, 1.0])).unbind()
    return schedule.time(ratio.clamp(low, high))
