r"""Reanalysis: an ensemble of trajectories of the atmosphere, given sparse and noisy observations.

.. math:: p(x_{1:L} \mid y_{1:L}) \qquad y \mid z_{1:L} \sim \mathcal{N}(H \, D(z_{1:L}), \, R)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor

from appa_prob.operators import GMRES, Nonlinear
from appa_prob.samplers import DDIM, MMPS, GaussianLikelihood

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .appa import Appa
    from .observe import Observations

__all__ = ["SamplerConfig", "guide", "reanalyse"]


class SamplerConfig(BaseModel):
    r"""How to sample.

    Attributes:
        steps: The number of steps of the integrator, which divide the range of noise levels
            evenly in their logarithm.
        sigma_max: The noise level of the first step; latents have unit variance.
        sigma_min: The noise level of the last step.
        eta: The stochasticity of DDIM, from 0 (the probability flow) to 1 (ancestral sampling).
        iterations: The largest number of GMRES iterations of a guidance step.
        stride: The number of states between two windows; by default half a window.
        precision: The floating type that the networks compute in.
    """

    model_config = ConfigDict(extra="forbid")

    steps: PositiveInt = 24
    sigma_max: PositiveFloat = 20.0
    sigma_min: PositiveFloat = 0.02
    eta: float = Field(0.0, ge=0.0, le=1.0)
    iterations: PositiveInt = 2
    stride: PositiveInt | None = None
    precision: Literal["float32", "bfloat16"] = "float32"


def reanalyse(
    appa: Appa,
    observations: Observations,
    times: NDArray[np.datetime64],
    *,
    members: int = 16,
    sampler: SamplerConfig | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    r"""Samples trajectories given observations, by moment matching posterior sampling through the
    decoder.

    What a state holds beside its decoded latent is drawn from the errors of the autoencoder.

    Arguments:
        appa: The model.
        observations: The observations.
        times: The times of the states.
        members: The number of members.
        sampler: How to sample.
        seed: What all that is random depends on; a member depends on the seed and its number.
        progress: Whether to show a progress bar.

    Returns:
        The members in physical units, with shape :math:`(M, L, C, H, W)`.

    Raises:
        UserError: If the times are too few, or not as far apart as the model was trained on.
    """
    sampler = sampler or SamplerConfig()
    guided = guide(appa, observations, times, sampler)
    device = appa.error.device
    generators = [torch.Generator(device).manual_seed(1_000_003 * seed + i) for i in range(members)]
    integrator = DDIM(_times(appa, sampler), eta=sampler.eta)
    noise = integrator.noise(guided, (members,), generator=generators)
    z = integrator(guided, noise, generator=generators, progress=progress)
    states = []
    with torch.no_grad():
        for member, generator in zip(z, generators, strict=True):
            x = appa.autoencoder.decode(member)
            eps = torch.randn(x.shape, generator=generator, device=device)
            states.append(appa.statistics.restore(x + appa.error * eps, times))
    return torch.stack(states)


def guide(
    appa: Appa,
    observations: Observations,
    times: NDArray[np.datetime64],
    sampler: SamplerConfig,
) -> MMPS:
    r"""The denoiser of trajectories of latents given observations of their states.

    Arguments:
        appa: The model.
        observations: The observations.
        times: The times of the states.
        sampler: How to sample.
    """
    latents = (len(times), *appa.autoencoder.latent_shape)
    states = (len(times), *appa.autoencoder.state_shape)
    precision = getattr(torch, sampler.precision) if sampler.precision != "float32" else None
    decoder = Nonlinear(lambda z: appa.decode(z, precision), latents, states)
    y, variance = observations.standardised(appa.statistics, times, appa.error)
    likelihood = GaussianLikelihood(observations.operator @ decoder, y, variance)
    prior = appa.trajectory_denoiser(times, sampler.stride, precision)
    solver = GMRES(rtol=1e-3, max_iterations=sampler.iterations, on_failure="ignore")
    return MMPS(prior, likelihood, solver)


def _times(appa: Appa, sampler: SamplerConfig) -> list[float]:
    ends = torch.tensor([sampler.sigma_max, sampler.sigma_min], dtype=torch.float64)
    first, last = appa.denoiser.schedule.time(ends).clamp(0.0, 1.0).tolist()
    return torch.linspace(first, last, sampler.steps + 1, dtype=torch.float64).tolist()
