r"""Gaussians with lazy covariances, and their conditioning on observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from appa_prob.operators import GMRES, InnovationCovariance, Operator, Solver

from .likelihood import Likelihood

__all__ = ["ConditionalCovariance", "Gaussian"]


@dataclass(frozen=True, eq=False)
class Gaussian:
    r"""The Gaussian :math:`\mathcal{N}(m, V)`.

    Arguments:
        mean: The mean :math:`m`, with shape :math:`(*, event)`.
        covariance: The covariance :math:`V`, an operator on events.

    Raises:
        ValueError: If the covariance is not one of such events.

    Example:
        Two observations of a random walk, :math:`y_i = x_i + \eta_i`.

        >>> from appa_prob.operators import Dense, Mask
        >>> from appa_prob.samplers import GaussianLikelihood
        >>> walk = torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 2.0], [1.0, 2.0, 3.0]])
        >>> prior = Gaussian(torch.zeros(3), Dense(walk, symmetric=True))
        >>> A = Mask(torch.tensor([True, False, True]))
        >>> posterior = prior.condition(GaussianLikelihood(A, torch.tensor([1.0, 3.0]), 1e-6))
        >>> posterior.mean
        tensor([1.0000, 2.0000, 3.0000])
        >>> posterior.covariance.diagonal().round(decimals=3)
        tensor([0.0000, 0.5000, 0.0000])
    """

    mean: Tensor
    covariance: Operator

    def __post_init__(self) -> None:
        event = self.covariance.in_shape
        if (
            self.mean.shape[self.mean.ndim - len(event) :] != event
            or self.covariance.out_shape != event
        ):
            raise ValueError(
                f"expected a covariance of events of the mean, of shape {tuple(self.mean.shape)}, "
                f"got {self.covariance!r}"
            )

    def condition(self, likelihood: Likelihood, solver: Solver | None = None) -> Gaussian:
        r"""Conditions on an observation :math:`y = h(x) + \eta`, with :math:`h` linearised at the
        mean: the update of Kalman.

        .. math:: m + V H^T S^{-1} (y - h(m)) \qquad V - V H^T S^{-1} H V \qquad S = H V H^T + R

        It is exact if :math:`h` is affine and :math:`\eta` Gaussian, up to the residual of the
        solver.

        Arguments:
            likelihood: The likelihood :math:`p(y \mid x)`.
            solver: What solves systems with :math:`S`, by default :class:`GMRES`.

        Raises:
            ValueError: If the likelihood is not one of such events.
        """
        if likelihood.in_shape != self.covariance.in_shape:
            raise ValueError(
                f"expected a likelihood of states of shape {tuple(self.covariance.in_shape)}, got "
                f"one of shape {tuple(likelihood.in_shape)}"
            )
        solver = GMRES() if solver is None else solver
        residual, H, R = likelihood.linearize(self.mean)
        S = InnovationCovariance(H, self.covariance, R)
        solution = solver(S, residual)
        lifted = S.half(solution.value)[1] if solution.lifted is None else solution.lifted
        return Gaussian(self.mean + lifted, ConditionalCovariance(S, solver))

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        r"""Draws from the Gaussian.

        Arguments:
            shape: The shape :math:`S` of the sample.
            generator: A source of random numbers.

        Returns:
            A sample, with shape :math:`(S, *, event)`.
        """
        return self.mean + self.covariance.sample(shape, generator)


class ConditionalCovariance(Operator):
    r"""The covariance :math:`V - V H^T S^{-1} H V` that is left after an observation.

    Arguments:
        S: The covariance :math:`S = H V H^T + R` of the observation.
        solver: What solves systems with it.

    Example:
        >>> from appa_prob.operators import Isotropic, Identity
        >>> S = InnovationCovariance(Identity(2), Isotropic(3.0, 2), Isotropic(1.0, 2))
        >>> ConditionalCovariance(S, GMRES())(torch.ones(2))
        tensor([0.7500, 0.7500])
    """

    def __init__(self, S: InnovationCovariance, solver: Solver) -> None:
        self.S, self.solver = S, solver
        event = S.V.in_shape
        super().__init__(event, event, batch_shape=S.batch_shape, symmetric=S.symmetric)

    def forward(self, x: Tensor) -> Tensor:
        product = self.S.V.forward(x)
        solution = self.solver(self.S, self.S.H.forward(product))
        lifted = (
            self.S.half(solution.value)[1] if solution.lifted is None else solution.lifted
        )
        return product - lifted

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return self.forward(y)

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        r"""Draws by conditioning a draw of the prior, as Matheron's rule says."""
        x = self.S.V.sample(shape, generator)
        eta = self.S.R.sample(x.shape[: x.ndim - len(self.in_shape)], generator)
        solution = self.solver(self.S, self.S.H(x) + eta)
        lifted = (
            self.S.half(solution.value)[1] if solution.lifted is None else solution.lifted
        )
        return x - lifted
