r"""Ancestral sampling with the covariance of the clean state."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Size, Tensor

from appa_prob.operators.matvec import matvec
from appa_prob.operators.shapes import flatten, unflatten

from .denoiser import Denoiser
from .dense_covariance import spectrum
from .gaussian import Gaussian
from .integrator import Draw, Integrator, Memory
from .schedule import Schedule

__all__ = ["Ancestral", "Transition"]


@dataclass(frozen=True)
class Ancestral(Integrator):
    r"""Ancestral sampling that draws the clean state from a Gaussian, rather than take its mean.

    .. math:: x_s \sim \int q(x_s \mid x_t, x) \, \mathcal{N}(x \mid \hat{x}, V) \, dx
        = \mathcal{N} \left( k \, x_t + g \, \hat{x}, \; \tau^2 I + g^2 V \right) \qquad
        V = \mathbb{V}[x \mid x_t]

    with :math:`\tau` that of :class:`~appa_prob.samplers.DDPM`, :math:`k = \sqrt{\sigma_s^2 -
    \tau^2} / \sigma_t` and :math:`g = \alpha_s - k \, \alpha_t`. The law of samples from a
    Gaussian is exact for any number of steps, where that of DDPM has an error of first order: its
    :math:`V` is 0. For other laws there is the error of a Gaussian for :math:`p(x \mid x_t)`,
    of which both moments are right: of second order.

    The covariance is needed as a matrix, at the price of a product with the Jacobian for each
    number of a state. For posteriors take ``DenseCovariance(MMPS(DenseCovariance(prior), y))``,
    which takes no more than the prior does, and the times of
    :func:`~appa_prob.samplers.placed_times`.

    References:
        | Analytic-DPM: an Analytic Estimate of the Optimal Reverse Variance in Diffusion
        Probabilistic Models (Bao et al., 2022) | https://arxiv.org/abs/2201.06503

        | Diffusion Model With Optimal Covariance Matching (Ou et al., 2024)
        | https://arxiv.org/abs/2406.10808

    Arguments:
        steps: The number of steps, or the times.

    Example:
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import GaussianDenoiser, VESchedule
        >>> d = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule(0.01, 100.0))
        >>> g, sampler = torch.Generator().manual_seed(0), Ancestral(2)
        >>> x = sampler(d, sampler.noise(d, (10000,), generator=g), generator=g)
        >>> bool((x.std() - 1).abs() < 0.02)
        True
    """

    @property
    def order(self) -> int:
        return 2

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        posterior = denoiser.posterior(x_t, t.to(x_t))
        return Transition(denoiser.schedule, t, s).kernel(x_t, posterior).move(draw(x_t))


class Transition:
    r"""The numbers of a step from a time to the next.

    Arguments:
        schedule: The schedule.
        t: The time, a double on the CPU, with shape :math:`()`.
        s: The next time, likewise.
        eta: The stochasticity, see :class:`DDIM`.

    Example:
        >>> from appa_prob.samplers import VESchedule
        >>> schedule, (t, s) = VESchedule(1.0, 4.0), torch.tensor([1.0, 0.5]).double()
        >>> step = Transition(schedule, t, s)
        >>> [round(number, 4) for number in (step.kept, step.gain, step.tau)]
        [0.25, 0.75, 1.7321]
    """

    def __init__(self, schedule: Schedule, t: Tensor, s: Tensor, eta: float = 1.0) -> None:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        ratio = (alpha_t / alpha_s) * (sigma_s / sigma_t)
        self.tau = float(eta * sigma_s * (1 - ratio.square()).clamp_min(0.0).sqrt())
        kept = (sigma_s.square() - self.tau**2).clamp_min(0.0).sqrt() / sigma_t
        self.kept = float(kept)
        self.gain = float(alpha_s) - self.kept * float(alpha_t)

    def kernel(self, x_t: Tensor, posterior: Gaussian) -> Kernel:
        r"""The law of the next state.

        Arguments:
            x_t: The noisy state, with shape :math:`(*, event)`.
            posterior: The Gaussian of the clean state.
        """
        values, vectors = spectrum(posterior.covariance)
        mean = self.kept * x_t + self.gain * posterior.mean
        values = self.tau**2 + self.gain**2 * values
        # Where nothing moves, rounding does.
        info = torch.finfo(values.dtype)
        least = values.shape[-1] * info.eps * values.amax(-1, keepdim=True)
        values = torch.maximum(values, least.clamp_min(info.tiny))
        return Kernel(mean, values, vectors, posterior.covariance.in_shape)


@dataclass(frozen=True, eq=False)
class Kernel:
    r"""A Gaussian whose covariance has known eigenvalues and eigenvectors.

    Arguments:
        mean: The mean, with shape :math:`(*, event)`, of :math:`n` numbers.
        values: The eigenvalues, with shape :math:`(*, n)`.
        vectors: The eigenvectors, with shape :math:`(*, n, n)`.
        event: The shape of an event.
    """

    mean: Tensor
    values: Tensor
    vectors: Tensor
    event: Size

    def move(self, z: Tensor) -> Tensor:
        r"""Makes white noise a draw.

        Arguments:
            z: White noise, with shape :math:`(*, event)`.
        """
        along = self.values.sqrt() * flatten(z, self.event)
        return self.mean + unflatten(matvec(self.vectors, along), self.event)

    def log_prob(self, x: Tensor) -> Tensor:
        r"""The logarithm of the density.

        Arguments:
            x: The state, with shape :math:`(*, event)`.
        """
        along = matvec(self.vectors.mT, flatten(x - self.mean, self.event))
        square = (along.square() / self.values + self.values.log()).sum(-1)
        return -0.5 * (square + self.values.shape[-1] * math.log(2 * math.pi))
