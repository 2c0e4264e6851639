r"""Grids of times: where the steps of an integrator are spent.

Equal steps of :math:`t` are what an integrator takes by itself. Here are grids that are equal in a
function of the ratio of noise to signal :math:`r = \sigma_t / \alpha_t`, whatever the schedule:

.. math:: r_i = \left( r_0^{1/\rho} + \tfrac{i}{n}
    (r_n^{1/\rho} - r_0^{1/\rho}) \right)^\rho \qquad
    \log r_i = \log r_0 + \tfrac{i}{n} (\log r_n - \log r_0)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .schedule import Schedule

__all__ = ["karras_times", "ratio_times"]


def ratio_times(
    schedule: Schedule,
    steps: int,
    *,
    first: float | None = None,
    last: float | None = None,
    zero: bool = False,
) -> tuple[float, ...]:
    r"""Times at equal steps of the logarithm of the ratio of noise to signal.

    The signal-to-noise ratio :math:`\alpha_t^2 / \sigma_t^2` grows by the same factor each step.

    Arguments:
        schedule: The schedule.
        steps: The number of steps.
        first: The first ratio; by default that of :math:`t = 1`.
        last: The last ratio; by default that of :math:`t = 0`, or :math:`2 \times 10^{-3}` if
            that is smaller.
        zero: Whether a last step goes on to :math:`t = 0`. It is one of the `steps`.

    Returns:
        The times, which an integrator takes in place of a number of steps.

    Raises:
        ValueError: If there are too few steps, or the ratios are not those of the schedule.

    References:
        | DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10
        Steps (Lu et al., 2022) | https://arxiv.org/abs/2206.00927

    Example:
        >>> from appa_prob.samplers import DDIM, RectifiedSchedule
        >>> sampler = DDIM(ratio_times(RectifiedSchedule(), 4, last=0.01))
        >>> [round(t, 3) for t in sampler.times]
        [1.0, 0.917, 0.503, 0.091, 0.01]
    """
    inner, first, last = _checked(schedule, steps, first, last, zero)
    ratios = torch.linspace(math.log(first), math.log(last), inner + 1, dtype=torch.float64).exp()
    return _times(schedule, ratios, zero)


def karras_times(
    schedule: Schedule,
    steps: int,
    *,
    rho: float = 7.0,
    first: float | None = None,
    last: float | None = None,
    zero: bool = False,
) -> tuple[float, ...]:
    r"""Times at equal steps of the root :math:`r^{1/\rho}` of the ratio of noise to signal.

    Arguments:
        schedule: The schedule.
        steps: The number of steps.
        rho: The exponent :math:`\rho \geq 1`.
        first: The first ratio; by default that of :math:`t = 1`.
        last: The last ratio; by default that of :math:`t = 0`, or :math:`2 \times 10^{-3}` if
            that is smaller.
        zero: Whether a last step goes on to :math:`t = 0`. It is one of the `steps`.

    Returns:
        The times, which an integrator takes in place of a number of steps.

    Raises:
        ValueError: If there are too few steps, the exponent is too small, or the ratios are not
            those of the schedule.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
        | https://arxiv.org/abs/2206.00364

    Example:
        >>> from appa_prob.samplers import VESchedule
        >>> [round(t, 3) for t in karras_times(VESchedule(), 4)]
        [1.0, 0.846, 0.654, 0.395, 0.0]
    """
    if not 1 <= rho < math.inf:
        raise ValueError(f"expected rho >= 1, got {rho}")
    inner, first, last = _checked(schedule, steps, first, last, zero)
    roots = torch.linspace(first ** (1 / rho), last ** (1 / rho), inner + 1, dtype=torch.float64)
    return _times(schedule, roots**rho, zero)


def _checked(
    schedule: Schedule, steps: int, first: float | None, last: float | None, zero: bool
) -> tuple[int, float, float]:
    inner = steps - 1 if zero else steps
    if inner < 1:
        raise ValueError(f"expected at least {2 if zero else 1} steps, got {steps}")
    low, high = schedule.ratio(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    first = high if first is None else first
    last = max(low, 2e-3) if last is None else last
    if zero and last <= low:
        raise ValueError(
            f"expected a last ratio larger than that of t = 0, {low:.3g}, got {last:.3g}: leave "
            "out zero=True, or give last"
        )
    tolerance = 1e-6
    if not low * (1 - tolerance) <= last < first <= high * (1 + tolerance) or last <= 0:
        raise ValueError(
            f"expected ratios of noise to signal within those of the schedule, {low:.3g} to "
            f"{high:.3g}, the first larger than the last, got {first:.3g} and {last:.3g}"
        )
    return inner, first, last


def _times(schedule: Schedule, ratios: Tensor, zero: bool) -> tuple[float, ...]:
    times = schedule.time(ratios).clamp(0.0, 1.0).tolist()
    return (*times, 0.0) if zero else tuple(times)
