r"""From declared networks to operators: what is observed of a trajectory, and how well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from appa_prob.operators import WeightedGather
from appa_prob.operators.weighted import padded

from .catalogue import Catalogue
from .errors import NothingObserved, UserError
from .generators import noise_by_state, time_generators
from .grid import Grid
from .network import Footprints, Network
from .observations import Observations

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .appa import Appa
    from .truth import Truth

__all__ = ["Observations", "compile_footprints", "observe", "observe_truth"]

MEMORY = 2**26  # elements of the truth that are in memory at once, and 64 states at most
Trajectory: TypeAlias = "Tensor | Truth"


def observe_truth(
    appa: Appa,
    networks: Sequence[Network],
    truth: Trajectory | None,
    times: NDArray[np.datetime64],
    seed: int,
    missing: Literal["refuse", "mask"] = "refuse",
    within: range | None = None,
) -> Observations:
    r"""Draws observations of a truth, from a seed, or reads their values.

    The errors of what is observed at a time depend on the seed and on this time, so that parts of
    a trajectory are observed as they are in the whole one.

    Arguments:
        appa: The model, for its channels and its grid.
        networks: The networks.
        truth: The truth in physical units, with shape :math:`(L, C, H, W)`, if there is one.
        times: The times of the states.
        seed: The seed of their errors.
        missing: Whether observations that are not finite are refused, or masked out.
        within: The states that are observed; by default all.
    """
    chosen = times if within is None else times[within.start : within.stop]
    return observe(
        networks,
        truth,
        times,
        appa.catalogue,
        appa.grid,
        generator=time_generators(seed, chosen),
        missing=missing,
        within=within,
    )


def observe(
    networks: Sequence[Network],
    truth: Trajectory | None,
    times: NDArray[np.datetime64],
    catalogue: Catalogue,
    grid: Grid,
    *,
    generator: torch.Generator | Sequence[torch.Generator],
    missing: Literal["refuse", "mask"] = "refuse",
    within: range | None = None,
) -> Observations:
    r"""Draws the observations that networks make of a truth, with noise; those of networks that
    know their values are as they are.

    Arguments:
        networks: The networks.
        truth: The true trajectory in physical units, with shape :math:`(L, C, H, W)`; none is
            needed if all networks know their values.
        times: The times of the states.
        catalogue: Their channels.
        grid: Their grid.
        generator: The source of the noise, or one for each of the states within.
        missing: Whether observations that are not finite are refused, or masked out and counted.
        within: The states that are observed, which then are the trajectory; by default all.

    Raises:
        UserError: If a network does not fit the catalogue or the times, if there is no truth to
            draw from, or if observations are not finite (and are to be refused).
        NothingObserved: If nothing is observed of these states.
    """
    states = range(len(times)) if within is None else within
    footprints, nothing = [], None
    for network in networks:
        try:
            found = network.locate(times, grid, catalogue, within)
        except NothingObserved as error:
            if within is None:
                raise
            nothing = error
        else:
            footprints.append(replace(found, time=found.time - states.start))
    if not footprints:
        raise nothing or UserError("expected at least one network, got none")
    parts = [compile_footprints(f, catalogue, grid, len(states)) for f in footprints]
    joined = _join(parts)
    drawn = [f.name for f in footprints if f.values is None]
    values = joined.values
    if drawn and truth is None:
        raise UserError(
            f'network "{drawn[0]}" has no values: name a `file` of them, or `data` to draw them '
            "from"
        )
    if drawn and truth is not None:
        pairs = zip(parts, footprints, strict=True)
        free = torch.cat([torch.full((len(part),), f.values is None) for part, f in pairs])
        seen = joined.select(free.numpy())
        noise = (
            torch.randn(len(seen), generator=generator)
            if isinstance(generator, torch.Generator)
            else noise_by_state(seen.time, generator, seen.errors)
        )
        values = values.clone()
        values[free] = _exact(seen, truth, states) + seen.biases + seen.errors * noise
    joined = replace(joined, values=values)
    finite = torch.isfinite(values).numpy()
    if finite.all():
        return joined
    count = int((~finite).sum())
    if missing == "refuse":
        raise UserError(
            f"{count} of {len(joined)} observations are not finite: mend the data, or set "
            "`missing: mask` to leave them out"
        )
    if within is None and not finite.any():
        raise UserError("no observation is finite: mend the data")
    kept = joined.select(finite)
    return replace(kept, masked=count)


def _exact(observations: Observations, truth: Trajectory, states: range) -> Tensor:
    r"""What is observed without errors, a block of states after the other."""
    values = torch.empty_like(observations.values)
    state = observations.operator.in_shape[1:].numel()
    size = min(max(MEMORY // state, 1), 64)
    for start in range(0, len(states), size):
        stop = min(start + size, len(states))
        here = (observations.time >= start) & (observations.time < stop)
        block = truth[states.start + start : states.start + stop]
        values[torch.as_tensor(here)] = observations.within(start, stop).operator(block)
    return values


def compile_footprints(
    footprints: Footprints, catalogue: Catalogue, grid: Grid, length: int
) -> Observations:
    r"""The operator of a network, with its values; they are NaN if they are to be drawn.

    Arguments:
        footprints: Where and what the network observes.
        catalogue: The channels of a state.
        grid: The grid, interpolated bilinearly.
        length: The number :math:`L` of states.
    """
    cells = grid.shape[0] * grid.shape[1]
    point, row = np.nonzero(footprints.seen)
    mixed = (*footprints.seen.shape, footprints.sources.shape[-1])
    channels, mixture = (
        torch.as_tensor(np.broadcast_to(x, mixed)[point, row])
        for x in (footprints.sources, footprints.mixture)
    )
    place = torch.as_tensor(footprints.time[point]) * len(catalogue.channels)
    # For each observation, source and cell that it sees.
    indices = (place.unsqueeze(-1) + channels).unsqueeze(-1) * cells
    indices = indices + torch.as_tensor(footprints.cells[point]).unsqueeze(1)
    weights = mixture.unsqueeze(-1) * torch.as_tensor(footprints.weights[point]).unsqueeze(1)
    shape = (length, len(catalogue.channels), *grid.shape)
    operator = WeightedGather(indices.flatten(1), weights.flatten(1).float(), shape)
    unknown = np.full(1, np.nan) if footprints.values is None else footprints.values
    values, errors, biases = (
        torch.as_tensor(np.broadcast_to(x, footprints.seen.shape)[point, row]).float()
        for x in (unknown, footprints.errors, footprints.biases)
    )
    return Observations(
        operator,
        values,
        errors,
        footprints.time[point],
        footprints.indices[row],
        footprints.latitude[point],
        footprints.longitude[point],
        biases,
    )


def _join(parts: Sequence[Observations]) -> Observations:
    r"""Several networks as one; the sums of some are filled with weights of 0 to one length."""
    operators = [part.operator for part in parts]
    width = max(H.weights.shape[-1] for H in operators)
    sums = [padded(H, width) for H in operators]
    indices, weights = (torch.cat(x) for x in zip(*sums, strict=True))
    return Observations(
        WeightedGather(indices, weights, operators[0].in_shape),
        torch.cat([part.values for part in parts]),
        torch.cat([part.errors for part in parts]),
        np.concatenate([part.time for part in parts]),
        np.concatenate([part.channel for part in parts]),
        np.concatenate([part.latitude for part in parts]),
        np.concatenate([part.longitude for part in parts]),
        torch.cat([part.biases for part in parts]),
    )
