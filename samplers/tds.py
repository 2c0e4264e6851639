r"""Twisted diffusion sampling, by sequential Monte Carlo."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from appa_prob.operators import Dense
from appa_prob.operators.shapes import flatten

from .ancestral import Transition
from .denoiser import Denoiser, over
from .dense_covariance import DenseCovariance
from .gaussian import Gaussian
from .guidance import Conditioning
from .integrator import Draw, Generators, Integrator, Memory, drawing
from .likelihood import Likelihood
from .mmps import MMPS
from .particles import Particles, effective_size, systematic

__all__ = ["TDS"]


@dataclass(frozen=True)
class TDS(Integrator):
    r"""Twisted diffusion sampling: guided particles, weighted for what guidance gets wrong.

    A method of guidance gives a Gaussian approximation :math:`\psi_t(x_t) \approx p(y \mid x_t)`
    of the evidence, and the mean :math:`\hat{x}_y` of the clean state. Particles move by ancestral
    sampling towards :math:`\hat{x}_y` instead of :math:`\hat{x}`, and are weighted by

    .. math:: w_s = w_t \, \frac{p(x_s \mid x_t, \hat{x})}{p(x_s \mid x_t, \hat{x}_y)}
        \frac{\psi_s(x_s)}{\psi_t(x_t)} \qquad \psi_0(x_0) = p(y \mid x_0)

    They are resampled where their effective number has fallen below a share of them. Samples are
    those of :class:`~appa_prob.samplers.DDPM` with the exact posterior, as particles become many,
    whatever the approximation is: a better one needs fewer.

    With `covariance` particles move, and are weighted, by the kernels of
    :class:`~appa_prob.samplers.Ancestral`, which keep the covariances of the clean state without
    and with the observation. For a Gaussian prior, a linear observation and the twist of MMPS all
    weights are then equal and the law is exact for any number of steps; few steps are enough
    where the law is nearly so, the more as the last takes no evaluation. A step takes a product
    with the Jacobian for each number of a state, for the covariance as a matrix, and no others.

    States are :math:`(*, N, event)`: the last axis before the event is that of the particles,
    those before are independent runs.

    References:
        | Practical and Asymptotically Exact Conditional Sampling in Diffusion Models
        (Wu et al., 2023) | https://arxiv.org/abs/2306.17775

    Arguments:
        steps: The number of steps, or the times.
        likelihood: The likelihood :math:`p(y \mid x)`.
        guidance: The method of guidance.
        threshold: The share of the particles that their effective number is kept above, in
            :math:`[0, 1]`.
        eta: The stochasticity in :math:`(0, 1]` of the steps, see :class:`DDIM`.
        covariance: Whether steps keep the covariance of the clean state, as a matrix.

    Raises:
        ValueError: If an argument is out of its range, or if states have no axis of particles.

    Example:
        >>> from appa_prob.operators import Isotropic, Mask
        >>> from appa_prob.samplers import GaussianDenoiser, GaussianLikelihood, VESchedule
        >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule(0.01, 100.0))
        >>> y = GaussianLikelihood(Mask(torch.tensor([True, False])), torch.tensor([1.0]), 0.5)
        >>> sampler, g = TDS(32, likelihood=y), torch.Generator().manual_seed(0)
        >>> particles = sampler.particles(prior, sampler.noise(prior, (1, 128), generator=g))
        >>> exact = -0.5 * (1 / 1.5 + math.log(1.5 * 2 * math.pi))
        >>> bool((particles.log_evidence - exact).abs() < 4 * particles.standard_error + 0.1)
        True
    """

    pieces: ClassVar[bool] = False

    likelihood: Likelihood = field(kw_only=True)
    guidance: Callable[[Denoiser, Likelihood], Conditioning] = field(default=MMPS, kw_only=True)
    threshold: float = field(default=0.5, kw_only=True)
    eta: float = field(default=1.0, kw_only=True)
    covariance: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"expected a threshold in [0, 1], got {self.threshold}")
        if not 0 < self.eta <= 1:
            raise ValueError(f"expected eta in (0, 1], got {self.eta}")

    def particles(
        self,
        denoiser: Denoiser,
        x_1: Tensor,
        *,
        generator: Generators | None = None,
        offspring: int = 1,
    ) -> Particles:
        r"""Samples weighted particles, with the evidence.

        Arguments:
            denoiser: The denoiser of the prior, not guided.
            x_1: The noise, with shape :math:`(M, N, event)`, for :math:`M` runs.
            generator: A source of random numbers, or one for each run.
            offspring: The number of particles that each becomes in the last step, which costs no
                evaluation of the denoiser.
        """
        if x_1.ndim != 2 + len(denoiser.event_shape):
            raise ValueError(
                "expected noise of shape (runs, particles, "
                f"{', '.join(map(str, denoiser.event_shape))}), got {tuple(x_1.shape)}"
            )
        memory: Memory = {}
        grid = torch.tensor(self.times, dtype=torch.float64)
        x, draw = x_1, drawing(generator)
        with torch.no_grad():
            for t, s in pairwise(grid):
                if offspring > 1 and float(s) == self.times[-1]:
                    x = self._split(denoiser, x, t, offspring, memory)
                x = self._move(denoiser, x, t, s, draw, memory)
        return Particles(
            x,
            memory["log_weights"],
            memory["log_evidence"],
            memory["ancestors"],
            memory["resamplings"],
        )

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        x_s = self._move(denoiser, x_t, t, s, draw, memory)
        return (
            x_s if float(s) > self.times[-1] else self._resample(denoiser, x_s, draw, memory, 2.0)
        )

    def _move(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, draw: Draw, memory: Memory
    ) -> Tensor:
        if not memory:
            self._start(denoiser, x_t, t, memory)
        x_t = self._resample(denoiser, x_t, draw, memory, self.threshold)
        step = Transition(denoiser.schedule, t, s, self.eta)
        z, events = draw(x_t), (denoiser.event_shape,) * 2
        if self.covariance:
            prior, guided = (
                step.kernel(x_t, Gaussian(memory[mean], Dense(memory[V], *events)))
                for mean, V in (("mean", "V"), ("guided", "V_y"))
            )
            x_s = guided.move(z)
            log_ratio = prior.log_prob(x_s) - guided.log_prob(x_s)
        else:
            # In units of tau: what guidance moves, and the noise of the step. There is no
            # guidance where there is no noise to explain it.
            strength = step.gain / step.tau if step.tau else 0.0
            shift = strength * (memory["guided"] - memory["mean"])
            x_s = step.kept * x_t + step.gain * memory["mean"] + step.tau * (z + shift)
            log_ratio = -flatten(shift * (z + shift / 2), denoiser.event_shape).sum(-1)
        twist = memory["twist"]
        if float(s) > self.times[-1]:
            self._look(denoiser, x_s, s, memory)
        else:
            memory["twist"] = self.likelihood.log_prob(x_s)
        _weigh(memory, log_ratio + memory["twist"] - twist)
        return x_s

    def _start(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, memory: Memory) -> None:
        event = denoiser.event_shape
        batch = x_t.shape[: x_t.ndim - len(event)]
        if not batch or batch[-1] < 2:
            raise ValueError(
                f"expected two particles or more, along the axis before {tuple(event)}, got a "
                f"state of shape {tuple(x_t.shape)}"
            )
        self._look(denoiser, x_t, t, memory)
        uniform = x_t.new_full(batch, -math.log(batch[-1]))
        memory["log_weights"] = uniform
        memory["log_evidence"] = x_t.new_zeros(batch[:-1])
        memory["resamplings"] = x_t.new_zeros(batch[:-1])
        memory["ancestors"] = torch.arange(batch[-1], device=x_t.device).expand(batch)
        _weigh(memory, memory["twist"])

    def _look(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, memory: Memory) -> None:
        """Evaluates the denoiser: the means with and without guidance, and the twist."""
        if self.covariance:
            denoiser = DenseCovariance(denoiser)
        method, t = self.guidance(denoiser, self.likelihood), t.to(x_t)
        prior, posterior, twist = method.with_evidence(x_t, t)
        memory["mean"], memory["guided"], memory["twist"] = prior.mean, posterior.mean, twist
        if self.covariance:
            for name, law in (("V", prior), ("V_y", posterior)):
                V = law.covariance.to_dense()
                memory[name] = V.expand(*twist.shape, *V.shape[-2:])

    def _split(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, offspring: int, memory: Memory
    ) -> Tensor:
        """Makes each particle several of equal weights."""
        if not memory:
            self._start(denoiser, x_t, t, memory)
        memory["log_weights"] = memory["log_weights"] - math.log(offspring)
        for name in ("log_weights", "twist", "ancestors", "mean", "guided", "V", "V_y"):
            if name in memory:
                memory[name] = memory[name].repeat_interleave(offspring, 1)
        return x_t.repeat_interleave(offspring, 1)

    def _resample(
        self, denoiser: Denoiser, x_t: Tensor, draw: Draw, memory: Memory, threshold: float
    ) -> Tensor:
        """Resamples the runs whose effective number of particles is below the threshold."""
        log_weights, event = memory["log_weights"], denoiser.event_shape
        count = log_weights.shape[-1]
        poor = effective_size(log_weights) < threshold * count
        u = torch.special.ndtr(draw(x_t.new_empty(poor.shape)))
        index = systematic(log_weights.exp(), u, count)
        index = torch.where(poor[..., None], index, torch.arange(count, device=index.device))
        for name in ("twist", "ancestors"):
            memory[name] = memory[name].gather(-1, index)
        axis, wide = index.ndim - 1, over(index, event)
        for name in ("mean", "guided"):
            memory[name] = memory[name].gather(axis, wide.expand_as(x_t))
        for name in ("V", "V_y") if self.covariance else ():
            rows = index[..., None, None].expand_as(memory[name])
            memory[name] = memory[name].gather(axis, rows)
        memory["log_weights"] = torch.where(poor[..., None], -math.log(count), log_weights)
        memory["resamplings"] = memory["resamplings"] + poor
        return x_t.gather(axis, wide.expand_as(x_t))


def _weigh(memory: Memory, increment: Tensor) -> None:
    joint = memory["log_weights"] + increment
    total = torch.logsumexp(joint, -1)
    memory["log_weights"] = joint - total[..., None]
    memory["log_evidence"] = memory["log_evidence"] + total
