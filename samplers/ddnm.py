r"""Denoising diffusion null-space models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from torch import Tensor

from .denoiser import Denoiser, over
from .guidance import Guidance
from .likelihood import Likelihood
from .modes import Modes

__all__ = ["DDNM"]


class DDNM(Guidance):
    r"""Null-space guidance: what is observed is replaced, as far as it is better known than the
    noisy state is, and the rest is the denoiser's.

    .. math:: \mathbb{E}[x \mid x_t, y] \approx \hat{x}
        + Q \, \mathrm{diag}(\lambda) \, (\bar{y} - Q^T \hat{x}) \qquad
        \lambda_i = \min \left( 1, \frac{\sigma_t}{\alpha_t \tau_i} \right)

    with the singular vectors :math:`Q` of the map, and the standard deviations :math:`\tau` of
    errors along them, see :class:`~appa_prob.samplers.modes.Modes`. Without errors this is
    :math:`A^+ y + (I - A^+ A) \, \hat{x}`. The denoiser is evaluated and not differentiated.

    Data are taken to vary without limit, so that samples follow the observation too closely. For
    a scalar of variance :math:`p`, observed with errors of variance :math:`\tau^2`, the variance
    of the samples is

    .. math:: \frac{p \, \tau^2}{p + \tau^2} \exp \left( - \frac{2}{\theta} \arctan \theta
        \right) \qquad \theta = \frac{\tau}{\sqrt{p}}

    References:
        | Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model
        (Wang et al., 2023) | https://arxiv.org/abs/2212.00490

    Arguments:
        denoiser: The denoiser of the prior.
        likelihood: The likelihood :math:`p(y \mid x)`, Gaussian with a linear map.

    Raises:
        ValueError: If the likelihood is another, or neither a mask with independent errors nor
            small enough for a singular value decomposition.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Isotropic, Mask
        >>> from appa_prob.samplers import GaussianDenoiser, GaussianLikelihood, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule(0.01, 100.0))
        >>> y = GaussianLikelihood(Mask(torch.tensor([True, False])), torch.tensor([1.0]), 4.0)
        >>> DDNM(prior, y)(torch.zeros(2), torch.tensor(0.5))
        tensor([0.5000, 0.0000])
    """

    def __init__(self, denoiser: Denoiser, likelihood: Likelihood) -> None:
        super().__init__(denoiser, likelihood)
        self.modes = Modes.of(likelihood, "DDNM")

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        mean: Tensor = self.denoiser(x_t, t)
        Q, y, std = self.modes.basis, self.modes.y, self.modes.std
        gain = (over(self.schedule.ratio(t), Q.in_shape) / std).clamp_max(1.0)
        return mean + Q.forward(gain * (y - Q.adjoint(mean)))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.modes = Modes.of(self.likelihood, "DDNM")
        return self
