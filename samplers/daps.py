r"""Decoupled annealing posterior sampling."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from appa_prob.operators import CG, Solver

from .ddim import implicit_clean
from .denoiser import Denoiser
from .integrator import Draw, Integrator, Memory
from .likelihood import Likelihood
from .linearised import Linearised

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
        iterations: The number of steps by Gauss and Newton from :math:`\hat{x}` towards the mode,
            where such likelihoods are linearised; those of counts need one.
        solver: What solves systems of the size of the observation; by default
            :class:`~appa_prob.operators.CG`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Isotropic, Nonlinear
        >>> from appa_prob.samplers import GaussianDenoiser, GaussianLikelihood, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule(0.01, 100.0))
        >>> y = GaussianLikelihood(Nonlinear(torch.exp, 2, 2), torch.tensor([1.0, 2.0]), 0.01)
        >>> sampler, g = DAPS(64, likelihood=y), torch.Generator().manual_seed(0)
        >>> x = sampler(prior, sampler.noise(prior, (256,), generator=g), generator=g)
        >>> bool((x.exp().mean(0) - y.y).abs().max() < 0.05)
        True
    """

    pieces: ClassVar[bool] = False

    likelihood: Likelihood = field(kw_only=True)
    flow: int = field(default=1, kw_only=True)
    moves: int = field(default=4, kw_only=True)
    beta: float = field(default=0.7, kw_only=True)
    iterations: int = field(default=0, kw_only=True)
    solver: Solver = field(default=CG(rtol=1e-6, max_iterations=500), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flow < 1 or self.moves < 0 or self.iterations < 0:
            raise ValueError(
                "expected flow >= 1, moves >= 0 and iterations >= 0, got "
                f"{self.flow}, {self.moves}, {self.iterations}"
            )
        if not 0 < self.beta <= 1:
            raise ValueError(f"expected beta in (0, 1], got {self.beta}")

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        start = implicit_clean(denoiser, x_t, t, self.times[-1], self.flow, draw, 0.0)
        x_0 = self._given(start, float(denoiser.schedule.ratio(t)), draw)
        alpha, sigma = denoiser.schedule(s)
        return alpha * x_0 + sigma * draw(x_0)

    def _given(self, start: Tensor, r: float, draw: Draw) -> Tensor:
        """Draws from the Gaussian about a state, times the likelihood."""
        laplace = Linearised(self.likelihood, start, r, self.solver, self.iterations)
        return laplace.sample(draw, self.moves, self.beta)
