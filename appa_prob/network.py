r"""Observing networks: what is observed, where, when and how well."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
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

__all__ = ["Footprints", "Network", "SatelliteNetwork", "StationNetwork"]

BLOCK = 8  # analysis times whose footprints are laid out at once


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
    r"""What the networks have in common. :mod:`appa_prob.declaration` describes the attributes.

    Raises:
        ValidationError: If an attribute is unknown, missing or has a wrong value, a `ValueError`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: str
    name: str = Field("", description="a text")
    variables: tuple[str, ...] = Field(min_length=1, description="a list of names")
    levels: tuple[float, ...] | None = Field(None, min_length=1, description="a list of numbers")
    error: dict[str, str | float | list[str | float]] = Field(
        description="a number with a unit for each variable, as in {temperature: 1.0 K}"
    )
    times: Literal["all"] | Every | tuple[Hour, ...] = Field(
        "all", description="`all`, `{every: 4}` or a list of hours of the day, as in [0, 12]"
    )
    file: Path | None = Field(None, description="the path of a file")

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
            found = [
                pair for variable in self.variables for pair in self._channels(variable, catalogue)
            ]
            for variable in self.error:
                if variable not in self.variables:
                    raise unknown("variable of `error`", variable, self.variables)
            if len(dict(found)) < len(found):
                raise UserError("a variable or a level is listed twice")
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
    satellites: tuple[str, ...] = Field(min_length=1, description="a list of names")
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


def _hours(times: Times) -> NDArray[np.float64]:
    r"""The hours of the day of times."""
    times = times.astype("datetime64[s]")
    return np.asarray((times - times.astype("datetime64[D]")) / np.timedelta64(1, "h"))
