r"""DDIM, and DDPM as its ancestral case."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Denoiser
from .integrator import Draw, Integrator, Memory, clean

__all__ = ["DDIM", "DDPM"]


@dataclass(frozen=True)
class DDIM(Integrator):
    r"""Denoising diffusion implicit models.

    .. math:: x_s = \alpha_s \hat{x} + \sqrt{\sigma_s^2 - \tau^2} \, \hat{\epsilon}
        + \tau \, z \qquad
        \tau^2 = \eta^2 \sigma_s^2
        \left( 1 - \frac{\alpha_t^2}{\alpha_s^2} \frac{\sigma_s^2}{\sigma_t^2} \right)

    with :math:`\hat{x} = \mathbb{E}[x \mid x_t]`, :math:`\hat{\epsilon} = (x_t - \alpha_t \hat{x})
    / \sigma_t` and :math:`z` white. For :math:`\eta = 0` this is the exponential Euler method for
    the probability flow; for :math:`\eta = 1` it is ancestral sampling.

    References:
        | Denoising Diffusion Implicit Models (Song et al., 2021)
        | https://arxiv.org/abs/2010.02502

    Arguments:
        steps: The number of steps, or the times.
        eta: The stochasticity :math:`\eta` in :math:`[0, 1]`.

    Raises:
        ValueError: If :math:`\eta` lies outside.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import GaussianDenoiser, VESchedule
        >>> d = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule(0.01, 100.0))
        >>> g = torch.Generator().manual_seed(0)
        >>> integrator = DDIM(64)
        >>> x = integrator(d, integrator.noise(d, (10000,), generator=g))
        >>> x.std() < 1.2
        tensor(True)
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"expected eta in [0, 1], got {self.eta}")

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        return implicit_step(denoiser, x_t, t, s, draw, self.eta)


@dataclass(frozen=True)
class DDPM(Integrator):
    r"""Denoising diffusion probabilistic models: ancestral sampling, :class:`DDIM` with
    :math:`\eta = 1`.

    .. math:: x_s \sim q(x_s \mid x_t, \hat{x}) \qquad \hat{x} = \mathbb{E}[x \mid x_t]

    References:
        | Denoising Diffusion Probabilistic Models (Ho et al., 2020)
        | https://arxiv.org/abs/2006.11239

    Arguments:
        steps: The number of steps, or the times.
    """

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        return implicit_step(denoiser, x_t, t, s, draw, 1.0)


def implicit_step(
    denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, eta: float
) -> Tensor:
    r"""One step of :class:`DDIM`.

    Arguments:
        denoiser: The denoiser.
        x_t: The noisy state, with shape :math:`(*, event)`.
        t: The time, with shape :math:`()`.
        s: The next time, with shape :math:`()`.
        draw: Gives white noise.
        eta: The stochasticity.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = denoiser.schedule(t), denoiser.schedule(s)
    x_hat = clean(denoiser, x_t, t)
    ratio = (alpha_t / alpha_s) * (sigma_s / sigma_t)
    tau = eta * sigma_s * (1 - ratio.square()).clamp_min(0.0).sqrt()
    kept = (sigma_s.square() - tau.square()).clamp_min(0.0).sqrt() / sigma_t
    x_s = kept * x_t + (alpha_s - kept * alpha_t) * x_hat
    return x_s + tau * draw(x_t) if eta else x_s


def implicit_clean(
    denoiser: Denoiser,
    x_t: Tensor,
    t: Tensor,
    last: float,
    evaluations: int,
    draw: Draw,
    eta: float,
) -> Tensor:
    r"""Steps of :class:`DDIM`, even in the logarithm of the noise, and one to no noise at all.

    Arguments:
        denoiser: The denoiser.
        x_t: The noisy state, with shape :math:`(*, event)`.
        t: The time, with shape :math:`()`, no less than the last.
        last: The last time, from which the step to no noise goes.
        evaluations: The number of evaluations of the denoiser.
        draw: Draws white noise.
        eta: The stochasticity.
    """
    if evaluations > 1 and float(t) > last:
        ends = torch.tensor([float(t), last], dtype=torch.float64)
        high, low = denoiser.schedule.ratio(ends).clamp_min(1e-3).log().tolist()
        ratios = torch.linspace(high, low, evaluations, dtype=torch.float64).exp()
        times = denoiser.schedule.time(ratios)
        for i in range(1, evaluations):
            x_t = implicit_step(denoiser, x_t, times[i - 1], times[i], draw, eta)
        t = times[-1]
    return clean(denoiser, x_t, t)
