r"""Reports of what was observed, with values, in CSV and parquet files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from .errors import UserError, unknown
from .files import replacing
from .stations import read_stations
from .stencils import bilinear
from .tables import check_places, read_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .catalogue import Catalogue
    from .grid import Grid
    from .observe import Observations

__all__ = ["read_reports", "write_reports"]

ALIASES = {"lat": "latitude", "lon": "longitude", "id": "station", "date": "time"}
TEXTS = ("station", "variable", "units")
NUMBERS = ("latitude", "longitude", "level", "value", "error")


def read_reports(
    path: str | Path,
    stations: str | Path | None = None,
    names: Mapping[str, str] | None = None,
    between: tuple[np.datetime64, np.datetime64] | None = None,
) -> pd.DataFrame:
    r"""Reads reports. Files may be larger than memory if few of their reports are wanted.

    Arguments:
        path: A CSV file with a header, or a parquet file, with a row for each report and the
            columns `time` (as `2004-07-01T06:00`, UTC unless it says otherwise), `latitude` and
            `longitude` in degrees (or `station`, an `id` of the list), `variable`, `value` and,
            maybe, `level`, `units` and `error`, the standard deviation of the error in the same
            units. In place of `variable` and `value` there may be a column for each variable.
        stations: The list of stations (:func:`appa_prob.stations.read_stations`), for reports that
            tell their station only.
        names: The names of variables that are called otherwise here, by what they are called here.
        between: The first and the last time of the reports that are wanted; by default all are.

    Returns:
        The reports, in the order of the file, with the columns `time`, `latitude`, `longitude`,
        `variable`, `level`, `value`, `units` and `error`. What is not given is an empty text or
        NaN. Rows without a value are left out of tables with a column for each variable.

    Raises:
        UserError: If the file can't be read, lacks a column, has no rows, names an unknown
            station, or if a time or a place is none.

    Example:
        >>> path = getfixture("tmp_path") / "reports.csv"
        >>> _ = path.write_text('''time,lat,lon,temperature,pressure
        ... 2004-07-01T00,10,20,280.5,1000
        ... 2004-07-01T06,10,20,,1001''')
        >>> reports = read_reports(path, names={"pressure": "surface_pressure"})
        >>> reports[["variable", "value"]].values.tolist()
        [['temperature', 280.5], ['surface_pressure', 1000.0], ['surface_pressure', 1001.0]]
    """
    known = None if stations is None else read_stations(stations)
    parts, any_there = list[pd.DataFrame](), False
    for part in read_parts(path, "reports", TEXTS):
        table = _reports(part, path, known, stations)
        any_there = any_there or not table.empty
        if between is not None:
            table = table[table["time"].between(*between)]
        parts.append(table.assign(variable=table["variable"].replace(dict(names or {}))))
    if not any_there:
        raise UserError(f"{path} has no reports: expected columns `variable` and `value`")
    return pd.concat(parts, ignore_index=True)


def _reports(
    table: pd.DataFrame,
    path: str | Path,
    known: pd.DataFrame | None,
    stations: str | Path | None,
) -> pd.DataFrame:
    """Some rows of a table as reports."""
    table = table.rename(columns={k: v for k, v in ALIASES.items() if v not in table})
    if known is not None and "latitude" not in table:
        table = _locate(table, path, known, stations)
    for column in ("time", "latitude", "longitude"):
        if column not in table:
            raise UserError(f"{path}: {unknown('column', column, map(str, table.columns))}")
    table["row"] = table.index + 1
    if "variable" not in table or "value" not in table:
        table = _melt(table)
    table["time"] = _times(table, path)
    for column in NUMBERS:
        given = table[column] if column in table else np.nan
        table[column] = pd.to_numeric(given, errors="coerce")
    if "units" not in table:
        table["units"] = ""
    check_places(table, path, "report", "row")
    return table[["time", *NUMBERS, "variable", "units"]].copy()


def write_reports(
    observations: Observations,
    catalogue: Catalogue,
    grid: Grid,
    times: NDArray[np.datetime64],
    path: Path,
    *,
    overwrite: bool = False,
) -> None:
    r"""Writes observations as reports that :func:`read_reports` reads, to the last digit.

    Biases are taken away.

    Arguments:
        observations: The observations.
        catalogue: The channels of the states that they are of.
        grid: Their grid.
        times: Their times.
        path: The CSV or parquet file to write.
        overwrite: Whether it may be replaced.

    Raises:
        UserError: If observations are of more than points, as means over footprints are.
    """
    _check_points(observations, grid)
    channels = [catalogue.channels[i] for i in observations.channel]
    values = observations.values - observations.biases
    table = pd.DataFrame(
        {
            "time": np.datetime_as_string(times[observations.time], unit="s"),
            "latitude": observations.latitude,
            "longitude": observations.longitude,
            "variable": [channel.variable for channel in channels],
            "level": [channel.level for channel in channels],
            "value": values.double().numpy(),
            "units": [channel.units for channel in channels],
            "error": observations.errors.double().numpy(),
        }
    )
    with replacing(path, overwrite=overwrite) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False)


def _check_points(observations: Observations, grid: Grid) -> None:
    r"""Checks that observations are what interpolation to their places gives."""
    H, size = observations.operator, grid.shape[0] * grid.shape[1]
    cells, weights = bilinear(observations.latitude, observations.longitude, grid)
    field = observations.time * H.in_shape[1] + observations.channel
    expected = torch.as_tensor(cells + size * field[:, None])
    width = expected.shape[1]
    same = (H.indices[:, :width] == expected).all() and H.weights.shape[1] >= width
    same = same and not H.weights[:, width:].any()
    if not same or not torch.equal(H.weights[:, :width], torch.as_tensor(weights).to(H.weights)):
        raise UserError(
            "reports are of points, and some of these observations are of footprints, of blocks "
            "or of several levels: leave out such networks"
        )


def _locate(
    table: pd.DataFrame, path: str | Path, stations: pd.DataFrame, name_of: str | Path | None
) -> pd.DataFrame:
    if "station" not in table:
        raise UserError(f"{path}: {unknown('column', 'station', map(str, table.columns))}")
    known = stations.drop_duplicates("id").set_index("id")
    for name in table["station"]:
        if name not in known.index:
            raise UserError(
                f'{path}: the station "{name}" is not in {name_of}: add it there, or give '
                "latitude and longitude"
            )
    return table.assign(
        **{name: known[name].loc[table["station"]].values for name in ("latitude", "longitude")}
    )


def _melt(table: pd.DataFrame) -> pd.DataFrame:
    fixed = ["row", "time", "latitude", "longitude", "station", "level"]
    kept = [name for name in fixed if name in table]
    variables = [name for name in table.columns if name not in kept]
    long = table.melt(kept, variables, "variable", "value").sort_values("row", kind="stable")
    long["value"] = pd.to_numeric(long["value"], errors="coerce")
    long = long[long["value"].notna()]
    return long.set_axis(pd.Index(long["row"] - 1))


def _times(table: pd.DataFrame, path: str | Path) -> NDArray[np.datetime64]:
    times = pd.to_datetime(table["time"], utc=True, errors="coerce", format="ISO8601")
    bad = np.flatnonzero(times.isna())
    if len(bad):
        raise UserError(
            f"{path}: expected a time such as 2004-07-01T06:00 for each report; {len(bad)} have "
            f'none, the first in row {table["row"].iloc[bad[0]]}, "{table["time"].iloc[bad[0]]}"'
        )
    return np.asarray(times.dt.tz_localize(None).values.astype("datetime64[ns]"))
