r"""Posterior samples of programs as labelled data, as ArviZ takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from .program import Program

__all__ = ["inference_data"]


def inference_data(
    model: Callable[..., Any],
    samples: Mapping[str, Tensor],
    *args: Any,
    predictive: Mapping[str, Tensor] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> xr.DataTree:
    r"""Samples of :func:`~appa_prob.condition`, what was observed, and the densities of
    observations.

    ArviZ from version 1 works on trees; before, ``arviz.InferenceData(**{name: group.to_dataset()
    for name, group in tree.children.items()})`` makes one of its own. There is one chain: samples
    of diffusion are independent.

    Arguments:
        model: The program.
        samples: Its samples by the names of sites, with shapes :math:`(n, *)`.
        args: The arguments of the program.
        predictive: Samples of observed sites, as ``pyro.infer.Predictive`` draws them.
        dims: The names of the axes of sites, without that of samples; by default
            ``site_dim_0`` and so on.
        coords: Coordinates by the names of axes.
        kwargs: Arguments of the program by name.

    Returns:
        A tree with the groups ``posterior``, ``log_likelihood`` and ``observed_data``, and
        ``posterior_predictive`` if that is given; samples have the axes ``chain`` and ``draw``.

    Raises:
        ValueError: If a field has no samples.

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
    program = Program(model, args, kwargs)
    absent = [field.name for field in program.fields if field.name not in samples]
    if absent:
        raise ValueError(
            f"expected samples of {', '.join(map(repr, absent))}, got {', '.join(samples)}"
        )
    states = program.pack({field.name: samples[field.name] for field in program.fields})
    trace = program.trace(program.unpack(states[0]))
    observed = {site.name: trace.nodes[site.name]["value"] for site in program.likelihood.sites}
    label = _Labels(dims or {}, coords or {})
    groups = {
        "posterior": label.samples(samples),
        "log_likelihood": label.samples(program.likelihood.pointwise(states)),
        "observed_data": label.fixed(observed),
    }
    if predictive is not None:
        groups["posterior_predictive"] = label.samples(predictive)
    return xr.DataTree.from_dict(groups)


class _Labels:
    """Names of axes, and coordinates along them."""

    def __init__(self, dims: Mapping[str, Sequence[str]], coords: Mapping[str, Any]) -> None:
        self.dims, self.coords = dims, coords

    def samples(self, values: Mapping[str, Tensor]) -> xr.Dataset:
        """Data with the axes of chains and draws in front."""
        arrays = {
            name: (("chain", "draw", *self._axes(name, value.ndim - 1)), _array(value)[None])
            for name, value in values.items()
        }
        return self._dataset(arrays)

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
