r"""Lists of surface stations."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from .errors import UserError, unknown
from .tables import check_places, read_table

if TYPE_CHECKING:
    from .grid import Grid

__all__ = ["read_stations", "thin_stations"]

TEXTS = ["id", "name", "country", "variables"]
NUMBERS = ["latitude", "longitude", "elevation_m"]
REQUIRED = ["id", "latitude", "longitude"]
ALIASES = {"elevation": "elevation_m", "lat": "latitude", "lon": "longitude"}


def read_stations(path: str | Path | None = None) -> pd.DataFrame:
    r"""Reads a list of stations.

    Arguments:
        path: A CSV file with a header, or a parquet file, and the columns `id`, `latitude`
            (degrees north) and `longitude` (degrees east) and, maybe, `name`, `country`,
            `elevation_m` (also `elevation`) and `variables`, the names of those that a station
            observes, parted by spaces or semicolons; all where there are none. By default the list
            that comes with the package: aerodromes that report their weather, spread over all
            continents.

    Returns:
        The stations, with these columns. What is not given is an empty text or NaN.

    Raises:
        UserError: If the file can't be read, lacks a column, has no rows, or if a place is not on
            the globe.

    Example:
        >>> stations = read_stations()
        >>> list(stations.columns)
        ['id', 'name', 'country', 'variables', 'latitude', 'longitude', 'elevation_m']
    """
    if path is None:
        with resources.as_file(resources.files("appa_prob") / "data" / "stations.csv") as file:
            return read_stations(file)
    table = read_table(path, "stations", TEXTS)
    table = table.rename(columns={k: v for k, v in ALIASES.items() if v not in table})
    for column in REQUIRED:
        if column not in table.columns:
            raise UserError(f"{path}: {unknown('column', column, map(str, table.columns))}")
    table = table.reindex(columns=TEXTS + NUMBERS, fill_value="")
    for column in NUMBERS:
        table[column] = pd.to_numeric(table[column], errors="coerce")
    check_places(table, path, "station", "id")
    return table


def thin_stations(stations: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    r"""Keeps at most one station in each cell of a grid: the one nearest to the cell's centre.

    Arguments:
        stations: Stations with columns `latitude` and `longitude`.
        grid: The grid.

    Returns:
        The stations that are kept, sorted by cell.

    Example:
        >>> import numpy as np
        >>> from appa_prob.grid import Grid
        >>> grid = Grid(np.array([-45.0, 45.0]), np.array([0.0, 180.0]))
        >>> len(thin_stations(read_stations(), grid))
        4
    """
    kept = grid.thin(stations["latitude"].to_numpy(), stations["longitude"].to_numpy())
    return stations.iloc[kept].reset_index(drop=True)
