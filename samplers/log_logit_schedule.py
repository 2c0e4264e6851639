r"""The schedule that lingers at the noise levels in the middle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .schedule import Schedule

__all__ = ["LogLogitSchedule"]


@dataclass(frozen=True)
class LogLogitSchedule(Schedule):
    r"""The schedule whose logarithm of noise is a logit of time, so that most times have noise of
    the size of the data.

    .. math:: \alpha_t = 1 \qquad \log \sigma_t = \mu + s \, \mathrm{logit}(a + t \, (b - a))

    with :math:`a` and :math:`b` such that noise goes from :math:`\sigma_\mathrm{min}` to
    :math:`\sigma_\mathrm{max}`. For uniform times and wide limits :math:`\log \sigma_t` has a
    logistic law of location :math:`\mu` and scale :math:`s`.

    Arguments:
        sigma_min: The noise :math:`\sigma_\mathrm{min}` at :math:`t = 0`.
        sigma_max: The noise :math:`\sigma_\mathrm{max}` at :math:`t = 1`.
        spread: The scale :math:`s`.
        shift: The location :math:`\mu`.
        exact: Whether the limits are met. The published Appa takes :math:`a = 1 - b = e^{-u}` with
            :math:`u` half of their logarithmic distance over :math:`s`, which is near to the
            logistic function of :math:`-u` and leaves both limits out by some percents.

    Raises:
        ValueError: Unless :math:`0 < \sigma_\mathrm{min} < \sigma_\mathrm{max}` and
            :math:`s > 0`.

    References:
        | Appa: Bending Weather Dynamics with Latent Diffusion Models for Global Data Assimilation
        (Andry et al., 2025) | https://arxiv.org/abs/2504.18720

    Example:
        >>> LogLogitSchedule(1e-3, 1e3).sigma(torch.tensor([0.25, 0.5, 0.75]))
        tensor([0.1304, 1.0000, 7.6670])
    """

    sigma_min: float = 1e-3
    sigma_max: float = 1e3
    spread: float = 2.0
    shift: float = 0.0
    exact: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"expected 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}"
            )
        if not 0 < self.spread < math.inf:
            raise ValueError(f"expected spread > 0, got {self.spread}")

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        first, width = self._ends
        return torch.exp(self.shift + self.spread * torch.logit(first + t * width))

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        first, width = self._ends
        u = first + t * width
        return torch.zeros_like(t), self.sigma(t) * self.spread * width / (u * (1 - u))

    def time(self, ratio: Tensor) -> Tensor:
        first, width = self._ends
        return (torch.sigmoid((ratio.log() - self.shift) / self.spread) - first) / width

    @property
    def _ends(self) -> tuple[float, float]:
        if not self.exact:
            end = (self.sigma_min / self.sigma_max) ** (0.5 / self.spread)
            return end, 1 - 2 * end
        first, last = (
            1 / (1 + math.exp((self.shift - math.log(s)) / self.spread))
            for s in (self.sigma_min, self.sigma_max)
        )
        return first, last - first
