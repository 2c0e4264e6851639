r"""Latents of a window given its observations and, maybe, its first latents.

.. math:: z_{1:L} \sim p(z_{1:L} \mid y_{1:L}, z_{1:K})
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from appa_prob.samplers import MMPS, DPMSolverSDE

from .known_past import know_past
from .observe import Observations, observe
from .reanalysis import SamplerConfig, guide, noise_times

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .appa import Appa
    from .experiment import Missing
    from .network import Network

__all__ = ["assimilate", "observe_truth"]


def assimilate(
    appa: Appa,
    observations: Observations,
    times: NDArray[np.datetime64],
    generators: Sequence[torch.Generator],
    *,
    sampler: SamplerConfig,
    past: Tensor | None = None,
    error: float = 0.02,
) -> Tensor:
    r"""Samples latents given observations.

    Arguments:
        appa: The model.
        observations: The observations.
        times: The times of the states.
        generators: A source of random numbers for each member.
        sampler: How to sample.
        past: The first latents of each member, where known, with shape :math:`(M, K, c, h, w)`.
        error: The standard deviation of the errors of known latents.

    Returns:
        The latents, with shape :math:`(M, L, c, h, w)`.
    """
    integrator = DPMSolverSDE(noise_times(appa, sampler))
    size = sampler.batch or len(generators)
    parts = []
    for first in range(0, len(generators), size):
        some = generators[first : first + size]
        guided = guide(appa, observations, times, sampler)
        if past is not None:
            known = know_past(appa, guided.denoiser, past[first : first + size], error, sampler)
            guided = MMPS(known, guided.likelihood, guided.solver)
        noise = integrator.noise(guided, (len(some),), generator=some)
        parts.append(integrator(guided, noise, generator=some))
    return torch.cat(parts)


def observe_truth(
    appa: Appa,
    networks: Sequence[Network],
    truth: Tensor,
    times: NDArray[np.datetime64],
    seed: int,
    missing: Missing = "refuse",
) -> Observations:
    r"""Draws observations of a truth, from a seed.

    Arguments:
        appa: The model, for its channels and its grid.
        networks: The networks.
        truth: The truth in physical units, with shape :math:`(L, C, H, W)`.
        times: Its times.
        seed: The seed of their errors.
        missing: Whether observations that are not finite are refused, or masked out.
    """
    generator = torch.Generator().manual_seed(seed)
    return observe(
        networks, truth, times, appa.catalogue, appa.grid, generator=generator, missing=missing
    )
