r"""Posterior samples of programs as labelled data, as ArviZ takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .program import Program

__all__ = ["inference_data"]


def inference_data(
    model: Callable[..., Any],
    samples: Mapping[str, Tensor],
    *args: Any,
    predictive: Mapping[str, Tensor] | None = None,
    num_chains: int = 1,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> xr.DataTree:
    r"""Samples of :func:`~appa_prob.condition` or of :func:`~appa_prob.gibbs.gibbs`, what was
    observed, and the densities of observations.

    ArviZ from version 1 works on trees; before, ``arviz.InferenceData(**{name: group.to_dataset()
    for name, group in tree.children.items()})`` makes one of its own. Samples of diffusion are
    independent: there is one chain, but for parameters that were sampled in turns with fields.

    Arguments:
        model: The program.
        samples: Its samples by the names of sites, with shapes :math:`(n, *)`.
        args: The arguments of the program.
        num_chains: The number of chains that the samples were drawn in, one after another.
        predictive: Samples of observed sites, as ``pyro.infer.Predictive`` draws them.
        dims: The names of the axes of sites, without that of samples; by default
            ``site_dim_0`` and so on.
        coords: Coordinates by the names of axes.
        kwargs: Arguments of the program by name.

    Returns:
        A tree with the groups ``posterior``, ``log_likelihood`` and ``observed_data``, and
        ``posterior_predictive`` if that is given; samples have the axes ``chain`` and ``draw``.

    Raises:
        ValueError: If a field has no samples, or if chains are not of the same length.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> from appa_prob import DiffusionPrior, condition
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import GaussianDenoiser, VESchedule
        >>> prior = DiffusionPrior(
        ...     GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule())
        ... )
        >>> def model(y=None):
        ...     x = pyro.sample("x", prior)
        ...     pyro.sample("y", dist.Normal(x.sum(-1), 0.1), obs=y)
        >>> y = torch.tensor(3.0)
        >>> tree = inference_data(model, condition(model, y, num_samples=8), y, dims={"x": ["i"]})
        >>> dict(tree["posterior"]["x"].sizes)
        {'chain': 1, 'draw': 8, 'i': 2}
    """
    program = Program(model, args, kwargs, values={k: v[0] for k, v in samples.items()})
    absent = [field.name for field in program.fields if field.name not in samples]
    if absent:
        raise ValueError(
            f"expected samples of {', '.join(map(repr, absent))}, got {', '.join(samples)}"
        )
    states = program.pack({field.name: samples[field.name] for field in program.fields})
    trace = program.trace(program.unpack(states[0]))
    observed = {site.name: trace.nodes[site.name]["value"] for site in program.likelihood.sites}
    if len(states) % num_chains:
        raise ValueError(f"expected {num_chains} chains of one length, got {len(states)} samples")
    fields = {field.name for field in program.fields}
    parameters = [
        name
        for name in samples.keys() & trace.nodes.keys() - fields
        if not trace.nodes[name]["is_observed"]
    ]
    label = _Labels(dims or {}, coords or {}, num_chains)
    groups = {
        "posterior": label.samples(samples),
        "log_likelihood": label.samples(_pointwise(program, states, samples, parameters)),
        "observed_data": label.fixed(observed),
    }
    if predictive is not None:
        groups["posterior_predictive"] = label.samples(predictive)
    return xr.DataTree.from_dict(groups)


def _pointwise(
    program: Program, states: Tensor, samples: Mapping[str, Tensor], parameters: Sequence[str]
) -> dict[str, Tensor]:
    """The densities of observations, each for its own parameters."""
    if not parameters:
        return program.likelihood.pointwise(states)
    each = [
        program.at({name: samples[name][i] for name in parameters}).likelihood.pointwise(x[None])
        for i, x in enumerate(states)
    ]
    return {name: torch.cat([one[name] for one in each]) for name in each[0]}


class _Labels:
    """Names of axes, and coordinates along them."""

    def __init__(
        self, dims: Mapping[str, Sequence[str]], coords: Mapping[str, Any], chains: int
    ) -> None:
        self.dims, self.coords, self.chains = dims, coords, chains

    def samples(self, values: Mapping[str, Tensor]) -> xr.Dataset:
        """Data with the axes of chains and draws in front."""
        arrays = {
            name: (("chain", "draw", *self._axes(name, value.ndim - 1)), self._chains(value))
            for name, value in values.items()
        }
        return self._dataset(arrays)

    def _chains(self, value: Tensor) -> np.ndarray:
        array = _array(value)
        return array.reshape(self.chains, -1, *array.shape[1:])

    def fixed(self, values: Mapping[str, Tensor]) -> xr.Dataset:
        """Data of which there is one."""
        arrays = {
            name: (self._axes(name, value.ndim), _array(value)) for name, value in values.items()
        }
        return self._dataset(arrays)

    def _dataset(self, arrays: dict[str, tuple[tuple[str, ...], np.ndarray]]) -> xr.Dataset:
        used = {axis for axes, _ in arrays.values() for axis in axes}
        known = {name: value for name, value in self.coords.items() if name in used}
        data = xr.Dataset(arrays, known)
        return data.assign_coords(
            {str(axis): np.arange(n) for axis, n in data.sizes.items() if axis not in known}
        )

    def _axes(self, name: str, count: int) -> tuple[str, ...]:
        named = tuple(self.dims.get(name, ()))
        # The density of an event has no axes of its own.
        return named[:count] if len(named) >= count else self._numbered(name, count)

    @staticmethod
    def _numbered(name: str, count: int) -> tuple[str, ...]:
        return tuple(f"{name}_dim_{i}" for i in range(count))


def _array(value: Tensor) -> np.ndarray:
    array: np.ndarray = value.detach().cpu().numpy()
    return array
