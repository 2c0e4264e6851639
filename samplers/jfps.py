r"""Jacobian-free posterior sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from torch import Tensor

from appa_prob.operators import CG, Operator, Solver

from .denoiser import Denoiser
from .gaussian import Gaussian
from .guidance import Conditioning
from .likelihood import Likelihood
from .spectral import diagonalise, remainder

__all__ = ["JFPS"]


class JFPS(Conditioning):
    r"""Jacobian-free posterior sampling: the covariance of a Gaussian prior stands for that of
    Tweedie.

    .. math:: \mathbb{E}[x \mid x_t, y] \approx \hat{x} + V H^T (H V H^T + R)^{-1}
        (y - h(\hat{x})) \qquad
        V = \sigma_t^2 \, \Sigma \, (\alpha_t^2 \Sigma + \sigma_t^2 I)^{-1}

    The denoiser is evaluated and not differentiated. It is exact for Gaussian priors of
    covariance :math:`\Sigma` and linear maps. For a scalar whose variance :math:`p` is taken for
    :math:`q`, observed with errors of variance :math:`\rho`, the variance of the samples is

    .. math:: p \left( \frac{\rho q}{p (q + \rho)} \right)^e \qquad
        e = \frac{p q}{p (q + \rho) - \rho q}

    Arguments:
        denoiser: The denoiser of the prior.
        likelihood: The likelihood :math:`p(y \mid x)`.
        covariance: The covariance :math:`\Sigma` of the data, not batched.
        solver: What solves the system; by default :class:`~appa_prob.operators.CG`.

    Raises:
        ValueError: If the covariance is not one of the denoiser's states, or not positive
            semi-definite.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Isotropic, Mask
        >>> from appa_prob.samplers import GaussianDenoiser, GaussianLikelihood, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule(0.01, 100.0))
        >>> y = GaussianLikelihood(Mask(torch.tensor([True, False])), torch.tensor([1.0]), 0.5)
        >>> JFPS(prior, y, Isotropic(1.0, 2))(torch.zeros(2), torch.tensor(0.5))
        tensor([0.5000, 0.0000])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        likelihood: Likelihood,
        covariance: Operator,
        solver: Solver | None = None,
    ) -> None:
        super().__init__(denoiser, likelihood, CG() if solver is None else solver)
        if covariance.in_shape != denoiser.event_shape or covariance.batch_shape:
            raise ValueError(
                f"expected one covariance of states of shape {tuple(denoiser.event_shape)}, got "
                f"{covariance!r}"
            )
        self.spectrum = diagonalise(covariance)

    def prior(self, x_t: Tensor, t: Tensor) -> Gaussian:
        return Gaussian(self.denoiser(x_t, t), remainder(self.spectrum, *self.schedule(t)))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.spectrum = self.spectrum.to(self.likelihood.y)
        return self
