r"""Divide-and-conquer posterior sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from appa_prob.operators import CG, Solver

from .denoiser import Denoiser
from .foresight import TemperedLikelihood, bridge, foreseen
from .integrator import Draw, Integrator, Memory, clean
from .likelihood import Likelihood
from .linearised import Linearised

__all__ = ["DCPS"]


@dataclass(frozen=True)
class DCPS(Integrator):
    r"""Divide and conquer: posteriors of noisy states, one after another, each of a likelihood
    that is easy to look ahead to.

    Times are divided into blocks. At the end :math:`\tau` of each, with
    :math:`r_\tau = \sigma_\tau / \alpha_\tau`, noisy states are taken to be observed by
    themselves, with errors that grow with the noise, and at earlier times :math:`t` by the mean
    of what :math:`x_t` leads to there,

    .. math:: g_\tau(x_\tau) = p(y \mid x_\tau / \alpha_\tau)^{1 / (1 + r_\tau^2)} \qquad
        \ell_t(x_t) = g_\tau \! \left( \alpha_\tau \left( (1 - w) \, \mathbb{E}[x \mid x_t]
        + w \, x_t / \alpha_t \right) \right) \qquad w = \frac{r_\tau^2}{r_t^2}

    which is better the shorter the block is. A block starts with `corrections` of Langevin
    dynamics for :math:`p(x_t) \, \ell_t(x_t)`, whose likelihood is new, and each of its steps from
    :math:`t` to :math:`s` is one draw,

    .. math:: x_t \leftarrow \mathcal{N} \left( x_t + \delta \sigma_t^2 \nabla \log p(x_t), \;
        2 \delta \sigma_t^2 I \right) \, \ell_t^{1/2} \qquad
        x_s \sim q(x_s \mid \mathbb{E}[x \mid x_t], x_t) \, \ell_s(x_s)

    where products mean the normalised law, from which is drawn as by
    :class:`~appa_prob.samplers.DAPS`: with the likelihood linearised, and corrected by `moves` of
    a Markov chain. So the likelihood enters implicitly, and the dynamics are stable for errors of
    any size; the authors take explicit, tamed steps, and fit a Gaussian to each draw by gradients.

    For Gaussian priors and linear maps the law of samples tends to the posterior as blocks and
    corrections become many and :math:`\delta` small, with one step a block or more; with few
    blocks it is narrower, as the spread of :math:`x_\tau` given :math:`x_t` is left out. Modes of
    a mixture have the right shapes, but weights that are only roughly those of the posterior:
    those of the laws on the way are others, and Langevin dynamics do not move between modes.

    References:
        | Divide-and-Conquer Posterior Sampling for Denoising Diffusion Priors
        (Janati et al., 2024) | https://arxiv.org/abs/2403.11407

    Arguments:
        steps: The number of steps, or the times.
        likelihood: The likelihood :math:`p(y \mid x)`.
        blocks: The number of blocks, at most that of steps.
        corrections: The number of steps of Langevin dynamics at the start of each block.
        delta: Their size :math:`\delta`, in :math:`(0, 1]`.
        moves: The number of steps of the Markov chain, in each draw.
        beta: The size in :math:`(0, 1]` of its steps.
        solver: What solves systems of the size of the observation, each product with which is one
            with the Jacobian of the denoiser and one with its adjoint; by default up to 8
            iterations of :class:`~appa_prob.operators.CG`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Isotropic, Mask
        >>> from appa_prob.samplers import GaussianDenoiser, GaussianLikelihood, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule(0.01, 100.0))
        >>> y = GaussianLikelihood(Mask(torch.tensor([True, False])), torch.tensor([2.0]), 0.1)
        >>> sampler, g = DCPS(64, likelihood=y), torch.Generator().manual_seed(0)
        >>> x = sampler(prior, sampler.noise(prior, (512,), generator=g), generator=g)
        >>> bool((x.mean(0) - torch.tensor([2.0 / 1.1, 0.0])).abs().max() < 0.2)
        True
    """

    pieces: ClassVar[bool] = False

    likelihood: Likelihood = field(kw_only=True)
    blocks: int = field(default=8, kw_only=True)
    corrections: int = field(default=4, kw_only=True)
    delta: float = field(default=0.25, kw_only=True)
    moves: int = field(default=2, kw_only=True)
    beta: float = field(default=0.7, kw_only=True)
    solver: Solver = field(
        default=CG(rtol=1e-3, max_iterations=8, on_failure="ignore"), kw_only=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.blocks <= len(self.times) - 1:
            raise ValueError(
                f"expected from 1 to {len(self.times) - 1} blocks, as many as steps, got "
                f"{self.blocks}"
            )
        if self.corrections < 0 or self.moves < 0:
            raise ValueError(
                f"expected corrections >= 0 and moves >= 0, got {self.corrections}, {self.moves}"
            )
        if not 0 < self.delta <= 1 or not 0 < self.beta <= 1:
            raise ValueError(
                f"expected delta and beta in (0, 1], got {self.delta} and {self.beta}"
            )

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        schedule, first = denoiser.schedule, self.times.index(float(t))
        starts = [i * (len(self.times) - 1) // self.blocks for i in range(self.blocks + 1)]
        end = self.times[min(i for i in starts if i > first)]
        until = float(schedule.ratio(t.new_tensor(end)))
        if first in starts:
            x_t = self._correct(denoiser, x_t, t, until, draw)
        alpha_t, alpha_s = float(schedule.alpha(t)), float(schedule.alpha(s))
        w, v = bridge(0.0, float(schedule.ratio(s)), float(schedule.ratio(t)))
        mean = alpha_s * ((1 - w) * clean(denoiser, x_t, t) + w / alpha_t * x_t)
        return self._given(denoiser, mean, alpha_s * v, s, until, 1.0, draw)

    def _correct(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, until: float, draw: Draw
    ) -> Tensor:
        alpha, sigma = (float(c) for c in denoiser.schedule(t))
        for _ in range(self.corrections):
            mean = x_t + self.delta * (alpha * clean(denoiser, x_t, t) - x_t)
            std = math.sqrt(2 * self.delta) * sigma
            x_t = self._given(denoiser, mean, std, t, until, 0.5, draw)
        return x_t

    def _given(
        self,
        denoiser: Denoiser,
        mean: Tensor,
        std: float,
        t: Tensor,
        until: float,
        power: float,
        draw: Draw,
    ) -> Tensor:
        """Draws from a Gaussian about a state, times a power of its likelihood."""
        ahead = foreseen(self.likelihood, denoiser, t, until)
        tempered = TemperedLikelihood(ahead, power / (1 + until**2))
        return Linearised(tempered, mean, std, self.solver).sample(draw, self.moves, self.beta)
