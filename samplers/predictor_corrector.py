r"""Predictor-corrector sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from .ddim import implicit_step
from .denoiser import Denoiser
from .integrator import Draw, Integrator, Memory, clean

__all__ = ["PredictorCorrector"]


@dataclass(frozen=True)
class PredictorCorrector(Integrator):
    r"""A deterministic step of :class:`~appa_prob.samplers.DDIM`, then steps of Langevin's
    dynamics at the new time.

    .. math:: x_s \leftarrow x_s + \delta \, \sigma_s^2 \, \nabla_{x_s} \log p(x_s)
        + \sqrt{2 \delta} \, \sigma_s \, z = x_s - \delta \, \sigma_s \hat{\epsilon}
        + \sqrt{2 \delta} \, \sigma_s \, z

    where :math:`\hat{\epsilon} = (x_s - \alpha_s \mathbb{E}[x \mid x_s]) / \sigma_s`. Corrections
    undo errors of the steps before, at the price of a bias of order :math:`\delta`: for Gaussian
    data they tend to the variance :math:`v + \delta \sigma_s^2 / (2 - \delta \sigma_s^2 / v)`
    where :math:`v`, that of :math:`x_s`, is right.

    References:
        | Score-Based Generative Modeling through Stochastic Differential Equations
        (Song et al., 2021) | https://arxiv.org/abs/2011.13456

        | Score-based Data Assimilation (Rozet and Louppe, 2023)
        | https://arxiv.org/abs/2306.10574

    Arguments:
        steps: The number of steps, or the times.
        corrections: The number of corrections after each step but the last.
        delta: The size :math:`\delta` of a correction, in :math:`(0, 1]`.
        correct_first: Whether the noise that sampling starts from is corrected too, as by the
            published Appa.

    Raises:
        ValueError: If an argument is out of its range.
    """

    corrections: int = 1
    delta: float = 0.25
    correct_first: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.corrections < 0:
            raise ValueError(f"expected corrections >= 0, got {self.corrections}")
        if not 0 < self.delta <= 1:
            raise ValueError(f"expected delta in (0, 1], got {self.delta}")

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        if self.correct_first and float(t) == self.times[0]:
            x_t = self._correct(denoiser, x_t, t, draw)
        x_s = implicit_step(denoiser, x_t, t, s, draw, 0.0)
        return x_s if float(s) <= self.times[-1] else self._correct(denoiser, x_s, s, draw)

    def _correct(self, denoiser: Denoiser, x_s: Tensor, s: Tensor, draw: Draw) -> Tensor:
        alpha, sigma = denoiser.schedule(s)
        for _ in range(self.corrections):
            pull = self.delta * (x_s - alpha * clean(denoiser, x_s, s))
            x_s = x_s - pull + sigma * math.sqrt(2 * self.delta) * draw(x_s)
        return x_s
