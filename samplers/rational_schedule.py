r"""The noise levels of rectified flows, for states whose signal keeps its scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .schedule import Schedule

__all__ = ["RationalSchedule"]


@dataclass(frozen=True)
class RationalSchedule(Schedule):
    r"""The schedule whose noise is a ratio of two straight lines.

    .. math:: \alpha_t = 1 \qquad \sigma_t =
        \frac{(1 - t) \, \sigma_\mathrm{min} + t}{(1 - t) + t / \sigma_\mathrm{max}}

    Its ratio of noise to signal is that of a rectified flow with these limits.

    Arguments:
        sigma_min: The noise :math:`\sigma_\mathrm{min}` at :math:`t = 0`.
        sigma_max: The noise :math:`\sigma_\mathrm{max}` at :math:`t = 1`.

    Raises:
        ValueError: Unless :math:`0 < \sigma_\mathrm{min} < \sigma_\mathrm{max}` and
            :math:`\sigma_\mathrm{min} < 1 < \sigma_\mathrm{max}`.

    References:
        | Appa: Bending Weather Dynamics with Latent Diffusion Models for Global Data Assimilation
        (Andry et al., 2025) | https://arxiv.org/abs/2504.18720

    Example:
        >>> RationalSchedule(1e-3, 1e3).sigma(torch.tensor([0.0, 0.5, 1.0]))
        tensor([1.0000e-03, 1.0000e+00, 1.0000e+03])
    """

    sigma_min: float = 1e-3
    sigma_max: float = 1e3

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < 1 < self.sigma_max < math.inf:
            raise ValueError(
                f"expected 0 < sigma_min < 1 < sigma_max, got {self.sigma_min} and "
                f"{self.sigma_max}"
            )

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        # As a sum of positive terms, the denominator loses no digits near t = 1.
        return ((1 - t) * self.sigma_min + t) / ((1 - t) + t / self.sigma_max)

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        below = (1 - t) + t / self.sigma_max
        slope = (1 - self.sigma_min / self.sigma_max) / below.square()
        return torch.zeros_like(t), slope

    def time(self, ratio: Tensor) -> Tensor:
        rise = ratio - self.sigma_min
        return rise / (rise + 1 - ratio / self.sigma_max)
