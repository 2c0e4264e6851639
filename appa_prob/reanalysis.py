r"""Reanalysis: an ensemble of trajectories of the atmosphere, given sparse and noisy observations.

.. math:: p(x_{1:L} \mid y_{1:L}) \qquad y \mid z_{1:L} \sim \mathcal{N}(H \, D(z_{1:L}), \, R)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from appa_prob.operators import CG, Map, Nonlinear
from appa_prob.operators.rowwise import Rowwise
from appa_prob.samplers import (
    MMPS,
    DPMSolverSDE,
    GaussianLikelihood,
    State,
    ratio_times,
)

from .errors import UserError
from .generators import noise_by_state
from .known_past import know_past
from .mesh import Mesh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .appa import Appa
    from .observe import Observations

__all__ = [
    "SamplerConfig",
    "assimilate",
    "complete",
    "guide",
    "noise_times",
]


class SamplerConfig(BaseModel):
    r"""How to sample.

    Attributes:
        steps: The number of steps of the integrator, which divide the range of noise levels
            evenly in their logarithm.
        sigma_max: The noise level of the first step; latents have unit variance.
        sigma_min: The noise level of the last step.
        iterations: The number of iterations of conjugate gradients of a guidance step.
        stride: The number of states between two windows; by default half a window.
        precision: The floating type that the networks compute in.
        batch: The number of members that are sampled at once; all by default. Members don't
            depend on it, but memory does.
        windows_at_once: The number of windows of trajectories that a rank evaluates at once; all
            by default. With fewer, activations are computed again rather than kept: less memory,
            and up to twice the time of the network.
        states_at_once: The number of states, of all members, that a rank decodes at once when it
            conditions on observations; likewise. What is observed of them is read before the next
            ones are decoded, and states without observations are not decoded.
    """

    model_config = ConfigDict(extra="forbid")

    steps: PositiveInt = 24
    sigma_max: PositiveFloat = 20.0
    sigma_min: PositiveFloat = 0.02
    iterations: PositiveInt = 2
    stride: PositiveInt | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    batch: PositiveInt | None = None
    windows_at_once: PositiveInt | None = None
    states_at_once: PositiveInt | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.sigma_min < self.sigma_max:
            raise ValueError(
                f"expected sigma_max above sigma_min, got {self.sigma_max:g} and "
                f"{self.sigma_min:g}"
            )
        return self


def assimilate(
    appa: Appa,
    observations: Observations,
    times: NDArray[np.datetime64],
    generators: Sequence[Sequence[torch.Generator]],
    *,
    sampler: SamplerConfig,
    mesh: Mesh | None = None,
    past: Tensor | None = None,
    error: float = 0.02,
    advance: Callable[[int], object] = lambda count: None,
) -> Tensor:
    r"""Samples latents given observations and, maybe, the first latents,
    :math:`z_{1:L} \sim p(z_{1:L} \mid y_{1:L}, z_{1:K})`.

    Arguments:
        appa: The model.
        observations: The observations.
        times: The times of the states.
        generators: A source of random numbers for each state of each member that this rank
            samples.
        sampler: How to sample.
        mesh: Which states these are; by default all.
        past: The first latents of each member, where known, with shape :math:`(M, K, c, h, w)`.
        error: The standard deviation of the errors of known latents.
        advance: Called after each step with the number of members that made it.

    Returns:
        The latents that this rank samples, with shape :math:`(M, L, c, h, w)`.
    """
    mesh = mesh or Mesh()
    if past is not None and mesh.column:
        past = past[:, :0]  # they lie in the first piece
    integrator = DPMSolverSDE(noise_times(appa, sampler))
    size = sampler.batch or len(generators)
    guided = guide(appa, observations, times, sampler, mesh)
    parts = []
    for first in range(0, len(generators), size):
        some = generators[first : first + size]
        denoiser = guided
        if past is not None:
            known = know_past(appa, guided.denoiser, past[first : first + size], error, sampler)
            denoiser = MMPS(known, guided.likelihood, guided.solver)

        def stepped(state: State, count: int = len(some)) -> None:
            advance(count)

        noise = integrator.noise(denoiser, (len(some),), generator=some)
        parts.append(integrator(denoiser, noise, generator=some, callback=stepped))
    return torch.cat(parts)


def guide(
    appa: Appa,
    observations: Observations,
    times: NDArray[np.datetime64],
    sampler: SamplerConfig,
    mesh: Mesh | None = None,
) -> MMPS:
    r"""The denoiser of trajectories of latents given observations of their states, or that of the
    piece of them that this rank samples.

    Arguments:
        appa: The model.
        observations: The observations.
        times: The times of the states.
        sampler: How to sample.
        mesh: Which states this rank samples; by default all.
    """
    mesh = mesh or Mesh()
    piece = mesh.piece(appa, len(times), sampler.stride)
    latents = (len(piece), *appa.autoencoder.latent_shape)
    states = (len(piece), *appa.autoencoder.state_shape)
    precision = getattr(torch, sampler.precision) if sampler.precision != "float32" else None
    prior = appa.trajectory_denoiser(
        times, sampler.stride, precision, mesh.group, sampler.windows_at_once
    )
    seen = observations.within(piece.start, piece.stop)
    y, variance = seen.standardised(appa.statistics, times[piece.start : piece.stop], appa.error)
    H = seen.standardised_operator(appa.statistics)

    def decode(z: Tensor) -> Tensor:
        return appa.decode(z, precision)

    # What is observed of decoded states: of all at once, or of some after others.
    observed: Map
    if sampler.states_at_once is None:
        observed = H @ Nonlinear(decode, latents, states)
    else:
        size, some = len(piece), sampler.states_at_once
        observed = Rowwise(decode, size, latents[1:], states[1:], at_once=some, observed=H)
    likelihood = GaussianLikelihood(observed, y, variance)
    # The trained denoiser's Jacobian is nearly symmetric: with so few iterations conjugate
    # gradients, which minimise the error rather than the residual, come nearer than GMRES.
    solver = CG(rtol=1e-3, max_iterations=sampler.iterations, on_failure="ignore")
    return MMPS(prior, likelihood, solver)


@torch.no_grad()
def complete(
    appa: Appa,
    z: Tensor,
    observations: Observations,
    times: NDArray[np.datetime64],
    generators: Sequence[torch.Generator],
    mesh: Mesh | None = None,
    *,
    before: Tensor | None = None,
    place: int = 0,
    at: int | None = None,
    at_once: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    r"""A standardised trajectory given its latents and the observations: the decoded one, and what
    the observations say about the error of the autoencoder.

    Arguments:
        appa: The model.
        z: The latents of one member, with shape :math:`(L, c, h, w)`.
        observations: The observations.
        times: The times of the states.
        generators: A source of random numbers for each state.
        mesh: The place of this rank, if these states are its piece of the trajectory.
        before: As :meth:`ReconstructionError.complete` takes it, like what follows.
        place: The number of states of the trajectory before these.
        at: The state whose smooth part of the error is wanted.
        at_once: The number of states that are decoded at once; all by default.

    Returns:
        The trajectory, and the smooth part of the error at one state, if it is wanted.
    """
    x = z.new_empty(len(z), *appa.autoencoder.state_shape)
    for first in range(0, len(z), at_once or len(z)):
        some = slice(first, first + (at_once or len(z)))
        x[some] = appa.decode(z[some])
    H = observations.standardised_operator(appa.statistics)
    y, variance = observations.standardised(appa.statistics, times)
    noise = noise_by_state(observations.time, generators, y)
    law = appa.reconstruction
    return law.complete(
        x, H, y, variance, generators, noise=noise, mesh=mesh, before=before, place=place, at=at
    )


def noise_times(appa: Appa, sampler: SamplerConfig) -> list[float]:
    r"""The times of the integrator.

    Raises:
        UserError: If the model knows none of the noise levels.
    """
    schedule = appa.denoiser.schedule
    low, high = schedule.ratio(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    first, last = min(sampler.sigma_max, high), max(sampler.sigma_min, low)
    if not last < first:
        raise UserError(
            f"sampler: expected noise levels within those of the model, {low:.3g} to {high:.3g}, "
            f"got {sampler.sigma_max:g} and {sampler.sigma_min:g}"
        )
    return list(ratio_times(schedule, sampler.steps, first=first, last=last))
