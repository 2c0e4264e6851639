r"""Programs of Pyro as a prior of fields and a likelihood of these."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro.poutine as poutine
from torch import Tensor

from appa_prob.operators import Fields
from appa_prob.samplers import Denoiser, Integrator, JointDenoiser

from .prior_dependence import refuse_dependent_priors
from .program_likelihood import ProgramLikelihood
from .sites import Hold, read_sites

__all__ = ["Program"]


class Program:
    r"""A program of Pyro, read as a prior :math:`p(x)` and a likelihood :math:`p(y \mid x)`.

    The program is run a few times: to find its sites, to find by automatic differentiation which
    parameters of the observed ones depend on the fields, and to see whether it can be run for many
    states at once, with axes of their own in front of those of its plates, as Pyro vectorises
    particles. Where that is not the same as running it for one state after another, it is run for
    one state after another.

    Scales of observed sites are powers of their densities, and those of fields are powers of
    priors (:class:`~appa_prob.samplers.Tempered`).

    Arguments:
        model: The program, with one or more sites of :class:`DiffusionPrior` and observed sites.
        args: Its arguments.
        kwargs: Its arguments by name.
        values: Values of latent sites that are not fields, held fixed.

    Raises:
        ValueError: If there is no field or no observed site, if an observed site doesn't depend on
            a field, if a prior depends on another field, if another site is latent (and whether
            it is discrete), if there is a subsample, or if shapes don't fit. The message names
            the site.
        TypeError: If the Fisher information of an observed site is not known.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.diffusion_prior import DiffusionPrior
        >>> from appa_prob.samplers import GaussianDenoiser, VESchedule
        >>> prior = DiffusionPrior(
        ...     GaussianDenoiser(torch.zeros(3), Isotropic(1.0, 3), VESchedule())
        ... )
        >>> def model(y):
        ...     x = pyro.sample("x", prior)
        ...     pyro.sample("y", dist.Normal(x[..., :2], 0.5).to_event(1), obs=y)
        >>> program = Program(model, (torch.ones(2),))
        >>> residual, H, R = program.likelihood.linearize(torch.zeros(3))
        >>> residual, H, R
        (tensor([1., 1.]), Mask((3,) -> (2,)), Isotropic((2,)))
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        values: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.model, self.args, self.kwargs = model, tuple(args), dict(kwargs or {})
        self.values = dict(values or {})
        trace = self.trace({})
        self.fields, names = read_sites(trace, self.values)
        sites = [field.name for field in self.fields]
        refuse_dependent_priors(self.trace, sites, sites)
        self.dtype, self.device = self.fields[0].prior.dtype, self.fields[0].prior.device
        self.deterministic = [
            name
            for name, node in trace.nodes.items()
            if node["type"] == "sample" and node["infer"].get("_deterministic")
        ]
        denoisers = {field.name: field.denoiser for field in self.fields}
        self.layout = Fields({field.name: field.shape for field in self.fields})
        self.prior: Denoiser = (
            JointDenoiser(denoisers) if len(denoisers) > 1 else denoisers[self.fields[0].name]
        )
        self.likelihood = ProgramLikelihood(self, names)

    @property
    def integrator(self) -> Integrator:
        r"""The integrator of the first field."""
        return self.fields[0].prior.integrator

    def at(self, values: Mapping[str, Tensor]) -> Program:
        r"""The same program with other values of the latent sites that are held fixed.

        Arguments:
            values: The values by the names of sites.
        """
        new = copy.copy(self)
        new.values = {**self.values, **values}
        new.likelihood = self.likelihood.of(new)
        return new

    def trace(self, fields: Mapping[str, Tensor]) -> Any:
        r"""Runs the program, apart from all handlers around it.

        Arguments:
            fields: The values of the fields; noise for those without.
        """
        with poutine.block():
            held = Hold({**self.values, **fields})(self.model)
            return poutine.trace(held).get_trace(*self.args, **self.kwargs)

    def pack(self, fields: Mapping[str, Tensor]) -> Tensor:
        r"""Makes states of fields: the field itself where there is one, else all of them flat.

        Arguments:
            fields: The fields by the names of their sites.
        """
        return fields[self.fields[0].name] if len(self.fields) == 1 else self.layout.pack(fields)

    def unpack(self, x: Tensor) -> dict[str, Tensor]:
        r"""Undoes :meth:`pack`.

        Arguments:
            x: The states, with shape :math:`(*, event)`.
        """
        return {self.fields[0].name: x} if len(self.fields) == 1 else self.layout.unpack(x)

    def samples(self, x: Tensor) -> dict[str, Tensor]:
        r"""The values of the fields, and of the deterministic sites that follow from them.

        Arguments:
            x: States, with shape :math:`(n, event)`.
        """
        return {**self.unpack(x), **self.likelihood.deterministic(x)}
