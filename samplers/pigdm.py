r"""Pseudoinverse-guided diffusion."""

from __future__ import annotations

from torch import Tensor

from appa_prob.operators import CG, InnovationCovariance, Operator, Scaling, Solver

from .denoiser import Denoiser
from .guidance import Conditioning
from .likelihood import Likelihood

__all__ = ["PiGDM"]


class PiGDM(Conditioning):
    r"""Pseudoinverse-guided diffusion: the covariance of the observation is that of isotropic
    data.

    .. math:: \mathbb{E}[x \mid x_t, y] \approx \hat{x} + V H^T (r_t^2 H H^T + R)^{-1}
        (y - h(\hat{x})) \qquad
        r_t^2 = \frac{v \, \sigma_t^2}{v \, \alpha_t^2 + \sigma_t^2}

    with :math:`V = \mathbb{V}[x \mid x_t]` and :math:`v` the variance of the data. Where the data
    vary less than that in a direction, it is guided too little; where they vary more, too much.
    For a scalar of variance :math:`p`, observed with errors of variance :math:`\rho`, the
    variance of the samples is

    .. math:: p \, \exp \left( - p^2 \int_0^\infty
        \frac{(v + u) \, du}{(p + u)^2 ((v + \rho) u + \rho v)} \right)

    References:
        | Pseudoinverse-Guided Diffusion Models for Inverse Problems (Song et al., 2023)
        | https://openreview.net/forum?id=9_gsMA8MRKQ

    Arguments:
        denoiser: The denoiser of the prior.
        likelihood: The likelihood :math:`p(y \mid x)`.
        variance: The variance :math:`v > 0` of the data.
        solver: What solves the system, which needs no product with the Jacobian of the denoiser;
            by default :class:`~appa_prob.operators.CG`.
        bounded: Whether to shorten updates that move the observed by more than twice the
            residual.

    Raises:
        ValueError: If the variance is not positive.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Isotropic, Mask
        >>> from appa_prob.samplers import GaussianDenoiser, GaussianLikelihood, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule(0.01, 100.0))
        >>> y = GaussianLikelihood(Mask(torch.tensor([True, False])), torch.tensor([1.0]), 0.5)
        >>> PiGDM(prior, y)(torch.zeros(2), torch.tensor(0.5))
        tensor([0.5000, 0.0000])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        likelihood: Likelihood,
        variance: float = 1.0,
        solver: Solver | None = None,
        *,
        bounded: bool = True,
    ) -> None:
        super().__init__(denoiser, likelihood, CG() if solver is None else solver, bounded)
        if not 0 < variance < float("inf"):
            raise ValueError(f"expected a variance > 0 of the data, got {variance}")
        self.variance = variance

    def innovation(self, t: Tensor, H: Operator, V: Operator, R: Operator) -> Operator:
        alpha, sigma = (scale.square() for scale in self.schedule(t))
        r = self.variance * sigma / (self.variance * alpha + sigma)
        return InnovationCovariance(H, Scaling(r, V.in_shape), R)
