r"""From declared networks to operators: what is observed of a trajectory, and how well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from appa_prob.operators import Interpolate, WeightedGather

from .catalogue import Catalogue
from .errors import UserError
from .grid import Grid
from .network import Footprints, Network
from .statistics import Statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Observations", "compile_footprints", "observe"]


@dataclass(frozen=True, eq=False)
class Observations:
    r"""Observations :math:`y = H x + \eta`, :math:`\eta \sim \mathcal{N}(0, \mathrm{diag}(r^2))`,
    of a trajectory.

    Arguments:
        operator: The operator :math:`H`, from trajectories of shape :math:`(L, C, H, W)` to
            :math:`(n)`.
        values: The observations in physical units, with shape :math:`(n)`.
        errors: The standard deviations :math:`r` of their errors in physical units, with shape
            :math:`(n)`.
        time: The index of the time of each, with shape :math:`(n)`.
        channel: The index of the channel of each, with shape :math:`(n)`.
        latitude: The latitude of each, with shape :math:`(n)`.
        longitude: The longitude of each, with shape :math:`(n)`.
        masked: The number of observations that were left out since they were not finite.
    """

    operator: WeightedGather
    values: Tensor
    errors: Tensor
    time: NDArray[np.int64]
    channel: NDArray[np.int64]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    masked: int = 0

    def __len__(self) -> int:
        return len(self.values)

    def select(self, where: NDArray[np.bool_]) -> Observations:
        r"""Some of the observations."""
        keep = torch.as_tensor(np.flatnonzero(where))
        operator = WeightedGather(
            self.operator.indices[keep], self.operator.weights[keep], self.operator.in_shape
        )
        return Observations(
            operator,
            self.values[keep],
            self.errors[keep],
            self.time[where],
            self.channel[where],
            self.latitude[where],
            self.longitude[where],
            self.masked,
        )

    def at(self, state: int) -> Observations:
        r"""The observations of one state, with the operator on that state, of shape
        :math:`(C, H, W)`.
        """
        chosen = self.select(self.time == state)
        event = torch.Size(self.operator.in_shape[1:])
        indices = chosen.operator.indices - state * event.numel()
        operator = WeightedGather(indices, chosen.operator.weights, event)
        return Observations(**{**vars(chosen), "operator": operator})

    def within(self, start: int, stop: int) -> Observations:
        r"""The observations of the states from `start` to `stop`, without the latter, with the
        operator on these states.
        """
        chosen = self.select((self.time >= start) & (self.time < stop))
        event = torch.Size(self.operator.in_shape[1:])
        indices = chosen.operator.indices - start * event.numel()
        operator = WeightedGather(indices, chosen.operator.weights, (stop - start, *event))
        moved = {"operator": operator, "time": chosen.time - start}
        return Observations(**{**vars(chosen), **moved})

    def standardised(
        self, statistics: Statistics, times: NDArray[np.datetime64], error: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""The observations of the standardised trajectory, and the variances of their errors.

        Arguments:
            statistics: The climatology.
            times: The times of the trajectory.
            error: The standard deviation of what standardised states hold beside what the
                operator sees, as the error of an autoencoder, with shape :math:`(C, H, W)`; its
                variance is added.

        Returns:
            The values and the variances, both with shape :math:`(n)`.
        """
        scale = statistics.scale[torch.as_tensor(self.channel)]
        climatology = statistics.climatology(times)
        grid = self.operator.in_shape[-2:]  # that of one mean for all places is a single cell
        climatology = climatology.expand(*climatology.shape[:-2], *grid)
        mean = self.operator(climatology.reshape(self.operator.in_shape))
        variance = (self.errors.to(scale) / scale).square()
        if error is not None:
            variance = variance + self.operator(error.square().expand(self.operator.in_shape))
        return (self.values.to(scale) - mean) / scale, variance

    def observed(self) -> NDArray[np.bool_]:
        r"""The points of the trajectory that an observation depends on, with shape
        :math:`(L, C, H, W)`.
        """
        seen = torch.zeros(self.operator.in_shape, dtype=torch.bool)
        seen.view(-1)[self.operator.indices[self.operator.weights > 0]] = True
        return seen.numpy()


def observe(
    networks: Sequence[Network],
    truth: Tensor,
    times: NDArray[np.datetime64],
    catalogue: Catalogue,
    grid: Grid,
    *,
    generator: torch.Generator,
    missing: Literal["refuse", "mask"] = "refuse",
) -> Observations:
    r"""Draws the observations that networks make of a truth, with noise.

    Arguments:
        networks: The networks.
        truth: The true trajectory in physical units, with shape :math:`(L, C, H, W)`.
        times: Its times.
        catalogue: Its channels.
        grid: Its grid.
        generator: The source of the noise.
        missing: Whether observations that are not finite are refused, or masked out and counted.

    Raises:
        UserError: If a network does not fit the catalogue or the times, or if observations are
            not finite (and are to be refused).
    """
    footprints = [network.locate(times, grid, catalogue) for network in networks]
    parts = [compile_footprints(f, catalogue, grid, len(times)) for f in footprints]
    operator = WeightedGather(
        torch.cat([part.operator.indices for part in parts]),
        torch.cat([part.operator.weights for part in parts]),
        truth.shape,
    )
    errors = torch.cat([part.errors for part in parts])
    values = operator(truth) + errors * torch.randn(errors.shape, generator=generator)
    joined = Observations(
        operator,
        values,
        errors,
        np.concatenate([part.time for part in parts]),
        np.concatenate([part.channel for part in parts]),
        np.concatenate([part.latitude for part in parts]),
        np.concatenate([part.longitude for part in parts]),
    )
    finite = torch.isfinite(values).numpy()
    if finite.all():
        return joined
    count = int((~finite).sum())
    if missing == "refuse":
        raise UserError(
            f"{count} of {len(joined)} observations are not finite: mend the data, or set "
            "`missing: mask` to leave them out"
        )
    if not finite.any():
        raise UserError("no observation is finite: mend the data")
    kept = joined.select(finite)
    return Observations(**{**vars(kept), "masked": count})


def compile_footprints(
    footprints: Footprints, catalogue: Catalogue, grid: Grid, length: int
) -> Observations:
    r"""The operator of a network, with no values yet (they are NaN).

    Arguments:
        footprints: Where and what the network observes.
        catalogue: The channels of a state.
        grid: The grid, interpolated bilinearly.
        length: The number :math:`L` of states.
    """
    points = Interpolate(
        torch.tensor(grid.latitude),
        torch.tensor(grid.longitude),
        torch.tensor(footprints.latitude),
        torch.tensor(footprints.longitude),
    )
    cells = len(grid.latitude) * len(grid.longitude)
    channels = torch.as_tensor(footprints.indices)
    place = torch.as_tensor(footprints.time) * len(catalogue.channels)
    offset = (place.unsqueeze(-1) + channels) * cells
    indices = offset.unsqueeze(-1) + points.indices.unsqueeze(1)
    weights = points.weights.unsqueeze(1).expand(indices.shape)
    count, width, corners = indices.shape
    shape = (length, len(catalogue.channels), *grid.shape)
    errors = torch.as_tensor(footprints.errors, dtype=torch.float32).expand(count, width).flatten()
    return Observations(
        WeightedGather(indices.reshape(-1, corners), weights.reshape(-1, corners).float(), shape),
        torch.full_like(errors, float("nan")),
        errors,
        np.repeat(footprints.time, width),
        np.tile(footprints.indices, count),
        np.repeat(footprints.latitude, width),
        np.repeat(footprints.longitude, width),
    )
