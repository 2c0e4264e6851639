r"""Observing networks: what is observed, where, when and how well."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    field_serializer,
)

from .errors import NothingObserved, UserError, unknown
from .stencils import bilinear
from .thinning import thin_by_distance
from .units import parse_quantity
from .vertical import Vertical, see_level

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .catalogue import Catalogue, Channel
    from .grid import Grid

    Times = NDArray[np.datetime64]

__all__ = ["Footprints", "Network", "Places", "Row"]


@dataclass(frozen=True, eq=False)
class Footprints:
    r"""The observations of a network: every channel at every point.

    Arguments:
        name: The name of the network.
        time: The index of the time of each point, with shape :math:`(N)`, not decreasing.
        latitude: The latitude of each point in degrees, with shape :math:`(N)`.
        longitude: The longitude of each point in degrees, with shape :math:`(N)`.
        channels: The :math:`K` channels that are observed, with their variables, levels and units.
        indices: Their positions in the catalogue, with shape :math:`(K)`. What is observed of
            several levels at once is given the channel at its peak.
        errors: The standard deviations of their errors in these units, with shape :math:`(K)`, or
            :math:`(N, K)` where those of points differ.
        biases: Their biases, with shape :math:`(K)`.
        sources: The positions of the channels that are mixed, with shape :math:`(K, J)`, or
            :math:`(N, K, J)` where those of points differ.
        mixture: The weights of these, with the same shape.
        cells: The cells :math:`i W + j` that a point sees, with shape :math:`(N, S)`.
        weights: The weights of these, with shape :math:`(N, S)`.
        seen: Whether a point sees a channel, with shape :math:`(N, K)`.
        values: What was observed, with shape :math:`(N, K)`, if it is known.
    """

    name: str
    time: NDArray[np.int64]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    channels: tuple[Channel, ...]
    indices: NDArray[np.int64]
    errors: NDArray[np.float64]
    biases: NDArray[np.float64]
    sources: NDArray[np.int64]
    mixture: NDArray[np.float64]
    cells: NDArray[np.int64]
    weights: NDArray[np.float64]
    seen: NDArray[np.bool_]
    values: NDArray[np.float64] | None = None


class Places(NamedTuple):
    r"""Where a network observes.

    Attributes:
        time: The index of the time of each point, with shape :math:`(N)`.
        latitude: The latitude of each point in degrees, with shape :math:`(N)`.
        longitude: The longitude of each point in degrees, with shape :math:`(N)`.
        variables: The variables that each point observes, with shape :math:`(N)`; `None` for all.
    """

    time: NDArray[np.int64]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    variables: NDArray[np.object_] | None = None

    def take(self, kept: NDArray[np.int64]) -> Places:
        r"""Some of the points."""
        variables = None if self.variables is None else self.variables[kept]
        return Places(self.time[kept], self.latitude[kept], self.longitude[kept], variables)


@dataclass(frozen=True)
class Row:
    r"""One of the quantities that a network observes at each point.

    Arguments:
        channel: The position of its channel in the catalogue.
        error: The standard deviation of its errors.
        bias: Its bias.
        sources: The positions of the channels that it mixes.
        mixture: The weights of these.
        level: Its level, if it is one that is not mixed by weighting functions.
    """

    channel: int
    error: float
    bias: float
    sources: tuple[int, ...]
    mixture: tuple[float, ...]
    level: float | None = None


class Every(BaseModel):
    r"""Each `every`-th time, from the first on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: PositiveInt


Hour = Annotated[int, Field(ge=0, le=23)]


def _spacing(value: object) -> float:
    # No distance at all, the default, needs no unit.
    return 0.0 if value == 0 else parse_quantity(value, "km", "spacing")


class Network(BaseModel, ABC):
    r"""What the networks have in common. :mod:`appa_prob.declaration` describes the attributes.

    Raises:
        ValidationError: If an attribute is unknown, missing or has a wrong value, a `ValueError`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: str
    name: str = Field(default="", description="a text")
    variables: tuple[str, ...] = Field(min_length=1, description="a list of names")
    levels: tuple[float, ...] | None = Field(
        default=None, min_length=1, description="a list of numbers"
    )
    vertical: Vertical = Field(default="exact", description="`exact` or `log-pressure`")
    error: dict[str, str | float | list[str | float]] = Field(
        description="a number with a unit for each variable, as in {temperature: 1.0 K}"
    )
    bias: dict[str, str | float | list[str | float]] = Field(
        default={},
        description="a number with a unit for each variable, as {temperature: -0.5 K}",
    )
    spacing: Annotated[float, BeforeValidator(_spacing)] = Field(
        default=0.0, description="a length, as 300 km"
    )
    times: Literal["all"] | Every | tuple[Hour, ...] = Field(
        default="all",
        description="`all`, `{every: 4}` or a list of hours of the day, as in [0, 12]",
    )
    file: Path | None = Field(default=None, description="the path of a file")

    @field_serializer("spacing")
    def _spacing_with_unit(self, value: float) -> str | float:
        return f"{value!r} km" if value else 0.0

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
            The points, sorted by time.
        """

    def stencil(
        self, latitude: NDArray[np.float64], longitude: NDArray[np.float64], grid: Grid
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        r"""The cells that each point sees, and their weights: by default, bilinear interpolation.

        Arguments:
            latitude: The latitudes of points in degrees, with shape :math:`(N)`.
            longitude: Their longitudes, with shape :math:`(N)`.
            grid: The grid.

        Returns:
            Indices :math:`i W + j` and weights, both with shape :math:`(N, S)`.
        """
        return bilinear(latitude, longitude, grid)

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
        rows = self.rows(catalogue)
        return np.array([r.channel for r in rows]), np.array([r.error for r in rows])

    def rows(self, catalogue: Catalogue) -> list[Row]:
        r"""What the network observes at each point.

        Raises:
            UserError: As :meth:`channels`.
        """
        try:
            found = [row for variable in self.variables for row in self._rows(variable, catalogue)]
            for key, quantities in (("error", self.error), ("bias", self.bias)):
                for variable in quantities:
                    if variable not in self.variables:
                        raise unknown(f"variable of `{key}`", variable, self.variables)
            if len({(row.sources, row.mixture) for row in found}) < len(found):
                raise UserError("a variable or a level is listed twice")
        except UserError as error:
            raise UserError(f'network "{self.label}": {error}') from None
        return found

    def _rows(self, variable: str, catalogue: Catalogue) -> Iterator[Row]:
        known = catalogue.levels(variable)
        levels: tuple[float | None, ...] = (None,)
        if known:
            levels = self.default_levels(known) if self.levels is None else self.levels
        mixtures = [see_level(catalogue, variable, level, self.vertical) for level in levels]
        for row, level in zip(self._measured(variable, catalogue, mixtures), levels, strict=True):
            yield replace(row, level=level)

    def _measured(
        self,
        variable: str,
        catalogue: Catalogue,
        mixtures: Sequence[tuple[tuple[int, ...], tuple[float, ...]]],
    ) -> Iterator[Row]:
        r"""The rows of a variable, one for each mixture of channels, with errors and biases."""
        units = catalogue.units(variable)
        if variable not in self.error:
            raise UserError(f"{variable} has no error; add one in {units}")
        errors = _spread(self.error[variable], len(mixtures), f"error for {variable}")
        biases = _spread(self.bias.get(variable), len(mixtures), f"bias for {variable}")
        for (sources, mixture), error, bias in zip(mixtures, errors, biases, strict=True):
            deviation = parse_quantity(error, units, f"error for {variable}")
            offset = 0.0
            if bias is not None:
                offset = parse_quantity(bias, units, f"bias for {variable}", signed=True)
            channel = sources[int(np.argmax(mixture))]
            yield Row(channel, deviation, offset, sources, mixture)

    def locate(
        self, times: Times, grid: Grid, catalogue: Catalogue, within: range | None = None
    ) -> Footprints:
        r"""Lays the network out over a trajectory, or over some of its states.

        Arguments:
            times: The times of the trajectory, with shape :math:`(L)`, increasing.
            grid: The grid.
            catalogue: The channels that there are.
            within: The states; by default all. The observations of these don't depend on which
                others are asked for.

        Raises:
            UserError: If :meth:`channels` raises one, or if the network observes nothing at these
                times.
            NothingObserved: If it observes nothing of these states.

        Example:
            >>> from appa_prob.catalogue import Catalogue, Channel
            >>> from appa_prob.grid import Grid
            >>> from appa_prob.station_network import StationNetwork
            >>> network = StationNetwork(variables=("temperature",), error={"temperature": "1 K"})
            >>> times = np.array(["2003-01-01T00", "2003-01-01T06"], dtype="datetime64[h]")
            >>> grid = Grid(np.array([-45.0, 45.0]), np.array([0.0, 180.0]))
            >>> catalogue = Catalogue((Channel("temperature", 0.95, "K"),))
            >>> footprints = network.locate(times, grid, catalogue)
            >>> footprints.time, footprints.errors
            (array([0, 0, 0, 0, 1, 1, 1, 1]), array([1.]))
        """
        rows = self.rows(catalogue)
        chosen = self._inside(self._chosen(times), within)
        try:
            places = self.places(times[chosen], grid)
        except UserError as error:
            raise type(error)(f'network "{self.label}": {error}') from None
        if self.spacing:
            places = places.take(thin_by_distance(*places[:3], self.spacing))
        channels = tuple(catalogue.channels[row.channel] for row in rows)
        seen = _seen(places, channels)
        if not seen.any():
            raise NothingObserved(f'network "{self.label}" has no points')
        cells, weights = self.stencil(places.latitude, places.longitude, grid)
        width = max(len(row.sources) for row in rows)
        padded = [(*row.sources, *(row.channel,) * (width - len(row.sources))) for row in rows]
        mixture = [(*row.mixture, *(0.0,) * (width - len(row.mixture))) for row in rows]
        return Footprints(
            self.label,
            chosen[places.time],
            places.latitude,
            places.longitude,
            channels,
            np.array([row.channel for row in rows]),
            np.array([row.error for row in rows]),
            np.array([row.bias for row in rows]),
            np.array(padded),
            np.array(mixture),
            cells,
            weights,
            seen,
        )

    def _chosen(self, times: Times) -> NDArray[np.int64]:
        r"""The indices of the times at which the network observes."""
        if self.times == "all":
            return np.arange(len(times))
        if isinstance(self.times, Every):
            return np.arange(0, len(times), self.times.every)
        chosen = np.flatnonzero(np.isin(_hours(times), self.times))
        if not len(chosen):
            hours = sorted({int(h) for h in _hours(times)})
            raise UserError(
                f'network "{self.label}" observes at none of the {len(times)} times, whose '
                f"hours of the day are {', '.join(map(str, hours)) or 'none'}: change `times`"
            )
        return chosen

    def _inside(self, states: NDArray[np.int64], within: range | None) -> NDArray[np.int64]:
        r"""Those of some states that were asked for.

        Raises:
            NothingObserved: If none was.
        """
        if within is None:
            return states
        states = states[(states >= within.start) & (states < within.stop)]
        if not len(states):
            raise NothingObserved(
                f'network "{self.label}" observes none of the states {within.start} to '
                f"{within.stop - 1}"
            )
        return states


def _hours(times: Times) -> NDArray[np.float64]:
    r"""The hours of the day of times."""
    times = times.astype("datetime64[s]")
    return np.asarray((times - times.astype("datetime64[D]")) / np.timedelta64(1, "h"))


def _spread(given: Any, count: int, what: str) -> list[Any]:
    r"""One value for each level."""
    if not isinstance(given, list):
        return [given] * count
    if len(given) != count:
        raise UserError(f"{what}: expected one for each of {count} levels, got {len(given)}")
    return given


def _seen(places: Places, channels: tuple[Channel, ...]) -> NDArray[np.bool_]:
    r"""Whether a point sees a channel, with shape :math:`(N, K)`."""
    if places.variables is None:
        return np.ones((len(places.time), len(channels)), dtype=bool)
    rows = [[channel.variable in own for channel in channels] for own in places.variables]
    return np.array(rows, dtype=bool).reshape(-1, len(channels))
