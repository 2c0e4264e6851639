r"""Networks of surface stations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, Field, field_serializer

from .network import Network, Places
from .stations import read_stations, thin_stations
from .units import parse_quantity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .grid import Grid

__all__ = ["StationNetwork"]


class StationNetwork(Network):
    r"""Stations, which observe at every time.

    Example:
        >>> StationNetwork(variables=("temperature",), error={"temperature": "1 K"}).label
        'stations'
    """

    network: Literal["stations"] = "stations"
    highest: Annotated[
        float | None, BeforeValidator(lambda x: x and parse_quantity(x, "m", "highest"))
    ] = Field(default=None, description="a height, as 1500 m")

    @field_serializer("highest")
    def _highest_with_unit(self, value: float | None) -> str | None:
        return None if value is None else f"{value!r} m"

    def default_levels(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        r"""The lowest level, that is, the largest sigma or pressure."""
        return (max(levels),)

    def places(self, times: NDArray[np.datetime64], grid: Grid) -> Places:
        r"""The stations of :func:`appa_prob.stations.thin_stations`, at each time."""
        stations = read_stations(self.file)
        if self.highest is not None:
            # A station whose height isn't known may be anywhere.
            stations = stations[stations["elevation_m"] <= self.highest]
        stations = thin_stations(stations, grid)
        count = len(times)
        variables = None
        if stations["variables"].str.strip().ne("").any():
            sets = [
                frozenset(text.split()) or frozenset(self.variables)
                for text in stations["variables"].str.replace(";", " ")
            ]
            variables = np.tile(np.array(sets, dtype=object), count)
        return Places(
            np.repeat(np.arange(count), len(stations)),
            np.tile(stations["latitude"].to_numpy(dtype=np.float64), count),
            np.tile(stations["longitude"].to_numpy(dtype=np.float64), count),
            variables,
        )
