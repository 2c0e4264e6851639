r"""The method of Euler and Maruyama."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from .denoiser import Denoiser
from .integrator import Draw, Integrator, Memory, clean

__all__ = ["EulerMaruyama"]


@dataclass(frozen=True)
class EulerMaruyama(Integrator):
    r"""The method of Euler and Maruyama for the reverse diffusion, in the time of the schedule.

    .. math:: dx_t = \left( \alpha_t' \hat{x} + \sigma_t' \hat{\epsilon}
        + \eta^2 \sigma_t \lambda_t \, \hat{\epsilon} \right) dt
        + \eta \, \sigma_t \sqrt{2 \lambda_t} \, d\bar{w}_t \qquad
        \lambda_t = \frac{d}{dt} \log \frac{\sigma_t}{\alpha_t}

    with :math:`\hat{x} = \mathbb{E}[x \mid x_t]` and
    :math:`\hat{\epsilon} = (x_t - \alpha_t \hat{x}) / \sigma_t`.
    All :math:`\eta` have the same marginal laws; :math:`\eta = 0` is
    :class:`~appa_prob.samplers.Euler`, and :math:`\eta = 1` the reverse of the diffusion. It is of
    weak order 1.

    References:
        | Score-Based Generative Modeling through Stochastic Differential Equations
        (Song et al., 2021) | https://arxiv.org/abs/2011.13456

    Arguments:
        steps: The number of steps, or the times.
        eta: The stochasticity :math:`\eta \geq 0`.

    Raises:
        ValueError: If :math:`\eta` is negative or not finite.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.eta < math.inf:
            raise ValueError(f"expected eta >= 0, got {self.eta}")

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        alpha, sigma = denoiser.schedule(t)
        alpha_dot, sigma_dot = denoiser.schedule.derivatives(t)
        growth = sigma_dot / sigma - alpha_dot / alpha
        rate = sigma_dot / sigma + self.eta**2 * growth
        x_hat = clean(denoiser, x_t, t)
        x_s = x_t + (s - t) * (rate * x_t + (alpha_dot - rate * alpha) * x_hat)
        noise = self.eta * sigma * (2 * growth * (t - s)).sqrt()
        return x_s + noise * draw(x_t) if self.eta else x_s
