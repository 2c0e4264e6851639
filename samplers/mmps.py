r"""Moment matching posterior sampling."""

from __future__ import annotations

from appa_prob.operators import GMRES, Solver

from .denoiser import Denoiser
from .guidance import Conditioning
from .likelihood import Likelihood

__all__ = ["MMPS"]


class MMPS(Conditioning):
    r"""Moment matching posterior sampling: Tweedie's Gaussian, conditioned.

    .. math:: \mathbb{E}[x \mid x_t, y] \approx \hat{x} + V H^T (H V H^T + R)^{-1}
        (y - h(\hat{x})) \qquad \hat{x} = \mathbb{E}[x \mid x_t] \quad V = \mathbb{V}[x \mid x_t]

    It is exact for Gaussian priors and linear maps, once the system is solved. For networks,
    whose Jacobians are not quite symmetric, a few iterations of GMRES are better than a full
    solution where the noise is high.

    References:
        | Learning Diffusion Priors from Observations by Expectation Maximization
        (Rozet et al., 2024) | https://arxiv.org/abs/2405.13712

    Arguments:
        denoiser: The denoiser of the prior.
        likelihood: The likelihood :math:`p(y \mid x)`.
        solver: What solves the system; by default 3 iterations of GMRES at most.
        bounded: Whether to shorten updates that no covariance explains, see
            :meth:`Gaussian.condition`.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Isotropic, Mask
        >>> from appa_prob.samplers import GaussianDenoiser, GaussianLikelihood, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule(0.01, 100.0))
        >>> y = GaussianLikelihood(Mask(torch.tensor([True, False])), torch.tensor([1.0]), 0.5)
        >>> MMPS(prior, y)(torch.zeros(2), torch.tensor(0.5))
        tensor([0.5000, 0.0000])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        likelihood: Likelihood,
        solver: Solver | None = None,
        *,
        bounded: bool = True,
    ) -> None:
        if solver is None:
            solver = GMRES(rtol=1e-3, max_iterations=3, on_failure="ignore")
        super().__init__(denoiser, likelihood, solver, bounded)
