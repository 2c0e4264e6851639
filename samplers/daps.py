r"""Decoupled annealing posterior sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from appa_prob.operators import (
    CG,
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

from .ddim import implicit_step
from .denoiser import Denoiser, over
from .integrator import Draw, Integrator, Memory, clean
from .likelihood import Likelihood

__all__ = ["DAPS"]


@dataclass(frozen=True)
class DAPS(Integrator):
    r"""Decoupled annealing: a clean state is drawn given the noisy one and the observation, and
    noise of the next level is added to it.

    .. math:: x_0 \sim \mathcal{N}(x_0 \mid \hat{x}, r_t^2 I) \, p(y \mid x_0) \qquad
        x_s = \alpha_s x_0 + \sigma_s z \qquad r_t = \sigma_t / \alpha_t

    where :math:`\hat{x}` is the end of the probability flow from :math:`x_t`, in a few steps of
    DDIM. The denoiser is not differentiated. Noisy states of different steps depend on each other
    through clean ones only, so that errors of large noise are forgotten.

    The law of :math:`x_0` is sampled exactly for a linear map with Gaussian errors. Otherwise the
    likelihood is linearised at :math:`\hat{x}`, a draw from the Gaussian that results is the first
    state of a Markov chain, and steps of this chain, which leave that Gaussian as it is,

    .. math:: x' = m + \sqrt{1 - \beta^2} \, (x - m) + \beta \, \xi \qquad
        \xi \sim \mathcal{N}(0, C)

    are accepted or rejected for the difference between the likelihood and the linearised one. The
    chain needs no step size of its own, whatever the number of dimensions is.

    As steps become many, one step of the flow, :math:`\hat{x} = \mathbb{E}[x \mid x_t]`, gives the
    posterior of a Gaussian prior, and the shape of each mode of any other; how the samples are
    shared between modes was decided where the noise was large, and is not what the posterior says.
    More steps of the flow give a draw of the prior rather than its mean, whose spread is counted
    twice: for a scalar of variance :math:`p`, observed with errors of variance :math:`\rho`,
    samples tend to the posterior for a prior of variance :math:`2 p`.

    References:
        | Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing
        (Zhang et al., 2024) | https://arxiv.org/abs/2407.01521

        | MCMC Methods for Functions: Modifying Old Algorithms to Make Them Faster
        (Cotter et al., 2013) | https://arxiv.org/abs/1202.0709

    Arguments:
        steps: The number of steps, or the times.
        likelihood: The likelihood :math:`p(y \mid x)`.
        flow: The number of steps of the flow to :math:`\hat{x}`, each an evaluation.
        moves: The number of steps of the Markov chain, for likelihoods that are not linear.
        beta: The size :math:`\beta` in :math:`(0, 1]` of its steps.
        solver: What solves systems of the size of the observation; by default
            :class:`~appa_prob.operators.CG`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> from appa_prob.operators import Isotropic, Nonlinear
        >>> from appa_prob.samplers import GaussianDenoiser, GaussianLikelihood, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule(0.01, 100.0))
        >>> y = GaussianLikelihood(Nonlinear(torch.exp, 2, 2), torch.tensor([1.0, 2.0]), 0.01)
        >>> sampler, g = DAPS(64, likelihood=y), torch.Generator().manual_seed(0)
        >>> x = sampler(prior, sampler.noise(prior, (256,), generator=g), generator=g)
        >>> bool((x.exp().mean(0) - y.y).abs().max() < 0.05)
        True
    """

    likelihood: Likelihood = field(kw_only=True)
    flow: int = field(default=1, kw_only=True)
    moves: int = field(default=4, kw_only=True)
    beta: float = field(default=0.7, kw_only=True)
    solver: Solver = field(default=CG(rtol=1e-6, max_iterations=500), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flow < 1 or self.moves < 0:
            raise ValueError(f"expected flow >= 1 and moves >= 0, got {self.flow}, {self.moves}")
        if not 0 < self.beta <= 1:
            raise ValueError(f"expected beta in (0, 1], got {self.beta}")

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        start = self._flow(denoiser, x_t, t, draw)
        x_0 = self._given(start, float(denoiser.schedule.ratio(t)), draw)
        alpha, sigma = denoiser.schedule(s)
        return alpha * x_0 + sigma * draw(x_0)

    def _flow(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, draw: Draw) -> Tensor:
        """The end of the probability flow, with its last step to no noise at all."""
        if self.flow > 1:
            ends = torch.tensor([float(t), self.times[-1]], dtype=torch.float64)
            high, low = denoiser.schedule.ratio(ends).clamp_min(1e-3).log().tolist()
            ratios = torch.linspace(high, low, self.flow, dtype=torch.float64).exp()
            times = denoiser.schedule.time(ratios)
            for i in range(1, self.flow):
                x_t = implicit_step(denoiser, x_t, times[i - 1], times[i], draw, 0.0)
            t = times[-1]
        return clean(denoiser, x_t, t)

    def _given(self, start: Tensor, r: float, draw: Draw) -> Tensor:
        """Draws from the Gaussian about a state, times the likelihood."""
        laplace = Linearised(self.likelihood, start, r, self.solver)
        x = laplace.mean + laplace.deviation(draw)
        if getattr(self.likelihood, "linear", False):
            return x
        excess, kept = laplace.excess(x), math.sqrt(1 - self.beta**2)
        for _ in range(self.moves):
            moved = laplace.mean + kept * (x - laplace.mean) + self.beta * laplace.deviation(draw)
            other = laplace.excess(moved)
            u = torch.special.ndtr(draw(torch.empty_like(excess)))
            accepted = u.log() < other - excess
            x = torch.where(over(accepted, self.likelihood.in_shape), moved, x)
            excess = torch.where(accepted, other, excess)
        return x


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
