r"""Noise schedules: how much signal and noise there is at each time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RectifiedSchedule", "Schedule", "VESchedule", "VPSchedule"]


class Schedule(ABC):
    r"""The scales of signal and noise, :math:`x_t = \alpha_t \, x + \sigma_t \, \epsilon`, for
    :math:`t` in :math:`[0, 1]`, from data to noise.

    Example:
        >>> alpha, sigma = VESchedule(0.01, 100.0)(torch.tensor([0.0, 0.5, 1.0]))
        >>> sigma
        tensor([1.0000e-02, 1.0000e+00, 1.0000e+02])
    """

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""The scales :math:`\alpha_t` and :math:`\sigma_t`.

        Arguments:
            t: The time, with shape :math:`(*)`.
        """
        return self.alpha(t), self.sigma(t)

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        r"""The scale :math:`\alpha_t > 0` of the signal, with the shape of :math:`t`."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        r"""The scale :math:`\sigma_t` of the noise, with the shape of :math:`t`."""

    @abstractmethod
    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""The derivatives :math:`\alpha_t'` and :math:`\sigma_t'` with respect to :math:`t`.

        Arguments:
            t: The time, with shape :math:`(*)`.
        """

    def ratio(self, t: Tensor) -> Tensor:
        r"""The ratio :math:`\sigma_t / \alpha_t` of noise to signal.

        Arguments:
            t: The time, with shape :math:`(*)`.
        """
        alpha, sigma = self(t)
        return sigma / alpha

    @abstractmethod
    def time(self, ratio: Tensor) -> Tensor:
        r"""The time at which :math:`\sigma_t / \alpha_t` has a value: inverts :meth:`ratio`.

        Arguments:
            ratio: The ratio, with shape :math:`(*)`.
        """


@dataclass(frozen=True)
class VESchedule(Schedule):
    r"""The variance exploding schedule, with noise that grows geometrically.

    .. math:: \alpha_t = 1 \qquad
        \sigma_t = \sigma_\mathrm{min}^{1 - t} \, \sigma_\mathrm{max}^t

    Arguments:
        sigma_min: The noise :math:`\sigma_\mathrm{min}` at :math:`t = 0`.
        sigma_max: The noise :math:`\sigma_\mathrm{max}` at :math:`t = 1`.

    Raises:
        ValueError: Unless :math:`0 < \sigma_\mathrm{min} < \sigma_\mathrm{max}`.

    References:
        | Score-Based Generative Modeling through Stochastic Differential Equations
        (Song et al., 2021) | https://arxiv.org/abs/2011.13456
    """

    sigma_min: float = 1e-2
    sigma_max: float = 1e2

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"expected 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}"
            )

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(t * math.log(self.sigma_max / self.sigma_min))

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), math.log(self.sigma_max / self.sigma_min) * self.sigma(t)

    def time(self, ratio: Tensor) -> Tensor:
        return torch.log(ratio / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class VPSchedule(Schedule):
    r"""The variance preserving schedule with a cosine.

    .. math:: \alpha_t = \cos(\omega t) \qquad \sigma_t = \sin(\omega t) \qquad
        \omega = \arccos \alpha_1

    Arguments:
        alpha_min: The signal :math:`\alpha_1` that is left at :math:`t = 1`.

    Raises:
        ValueError: Unless :math:`0 < \alpha_1 < 1`.

    References:
        | Improved Denoising Diffusion Probabilistic Models (Nichol and Dhariwal, 2021)
        | https://arxiv.org/abs/2102.09672
    """

    alpha_min: float = 1e-2

    def __post_init__(self) -> None:
        _check_fraction(self.alpha_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(math.acos(self.alpha_min) * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(math.acos(self.alpha_min) * t)

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        omega = math.acos(self.alpha_min)
        return -omega * self.sigma(t), omega * self.alpha(t)

    def time(self, ratio: Tensor) -> Tensor:
        return torch.atan(ratio) / math.acos(self.alpha_min)


@dataclass(frozen=True)
class RectifiedSchedule(Schedule):
    r"""The straight schedule of rectified flows.

    .. math:: \alpha_t = 1 - (1 - \alpha_1) \, t \qquad \sigma_t = t

    Arguments:
        alpha_min: The signal :math:`\alpha_1` that is left at :math:`t = 1`.

    Raises:
        ValueError: Unless :math:`0 < \alpha_1 < 1`.

    References:
        | Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow
        (Liu et al., 2022) | https://arxiv.org/abs/2209.03003
    """

    alpha_min: float = 1e-2

    def __post_init__(self) -> None:
        _check_fraction(self.alpha_min)

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - (1 - self.alpha_min) * t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(t, self.alpha_min - 1), torch.ones_like(t)

    def time(self, ratio: Tensor) -> Tensor:
        return ratio / (1 + (1 - self.alpha_min) * ratio)


def _check_fraction(alpha_min: float) -> None:
    if not 0 < alpha_min < 1:
        raise ValueError(f"expected 0 < alpha_min < 1, got {alpha_min}")
