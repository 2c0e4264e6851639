r"""Diffusion posterior sampling."""

from __future__ import annotations

from torch import Tensor

from .denoiser import Denoiser, over
from .guidance import Guidance
from .likelihood import Likelihood

__all__ = ["DPS"]


class DPS(Guidance):
    r"""Diffusion posterior sampling: a step along the gradient of the residual's norm.

    .. math:: \mathbb{E}[x \mid x_t, y] \approx \hat{x}
        + \zeta \, V H^T \frac{y - h(\hat{x})}{\|y - h(\hat{x})\|} \qquad
        \hat{x} = \mathbb{E}[x \mid x_t] \quad V = \mathbb{V}[x \mid x_t]

    The covariance of the errors does not enter: :math:`\zeta` is tuned instead.

    References:
        | Diffusion Posterior Sampling for General Noisy Inverse Problems (Chung et al., 2022)
        | https://arxiv.org/abs/2209.14687

    Arguments:
        denoiser: The denoiser of the prior.
        likelihood: The likelihood, whose map and observation are used.
        zeta: The strength :math:`\zeta \geq 0` of the guidance.

    Raises:
        ValueError: If :math:`\zeta` is negative or not a number.
    """

    def __init__(self, denoiser: Denoiser, likelihood: Likelihood, zeta: float = 1.0) -> None:
        super().__init__(denoiser, likelihood)
        if not zeta >= 0:
            raise ValueError(f"expected zeta >= 0, got {zeta}")
        self.zeta = zeta

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        prior = self.denoiser.posterior(x_t, t)
        residual, H, _ = self.likelihood.linearize(prior.mean)
        axes = tuple(range(residual.ndim - len(H.out_shape), residual.ndim))
        square = residual.square().sum(axes) if axes else residual.square()
        norm = (square if self.total is None else self.total(square)).sqrt()
        unit = residual / over(norm.clamp_min(1e-30), H.out_shape)
        return prior.mean + self.zeta * prior.covariance.forward(H.adjoint(unit))
