r"""Gaussians with lazy covariances, and their conditioning on observations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from appa_prob.operators import (
    GMRES,
    Cholesky,
    InnovationCovariance,
    Operator,
    Solution,
    Solver,
    estimate_diagonal,
    root_product,
)
from appa_prob.operators.dense import LIMIT, draw, white
from appa_prob.operators.kept import kept
from appa_prob.operators.shapes import broadcast, flatten, over, unflatten

from .likelihood import Likelihood
from .log_density import log_density

__all__ = ["ConditionalCovariance", "Gaussian", "Innovation"]

Innovation: TypeAlias = Callable[[Operator, Operator, Operator], Operator]
Total: TypeAlias = Callable[[Tensor], Tensor]


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

    def condition(
        self,
        likelihood: Likelihood,
        solver: Solver | None = None,
        innovation: Innovation = InnovationCovariance,
        *,
        bounded: bool = True,
    ) -> Gaussian:
        r"""Conditions on an observation :math:`y = h(x) + \eta`, with :math:`h` linearised at the
        mean: the update of Kalman.

        .. math:: m + V H^T S^{-1} (y - h(m)) \qquad V - V H^T S^{-1} H V \qquad S = H V H^T + R

        It is exact if :math:`h` is affine and :math:`\eta` Gaussian, up to the residual of the
        solver. Methods of guidance differ in what they take for :math:`S`.

        For any covariance :math:`V \geq 0` the solution :math:`u = S^{-1} r` satisfies
        :math:`u^T R u \leq u^T r`. The Jacobians of networks know no such law: where it is
        broken, :math:`u` is shortened until it holds, which also bounds what the update does to
        the observations, :math:`\|R^{-1/2} H V H^T u\| \leq 2 \|R^{-1/2} r\|`, whatever
        :math:`V` is. Where :math:`S` is something else, there is no such law, and updates are
        shortened to :math:`\|H V H^T u\| \leq 2 \|r\|`.

        Arguments:
            likelihood: The likelihood :math:`p(y \mid x)`.
            solver: What solves systems with :math:`S`, by default :class:`GMRES`.
            innovation: What makes :math:`S` from :math:`H`, :math:`V` and :math:`R`.
            bounded: Whether to shorten updates as said.

        Raises:
            ValueError: If the likelihood is not one of such events.
        """
        solver = GMRES() if solver is None else solver
        return self._update(likelihood, solver, innovation, bounded)[0]

    def condition_with_evidence(
        self, likelihood: Likelihood, innovation: Innovation = InnovationCovariance
    ) -> tuple[Gaussian, Tensor]:
        r"""Conditions on an observation, as :meth:`condition` does, by a dense factorisation that
        gives the evidence as well.

        .. math:: \log p(y) = \log \mathcal{N}(y \mid h(m), S)

        Arguments:
            likelihood: The likelihood :math:`p(y \mid x)`.
            innovation: What makes :math:`S` from :math:`H`, :math:`V` and :math:`R`.

        Returns:
            The posterior, and the logarithms, with the shape of the batch.

        Raises:
            ValueError: If the likelihood is not one of such events, or if :math:`S` is not
                positive definite or too large for a dense factorisation.
        """
        posterior, residual, S = self._update(likelihood, Cholesky(), innovation, False)
        return posterior, log_density(residual, S)

    def _update(
        self, likelihood: Likelihood, solver: Solver, innovation: Innovation, bounded: bool
    ) -> tuple[Gaussian, Tensor, Operator]:
        """The posterior, the residual and its covariance."""
        if likelihood.in_shape != self.covariance.in_shape:
            raise ValueError(
                f"expected a likelihood of states of shape {tuple(self.covariance.in_shape)}, got "
                f"one of shape {tuple(likelihood.in_shape)}"
            )
        residual, H, R = likelihood.linearize(self.mean)
        S = innovation(H, self.covariance, R)
        total = S.total = self.covariance.total  # of what is observed as of the states
        left = ConditionalCovariance(self.covariance, H, S, solver)
        solution = solver(S, residual)
        gain = left.lift(solution)
        if bounded:
            c = (
                damping(solution.value, residual, R, total)
                if left.exact is not None
                else braking(H.forward(gain), residual, len(H.out_shape), total)
            )
            gain = gain * over(c, self.covariance.in_shape)
        return Gaussian(self.mean + gain, left), residual, S

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Computes the logarithm of the density.

        Arguments:
            x: The state, with shape :math:`(*, event)`.

        Returns:
            The logarithms, with shape :math:`(*)`.
        """
        return log_density(x - self.mean, self.covariance)

    def variance(
        self, probes: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        r"""The variance of each element, exact or estimated.

        Arguments:
            probes: The number of random vectors of :func:`~appa_prob.operators.estimate_diagonal`,
                which needs no dense matrix; by default the diagonal of the covariance is computed.
            generator: A source of random numbers.

        Returns:
            The variances, with shape :math:`(*, event)`; estimated ones may be negative.

        Raises:
            ValueError: If there are no probes, and the covariance is too large for its diagonal.
        """
        if probes is None:
            return unflatten(self.covariance.diagonal(), self.covariance.in_shape)
        return estimate_diagonal(self.covariance, probes, generator)[0]

    def sample(
        self,
        shape: Sequence[int] = (),
        generator: torch.Generator | None = None,
        *,
        iterations: int | None = None,
    ) -> Tensor:
        r"""Draws from the Gaussian.

        Arguments:
            shape: The shape :math:`S` of the sample.
            generator: A source of random numbers.
            iterations: The number of products of :func:`~appa_prob.operators.root_product`, for
                covariances that are large and known by their products only, as those of networks;
                by default their structure, or a dense factorisation, is used.

        Returns:
            A sample, with shape :math:`(S, *, event)`.
        """
        if iterations is None:
            return self.mean + self.covariance.sample(shape, generator)
        V = self.covariance
        noise = white(V, shape, V.in_shape, generator)
        return self.mean + root_product(V, noise, iterations)


class ConditionalCovariance(Operator):
    r"""The covariance :math:`V - V H^T S^{-1} H V` that is left after an observation.

    Arguments:
        V: The covariance :math:`V` of the state.
        H: The observation operator.
        S: The covariance :math:`S = H V H^T + R` of the observation, or what is taken for it.
        solver: What solves systems with it.

    Example:
        >>> from appa_prob.operators import Isotropic, Identity
        >>> V, H = Isotropic(3.0, 2), Identity(2)
        >>> S = InnovationCovariance(H, V, Isotropic(1.0, 2))
        >>> ConditionalCovariance(V, H, S, GMRES())(torch.ones(2))
        tensor([0.7500, 0.7500])
    """

    def __init__(self, V: Operator, H: Operator, S: Operator, solver: Solver) -> None:
        self.V, self.H, self.S, self.solver = V, H, S, solver
        batch = broadcast(V.batch_shape, H.batch_shape, S.batch_shape)
        symmetric = V.symmetric and S.symmetric
        super().__init__(V.in_shape, V.in_shape, batch_shape=batch, symmetric=symmetric)
        self.total = V.total

    def forward(self, x: Tensor) -> Tensor:
        product = self.V.forward(x)
        return product - self._gain(self.H.forward(product))

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return self.forward(y)

    def lift(self, solution: Solution) -> Tensor:
        r"""The field :math:`V H^T u` of a solution :math:`u`, computed if the solver kept none."""
        if self.exact is None or solution.lifted is None:
            return self.V.forward(self.H.adjoint(solution.value))
        return solution.lifted

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        r"""Draws by conditioning a draw of the prior, as Matheron's rule says; densely where
        :math:`S` is an approximation, for which the rule does not hold."""
        if self.exact is None:
            return super().sample(shape, generator)
        x, eta = (draw(C, self.batch_shape, shape, generator) for C in (self.V, self.exact.R))
        return x - self._gain(self.H(x) + eta)

    @property
    def exact(self) -> InnovationCovariance | None:
        """S if it is H V H^T + R, else None."""
        S = self.S
        return S if isinstance(S, InnovationCovariance) and S.V is self.V else None

    def cross(self, H: Operator) -> Tensor:
        dense = isinstance(self.solver, Cholesky) and self.exact is not None
        if not dense or self.batch_shape or H.batch_shape:
            return super().cross(H)
        root = self.root
        seen = flatten(H.forward(unflatten(root, self.in_shape)), H.out_shape)
        return self.V.cross(H) - unflatten(seen.mT @ root, self.in_shape)

    @kept
    def root(self) -> Tensor:
        r"""The matrix :math:`L^{-1} H V`, with :math:`S = L L^T`, whose square is what :math:`V`
        has lost; it is kept for all that is conditioned on after.

        Raises:
            ValueError: If :math:`S` is too large for a dense factorisation, or not positive
                definite, or not :math:`H V H^T + R`.
        """
        if self.exact is None:
            raise ValueError(
                f"expected the covariance H V H^T + R of observations, got {self.S!r}"
            )
        limit = self.solver.limit if isinstance(self.solver, Cholesky) else LIMIT
        if min(self.S.shape[-1], self.in_shape.numel()) > limit or not self.symmetric:
            raise ValueError(
                f"the diagonal of {self!r} needs a dense factorisation of its "
                f"{self.S.shape[-1]} rows, and {limit} is the limit; condition with "
                "Cholesky(limit=...), or estimate it by Gaussian.variance(probes=...)"
            )
        factor, info = self.exact.factor
        if bool(info.any()):
            raise ValueError(
                f"expected a positive definite covariance of observations, got {self.S!r}"
            )
        rows = flatten(self.exact.gain, self.in_shape)
        root: Tensor = torch.linalg.solve_triangular(factor.to(rows), rows, upper=False)
        return root

    def _gain(self, y: Tensor) -> Tensor:
        return self.lift(self.solver(self.S, y))

    def _diagonal(self) -> Tensor:
        if self.exact is None:
            return super()._diagonal()
        diagonal: Tensor = self.V.diagonal() - self.root.square().sum(-2)
        return diagonal


def damping(u: Tensor, r: Tensor, R: Operator, total: Total | None = None) -> Tensor:
    r"""The largest :math:`c \leq 1` with :math:`c \, u^T R u \leq (u^T r)_+`, which is 1 for
    solutions :math:`u` of systems :math:`(W + R) u = r` with :math:`W \geq 0`, also for those
    that GMRES or CG stop at.

    Arguments:
        u: The solution, with shape :math:`(*, out)`.
        r: The right-hand side, with shape :math:`(*, out)`.
        R: The covariance :math:`R`.
        total: What adds up numbers, where fields are parts of longer ones.

    Returns:
        The numbers, with shape :math:`(*)`.

    Example:
        >>> from appa_prob.operators import Isotropic
        >>> damping(torch.tensor([10.0]), torch.tensor([1.0]), Isotropic(1.0, 1))
        tensor(0.1000)
    """
    energy = flatten(u * R.forward(u), R.in_shape).sum(-1)
    work = flatten(u * r, R.in_shape).sum(-1)
    if total is not None:
        energy, work = total(torch.stack((energy, work)))
    # The slack is for rounding where W is 0 and both are equal.
    broken = energy > work + 1e-3 * work.abs()
    return torch.where(broken, work.clamp_min(0.0) / torch.where(broken, energy, 1.0), 1.0)


def braking(move: Tensor, r: Tensor, event_ndim: int, total: Total | None = None) -> Tensor:
    r"""The largest :math:`c \leq 1` with :math:`c \, \|m\| \leq 2 \|r\|`.

    Arguments:
        move: The move :math:`m` of what is observed, with shape :math:`(*, out)`.
        r: The residual, with shape :math:`(*, out)`.
        event_ndim: The number of axes of an observation.
        total: What adds up numbers, where fields are parts of longer ones.

    Returns:
        The numbers, with shape :math:`(*)`.

    Example:
        >>> braking(torch.tensor([10.0]), torch.tensor([1.0]), 1)
        tensor(0.2000)
    """
    axes = tuple(range(-event_ndim, 0))
    moved, bound = (f.square().sum(axes) if axes else f.square() for f in (move, 2 * r))
    if total is not None:
        moved, bound = total(torch.stack((moved, bound)))
    broken = moved > bound
    # The square root is kept from 0, where it has no derivative.
    return (torch.where(broken, bound, 1.0) / torch.where(broken, moved, 1.0)).sqrt()
