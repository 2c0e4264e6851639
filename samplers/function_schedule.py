r"""Schedules that are given by a function or by a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .schedule import Schedule

__all__ = ["FunctionSchedule", "TabulatedSchedule"]

HALVINGS = 64


@dataclass(frozen=True)
class FunctionSchedule(Schedule):
    r"""The schedule of any differentiable function :math:`t \mapsto (\alpha_t, \sigma_t)`.

    Derivatives are those of autograd, and the time of a ratio :math:`\sigma_t / \alpha_t` is found
    by bisection.

    Arguments:
        function: The function, whose ratio increases.

    Raises:
        ValueError: If the scales are not those of a schedule at some times.

    Example:
        >>> s = FunctionSchedule(lambda t: (torch.ones_like(t), 3 * t))
        >>> s.derivatives(torch.tensor(0.2)), s.time(torch.tensor(1.5))
        ((tensor(0.), tensor(3.)), tensor(0.5000))
    """

    function: Callable[[Tensor], tuple[Tensor, Tensor]]

    def __post_init__(self) -> None:
        alpha, sigma = self(torch.linspace(0.0, 1.0, 33, dtype=torch.float64))
        good = (alpha > 0).all() and (sigma >= 0).all() and ((sigma / alpha).diff() > 0).all()
        if not bool(good):
            raise ValueError(
                "expected alpha > 0, sigma >= 0 and a ratio of noise to signal that increases "
                f"with time, got ratios {(sigma / alpha)[::8].tolist()}"
            )

    def alpha(self, t: Tensor) -> Tensor:
        return self.function(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        return self.function(t)[1]

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            t = t.detach().requires_grad_()
            # A term of zero, since a scale may be constant.
            alpha, sigma = ((scale + 0 * t).sum() for scale in self.function(t))
            (alpha_dot,) = torch.autograd.grad(alpha, t, retain_graph=True)
            (sigma_dot,) = torch.autograd.grad(sigma, t)
        return alpha_dot, sigma_dot

    def time(self, ratio: Tensor) -> Tensor:
        low, high = torch.zeros_like(ratio), torch.ones_like(ratio)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            above = self.ratio(middle) > ratio
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2


class TabulatedSchedule(Schedule):
    r"""The variance preserving schedule through a table of signal powers :math:`\bar{\alpha}_i`.

    .. math:: \alpha_t^2 = \bar{\alpha}_i \qquad \sigma_t^2 = 1 - \bar{\alpha}_i \qquad
        t = \frac{i}{n - 1}

    and :math:`\log (\sigma_t / \alpha_t)` is linear between the entries.

    Arguments:
        powers: The powers :math:`\bar{\alpha}_i`, with shape :math:`(n)`, decreasing.

    Raises:
        ValueError: If the table does not decrease strictly within :math:`(0, 1)`.

    References:
        | Denoising Diffusion Probabilistic Models (Ho et al., 2020)
        | https://arxiv.org/abs/2006.11239

    Example:
        >>> s = TabulatedSchedule(torch.tensor([0.99, 0.5, 0.01]))
        >>> s.alpha(torch.tensor(0.5)), s.time(torch.tensor(1.0))
        (tensor(0.7071), tensor(0.5000))
    """

    def __init__(self, powers: Tensor) -> None:
        powers = powers.detach().to("cpu", torch.float64)
        inside = powers.ndim == 1 and len(powers) > 1 and bool(((0 < powers) & (powers < 1)).all())
        if not inside or not bool((powers.diff() < 0).all()):
            raise ValueError(
                "expected a table of signal powers that decreases strictly within (0, 1), got "
                f"{tuple(powers.shape)} from {float(powers.max())} to {float(powers.min())}; "
                "leave out last entries without signal"
            )
        self.levels = (torch.log1p(-powers) - powers.log()) / 2

    def alpha(self, t: Tensor) -> Tensor:
        return torch.rsqrt(1 + torch.exp(2 * self._level(t)[0]))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.rsqrt(1 + torch.exp(-2 * self._level(t)[0]))

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        slope, (alpha, sigma) = self._level(t)[1], self(t)
        return -slope * sigma.square() * alpha, slope * alpha.square() * sigma

    def time(self, ratio: Tensor) -> Tensor:
        levels, level = self.levels.to(ratio), ratio.log()
        count = len(levels)
        i = torch.searchsorted(levels, level.contiguous()).clamp(1, count - 1) - 1
        part = (level - levels[i]) / (levels[i + 1] - levels[i])
        return (i + part) / (count - 1)

    def _level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithm of the ratio and its derivative."""
        levels, count = self.levels.to(t), len(self.levels)
        place = t * (count - 1)
        i = place.long().clamp(0, count - 2)
        slope = levels[i + 1] - levels[i]
        return levels[i] + (place - i) * slope, slope * (count - 1)
