r"""The channels of ERA5 as the published models stack them, and their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from .catalogue import Catalogue, Channel
from .errors import UserError, unknown
from .grid import Grid
from .statistics import Statistics

__all__ = ["ALL_LEVELS", "LEVELS", "era5_catalogue", "era5_grid", "read_era5_statistics"]

SURFACE = {
    "2m_temperature": "K",
    "10m_u_component_of_wind": "m s**-1",
    "10m_v_component_of_wind": "m s**-1",
    "mean_sea_level_pressure": "Pa",
    "sea_surface_temperature": "K",
    "total_precipitation": "m",
}
UPPER_AIR = {
    "temperature": "K",
    "u_component_of_wind": "m s**-1",
    "v_component_of_wind": "m s**-1",
    "geopotential": "m**2 s**-2",
    "specific_humidity": "kg kg**-1",
}
# In hPa: the 13 levels of WeatherBench, and the 37 of ERA5.
LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
ALL_LEVELS = (
    *(1, 2, 3, 5, 7, 10, 20, 30, 50, 70, 100, 125, 150, 175, 200, 225, 250, 300, 350, 400),
    *(450, 500, 550, 600, 650, 700, 750, 775, 800, 825, 850, 875, 900, 925, 950, 975, 1000),
)


def era5_catalogue(levels: Sequence[float] = LEVELS) -> Catalogue:
    r"""The channels of the published models: those of the surface, then those of the upper air, by
    variable and by level, from the top.

    Arguments:
        levels: The pressure levels in hPa.

    Example:
        >>> len(era5_catalogue().channels), len(era5_catalogue(ALL_LEVELS).channels)
        (71, 191)
    """
    surface = [Channel(name, None, units) for name, units in SURFACE.items()]
    upper = [
        Channel(name, float(level), units) for name, units in UPPER_AIR.items() for level in levels
    ]
    return Catalogue((*surface, *upper))


def era5_grid(shape: Sequence[int]) -> Grid:
    r"""The grid of ERA5 at some resolution, both poles included, from the north and Greenwich.

    Arguments:
        shape: The numbers :math:`(H, W)` of rows and columns, :math:`(721, 1440)` for 0.25
            degrees.

    Example:
        >>> era5_grid((5, 8)).latitude
        array([ 90.,  45.,   0., -45., -90.])
    """
    rows, columns = shape
    return Grid(np.linspace(90.0, -90.0, rows), np.arange(columns) * 360.0 / columns)


def read_era5_statistics(path: Path, catalogue: Catalogue) -> Statistics:
    r"""Reads means and standard deviations over all times and places. The temperature of the sea
    may be absent.

    Arguments:
        path: A zarr store, of version 2 or 3, with an array for each variable, of dimensions
            `statistic`, with entries `mean` and `std`, and `level` for the upper air.
        catalogue: The channels.

    Raises:
        UserError: If the store can't be read, or lacks a channel.
    """
    try:
        with xr.open_zarr(path) as store:
            dataset = store.load()
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path} can't be read as a zarr store: {error}") from None
    missing = {"mean", "std"} - {str(s) for s in dataset.get("statistic", xr.DataArray([])).values}
    if missing:
        raise UserError(f"{path} holds no statistics: expected entries mean and std")
    columns = []
    for channel in catalogue.channels:
        if channel.variable not in dataset:
            raise unknown("variable", channel.variable, map(str, dataset))
        array = dataset[channel.variable].sel(statistic=["mean", "std"])
        if channel.level is not None:
            levels = array["level"].values
            if channel.level not in levels:
                raise unknown(
                    f"level of {channel.variable}", f"{channel.level:g}", map(str, levels)
                )
            array = array.sel(level=channel.level)
        columns.append(array.values.astype(np.float32))
    mean, std = torch.as_tensor(np.stack(columns, axis=-1))
    sea = torch.tensor([c.variable == "sea_surface_temperature" for c in catalogue.channels])
    return Statistics(mean.reshape(1, -1, 1, 1), std, sea)
