r"""Weights of exponential integrators.

In :math:`\lambda = \log (\alpha_t / \sigma_t)` the linear part of the probability flow, and of the
reverse diffusion, is solved exactly, which leaves an integral of the denoiser :math:`\hat{x}`,

.. math:: x_s = \frac{\sigma_s}{\sigma_t} e^{-(a - 1) h} \, x_t + \alpha_s
    \int_0^h a \, e^{-a (h - \tau)} \, \hat{x}(\lambda_t + \tau) \, d\tau \, (+ \text{noise})
    \qquad h = \lambda_s - \lambda_t

with :math:`a = 1` for the flow and :math:`a = 1 + \eta^2` for the diffusion. Methods differ in the
polynomial that stands for :math:`\hat{x}` under the integral.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .schedule import Schedule

__all__ = ["exponential_step", "exponential_weights", "log_ratio"]


def log_ratio(schedule: Schedule, t: Tensor) -> Tensor:
    r"""The logarithm :math:`\lambda_t = \log (\alpha_t / \sigma_t)`, infinite without noise.

    Arguments:
        schedule: The schedule.
        t: The time, with shape :math:`()`.
    """
    return -schedule.ratio(t).log()


def exponential_weights(nodes: Tensor, h: Tensor, rate: float = 1.0) -> Tensor:
    r"""The weights of the values of a function at nodes in the integral of its polynomial.

    .. math:: w_j = \int_0^h a \, e^{-a (h - \tau)} L_j(\tau) \, d\tau

    with the polynomials :math:`L_j` of Lagrange.

    Arguments:
        nodes: The nodes, with shape :math:`(k)`, all different, the first at 0.
        h: The step, with shape :math:`()`; for an infinite one all weight is on the first node.
        rate: The rate :math:`a`.

    Returns:
        The weights, with shape :math:`(k)`; they add up to :math:`1 - e^{-a h}`.

    Example:
        >>> h = torch.tensor(0.1, dtype=torch.float64)
        >>> exponential_weights(torch.tensor([0.0, -0.1], dtype=torch.float64), h)
        tensor([ 0.1435, -0.0484], dtype=torch.float64)
    """
    count = len(nodes)
    if not math.isfinite(float(h)):
        return torch.eye(count, dtype=torch.float64)[0]
    # The integrals of powers, in units of the step, are the first row of the exponential of a
    # matrix: they lose no digits where the step is small, as recursions do.
    z = rate * float(h)
    system = torch.diag(torch.ones(count, dtype=torch.float64), 1)
    system[0] *= z
    system[0, 0] = -z
    integrals = torch.linalg.matrix_exp(system)[0, 1:]
    factorials = torch.tensor([math.factorial(k) for k in range(count)], dtype=torch.float64)
    powers = (nodes / h).unsqueeze(0) ** torch.arange(count).unsqueeze(-1)
    weights: Tensor = torch.linalg.solve(powers, integrals * factorials)
    return weights


def exponential_step(
    schedule: Schedule,
    x_t: Tensor,
    t: Tensor,
    s: Tensor,
    means: Sequence[Tensor],
    nodes: Tensor,
) -> Tensor:
    r"""A step of the probability flow, with the polynomial through given values of the denoiser.

    Arguments:
        schedule: The schedule.
        x_t: The noisy state, with shape :math:`(*, event)`.
        t: The time, with shape :math:`()`.
        s: The next time, with shape :math:`()`.
        means: The values :math:`\hat{x}`, each with the shape of :math:`x_t`.
        nodes: Their places :math:`\tau`, with shape :math:`(k)`, the first at 0.
    """
    alpha_s, sigma_s = schedule(s)
    w = exponential_weights(nodes, log_ratio(schedule, s) - log_ratio(schedule, t))
    x_s = sigma_s / schedule.sigma(t) * x_t
    for weight, mean in zip(alpha_s * w, means, strict=True):
        x_s = x_s + weight * mean
    return x_s
