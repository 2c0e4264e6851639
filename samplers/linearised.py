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


class Linearised:
    r"""The Gaussian :math:`\mathcal{N}(m, C) \propto \mathcal{N}(x \mid \hat{x}, r^2 I) \,
    \mathcal{N}(e \mid H (x - \hat{x}), R)` of a likelihood that is linearised at :math:`\hat{x}`.

    Arguments:
        likelihood: The likelihood.
        start: The state :math:`\hat{x}`, with shape :math:`(*, event)`.
        r: The standard deviation :math:`r`.
        solver: What solves systems with :math:`r^2 H H^T + R`.
    """

    def __init__(self, likelihood: Likelihood, start: Tensor, r: float, solver: Solver) -> None:
        self.likelihood, self.start, self.r, self.solver = likelihood, start, r, solver
        self.e, self.H, self.R = likelihood.linearize(start)
        V = Scaling(r**2, self.H.in_shape)
        self.S = InnovationCovariance(self.H, V, self.R)
        self.mean = start + self._lift(self.e)

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
        r"""The logarithm of the likelihood over the linearised one.

        Arguments:
            x: The state, with shape :math:`(*, event)`.
        """
        e = self.e - self.H.forward(x - self.start)
        square = flatten(e * self.R.solve(e), self.R.in_shape).sum(-1)
        return self.likelihood.log_prob(x) + square / 2

    def _lift(self, y: Tensor) -> Tensor:
        return self.r**2 * self.H.adjoint(self.solver(self.S, y).value)


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
