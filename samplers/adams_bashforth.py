r"""Exponential multistep methods of the probability flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .exponential import exponential_step, log_ratio
from .multistep import Multistep
from .schedule import Schedule

__all__ = ["AdamsBashforth"]


@dataclass(frozen=True)
class AdamsBashforth(Multistep):
    r"""The exponential method of Adams and Bashforth: the noise is extrapolated by the polynomial
    through its last values, and integrated exactly.

    .. math:: x_s = \frac{\alpha_s}{\alpha_t} x_t + \sigma_s \sum_{j=0}^{k-1} w_j \hat{\epsilon}_j
        \qquad w_j = -\int_0^h e^{h - \tau} L_j(\tau) \, d\tau

    in :math:`\lambda = \log (\alpha_t / \sigma_t)`, with the polynomials :math:`L_j` of Lagrange
    for the last :math:`k` times, however they are spaced. It takes one evaluation of the denoiser
    a step. For :math:`k = 1`, and in a step without noise at its end, it is
    :class:`~appa_prob.samplers.DDIM`.

    The first steps have fewer values. Where noise hides the data, as it should at first, nothing
    is lost, since :math:`\hat{\epsilon}` is as good as constant. From less noise the order is 2,
    unless the first steps are of Runge and Kutta.

    References:
        | Fast Sampling of Diffusion Models with Exponential Integrator (Zhang and Chen, 2023)
        | https://arxiv.org/abs/2204.13902

        | Exponential integrators (Hochbruck and Ostermann, 2010)
        | https://doi.org/10.1017/S0962492910000048

    Arguments:
        steps: The number of steps, or the times.
        points: The number :math:`k` of values, the order of the method, from 1 to 4.
        starter: Whether to start by Runge-Kutta steps of the third order, one for :math:`k = 3`
            and two for :math:`k = 4`, of three evaluations each.

    Raises:
        ValueError: If the number of values is out of its range.
    """

    def level(self, schedule: Schedule, t: Tensor) -> Tensor:
        return log_ratio(schedule, t)

    def extrapolate(
        self,
        schedule: Schedule,
        x_t: Tensor,
        t: Tensor,
        s: Tensor,
        noises: Sequence[Tensor],
        levels: Tensor,
    ) -> Tensor:
        return exponential_step(schedule, x_t, t, s, noises, levels - levels[0])
