r"""Score-based data assimilation."""

from __future__ import annotations

from torch import Tensor

from appa_prob.operators import Direct, Operator, Scaling

from .denoiser import Denoiser
from .guidance import Conditioning
from .likelihood import Likelihood

__all__ = ["SDA"]


class SDA(Conditioning):
    r"""Score-based data assimilation: an isotropic covariance of the observation.

    .. math:: \mathbb{E}[x \mid x_t, y] \approx \hat{x} + V H^T
        \left( R + \gamma \frac{\sigma_t^2}{\alpha_t^2} I \right)^{-1} (y - h(\hat{x})) \qquad
        V = \mathbb{V}[x \mid x_t]

    It takes one product with the Jacobian of the denoiser, and no iteration. For a scalar of
    variance :math:`p`, observed with errors of variance :math:`\rho`, the variance of the samples
    is

    .. math:: p \, \exp \left( -\frac{p}{\delta} + \frac{\gamma p^2}{\delta^2}
        \log \frac{\rho}{\gamma p} \right) \qquad \delta = \rho - \gamma p

    References:
        | Score-based Data Assimilation (Rozet and Louppe, 2023)
        | https://arxiv.org/abs/2306.10574

    Arguments:
        denoiser: The denoiser of the prior.
        likelihood: The likelihood :math:`p(y \mid x)`.
        gamma: The variance :math:`\gamma > 0` of the clean state, relative to that of the noise.
        bounded: Whether to shorten updates that move the observed by more than twice the
            residual.

    Raises:
        ValueError: If :math:`\gamma` is not positive.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Isotropic, Mask
        >>> from appa_prob.samplers import GaussianDenoiser, GaussianLikelihood, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule(0.01, 100.0))
        >>> y = GaussianLikelihood(Mask(torch.tensor([True, False])), torch.tensor([1.0]), 0.5)
        >>> SDA(prior, y, gamma=0.5)(torch.zeros(2), torch.tensor(0.5))
        tensor([0.5000, 0.0000])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        likelihood: Likelihood,
        gamma: float = 1e-2,
        *,
        bounded: bool = True,
    ) -> None:
        super().__init__(denoiser, likelihood, Direct(), bounded)
        if not 0 < gamma < float("inf"):
            raise ValueError(f"expected gamma > 0, got {gamma}")
        self.gamma = gamma

    def innovation(self, t: Tensor, H: Operator, V: Operator, R: Operator) -> Operator:
        alpha, sigma = self.schedule(t)
        S: Operator = Scaling(self.gamma * (sigma / alpha).square(), H.out_shape) + R
        return S
