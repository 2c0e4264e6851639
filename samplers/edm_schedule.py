r"""The noise levels of EDM."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .schedule import Schedule

__all__ = ["EDMSchedule"]


@dataclass(frozen=True)
class EDMSchedule(Schedule):
    r"""The schedule whose equal steps of time are the noise levels of EDM.

    .. math:: \alpha_t = 1 \qquad \sigma_t = \left( \sigma_\mathrm{min}^{1/\rho}
        + t \, (\sigma_\mathrm{max}^{1/\rho} - \sigma_\mathrm{min}^{1/\rho}) \right)^\rho

    Arguments:
        sigma_min: The noise :math:`\sigma_\mathrm{min}` at :math:`t = 0`, which may be 0.
        sigma_max: The noise :math:`\sigma_\mathrm{max}` at :math:`t = 1`.
        rho: The exponent :math:`\rho \geq 1`: 1 for equal steps of :math:`\sigma`, and the larger
            the more steps there are at low noise.

    Raises:
        ValueError: Unless :math:`0 \leq \sigma_\mathrm{min} < \sigma_\mathrm{max}` and
            :math:`\rho \geq 1`.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
        | https://arxiv.org/abs/2206.00364

    Example:
        >>> EDMSchedule(0.0, 80.0).sigma(torch.tensor([0.0, 0.5, 1.0]))
        tensor([ 0.0000,  0.6250, 80.0000])
    """

    sigma_min: float = 2e-3
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"expected 0 <= sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}"
            )
        if not 1 <= self.rho < math.inf:
            raise ValueError(f"expected rho >= 1, got {self.rho}")

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        first, width = self._roots
        return (first + t * width) ** self.rho

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        first, width = self._roots
        return torch.zeros_like(t), self.rho * width * (first + t * width) ** (self.rho - 1)

    def time(self, ratio: Tensor) -> Tensor:
        first, width = self._roots
        return (ratio ** (1 / self.rho) - first) / width

    @property
    def _roots(self) -> tuple[float, float]:
        first, last = (s ** (1 / self.rho) for s in (self.sigma_min, self.sigma_max))
        return first, last - first
