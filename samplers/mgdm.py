r"""Mixture-guided diffusion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from appa_prob.operators import CG, Solver

from .ddim import implicit_clean
from .denoiser import Denoiser
from .foresight import bridge, foreseen
from .integrator import Draw, Integrator, Memory, clean
from .likelihood import Likelihood
from .linearised import Linearised

__all__ = ["MGDM"]

GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class MGDM(Integrator):
    r"""Mixture-guided diffusion: a step from :math:`t` to :math:`s` is guided at a lower noise
    level :math:`u`, where the clean state is better known, and drawn by the method of Gibbs.

    Since :math:`p(y \mid x_s) = \mathbb{E}[p(y \mid x_u) \mid x_s]` for any :math:`u < s`, the
    guess :math:`p(y \mid \mathbb{E}[x \mid x_u])` may be made at :math:`u`. Clean states
    :math:`x_0` and states :math:`x_u` are drawn in turn, a sweep being

    .. math:: x_u \sim q(x_u \mid x_0, x_t) \, p(y \mid \mathbb{E}[x \mid x_u]) \qquad
        x_0 \sim p(x_0 \mid x_u)

    and the step ends with :math:`x_s \sim q(x_s \mid x_u, x_t)`, where :math:`q` is the law of
    the noise between two states. The clean state comes from a few steps of
    :class:`~appa_prob.samplers.DDPM` to no noise. The next step starts from it.

    The first draw is that of a Gaussian times a likelihood whose map is
    :math:`h(\mathbb{E}[x \mid x_u])`, and is made as by :class:`~appa_prob.samplers.DAPS`: with
    the map linearised, and corrected by `moves` of a Markov chain. The authors fit a Gaussian by
    gradients instead, and draw :math:`x_s` in each sweep, which leaves the same law and needs more
    sweeps. Levels are shares :math:`\sigma_u / \alpha_u = \rho \, \sigma_s / \alpha_s`, one for
    all steps, or spread evenly over :math:`(0, 1)` from step to step, the mixture of the name.

    As sweeps become many, samples of a Gaussian prior with a linear map have the law of
    :class:`~appa_prob.samplers.MMPS` with :math:`\mathbb{V}[x \mid x_s] - \mathbb{V}[x \mid x_u]`
    for the covariance of the state in :math:`S`: too little by what the guess leaves out.
    It falls like :math:`\rho^2`, while the number of sweeps that are needed grows like
    :math:`\rho^{-2}`: of what is neither known from the prior nor observed, a sweep forgets the
    share :math:`r_u^2 / r_t^2`.

    References:
        | A Mixture-Based Framework for Guiding Diffusion Models (Janati et al., 2025)
        | https://arxiv.org/abs/2502.03332

    Arguments:
        steps: The number of steps, or the times.
        likelihood: The likelihood :math:`p(y \mid x)`.
        sweeps: The number of sweeps in each step.
        inner: The number of steps to the clean state, each an evaluation; with 1 it is
            :math:`\mathbb{E}[x \mid x_u]`.
        share: The share :math:`\rho` in :math:`(0, 1)`; by default shares of all sizes.
        moves: The number of steps of the Markov chain.
        beta: The size in :math:`(0, 1]` of its steps.
        solver: What solves systems of the size of the observation, each product with which is one
            with the Jacobian of the denoiser and one with its adjoint; by default up to 8
            iterations of :class:`~appa_prob.operators.CG`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> from appa_prob.operators import Isotropic, Mask
        >>> from appa_prob.samplers import GaussianDenoiser, GaussianLikelihood, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule(0.01, 100.0))
        >>> y = GaussianLikelihood(Mask(torch.tensor([True, False])), torch.tensor([2.0]), 0.1)
        >>> sampler, g = MGDM(32, likelihood=y), torch.Generator().manual_seed(0)
        >>> x = sampler(prior, sampler.noise(prior, (512,), generator=g), generator=g)
        >>> bool((x.mean(0) - torch.tensor([2.0 / 1.1, 0.0])).abs().max() < 0.2)
        True
    """

    pieces: ClassVar[bool] = False

    likelihood: Likelihood = field(kw_only=True)
    sweeps: int = field(default=1, kw_only=True)
    inner: int = field(default=8, kw_only=True)
    share: float | None = field(default=None, kw_only=True)
    moves: int = field(default=2, kw_only=True)
    beta: float = field(default=0.7, kw_only=True)
    solver: Solver = field(
        default=CG(rtol=1e-3, max_iterations=8, on_failure="ignore"), kw_only=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sweeps < 1 or self.inner < 1 or self.moves < 0:
            raise ValueError(
                "expected sweeps >= 1, inner >= 1 and moves >= 0, got "
                f"{self.sweeps}, {self.inner}, {self.moves}"
            )
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(f"expected a share in (0, 1), got {self.share}")
        if not 0 < self.beta <= 1:
            raise ValueError(f"expected beta in (0, 1], got {self.beta}")

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        u = self._level(denoiser, s)
        alpha_t, alpha_s, alpha_u = (float(denoiser.schedule.alpha(a)) for a in (t, s, u))
        r_t, r_s, r_u = (float(denoiser.schedule.ratio(a)) for a in (t, s, u))
        likelihood = foreseen(self.likelihood, denoiser, u)
        x_0 = memory.get("clean")
        if x_0 is None:
            x_0 = clean(denoiser, x_t, t)
        for _ in range(self.sweeps):
            w, v = bridge(0.0, r_u, r_t)
            mean = alpha_u * ((1 - w) * x_0 + w / alpha_t * x_t)
            gaussian = Linearised(likelihood, mean, alpha_u * v, self.solver)
            x_u = gaussian.sample(draw, self.moves, self.beta)
            x_0 = implicit_clean(denoiser, x_u, u, self.times[-1], self.inner, draw, 1.0)
        memory["clean"] = x_0
        if r_u >= r_s:
            return x_u
        w, v = bridge(r_u, r_s, r_t)
        x_s = (1 - w) / alpha_u * x_u + w / alpha_t * x_t
        return alpha_s * (x_s + v * draw(x_t))

    def _level(self, denoiser: Denoiser, s: Tensor) -> Tensor:
        """The time u, no lower than the last time, which is all that networks may know."""
        if float(s) <= self.times[-1]:
            return s
        share = self.share
        if share is None:
            share = (self.times.index(float(s)) * GOLDEN) % 1
        ratio, least = denoiser.schedule.ratio(torch.stack((s, s.new_tensor(self.times[-1]))))
        return denoiser.schedule.time(torch.maximum(share * ratio, least))
