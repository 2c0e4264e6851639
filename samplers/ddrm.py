r"""Denoising diffusion restoration models."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .denoiser import Denoiser
from .integrator import Draw, Integrator, Memory, clean
from .likelihood import Likelihood
from .modes import Modes

__all__ = ["DDRM"]


@dataclass(frozen=True)
class DDRM(Integrator):
    r"""Denoising diffusion restoration: each singular vector of the observation takes steps of
    its own, which add the less noise the less its observation is exact.

    With :math:`u = x_t / \alpha_t`, :math:`r_t = \sigma_t / \alpha_t`, white noise :math:`z`,
    and a coefficient :math:`\bar{y}` observed with errors of standard deviation :math:`\tau`,

    .. math:: u_s = \begin{cases}
        \hat{x} + q \, r_s \frac{u_t - \hat{x}}{r_t} + \eta \, r_s z & \text{not observed} \\
        \hat{x} + q \, r_s \frac{\bar{y} - \hat{x}}{\tau} + \eta \, r_s z & r_s < \tau \\
        \hat{x} + \eta_b (\bar{y} - \hat{x}) + \sqrt{r_s^2 - \eta_b^2 \tau^2} \, z & r_s \geq \tau
        \end{cases} \qquad q = \sqrt{1 - \eta^2}

    The denoiser is evaluated and not differentiated. It is meant for few steps: as they become
    many, a step adds more noise than the denoiser takes away. For a scalar of variance :math:`p`
    that is not observed, the variance of the samples tends to :math:`p \, (1 + q) / 2`; one that
    is observed tends to :math:`\bar{y}`, without spread, for :math:`0 < q`.

    References:
        | Denoising Diffusion Restoration Models (Kawar et al., 2022)
        | https://arxiv.org/abs/2201.11793

    Arguments:
        steps: The number of steps, or the times.
        likelihood: The likelihood :math:`p(y \mid x)`, Gaussian with a linear map.
        eta: The stochasticity :math:`\eta` in :math:`[0, 1]`.
        eta_observed: The share :math:`\eta_b` in :math:`[0, 1]` of the observation where it is
            better known than the noisy state.

    Raises:
        ValueError: If an argument is out of its range, or the likelihood is another, or neither a
            mask with independent errors nor small enough for a singular value decomposition.

    Example:
        >>> from appa_prob.operators import Isotropic, Mask
        >>> from appa_prob.samplers import GaussianDenoiser, GaussianLikelihood, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule(0.01, 100.0))
        >>> y = GaussianLikelihood(Mask(torch.tensor([True, False])), torch.tensor([2.0]), 1e-4)
        >>> sampler, g = DDRM(20, likelihood=y), torch.Generator().manual_seed(0)
        >>> x = sampler(prior, sampler.noise(prior, (64,), generator=g), generator=g)
        >>> bool((x[:, 0] - 2.0).abs().max() < 0.1)
        True
    """

    pieces: ClassVar[bool] = False

    likelihood: Likelihood = field(kw_only=True)
    eta: float = field(default=0.85, kw_only=True)
    eta_observed: float = field(default=1.0, kw_only=True)
    modes: Modes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.eta <= 1 and 0 <= self.eta_observed <= 1):
            raise ValueError(
                f"expected eta and eta_observed in [0, 1], got {self.eta} and {self.eta_observed}"
            )
        object.__setattr__(self, "modes", Modes.of(self.likelihood, "DDRM"))

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        alpha_s, r_t, r_s = (
            float(c) for c in (denoiser.schedule.alpha(s), *map(denoiser.schedule.ratio, (t, s)))
        )
        x_hat, z, q = clean(denoiser, x_t, t), draw(x_t), math.sqrt(1 - self.eta**2)
        u_t = x_t / denoiser.schedule.alpha(t)
        u_s = x_hat + (q * r_s / r_t) * (u_t - x_hat) + (self.eta * r_s) * z
        Q, y, std = self.modes.basis, self.modes.y, self.modes.std
        share = torch.where(r_s < std, q * r_s / std, self.eta_observed)
        spread = torch.where(
            r_s < std,
            self.eta * r_s,
            (r_s**2 - (self.eta_observed * std).square()).clamp_min(0.0).sqrt(),
        )
        mean = Q.adjoint(x_hat)
        observed = mean + share * (y - mean) + spread * Q.adjoint(z)
        return alpha_s * (u_s + Q.forward(observed - Q.adjoint(u_s)))
