r"""Denoising diffusion models for plug-and-play image restoration."""

from __future__ import annotations

from torch import Tensor

from appa_prob.operators import CG, Scaling, Solver

from .denoiser import Denoiser
from .gaussian import Gaussian
from .guidance import Conditioning
from .likelihood import Likelihood

__all__ = ["DiffPIR"]


class DiffPIR(Conditioning):
    r"""Plug-and-play restoration: the proximal point of the likelihood at the denoised state.

    .. math:: \mathbb{E}[x \mid x_t, y] \approx \arg \min_x \; (y - h(x))^T R^{-1} (y - h(x))
        + \lambda \frac{\alpha_t^2}{\sigma_t^2} \|x - \hat{x}\|^2

    with :math:`h` linearised at :math:`\hat{x}`: the conditioning of a Gaussian of covariance
    :math:`\sigma_t^2 / (\lambda \alpha_t^2) \, I`. The denoiser is evaluated and not
    differentiated. As data vary by less than this at high noise, samples follow the observation
    too closely.

    References:
        | Denoising Diffusion Models for Plug-and-Play Image Restoration (Zhu et al., 2023)
        | https://arxiv.org/abs/2305.08995

    Arguments:
        denoiser: The denoiser of the prior.
        likelihood: The likelihood :math:`p(y \mid x)`.
        strength: The strength :math:`\lambda > 0` of the denoiser against the observation.
        solver: What solves the system; by default :class:`~appa_prob.operators.CG`.

    Raises:
        ValueError: If the strength is not positive.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Isotropic, Mask
        >>> from appa_prob.samplers import GaussianDenoiser, GaussianLikelihood, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule(0.01, 100.0))
        >>> y = GaussianLikelihood(Mask(torch.tensor([True, False])), torch.tensor([1.0]), 0.5)
        >>> DiffPIR(prior, y, strength=2.0)(torch.zeros(2), torch.tensor(0.5))
        tensor([0.5000, 0.0000])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        likelihood: Likelihood,
        strength: float = 10.0,
        solver: Solver | None = None,
    ) -> None:
        super().__init__(denoiser, likelihood, CG() if solver is None else solver)
        if not 0 < strength < float("inf"):
            raise ValueError(f"expected a strength > 0, got {strength}")
        self.strength = strength

    def prior(self, x_t: Tensor, t: Tensor) -> Gaussian:
        alpha, sigma = self.schedule(t)
        variance = (sigma / alpha).square() / self.strength
        return Gaussian(self.denoiser(x_t, t), Scaling(variance, self.event_shape))
