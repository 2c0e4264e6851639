r"""Observing networks, declared in YAML: what is observed, where, when and how well.

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

- `network`: `stations` or `satellite`.
- `name`: What the network is called, different for each. By default what `network` says.
- `variables`: The variables that are observed, as the dataset calls them.
- `levels`: The levels at which they are; variables without levels ignore it. By default the lowest
  one for stations, that is, the largest value (of sigma or pressure), and all for satellites.
- `error`: The standard deviation of the errors of each variable, with a unit, or a list of them,
  one a level, in the order of `levels` (by default that of the dataset).
- `times`: `all` (the default), `{every: 4}` for each fourth time from the first one on, or a list
  of hours of the day, as `[0, 12]`.

Of `stations`:

- `file`: A CSV file of stations (:func:`appa_prob.stations.read_stations`), relative to the YAML
  file. By default the list that comes with the package.

Of `satellite`:

- `satellites`: The names of the satellites.
- `file`: Two-line elements (:func:`appa_prob.satellites.read_satellites`), relative to the YAML
  file. By default those that come with the package.
- `swath`: The width of the swath, `2200 km` by default.
- `half_window`: How long before and after an analysis time observations count for it, `45 min` by
  default.

At each time a network observes a cell of the grid once at most, at the station or the footprint
that is nearest to the cell's centre: the errors of closer ones would not be independent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from .errors import UserError, unknown
from .satellites import read_satellites
from .stations import read_stations, thin_stations
from .units import parse_quantity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .catalogue import Catalogue, Channel
    from .grid import Grid

    Times = NDArray[np.datetime64]
    Places = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]

__all__ = ["Footprints", "Network", "SatelliteNetwork", "StationNetwork", "read_networks"]

BLOCK = 32  # analysis times whose footprints are laid out at once


@dataclass(frozen=True, eq=False)
class Footprints:
    r"""The observations of a network: every channel at every point.

    Arguments:
        name: The name of the network.
        time: The index of the time of each point, with shape :math:`(N)`, not decreasing.
        latitude: The latitude of each point in degrees, with shape :math:`(N)`.
        longitude: The longitude of each point in degrees, with shape :math:`(N)`.
        channels: The :math:`K` channels that are observed, with their variables, levels and units.
        indices: Their positions in the catalogue, with shape :math:`(K)`.
        errors: The standard deviations of their errors in these units, with shape :math:`(K)`.
    """

    name: str
    time: NDArray[np.int64]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    channels: tuple[Channel, ...]
    indices: NDArray[np.int64]
    errors: NDArray[np.float64]


class Every(BaseModel):
    r"""Each `every`-th time, from the first on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: PositiveInt


Hour = Annotated[int, Field(ge=0, le=23)]


class Network(BaseModel, ABC):
    r"""What the networks have in common. The keys are those of the table above.

    Raises:
        ValidationError: If a key is unknown, missing or has a wrong value. :func:`read_networks`
            puts it in one line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: str
    name: str = ""
    variables: Annotated[tuple[str, ...], Field(min_length=1)]
    levels: Annotated[tuple[float, ...], Field(min_length=1)] | None = None
    error: dict[str, str | float | list[str | float]]
    times: Literal["all"] | Every | Annotated[tuple[Hour, ...], Field(min_length=1)] = "all"
    file: Path | None = None

    @property
    def label(self) -> str:
        r"""The name of the network."""
        return self.name or self.network

    @abstractmethod
    def default_levels(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        r"""Which levels of a variable are observed if none are declared."""

    @abstractmethod
    def places(self, times: Times, grid: Grid) -> Places:
        r"""Where the network observes, at most once in a cell and time.

        Arguments:
            times: The times, with shape :math:`(L)`.
            grid: The grid.

        Returns:
            The index of the time, the latitude and the longitude of each point, each with shape
            :math:`(N)`.
        """

    def channels(self, catalogue: Catalogue) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        r"""What the network observes, and how well.

        Arguments:
            catalogue: The channels that there are.

        Returns:
            The positions of the observed channels in the catalogue and the standard deviations of
            their errors in its units, each with shape :math:`(K)`.

        Raises:
            UserError: If a variable or a level is not in the catalogue, or an error is missing or
                has the wrong unit.
        """
        try:
            for variable in self.error:
                if variable not in self.variables:
                    raise unknown("variable of `error`", variable, self.variables)
            found = [
                pair for variable in self.variables for pair in self._channels(variable, catalogue)
            ]
        except UserError as error:
            raise UserError(f'network "{self.label}": {error}') from None
        indices, errors = zip(*found, strict=True)
        return np.array(indices, dtype=np.int64), np.array(errors)

    def _channels(self, variable: str, catalogue: Catalogue) -> Iterator[tuple[int, float]]:
        known = catalogue.levels(variable)
        levels: tuple[float | None, ...] = (None,)
        if known:
            levels = self.default_levels(known) if self.levels is None else self.levels
        if variable not in self.error:
            raise UserError(f"{variable} has no error; add one in {catalogue.units(variable)}")
        errors = self.error[variable]
        if not isinstance(errors, list):
            errors = [errors] * len(levels)
        elif len(errors) != len(levels):
            raise UserError(
                f"error for {variable}: expected one for each of {len(levels)} levels, "
                f"got {len(errors)}"
            )
        for level, error in zip(levels, errors, strict=True):
            units = catalogue.units(variable)
            deviation = parse_quantity(error, units, f"error for {variable}")
            yield catalogue.index(variable, level), deviation

    def locate(self, times: Times, grid: Grid, catalogue: Catalogue) -> Footprints:
        r"""Lays the network out over a trajectory.

        Arguments:
            times: The times of the trajectory, with shape :math:`(L)`, increasing.
            grid: The grid.
            catalogue: The channels that there are.

        Raises:
            UserError: If :meth:`channels` raises one, or if the network observes nothing at these
                times.

        Example:
            >>> from appa_prob.catalogue import Catalogue, Channel
            >>> from appa_prob.grid import Grid
            >>> network = StationNetwork(variables=("temperature",), error={"temperature": "1 K"})
            >>> times = np.array(["2003-01-01T00", "2003-01-01T06"], dtype="datetime64[h]")
            >>> grid = Grid(np.array([-45.0, 45.0]), np.array([0.0, 180.0]))
            >>> catalogue = Catalogue((Channel("temperature", 0.95, "K"),))
            >>> footprints = network.locate(times, grid, catalogue)
            >>> footprints.time, footprints.errors
            (array([0, 0, 0, 0, 1, 1, 1, 1]), array([1.]))
        """
        indices, errors = self.channels(catalogue)
        chosen = self._chosen(times)
        if not len(chosen):
            hours = sorted({int(h) for h in _hours(times)})
            raise UserError(
                f'network "{self.label}" observes at none of the {len(times)} times, whose '
                f"hours of the day are {', '.join(map(str, hours)) or 'none'}: change `times`"
            )
        try:
            time, latitude, longitude = self.places(times[chosen], grid)
        except UserError as error:
            raise UserError(f'network "{self.label}": {error}') from None
        if not len(time):
            raise UserError(f'network "{self.label}" has no points')
        channels = tuple(catalogue.channels[i] for i in indices)
        return Footprints(self.label, chosen[time], latitude, longitude, channels, indices, errors)

    def _chosen(self, times: Times) -> NDArray[np.int64]:
        r"""The indices of the times at which the network observes."""
        if self.times == "all":
            return np.arange(len(times))
        if isinstance(self.times, Every):
            return np.arange(0, len(times), self.times.every)
        return np.flatnonzero(np.isin(_hours(times), self.times))


class StationNetwork(Network):
    r"""Stations, which observe at every time.

    Example:
        >>> StationNetwork(variables=("temperature",), error={"temperature": "1 K"}).label
        'stations'
    """

    network: Literal["stations"] = "stations"

    def default_levels(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        r"""The lowest level, that is, the largest sigma or pressure."""
        return (max(levels),)

    def places(self, times: Times, grid: Grid) -> Places:
        r"""The stations of :func:`appa_prob.stations.thin_stations`, at each time."""
        stations = thin_stations(read_stations(self.file), grid)
        index = np.repeat(np.arange(len(times)), len(stations))
        latitude, longitude = (
            np.tile(stations[name].to_numpy(dtype=np.float64), len(times))
            for name in ("latitude", "longitude")
        )
        return index, latitude, longitude


class SatelliteNetwork(Network):
    r"""Satellites on polar orbits, with instruments that scan across the track.

    Example:
        >>> network = SatelliteNetwork(
        ...     satellites=("NOAA-20",), variables=("temperature",), error={"temperature": "1 K"}
        ... )
        >>> network.swath, network.half_window
        (2200.0, 45.0)
    """

    network: Literal["satellite"] = "satellite"
    satellites: Annotated[tuple[str, ...], Field(min_length=1)]
    swath: Annotated[float, BeforeValidator(lambda x: parse_quantity(x, "km", "swath"))] = 2200.0
    half_window: Annotated[
        float, BeforeValidator(lambda x: parse_quantity(x, "min", "half_window"))
    ] = 45.0

    @model_validator(mode="after")
    def _satellites_exist(self) -> SatelliteNetwork:
        known = read_satellites(self.file)
        for name in self.satellites:
            if name not in known:
                raise unknown("satellite", name, known)
        return self

    def default_levels(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        r"""All levels."""
        return levels

    def places(self, times: Times, grid: Grid) -> Places:
        r"""The footprints of :meth:`appa_prob.satellites.Satellite.swath`, thinned to the grid.

        Raises:
            UserError: If the windows of neighbouring times overlap, or if the swath reaches beyond
                the horizon.
        """
        window = 2 * self.half_window * np.timedelta64(60_000_000, "us")
        if len(times) > 1 and np.diff(times).min() < window:
            step = np.diff(times).min() / np.timedelta64(1, "m")
            raise UserError(
                f"half_window is {self.half_window:g} min, so windows overlap: observations would "
                f"count twice; expected at most half of the {step:g} min between times"
            )
        known = read_satellites(self.file)
        parts = []
        for start in range(0, len(times), BLOCK):
            swaths = [
                known[name].swath(times[start : start + BLOCK], self.swath, self.half_window)
                for name in self.satellites
            ]
            index, latitude, longitude = (np.concatenate(x) for x in zip(*swaths, strict=True))
            kept = grid.thin(latitude, longitude, index)
            parts.append((index[kept] + start, latitude[kept], longitude[kept]))
        index, latitude, longitude = (np.concatenate(x) for x in zip(*parts, strict=True))
        return index, latitude, longitude


KINDS: dict[str, type[Network]] = {"stations": StationNetwork, "satellite": SatelliteNetwork}


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
        return _networks(content, path.parent)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _networks(content: object, folder: Path) -> tuple[Network, ...]:
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
    if kind not in KINDS:
        raise unknown("network", str(kind), KINDS)
    if isinstance(entry.get("file"), str):
        entry = entry | {"file": folder / entry["file"]}
    try:
        return KINDS[kind].model_validate(entry)
    except ValidationError as error:
        label = entry.get("name") or kind
        raise UserError(f'network "{label}": {_explain(error, KINDS[kind])}') from None


def _explain(error: ValidationError, kind: type[Network]) -> str:
    r"""The first error in one line."""
    first: Any = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return str(unknown("key", key, kind.model_fields))
    if first["type"] == "missing":
        return f"lacks the key `{key}`"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    return f"`{key}` is {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _hours(times: Times) -> NDArray[np.float64]:
    r"""The hours of the day of times."""
    times = times.astype("datetime64[s]")
    return np.asarray((times - times.astype("datetime64[D]")) / np.timedelta64(1, "h"))
