r"""Unknown parameters beside the fields of a program, by Gibbs sampling.

Sites that are not diffusion priors, such as the scale of errors, the bias of an instrument or a
physical constant, are parameters :math:`\theta`. Given them, fields are sampled by guidance; given
fields, parameters are moved by a kernel of Pyro,

.. math:: x \sim p(x \mid \theta, y) \qquad \theta \sim p(\theta \mid x, y)
    \propto p(\theta) \, p(y \mid x, \theta)

in turns for their joint posterior. Densities of fields are never computed: they cancel as long as
the parameters are not those of a diffusion prior.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro.infer import NUTS
from pyro.infer.autoguide import init_to_value
from torch import Tensor
from tqdm import trange

from appa_prob.samplers import Integrator

from .given_fields import GivenFields, Guidance

__all__ = ["gibbs"]


def gibbs(
    model: Callable[..., Any],
    *args: Any,
    num_samples: int = 256,
    warmup_steps: int = 64,
    num_chains: int = 1,
    group_by_chain: bool = False,
    transitions: int = 1,
    kernel: Callable[..., Any] = NUTS,
    guidance: Guidance | None = None,
    integrator: Integrator | None = None,
    progress: bool = False,
    **kwargs: Any,
) -> dict[str, Tensor]:
    r"""Samples fields and parameters of a program, :math:`p(x, \theta \mid y)`.

    Diffusion priors themselves are read once: they may not depend on the parameters. A chain
    starts from parameters drawn from their prior. Samples are as exact as guidance is
    (see :func:`~appa_prob.conditioning.condition`), once chains have forgotten where they
    started, of which ``pyro.infer.mcmc.util.summary`` tells: it computes
    :math:`\hat{R}` and effective sample sizes of samples that are grouped by chain. The source of
    random numbers is torch's, which ``pyro.set_rng_seed`` seeds.

    References:
        | Stochastic Relaxation, Gibbs Distributions, and the Bayesian Restoration of Images
        (Geman and Geman, 1984) | https://doi.org/10.1109/TPAMI.1984.4767596

    Arguments:
        model: The program, with one or more sites of :class:`DiffusionPrior`, other continuous
            latent sites, and observed ones.
        args: Its arguments.
        num_samples: The number of samples of each chain.
        warmup_steps: The number of turns before them, in which the kernel adapts.
        num_chains: The number of chains, run one after another.
        group_by_chain: Whether samples have an axis for chains.
        transitions: The number of transitions of the kernel in a turn; more are worth their time
            where parameters move slowly and fields are expensive.
        kernel: What makes the kernel of Pyro that moves parameters, called on a program and
            `init_strategy`, as NUTS, ``partial(HMC, num_steps=4)`` or
            :class:`~appa_prob.svi_kernel.SVIKernel`, which draws from what SVI fits.
        guidance: As of :func:`condition`.
        integrator: The integrator, by default that of the first field.
        progress: Whether to show a progress bar.
        kwargs: Arguments of the program by name.

    Returns:
        The samples by the names of sites, as of ``MCMC.get_samples()``, with shapes
        :math:`(chains \, n, *)`, or :math:`(chains, n, *)` if grouped.

    Raises:
        ValueError: If a number is not positive, if there is no parameter, or if the program is
            none of those, naming the site.

    Example:
        A field on two points and the bias of the instrument that sees it.

        >>> import pyro, pyro.distributions as dist
        >>> from appa_prob.diffusion_prior import DiffusionPrior
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import DPMSolver, GaussianDenoiser, VESchedule
        >>> denoiser = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule())
        >>> prior = DiffusionPrior(denoiser, DPMSolver(8))
        >>> def model(y):
        ...     bias = pyro.sample("bias", dist.Normal(0.0, 1.0))
        ...     x = pyro.sample("x", prior)
        ...     pyro.sample("y", dist.Normal(x + bias, 0.1).to_event(1), obs=y)
        >>> samples = gibbs(model, torch.ones(2), num_samples=4, warmup_steps=4)
        >>> samples["x"].shape, samples["bias"].shape
        (torch.Size([4, 2]), torch.Size([4]))
    """
    for name, n in (
        ("samples", num_samples),
        ("chains", num_chains),
        ("transitions", transitions),
    ):
        if n < 1:
            raise ValueError(f"expected at least one of {name}, got {n}")
    chains = []
    for _ in range(num_chains):
        chain = _Chain(GivenFields(model, args, kwargs), args, kwargs, kernel, warmup_steps)
        turns = trange(warmup_steps + num_samples, disable=not progress, desc="sampling")
        states = [chain.turn(transitions, guidance, integrator) for _ in turns][warmup_steps:]
        chains.append({name: torch.stack([s[name] for s in states]) for name in states[0]})
    grouped = {name: torch.stack([chain[name] for chain in chains]) for name in chains[0]}
    return grouped if group_by_chain else {k: v.flatten(0, 1) for k, v in grouped.items()}


class _Chain:
    """A chain of Gibbs sampling."""

    def __init__(
        self,
        given: GivenFields,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        kernel: Callable[..., Any],
        warmup_steps: int,
    ) -> None:
        self.given = given
        self.kernel = kernel(given, init_strategy=init_to_value(values=given.parameters))
        self.kernel.setup(warmup_steps, *args, **kwargs)
        self.z: dict[str, Tensor] = self.kernel.initial_params

    def turn(
        self, transitions: int, guidance: Guidance | None, integrator: Integrator | None
    ) -> dict[str, Tensor]:
        """Fields given parameters, then parameters given fields."""
        given = self.given
        x = given.draw(1, guidance, integrator)
        given.fields = given.program.unpack(x[0])
        self.kernel.clear_cache()  # the density of parameters has changed with the fields
        for _ in range(transitions):
            self.z = self.kernel.sample(self.z)
        given.parameters = {
            name: self.kernel.transforms[name].inv(z) for name, z in self.z.items()
        }
        found = given.program.at(given.parameters).samples(x)
        return {**{name: value[0] for name, value in found.items()}, **given.parameters}
