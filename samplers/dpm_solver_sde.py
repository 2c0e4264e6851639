r"""The multistep solver of the reverse diffusion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Denoiser
from .exponential import log_ratio
from .integrator import Draw, Integrator, Memory, clean

__all__ = ["DPMSolverSDE"]


@dataclass(frozen=True)
class DPMSolverSDE(Integrator):
    r"""SDE-DPM-Solver++ (2M): the exponential integrator of the reverse diffusion, with the
    denoiser extrapolated from the step before.

    .. math:: x_s = \frac{\sigma_s}{\sigma_t} e^{-h} x_t + \alpha_s (1 - e^{-2 h}) \left(
        \left( 1 + \frac{h}{2 h'} \right) \hat{x} - \frac{h}{2 h'} \hat{x}' \right)
        + \sigma_s \sqrt{1 - e^{-2 h}} \, z \qquad
        h = \log \frac{\alpha_s}{\sigma_s} - \log \frac{\alpha_t}{\sigma_t}

    with :math:`\hat{x} = \mathbb{E}[x \mid x_t]`, with :math:`\hat{x}'` and :math:`h'` of the
    step before, and white :math:`z`. The first step and a last one without
    noise at its end take :math:`\hat{x}` alone. It is of second order in law.

    References:
        | DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models
        (Lu et al., 2022) | https://arxiv.org/abs/2211.01095

    Arguments:
        steps: The number of steps, or the times.
    """

    @property
    def order(self) -> int:
        return 2

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        sigma_t, (alpha_s, sigma_s) = denoiser.schedule.sigma(t), denoiser.schedule(s)
        x_hat = clean(denoiser, x_t, t)
        h, mean = log_ratio(denoiser.schedule, s) - log_ratio(denoiser.schedule, t), x_hat
        if "mean" in memory and bool(h.isfinite()):
            mean = x_hat + h / (2 * memory["h"]) * (x_hat - memory["mean"])
        memory["mean"], memory["h"] = x_hat, h
        gain = -torch.expm1(-2 * h)
        x_s: Tensor = sigma_s / sigma_t * (-h).exp() * x_t + alpha_s * gain * mean
        return x_s + sigma_s * gain.sqrt() * draw(x_t)
