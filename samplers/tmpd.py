r"""Tweedie moment projected diffusion."""

from __future__ import annotations

import torch
from torch import Tensor

from appa_prob.operators import Diagonal, Direct, Operator
from appa_prob.operators.shapes import broadcast

from .denoiser import Denoiser
from .guidance import Conditioning
from .likelihood import Likelihood

__all__ = ["TMPD"]


class TMPD(Conditioning):
    r"""Tweedie moment projected diffusion: the covariance of the observation by its row sums.

    .. math:: \mathbb{E}[x \mid x_t, y] \approx \hat{x} + V H^T
        \left( \mathrm{diag}(H V H^T 1)_+ + R \right)^{-1} (y - h(\hat{x})) \qquad
        V = \mathbb{V}[x \mid x_t]

    It takes two products with the Jacobian of the denoiser, and no iteration. It is exact where
    :math:`H V H^T` is diagonal, or the residual constant. For two correlated numbers, of variances
    :math:`p \pm c` along their sum and difference, and observed both, the difference gets the
    bias of :class:`PiGDM` for data that are taken to have the variance of the sum.

    References:
        | Tweedie Moment Projected Diffusions for Inverse Problems (Boys et al., 2023)
        | https://arxiv.org/abs/2310.06721

    Arguments:
        denoiser: The denoiser of the prior.
        likelihood: The likelihood :math:`p(y \mid x)`.
        bounded: Whether to shorten updates that move the observed by more than twice the
            residual.

    Example:
        >>> from appa_prob.operators import Isotropic, Mask
        >>> from appa_prob.samplers import GaussianDenoiser, GaussianLikelihood, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule(0.01, 100.0))
        >>> y = GaussianLikelihood(Mask(torch.tensor([True, False])), torch.tensor([1.0]), 0.5)
        >>> TMPD(prior, y)(torch.zeros(2), torch.tensor(0.5))
        tensor([0.5000, 0.0000])
    """

    def __init__(
        self, denoiser: Denoiser, likelihood: Likelihood, *, bounded: bool = True
    ) -> None:
        super().__init__(denoiser, likelihood, Direct(), bounded)

    def innovation(self, t: Tensor, H: Operator, V: Operator, R: Operator) -> Operator:
        batch = broadcast(H.batch_shape, V.batch_shape)
        ones = torch.ones((*batch, *H.out_shape), dtype=V.dtype, device=V.device)
        sums = H.forward(V.forward(H.adjoint(ones)))
        S: Operator = Diagonal(sums.clamp_min(0.0), len(H.out_shape)) + R
        return S
