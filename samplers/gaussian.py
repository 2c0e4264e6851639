r"""Gaussians with lazy covariances, and their conditioning on observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from appa_prob.operators import (
    GMRES,
    Cholesky,
    InnovationCovariance,
    Operator,
    Solution,
    Solver,
)
from appa_prob.operators.dense import LIMIT, draw
from appa_prob.operators.shapes import flatten

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
        gain = lifted(S, solver(S, residual))
        return Gaussian(self.mean + gain, ConditionalCovariance(S, solver))

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
        return product - self._gain(self.S.H.forward(product))

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return self.forward(y)

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        r"""Draws by conditioning a draw of the prior, as Matheron's rule says."""
        x, eta = (draw(C, self.batch_shape, shape, generator) for C in (self.S.V, self.S.R))
        return x - self._gain(self.S.H(x) + eta)

    def _gain(self, y: Tensor) -> Tensor:
        return lifted(self.S, self.solver(self.S, y))

    def _diagonal(self) -> Tensor:
        limit = self.solver.limit if isinstance(self.solver, Cholesky) else LIMIT
        if min(self.S.shape[-1], self.in_shape.numel()) > limit or not self.symmetric:
            raise ValueError(
                f"the diagonal of {self!r} needs a dense factorisation of its "
                f"{self.S.shape[-1]} rows, and {limit} is the limit; condition with "
                "Cholesky(limit=...), or estimate it from samples"
            )
        factor, info = self.S.factor
        if bool(info.any()):
            raise ValueError(
                f"expected a positive definite covariance of observations, got {self.S!r}"
            )
        rows = flatten(self.S.gain, self.in_shape)
        white = torch.linalg.solve_triangular(factor.to(rows), rows, upper=False)
        diagonal: Tensor = self.S.V.diagonal() - white.square().sum(-2)
        return diagonal


def lifted(S: InnovationCovariance, solution: Solution) -> Tensor:
    r"""The field :math:`V H^T u` of a solution :math:`u`, computed if the solver kept none.

    Arguments:
        S: The covariance :math:`S = H V H^T + R`.
        solution: The solution.
    """
    return S.half(solution.value)[1] if solution.lifted is None else solution.lifted
