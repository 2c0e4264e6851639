r"""Draws from a Gaussian times a likelihood: what DAPS, MGDM and DCPS do between noise levels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from appa_prob.operators import (
    BlockDiagonal,
    Diagonal,
    InnovationCovariance,
    Operator,
    Scaling,
    Solver,
)
from appa_prob.operators.dense import root
from appa_prob.operators.matvec import matvec
from appa_prob.operators.shapes import flatten, unflatten
from appa_prob.operators.stack import cut, join

from .denoiser import over
from .integrator import Draw
from .likelihood import Likelihood

__all__ = ["Linearised", "coloured"]

SHARES = tuple(4.0**-k for k in range(8))  # of a step, of which the best is taken, or none
FIRST = 2  # that are tried before the others
SAME = 1e-2  # differences of logarithms of densities that say nothing


class Linearised:
    r"""The Gaussian :math:`\mathcal{N}(m, C) \propto \mathcal{N}(x \mid \hat{x}, r^2 I) \,
    \mathcal{N}(e \mid H (x - \hat{x}), R)` of a likelihood that is linearised at :math:`\hat{x}`,
    or at the mode that the method of Gauss and Newton finds from there.

    Where the linearisation at :math:`\hat{x}` says little, as of a count whose expectation there
    is almost 0, its Gaussian may lie where the likelihood vanishes. Of each step to the mode the
    share is taken that is the best, or none.

    Arguments:
        likelihood: The likelihood.
        start: The state :math:`\hat{x}`, with shape :math:`(*, event)`.
        r: The standard deviation :math:`r`.
        solver: What solves systems with :math:`r^2 H H^T + R`.
        iterations: The number of steps to the mode.
    """

    def __init__(
        self,
        likelihood: Likelihood,
        start: Tensor,
        r: float,
        solver: Solver,
        iterations: int = 0,
    ) -> None:
        self.likelihood, self.start, self.r, self.solver = likelihood, start, r, solver
        self.mean: Tensor = start
        self._linearise(torch.zeros_like(start))
        for _ in range(iterations):
            self.mean = start + self.shift + self._share() * (self.mean - start - self.shift)
            self._linearise(self.mean - start)
        if iterations:
            self.mean = start + self.shift + self._share() * (self.mean - start - self.shift)

    def deviation(self, draw: Draw) -> Tensor:
        r"""Draws from :math:`\mathcal{N}(0, C)`, by Matheron's rule.

        Arguments:
            draw: Gives white noise.
        """
        x = self.r * draw(self.start)
        errors = coloured(self.R, draw(torch.empty_like(self.e)))
        return x - self._lift(self.H.forward(x) + errors)

    def sample(self, draw: Draw, moves: int, beta: float) -> Tensor:
        r"""Draws from :math:`\mathcal{N}(x \mid \hat{x}, r^2 I) \, p(y \mid x)`: exactly for a
        likelihood that says it is linear, else by a Markov chain from a draw of the Gaussian.

        .. math:: x' = m + \sqrt{1 - \beta^2} \, (x - m) + \beta \, \xi \qquad
            \xi \sim \mathcal{N}(0, C)

        is accepted or rejected for the difference between the likelihood and the linearised one.

        Arguments:
            draw: Gives white noise.
            moves: The number of steps of the chain.
            beta: Their size :math:`\beta` in :math:`(0, 1]`.

        References:
            | MCMC Methods for Functions: Modifying Old Algorithms to Make Them Faster
            (Cotter et al., 2013) | https://arxiv.org/abs/1202.0709
        """
        x = self.mean + self.deviation(draw)
        if not moves or getattr(self.likelihood, "linear", False):
            return x
        excess, kept = self.excess(x), math.sqrt(1 - beta**2)
        for _ in range(moves):
            moved = self.mean + kept * (x - self.mean) + beta * self.deviation(draw)
            other = self.excess(moved)
            u = torch.special.ndtr(draw(torch.empty_like(excess)))
            accepted = u.log() < other - excess
            x = torch.where(over(accepted, self.likelihood.in_shape), moved, x)
            excess = torch.where(accepted, other, excess)
        return x

    def excess(self, x: Tensor) -> Tensor:
        r"""The logarithm of :math:`\mathcal{N}(x \mid \hat{x}, r^2 I) \, p(y \mid x)` over the
        Gaussian's density, up to a constant.

        Arguments:
            x: The state, with shape :math:`(*, event)`.
        """
        event, from_mean = self.likelihood.in_shape, x - self.mean
        seen = self.H.forward(from_mean)
        # |x - m|^2 - |x - start|^2, without the difference of two large numbers.
        isotropic = (self.start - self.mean) * (2 * x - self.mean - self.start)
        precision = flatten(isotropic, event).sum(-1) / self.r**2
        precision = precision + flatten(seen * self.R.solve(seen), self.R.in_shape).sum(-1)
        found: Tensor = self.likelihood.log_prob(x) + precision / 2
        return found

    def _linearise(self, shift: Tensor) -> None:
        """The Gaussian by the linearisation at a point, for its distance from the start."""
        self.shift = shift
        self.e, self.H, self.R = self.likelihood.linearize(self.start + shift)
        variance = Scaling(self.start.new_tensor(self.r**2), self.H.in_shape)
        S: Operator = self.H @ variance @ self.H.T + self.R
        self.S = S if isinstance(S, Diagonal) else InnovationCovariance(self.H, variance, self.R)
        self.mean = self.start + self._lift(self.e + self.H.forward(shift))

    def _share(self) -> Tensor:
        """The best share of the way from the point to the mean, for each member of the batch."""
        none, *gains = self._gains((0.0, *SHARES[:FIRST]))
        best, where = torch.stack(gains).max(0)
        if not bool((best > none - SAME).all()):
            gains += self._gains(SHARES[FIRST:])
            best, where = torch.stack((*gains, none)).max(0)
        shares = torch.tensor((*SHARES, 0.0), dtype=self.mean.dtype, device=self.mean.device)
        return over(shares[where], self.likelihood.in_shape)

    def _gains(self, shares: Sequence[float]) -> Sequence[Tensor]:
        """The logarithm of the density after shares of the way, up to a constant."""
        event, step = self.likelihood.in_shape, self.mean - self.start - self.shift
        wide = torch.tensor(shares, dtype=step.dtype, device=step.device)
        moved = self.shift + wide.reshape(-1, *(1,) * step.ndim) * step
        cost = flatten(moved, event).square().sum(-1) / (2 * self.r**2)
        gain = self.likelihood.log_prob(self.start + moved) - cost
        return gain.nan_to_num(nan=-torch.inf).unbind(0)

    def _lift(self, y: Tensor) -> Tensor:
        direct = isinstance(self.S, Diagonal)  # as where each number is seen by itself
        return self.r**2 * self.H.adjoint(
            self.S.solve(y) if direct else self.solver(self.S, y).value
        )


def coloured(R: Operator, z: Tensor) -> Tensor:
    r"""White noise made noise of a covariance, :math:`R^{1/2} z`.

    Arguments:
        R: The covariance.
        z: White noise, with shape :math:`(*, event)`.

    Example:
        >>> coloured(Diagonal(torch.tensor([4.0, 9.0])), torch.ones(2))
        tensor([2., 3.])
    """
    if isinstance(R, BlockDiagonal):
        shapes: Sequence[torch.Size] = [block.in_shape for block in R.blocks]
        parts = zip(R.blocks, cut(z, shapes), strict=True)
        return join([coloured(block, part) for block, part in parts], shapes)
    if isinstance(R, Scaling | Diagonal):
        return z * unflatten(R.diagonal().to(z).sqrt(), R.in_shape)
    factor = root(R, "sample").to(z)
    return unflatten(matvec(factor, flatten(z, R.in_shape)), R.in_shape)
