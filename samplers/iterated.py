r"""Moment matching posterior sampling, linearised where the posterior is."""

from __future__ import annotations

import torch
from torch import Tensor

from appa_prob.operators import GMRES, Solver
from appa_prob.operators.shapes import flatten

from .denoiser import Denoiser, over
from .gaussian import ConditionalCovariance, Gaussian
from .guidance import Conditioning
from .likelihood import Likelihood

__all__ = ["IteratedMMPS"]

SHARES = (1.0, 0.5, 0.25, 0.125, 0.03125)  # of a step, of which the best is taken


class IteratedMMPS(Conditioning):
    r"""Moment matching posterior sampling for maps and laws that are far from linear and Gaussian.

    :class:`~appa_prob.samplers.MMPS` linearises a likelihood at the mean of the prior, which at
    high noise is far from where the posterior is. Here the linearisation is repeated, by the
    method of Gauss and Newton, towards the mode of Tweedie's Gaussian times the likelihood,

    .. math:: m_{k + 1} = \hat{x} + V H_k^T (H_k V H_k^T + R_k)^{-1}
        \left( r_k + H_k (m_k - \hat{x}) \right) \qquad m_0 = \hat{x}

    where :math:`r_k`, :math:`H_k` and :math:`R_k` are those of the likelihood at :math:`m_k`. Of
    each step the share is taken that is the best for :math:`\log p(y \mid m) - \frac{1}{2}
    \|m - \hat{x}\|^2_{V^{-1}}`, or none. The denoiser is evaluated once. For linear maps and
    Gaussian errors it is MMPS.

    References:
        | The Iterated Kalman Filter Update as a Gauss-Newton Method (Bell and Cathey, 1993)
        | https://doi.org/10.1109/9.250476

    Arguments:
        denoiser: The denoiser of the prior.
        likelihood: The likelihood :math:`p(y \mid x)`.
        iterations: The number of steps.
        solver: What solves the systems; by default up to 32 iterations of GMRES.

    Raises:
        ValueError: If there is no step, or if the likelihood is not one of the denoiser's states.

    Example:
        >>> from appa_prob.likelihoods import Poisson
        >>> from appa_prob.operators import Identity, Isotropic
        >>> from appa_prob.samplers import MMPS, GaussianDenoiser, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(1), Isotropic(1.0, 1), VESchedule())
        >>> y = Poisson(Identity(1)).given(torch.tensor([50.0]))
        >>> x, t = torch.zeros(1), torch.tensor(1.0)
        >>> MMPS(prior, y)(x, t), IteratedMMPS(prior, y, 4)(x, t)  # the mode is 3.84
        (tensor([24.5000]), tensor([3.8349]))
    """

    def __init__(
        self,
        denoiser: Denoiser,
        likelihood: Likelihood,
        iterations: int = 3,
        solver: Solver | None = None,
    ) -> None:
        if iterations < 1:
            raise ValueError(f"expected at least 1 step, got {iterations}")
        if solver is None:
            solver = GMRES(rtol=1e-3, max_iterations=32, on_failure="ignore")
        super().__init__(denoiser, likelihood, solver)
        self.iterations = iterations

    def posterior(self, x_t: Tensor, t: Tensor) -> Gaussian:
        prior = self.prior(x_t, t)
        event = prior.covariance.in_shape
        shift = dual = torch.zeros_like(prior.mean)
        for _ in range(self.iterations):
            residual, H, R = self.likelihood.linearize(prior.mean + shift)
            S = self.innovation(t, H, prior.covariance, R)
            left = ConditionalCovariance(prior.covariance, H, S, self.solver)
            solution = self.solver(S, residual + H.forward(shift))
            lifted = left.lift(solution)
            step, turn = lifted - shift, H.adjoint(solution.value) - dual
            share = self._share(prior.mean, (shift, dual), (step, turn))
            shift, dual = shift + over(share, event) * step, dual + over(share, event) * turn
        return Gaussian(prior.mean + shift, left)

    def _share(
        self, mean: Tensor, now: tuple[Tensor, Tensor], step: tuple[Tensor, Tensor]
    ) -> Tensor:
        """The best share of a step, for each member of the batch."""
        event = self.denoiser.event_shape
        shares = torch.tensor((0.0, *SHARES), dtype=mean.dtype, device=mean.device)
        wide = shares.reshape(-1, *(1,) * mean.ndim)
        with torch.no_grad():
            shift, dual = (a + wide * b for a, b in zip(now, step, strict=True))
            # V is positive, but for what is wrong with the Jacobians of networks.
            cost = 0.5 * flatten(shift * dual, event).sum(-1).abs()
            gain = self.likelihood.log_prob(mean + shift) - cost
            return shares[gain.nan_to_num(nan=-torch.inf).argmax(0)]
