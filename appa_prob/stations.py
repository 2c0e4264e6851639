r"""Lists of surface stations."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .errors import UserError, unknown

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
    table = _read_parquet(path) if Path(path).suffix == ".parquet" else _read_csv(path)
    table = table.rename(columns={k: v for k, v in ALIASES.items() if v not in table})
    for column in REQUIRED:
        if column not in table.columns:
            raise UserError(f"{path}: {unknown('column', column, map(str, table.columns))}")
    if table.empty:
        raise UserError(f"{path} has no stations")
    table = table.reindex(columns=TEXTS + NUMBERS, fill_value="")
    for column in NUMBERS:
        table[column] = pd.to_numeric(table[column], errors="coerce")
    _check_places(table, path)
    return table


def _read_csv(path: str | Path) -> pd.DataFrame:
    try:
        # As texts first: a country may be called "NA".
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: expected a CSV file of stations") from None
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path} can't be read as CSV: {str(error).strip()}") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the surplus for an index
        raise UserError(f"{path} can't be read as CSV: rows have more values than the header")
    return table


def _read_parquet(path: str | Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except ImportError:
        raise UserError(f"{path}: parquet files need pyarrow: pip install pyarrow") from None
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: expected a parquet file of stations") from None
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise UserError(f"{path} can't be read as parquet: {str(error).strip()}") from None
    texts = table.columns.intersection(TEXTS)
    return table.astype({name: object for name in texts}).fillna({name: "" for name in texts})


def _check_places(table: pd.DataFrame, path: str | Path) -> None:
    for column, bound in (("latitude", 90.0), ("longitude", 360.0)):
        bad = np.flatnonzero(~(table[column].abs() <= bound))
        if len(bad):
            station = table["id"].iloc[bad[0]]
            raise UserError(
                f"{path}: expected a {column} in degrees, from {-bound:g} to {bound:g}, for each "
                f'station; {len(bad)} have none, the first in row {bad[0] + 1}, "{station}"'
            )


def thin_stations(stations: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    r"""Keeps at most one station in each cell of a grid: the one nearest to the cell's centre.

    Arguments:
        stations: Stations with columns `latitude` and `longitude`.
        grid: The grid.

    Returns:
        The stations that are kept, sorted by cell.

    Example:
        >>> from appa_prob.grid import Grid
        >>> grid = Grid(np.array([-45.0, 45.0]), np.array([0.0, 180.0]))
        >>> len(thin_stations(read_stations(), grid))
        4
    """
    kept = grid.thin(stations["latitude"].to_numpy(), stations["longitude"].to_numpy())
    return stations.iloc[kept].reset_index(drop=True)
