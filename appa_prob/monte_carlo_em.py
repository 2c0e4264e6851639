r"""The most probable parameters of a program whose fields are unknown, by Monte Carlo EM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, init_to_median
from torch import Tensor
from tqdm import trange

from appa_prob.samplers import Integrator

from .given_fields import GivenFields, Guidance

__all__ = ["monte_carlo_em"]


def monte_carlo_em(
    model: Callable[..., Any],
    *args: Any,
    num_steps: int = 200,
    num_samples: int = 4,
    optimiser: Any = None,
    guidance: Guidance | None = None,
    integrator: Integrator | None = None,
    progress: bool = False,
    **kwargs: Any,
) -> dict[str, Tensor]:
    r"""The mode of the parameters of a program with fields integrated out,
    :math:`\arg \max_\theta p(\theta \mid y)`.

    By stochastic ascent, since fields drawn given the parameters give the gradient,

    .. math:: \nabla_\theta \log p(\theta \mid y) = \mathbb{E}_{x \mid \theta, y}
        \left[ \nabla_\theta \log p(\theta) \, p(y \mid x, \theta) \right]

    What is left of the noise in the end is of the size of the last steps of the optimiser.

    References:
        | A Monte Carlo Implementation of the EM Algorithm and the Poor Man's Data Augmentation
        Algorithms (Wei and Tanner, 1990) | https://doi.org/10.1080/01621459.1990.10474930

    Arguments:
        model: The program, as of :func:`~appa_prob.gibbs.gibbs`.
        args: Its arguments.
        num_steps: The number of times that fields are drawn.
        num_samples: The number of fields that are drawn at a time, with a step of SVI for each.
        optimiser: The optimiser of Pyro; by default Adam with steps that fall from .1 to .001.
        guidance: As of :func:`condition`.
        integrator: The integrator, by default that of the first field.
        progress: Whether to show a progress bar.
        kwargs: Arguments of the program by name.

    Returns:
        The parameters by the names of sites.

    Raises:
        ValueError: As :func:`~appa_prob.gibbs.gibbs`.

    Example:
        The offset of an instrument that saw two points.

        >>> import pyro.distributions as dist, torch
        >>> from appa_prob.diffusion_prior import DiffusionPrior
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import DPMSolver, GaussianDenoiser, VESchedule
        >>> denoiser = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule())
        >>> prior = DiffusionPrior(denoiser, DPMSolver(8))
        >>> def model(y):
        ...     offset = pyro.sample("offset", dist.Normal(0.0, 1.0))
        ...     x = pyro.sample("x", prior)
        ...     pyro.sample("y", dist.Normal(x + offset, 1.0).to_event(1), obs=y)
        >>> found = monte_carlo_em(model, torch.tensor([1.0, 1.0]), num_steps=25)
        >>> bool((found["offset"] - 0.5).abs() < 0.2)
        True
    """
    if num_steps < 1 or num_samples < 1:
        raise ValueError(f"expected steps and samples, got {num_steps} and {num_samples}")
    if optimiser is None:
        fall = 0.01 ** (1 / (num_steps * num_samples))
        optimiser = pyro.optim.ClippedAdam({"lr": 0.1, "lrd": fall})
    given = GivenFields(model, args, kwargs)
    with pyro.get_param_store().scope():
        guide = AutoDelta(given, init_loc_fn=init_to_median)
        svi = SVI(given, guide, optimiser, Trace_ELBO())
        given.parameters = _values(guide(*args, **kwargs))
        for _ in trange(num_steps, disable=not progress, desc="ascent"):
            x = given.draw(num_samples, guidance, integrator)
            for one in x:
                given.fields = given.program.unpack(one)
                svi.step(*args, **kwargs)
            given.parameters = _values(guide(*args, **kwargs))
    return given.parameters


def _values(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in found.items()}
