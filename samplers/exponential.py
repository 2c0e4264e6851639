r"""Steps of exponential integrators.

In :math:`\lambda = \log (\alpha_t / \sigma_t)` the linear part of the probability flow is solved
exactly, which leaves an integral of the noise
:math:`\hat{\epsilon} = (x_t - \alpha_t \, \mathbb{E}[x \mid x_t]) / \sigma_t`,

.. math:: x_s = \frac{\alpha_s}{\alpha_t} x_t - \sigma_s
    \int_0^h e^{h - \tau} \, \hat{\epsilon}(\lambda_t + \tau) \, d\tau
    \qquad h = \lambda_s - \lambda_t

Methods differ in the polynomial that stands for :math:`\hat{\epsilon}` under the integral. The
noise changes less along the flow than the clean state does, at high noise above all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .denoiser import Denoiser
from .integrator import clean
from .schedule import Schedule

__all__ = ["exponential_step", "exponential_weights", "log_ratio", "noise"]


def log_ratio(schedule: Schedule, t: Tensor) -> Tensor:
    r"""The logarithm :math:`\lambda_t = \log (\alpha_t / \sigma_t)`, infinite without noise.

    Arguments:
        schedule: The schedule.
        t: The time, with shape :math:`()`.
    """
    return -schedule.ratio(t).log()


def exponential_weights(nodes: Tensor, h: Tensor) -> Tensor:
    r"""The weights of the values of a function at nodes in the integral of its polynomial.

    .. math:: w_j = -\int_0^h e^{h - \tau} L_j(\tau) \, d\tau

    with the polynomials :math:`L_j` of Lagrange.

    Arguments:
        nodes: The nodes, with shape :math:`(k)`, all different, the first at 0.
        h: The step, with shape :math:`()`.

    Returns:
        The weights, with shape :math:`(k)`; they add up to :math:`1 - e^h`.

    Example:
        >>> h = torch.tensor(0.1, dtype=torch.float64)
        >>> exponential_weights(torch.tensor([0.0, -0.1], dtype=torch.float64), h)
        tensor([-0.1569,  0.0517], dtype=torch.float64)
    """
    count = len(nodes)
    # The integrals of powers, in units of the step, are the first row of the exponential of a
    # matrix: they lose no digits where the step is small, as recursions do.
    system = torch.diag(torch.ones(count, dtype=torch.float64), 1)
    system[0, 0], system[0, 1] = h, -h
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
    noises: Sequence[Tensor],
    nodes: Tensor,
) -> Tensor:
    r"""A step of the probability flow, with the polynomial through given values of the noise.

    Arguments:
        schedule: The schedule.
        x_t: The noisy state, with shape :math:`(*, event)`.
        t: The time, with shape :math:`()`.
        s: The next time, with shape :math:`()`. If there is no noise, the first value alone is
            used: the step is infinite.
        noises: The values :math:`\hat{\epsilon}`, each with the shape of :math:`x_t`.
        nodes: Their places :math:`\tau`, with shape :math:`(k)`, the first at 0.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    h = log_ratio(schedule, s) - log_ratio(schedule, t)
    if not bool(h.isfinite()):
        return alpha_s / alpha_t * (x_t - sigma_t * noises[0])
    x_s = alpha_s / alpha_t * x_t
    for weight, noise in zip(sigma_s * exponential_weights(nodes, h), noises, strict=True):
        x_s = x_s + weight * noise
    return x_s


def noise(denoiser: Denoiser, x_t: Tensor, t: Tensor) -> Tensor:
    r"""The mean :math:`\mathbb{E}[\epsilon \mid x_t]` of the noise.

    Arguments:
        denoiser: The denoiser.
        x_t: The noisy state, with shape :math:`(*, event)`.
        t: The time, with shape :math:`()`.
    """
    alpha, sigma = denoiser.schedule(t)
    return (x_t - alpha * clean(denoiser, x_t, t)) / sigma
