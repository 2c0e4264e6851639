r"""The probability flow, and the density that it gives.

With :math:`y = x_t / \alpha_t` and :math:`\ell = \log (\sigma_t / \alpha_t)` the flow does not
depend on the schedule,

.. math:: \frac{dy}{d\ell} = y - \mathbb{E}[x \mid x_t] \qquad
    \frac{dx_t}{dt} = \alpha_t' \, \hat{x} + \sigma_t' \, \hat{\epsilon}

and nothing but the range of :math:`\ell` does.
"""

from __future__ import annotations

from torch import Tensor, nn

from .denoiser import Denoiser
from .integrator import clean

__all__ = ["Flow", "velocity"]


def velocity(denoiser: Denoiser, x_t: Tensor, t: Tensor) -> Tensor:
    r"""The velocity of the probability flow,
    :math:`\alpha_t' \hat{x} + \sigma_t' \hat{\epsilon}`.

    Arguments:
        denoiser: The denoiser.
        x_t: The noisy state, with shape :math:`(*, event)`.
        t: The time, a double on the CPU, with shape :math:`()`.
    """
    (alpha, sigma), (alpha_dot, sigma_dot) = denoiser.schedule(t), denoiser.schedule.derivatives(t)
    rate = sigma_dot / sigma
    return rate * x_t + (alpha_dot - rate * alpha) * clean(denoiser, x_t, t)


class Flow(nn.Module):
    r"""The right-hand side :math:`y - \mathbb{E}[x \mid x_t]` of the flow in :math:`\ell`.

    Arguments:
        denoiser: The denoiser.
        levels: The first and the last level :math:`\ell`, with shape :math:`(2)`.
    """

    def __init__(self, denoiser: Denoiser, levels: Tensor) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.lowest, self.highest = sorted(levels.tolist())

    def time(self, level: Tensor) -> Tensor:
        r"""The time of a level.

        Arguments:
            level: The logarithm :math:`\ell`, with shape :math:`()`.
        """
        # Solvers try steps that lead beyond the last level, and the adjoint method would take a
        # gradient with respect to it.
        level = level.detach().clamp(self.lowest, self.highest)
        return self.denoiser.schedule.time(level.exp()).clamp(0.0, 1.0)

    def forward(self, level: Tensor, y: Tensor) -> Tensor:
        r"""Computes :math:`dy / d\ell`.

        Arguments:
            level: The logarithm :math:`\ell`, a double, with shape :math:`()`.
            y: The state :math:`x_t / \alpha_t`, with shape :math:`(*, event)`.
        """
        t = self.time(level)
        return y - clean(self.denoiser, self.denoiser.schedule.alpha(t) * y, t)
