r"""The variance preserving schedule of the first diffusion models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .schedule import Schedule

__all__ = ["LinearVPSchedule"]


@dataclass(frozen=True)
class LinearVPSchedule(Schedule):
    r"""The variance preserving schedule with a rate :math:`\beta_t` that grows linearly.

    .. math:: \log \alpha_t = -\tfrac{1}{2} \int_0^t \beta_s \, ds \qquad
        \beta_t = \beta_\mathrm{min} + t \, (\beta_\mathrm{max} - \beta_\mathrm{min}) \qquad
        \sigma_t^2 = 1 - \alpha_t^2

    It is the limit of many steps of denoising diffusion probabilistic models. The derivative of
    :math:`\sigma_t` is infinite at :math:`t = 0`.

    Arguments:
        beta_min: The rate :math:`\beta_\mathrm{min}` at :math:`t = 0`.
        beta_max: The rate :math:`\beta_\mathrm{max}` at :math:`t = 1`.

    Raises:
        ValueError: Unless :math:`0 < \beta_\mathrm{min} < \beta_\mathrm{max}`.

    References:
        | Denoising Diffusion Probabilistic Models (Ho et al., 2020)
        | https://arxiv.org/abs/2006.11239

        | Score-Based Generative Modeling through Stochastic Differential Equations
        (Song et al., 2021) | https://arxiv.org/abs/2011.13456

    Example:
        >>> LinearVPSchedule().alpha(torch.tensor(1.0))
        tensor(0.0066)
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min < self.beta_max < math.inf:
            raise ValueError(
                f"expected 0 < beta_min < beta_max, got {self.beta_min} and {self.beta_max}"
            )

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        beta = self.beta_min + t * (self.beta_max - self.beta_min)
        alpha, sigma = self(t)
        return -beta * alpha / 2, beta * alpha.square() / (2 * sigma)

    def time(self, ratio: Tensor) -> Tensor:
        # The root of (beta_max - beta_min) t^2 / 2 + beta_min t = log(1 + ratio^2), in the form
        # that loses no digits where the ratio is small.
        integral = torch.log1p(ratio.square())
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + (self.beta_min**2 + 2 * slope * integral).sqrt())

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -t * (self.beta_min + t * (self.beta_max - self.beta_min) / 2) / 2
