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
from .log_density import log_density

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
        >>> from appa_prob.operators import Isotropic, Nonlinear
        >>> from appa_prob.samplers import MMPS, GaussianDenoiser, GaussianLikelihood, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(1), Isotropic(1.0, 1), VESchedule())
        >>> y = GaussianLikelihood(Nonlinear(torch.exp, 1, 1), torch.tensor([50.0]), 1.0)
        >>> x, t = torch.zeros(1), torch.tensor(1.0)
        >>> MMPS(prior, y)(x, t).round(decimals=1)
        tensor([24.5000])
        >>> IteratedMMPS(prior, y, 6)(x, t).round(decimals=1)  # log 50 is 3.91
        tensor([3.9000])
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
        shift, _, left = self._mode(prior, t)
        return Gaussian(prior.mean + shift, left)

    def with_evidence(self, x_t: Tensor, t: Tensor) -> tuple[Gaussian, Gaussian, Tensor]:
        r"""The Gaussian that is conditioned, its posterior, and the evidence by the method of
        Laplace, with a dense factorisation.

        .. math:: \log p(y \mid x_t) \approx \log p(y \mid m)
            - \frac{1}{2} \|m - \hat{x}\|^2_{V^{-1}}
            - \frac{1}{2} \log \frac{\det (H V H^T + R)}{\det R}

        Arguments:
            x_t: The noisy state, with shape :math:`(*, event)`.
            t: The time, with shape :math:`()` or :math:`(*)`.
        """
        prior = self.prior(x_t, t)
        shift, dual, _ = self._mode(prior, t)
        mode = prior.mean + shift
        _, H, R = self.likelihood.linearize(mode)
        S = self.innovation(t, H, prior.covariance, R)
        # The density of 0 is the determinant, up to a constant that both have.
        zero = mode.new_zeros(H.out_shape)
        volume = log_density(zero, S) - log_density(zero, R)
        cost = 0.5 * flatten(shift * dual, prior.covariance.in_shape).sum(-1)
        posterior = Gaussian(mode, ConditionalCovariance(prior.covariance, H, S, self.solver))
        return prior, posterior, self.likelihood.log_prob(mode) - cost + volume

    def _mode(self, prior: Gaussian, t: Tensor) -> tuple[Tensor, Tensor, ConditionalCovariance]:
        """The mode minus the mean of the prior, V^-1 times it, and the covariance at the last
        linearisation."""
        event = prior.covariance.in_shape
        shift = dual = torch.zeros_like(prior.mean)
        for _ in range(self.iterations):
            residual, H, R = self.likelihood.linearize(prior.mean + shift)
            S = self.innovation(t, H, prior.covariance, R)
            left = ConditionalCovariance(prior.covariance, H, S, self.solver)
            solution = self.solver(S, residual + H.forward(shift))
            step = left.lift(solution) - shift
            turn = H.adjoint(solution.value) - dual
            share = over(self._share(prior.mean, (shift, dual), (step, turn)), event)
            shift, dual = shift + share * step, dual + share * turn
        return shift, dual, left

    def _share(
        self, mean: Tensor, now: tuple[Tensor, Tensor], step: tuple[Tensor, Tensor]
    ) -> Tensor:
        """The best share of a step, for each member of the batch."""
        event = self.denoiser.event_shape
        shares = torch.tensor((0.0, *SHARES), dtype=mean.dtype, device=mean.device)
        wide = shares.reshape(-1, *(1,) * mean.ndim)
        with torch.no_grad():
            shift, dual = (a + wide * b for a, b in zip(now, step, strict=True))
            parts = torch.stack(
                (self.likelihood.log_prob(mean + shift), flatten(shift * dual, event).sum(-1))
            )
            likelihood, cost = parts if self.total is None else self.total(parts)
            # V is positive, but for what is wrong with the Jacobians of networks.
            gain = likelihood - 0.5 * cost.abs()
            return shares[gain.nan_to_num(nan=-torch.inf).argmax(0)]
