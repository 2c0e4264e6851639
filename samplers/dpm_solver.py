r"""The second-order multistep solver of the probability flow."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .denoiser import Denoiser
from .integrator import Draw, Integrator, Memory, clean

__all__ = ["DPMSolver"]


@dataclass(frozen=True)
class DPMSolver(Integrator):
    r"""DPM-Solver++ (2M): the exponential integrator of the probability flow that extrapolates the
    denoiser from the step before, of second order at one evaluation a step.

    .. math:: x_s = \frac{\sigma_s}{\sigma_t} x_t + \alpha_s (1 - e^{-h}) \left(
        \left( 1 + \frac{h}{2 h'} \right) \hat{x} - \frac{h}{2 h'} \hat{x}' \right) \qquad
        h = \log \frac{\sigma_t}{\alpha_t} - \log \frac{\sigma_s}{\alpha_s}

    with :math:`\hat{x} = \mathbb{E}[x \mid x_t]`, and :math:`\hat{x}'` and :math:`h'` those of the
    step before. The first step is one of :class:`~appa_prob.samplers.DDIM`, and so is the last if
    there is no noise at its end.

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
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoiser.schedule(t), denoiser.schedule(s)
        x_hat = clean(denoiser, x_t, t)
        decay = (sigma_s / alpha_s) / (sigma_t / alpha_t)
        h, mean = -decay.log(), x_hat
        if "mean" in memory:
            # The ratio is 0 where the noise ends, and h infinite.
            ratio = (h / (2 * memory["h"])).where(decay > 0, 0.0)
            mean = x_hat + ratio * (x_hat - memory["mean"])
        memory["mean"], memory["h"] = x_hat, h
        x_s: Tensor = (sigma_s / sigma_t) * x_t + alpha_s * (1 - decay) * mean
        return x_s
