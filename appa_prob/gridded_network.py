r"""Observations with values, from files of gridded analyses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import xarray as xr
from pydantic import Field

from .analysis_network import AnalysisNetwork
from .catalogue import Catalogue
from .dataset import open_dataset, read_states
from .errors import NothingObserved, UserError
from .network import Footprints, Places
from .stencils import bilinear
from .units import converter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .grid import Grid

    Times = NDArray[np.datetime64]
    Stencil = tuple[NDArray[np.int64], NDArray[np.float64]]

__all__ = ["GriddedNetwork"]


class GriddedNetwork(AnalysisNetwork):
    r"""An analysis of a file, on any grid, regional ones included.

    Values that are absent in the file are no observations.

    Example:
        >>> GriddedNetwork(file="analysis.nc", variables=("t",), error={"t": "1 K"}).label
        'gridded'
    """

    network: Literal["gridded"] = "gridded"  # type: ignore[assignment]
    file: Path = Field(description="the path of a dataset")

    def places(self, times: Times, grid: Grid) -> Places:
        r"""The points of the file, at each of its times that is one of these."""
        dataset = open_dataset(self.file)
        states, _ = self._match(dataset, times)
        latitude, longitude = np.meshgrid(
            dataset.latitude.values, dataset.longitude.values, indexing="ij"
        )
        return Places(
            np.repeat(states, latitude.size),
            np.tile(latitude.ravel(), len(states)),
            np.tile(longitude.ravel(), len(states)),
        )

    def stencil(
        self, latitude: NDArray[np.float64], longitude: NDArray[np.float64], grid: Grid
    ) -> Stencil:
        r"""Means over blocks, or interpolation to points."""
        if self.factor == 1:
            return bilinear(latitude, longitude, grid)
        return super().stencil(latitude, longitude, grid)

    def locate(
        self, times: Times, grid: Grid, catalogue: Catalogue, within: range | None = None
    ) -> Footprints:
        r"""The points of the file with their values.

        Arguments:
            times: The times of the trajectory, with shape :math:`(L)`, increasing.
            grid: The grid.
            catalogue: The channels that there are.
            within: The states whose points are taken; by default all.

        Raises:
            UserError: If the file can't be read, lacks a variable or a level, has units of another
                kind, or none of the times; if blocks hold more than one of its points; or as
                :meth:`Network.locate` does.
        """
        if self.spacing:
            raise UserError(
                f'network "{self.label}": points of files are not thinned; take a coarser file'
            )
        chosen = self._inside(self._chosen(times), within)
        try:
            places = self.places(times[chosen], grid)
            values = self._values(times[chosen], catalogue)
            if self.factor > 1:
                self._check_blocks(places, grid)
        except UserError as error:
            raise type(error)(f'network "{self.label}": {error}') from None
        found = super().locate(times, grid, catalogue, within)
        return replace(found, seen=np.isfinite(values), values=values)

    def _match(
        self, dataset: xr.Dataset, times: Times
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        r"""The indices of the times that the file has, and theirs in the file."""
        own = dataset.time.values.astype(times.dtype)
        _, states, places = np.intersect1d(times, own, return_indices=True)
        if not len(states):
            first, last = (np.datetime_as_string(t, unit="m") for t in (own.min(), own.max()))
            raise NothingObserved(
                f"{self.file}, from {first} to {last}, has none of the times of the {len(times)} "
                "states"
            )
        return states, places

    def _values(self, times: Times, catalogue: Catalogue) -> NDArray[np.float64]:
        dataset = open_dataset(self.file)
        own = Catalogue.from_dataset(dataset, self.variables)
        _, places = self._match(dataset, times)
        states, _ = read_states(dataset.isel(time=places), own, allow_missing=True)
        columns = []
        for row in self.rows(catalogue):
            channel = catalogue.channels[row.channel]
            field = states[:, own.index(channel.variable, row.level)].double()
            units = own.units(channel.variable)
            factor, offset = converter(units, channel.units, f"{self.file}: {channel.variable}")
            columns.append(torch.flatten(field * factor + offset))
        values = torch.stack(columns, dim=-1).numpy()
        if not np.isfinite(values).any():
            raise UserError(f"{self.file} has no values of {', '.join(self.variables)}")
        return values

    def _check_blocks(self, places: Places, grid: Grid) -> None:
        first = places.time == places.time[0]
        rows, columns = np.divmod(
            grid.cells(places.latitude[first], places.longitude[first]), grid.shape[1]
        )
        blocks = rows // self.factor * grid.shape[1] + columns // self.factor
        if len(np.unique(blocks)) < len(blocks):
            raise UserError(
                f"{self.file} has several points in one block of {self.factor} x {self.factor} "
                "cells: change `factor`"
            )
