r"""Fields between their times, and their means and accumulations over windows of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .axis import AxisGather
from .registry import register
from .shapes import as_axis, as_size

__all__ = ["TimeInterpolate", "TimeWindow"]

Reduction = Literal["mean", "integral", "sum"]


@register
class TimeInterpolate(AxisGather):
    r"""Linear interpolation in time.

    .. math:: (A x)_i = \frac{t_{j + 1} - s_i}{t_{j + 1} - t_j} \, x_j
        + \frac{s_i - t_j}{t_{j + 1} - t_j} \, x_{j + 1} \qquad t_j \leq s_i \leq t_{j + 1}

    The operator is differentiable with respect to the times :math:`s`.

    Arguments:
        times: The times :math:`t` of the field, ascending, with shape :math:`(n)`, in any unit.
        at: The times :math:`s` to interpolate to, with shape :math:`(m)`, in the same unit.
        in_shape: The shape of the input event, with :math:`n` elements along the axis.
        axis: The event axis, counted from 0, or from the end if negative.

    Raises:
        ValueError: If the times don't ascend, don't match the axis, or don't enclose the others.

    Example:
        >>> A = TimeInterpolate(torch.tensor([0.0, 6.0]), torch.tensor([1.5]), (2, 3))
        >>> A(torch.tensor([[0.0, 0.0, 0.0], [4.0, 8.0, 12.0]]))
        tensor([[1., 2., 3.]])
    """

    def __init__(
        self, times: Tensor, at: Tensor, in_shape: int | Sequence[int], axis: int = 0
    ) -> None:
        check_times(times, at, in_shape, axis)
        self.times, self.at = times, at
        right = torch.searchsorted(times, at.detach(), right=True).clamp(1, len(times) - 1)
        start, stop = times[right - 1], times[right]
        share = (at - start) / (stop - start)
        indices = torch.stack((right - 1, right), dim=1)
        super().__init__(indices, torch.stack((1 - share, share), dim=1), in_shape, axis)


@register
class TimeWindow(AxisGather):
    r"""Means and accumulations over windows of time.

    .. math:: (A x)_i = \frac{1}{b_i - a_i} \int_{a_i}^{b_i} x(t) \, dt \qquad
        (A x)_i = \int_{a_i}^{b_i} x(t) \, dt \qquad (A x)_i = \sum_{a_i < t_j \leq b_i} x_j

    for the mean, the integral and the sum. Between its times the field is linear, and its
    integrals are exact. The integral accumulates rates; the sum accumulates amounts that have
    fallen since the time before, such as precipitation.

    Arguments:
        times: The times :math:`t` of the field, ascending, with shape :math:`(n)`, in any unit.
        start: The starts :math:`a` of the windows, with shape :math:`(m)`, in the same unit.
        stop: The ends :math:`b > a`, likewise.
        in_shape: The shape of the input event, with :math:`n` elements along the axis.
        axis: The event axis, counted from 0, or from the end if negative.
        reduction: ``"mean"``, ``"integral"`` or ``"sum"``.

    Raises:
        ValueError: If the times don't ascend, don't match the axis or don't enclose the windows,
            a window is empty, or the reduction isn't known.

    Example:
        >>> hours = torch.arange(4.0)
        >>> A = TimeWindow(hours, torch.tensor([0.5]), torch.tensor([2.5]), 4)
        >>> A(hours**2)
        tensor([2.7500])
    """

    def __init__(
        self,
        times: Tensor,
        start: Tensor,
        stop: Tensor,
        in_shape: int | Sequence[int],
        axis: int = 0,
        reduction: Reduction = "mean",
    ) -> None:
        check_times(times, start, in_shape, axis)
        check_times(times, stop, in_shape, axis)
        if start.shape != stop.shape or not bool((start < stop).all()):
            raise ValueError(
                f"expected windows that start before they stop, got starts of shape "
                f"{tuple(start.shape)} and stops of shape {tuple(stop.shape)}"
            )
        if reduction not in ("mean", "integral", "sum"):
            raise ValueError(f"expected mean, integral or sum as reduction, got {reduction!r}")
        self.times, self.start, self.stop, self.reduction = times, start, stop, reduction
        if reduction == "sum":
            first = torch.searchsorted(times, start.detach(), right=True)
            behind = torch.searchsorted(times, stop.detach(), right=True)
        else:  # the hats that reach into the window
            first = torch.searchsorted(times, start.detach(), right=True) - 1
            behind = torch.searchsorted(times, stop.detach()) + 1
        behind = behind.clamp(max=len(times))
        steps = torch.arange(int((behind - first).max().clamp_min(1)), device=times.device)
        places = first[:, None] + steps
        inside = places < behind[:, None]
        places = places.clamp(max=len(times) - 1)
        if reduction == "sum":
            weights = inside.to(times.dtype)
        else:
            a, b = start[:, None], stop[:, None]
            weights = hat_integral(times, places, b) - hat_integral(times, places, a)
            weights = torch.where(inside, weights, 0.0)
            weights = weights / (b - a) if reduction == "mean" else weights
        super().__init__(places, weights, in_shape, axis)


def hat_integral(times: Tensor, places: Tensor, until: Tensor) -> Tensor:
    r"""The integrals of the functions that interpolate unit values at single times.

    Arguments:
        times: The times, ascending, with shape :math:`(n)`.
        places: The numbers of the times where the values are 1, with shape :math:`(m, k)`.
        until: The ends of integration, with shape :math:`(m, 1)`.

    Example:
        >>> hat_integral(torch.arange(3.0), torch.tensor([[0, 1, 2]]), torch.tensor([[1.5]]))
        tensor([[0.5000, 0.8750, 0.1250]])
    """
    middle = times[places]
    left, right = times[(places - 1).clamp_min(0)], times[(places + 1).clamp(max=len(times) - 1)]
    rise, fall = middle - left, right - middle
    one = torch.ones_like(middle)
    up = ((until - left) / torch.where(rise > 0, rise, one)).clamp(0, 1)
    down = ((until - middle) / torch.where(fall > 0, fall, one)).clamp(0, 1)
    return rise * up.square() / 2 + fall * (down - down.square() / 2)


def check_times(times: Tensor, at: Tensor, in_shape: int | Sequence[int], axis: int) -> None:
    """Refuses times that don't ascend, don't match an axis, or don't enclose others."""
    shape = as_size(in_shape)
    n = shape[as_axis(axis, shape)]
    if times.shape != (n,) or n < 2 or at.ndim != 1 or not bool((times.diff() > 0).all()):
        raise ValueError(
            f"expected two or more ascending times, {n} as the axis has, and times of shape (m,) "
            f"among them, got shapes {tuple(times.shape)} and {tuple(at.shape)}"
        )
    if not bool(((at >= times[0]) & (at <= times[-1])).all()):
        raise ValueError(
            f"expected times between {float(times[0]):g} and {float(times[-1]):g}, got "
            f"{float(at.min()):g} to {float(at.max()):g}; nothing is extrapolated"
        )
