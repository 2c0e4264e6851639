r"""Declarations of observing networks, in YAML.

Paths are relative to the current folder, as all paths of configurations are; those of
:func:`read_networks` to its file.

.. code-block:: yaml

    networks:
      - network: stations
        variables: [temperature, surface_pressure]
        error: {temperature: 1.0 K, surface_pressure: 1.0 hPa}
      - network: satellite
        satellites: [NOAA-20, MetOp-A]
        variables: [temperature, specific_humidity]
        swath: 2200 km
        half_window: 45 min
        error: {temperature: 1.0 K, specific_humidity: 0.5 g/kg}

Keys of every network:

- `network`: `stations`, `satellite`, `orbit`, `analysis`, `gridded` or
  `reports`.
- `name`: What the network is called, different for each. By default what `network` says.
- `variables`: The variables that are observed, as the dataset calls them.
- `levels`: The levels at which they are; variables without levels ignore it. By default the lowest
  one for stations, that is, the largest value (of sigma or pressure), and all for satellites.
- `vertical`: What becomes of levels between those of states: `exact`, the default, refuses them,
  and `log-pressure` interpolates linearly in the logarithm of levels
  (:func:`appa_prob.vertical.see_level`). Levels beyond the first and the last are refused.
- `error`: The standard deviation of the errors of each variable, with a unit, or a list of them,
  one a level, in the order of `levels` (by default that of the dataset).
- `bias`: What the observations of each variable are too large by, with a unit, in the same way as
  `error`; none by default. It is known, and taken away before they are assimilated.
- `spacing`: How far apart points are at least, as `300 km`; by default as far as cells.
- `times`: `all` (the default), `{every: 4}` for each fourth time from the first one on, or a list
  of hours of the day, as `[0, 12]`.

Of `stations`:

- `file`: A CSV or parquet file of stations (:func:`appa_prob.stations.read_stations`). By default
  the list that comes with the package. It may say which variables each station observes.
- `highest`: Stations above this height are left out, as are those of unknown height; none is by
  default.

Of `satellite`:

- `satellites`: The names of the satellites.
- `file`: Two-line elements (:func:`appa_prob.satellites.read_satellites`). By default
  those that come with the package.

Of `orbit`:

- `orbits`: Circular orbits, a list of `{altitude: 800 km, inclination: 75, phase: 0}`, the latter
  two in degrees (:class:`appa_prob.circular.CircularOrbit`).

Of both:

- `swath`: The width of the swath, `2200 km` by default.
- `half_window`: How long before and after an analysis time observations count for it, `45 min` by
  default.
- `footprint`: The diameter of the discs that are averaged over, as `50 km`; points by default.
- `weighting`: Vertical weighting functions in place of `levels`, a list of `{peak: 500, width:
  0.5}`: the level of the peak and the width in the logarithm of pressure
  (:mod:`appa_prob.weighting`). Each variable on levels is then observed once for each of them.

Of `analysis`:

- `factor`: The number of rows and columns of the blocks of the grid that are averaged over, 1 by
  default.

Of `gridded`, which are analyses with values, not drawn from a truth:

- `file`: A dataset, zarr or netCDF, on any grid, at some of the times of states.
- `factor`: As of `analysis`, if the values are means over blocks; 1, for values at points, by
  default.

Of `reports`, which are observations with values as well:

- `file`: A CSV or parquet file of reports (:func:`appa_prob.reports.read_reports`).
- `stations`: A list of stations, for reports that don't tell their latitude and longitude.
- `names`: What variables are called, by what they are called in the file: `{TT: temperature}`.
- `units`: The units of variables, where the file does not tell and they are not the model's.
- `half_window`: How far from the time of a state reports may be. By default reports between states
  are refused.
- `variables`: By default all of the file. `error`: For what has none in the file. `levels`: By
  default all, and all others are left out; reports of variables on levels that don't tell their
  level are of the lowest one. Of a list of errors, one a level, those between are interpolated.
  `spacing`: None by default: all reports count, also those of one cell.

At each time a network of another kind observes a cell of the grid once at most, at the station or
the footprint that is nearest to the cell's centre: the errors of closer ones would not be
independent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from .analysis_network import AnalysisNetwork
from .errors import UserError, unknown
from .gridded_network import GriddedNetwork
from .network import Network
from .report_network import ReportNetwork
from .satellite_network import OrbitNetwork, SatelliteNetwork
from .station_network import StationNetwork

__all__ = ["parse_networks", "read_networks"]

KINDS: dict[str, type[Network]] = {
    "stations": StationNetwork,
    "satellite": SatelliteNetwork,
    "orbit": OrbitNetwork,
    "analysis": AnalysisNetwork,
    "gridded": GriddedNetwork,
    "reports": ReportNetwork,
}


def read_networks(path: str | Path) -> tuple[Network, ...]:
    r"""Reads a declaration of networks.

    Arguments:
        path: A YAML file, as described above.

    Raises:
        UserError: If the file can't be read, declares no network, two of one name, or one wrongly;
            in one line.

    Example:
        >>> path = getfixture("tmp_path") / "networks.yaml"
        >>> _ = path.write_text('''
        ... networks:
        ...   - network: stations
        ...     variables: [temperature]
        ...     error: {temperature: 1.0 K}
        ... ''')
        >>> [network.label for network in read_networks(path)]
        ['stations']
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: expected a YAML file of networks") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} can't be read as YAML: {' '.join(str(error).split())}") from None
    try:
        return parse_networks(content, path.parent)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def parse_networks(content: object, folder: Path) -> tuple[Network, ...]:
    r"""The networks of a parsed declaration.

    Arguments:
        content: A mapping with the key `networks`.
        folder: The folder that relative paths are relative to.

    Raises:
        UserError: As :func:`read_networks`.
    """
    if not isinstance(content, dict) or not isinstance(content.get("networks"), list):
        raise UserError("expected `networks:` with a list of networks")
    for key in content:
        if key != "networks":
            raise unknown("key", key, ["networks"])
    networks = tuple(_network(entry, folder) for entry in content["networks"])
    if not networks:
        raise UserError("expected at least one network in `networks:`")
    labels = [network.label for network in networks]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(
                f'{labels.count(label)} networks are called "{label}": give them a `name`'
            )
    return networks


def _network(entry: object, folder: Path) -> Network:
    if not isinstance(entry, dict):
        raise UserError(f"expected a network with keys and values, got {entry!r}")
    kind = entry.get("network")
    if kind is None:
        raise UserError(f"a network lacks the key `network`, one of {', '.join(KINDS)}")
    if str(kind) not in KINDS:
        raise unknown("network", str(kind), KINDS)
    label = entry.get("name") or kind
    for key in entry:
        if key not in KINDS[kind].model_fields:
            error = unknown("key", str(key), KINDS[kind].model_fields)
            raise UserError(f'network "{label}": {error}')
    for key in ("file", "stations"):
        if isinstance(entry.get(key), str):
            entry = entry | {key: folder / entry[key]}
    try:
        return KINDS[kind].model_validate(entry)
    except ValidationError as error:
        raise UserError(f'network "{label}": {_explain(error, KINDS[kind], entry)}') from None


def _explain(error: ValidationError, kind: type[Network], entry: dict[str, Any]) -> str:
    r"""The first error in one line."""
    first: Any = error.errors()[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    key = str(first["loc"][0])
    if first["type"] == "missing":
        return f"lacks the key `{key}`, {kind.model_fields[key].description}"
    return f"`{key}` is {entry[key]!r}; expected {kind.model_fields[key].description}"
