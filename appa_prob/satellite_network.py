r"""Networks of satellites on polar orbits, with instruments that scan across the track."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FieldSerializationInfo,
    field_serializer,
    model_validator,
)

from .circular import CircularOrbit
from .errors import UserError, unknown
from .network import Network, Places, Row
from .orbits import Orbit
from .satellites import read_satellites
from .stencils import bilinear, disc_means
from .units import parse_quantity
from .weighting import WeightingFunction, weighting_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .catalogue import Catalogue
    from .grid import Grid

__all__ = ["OrbitNetwork", "SatelliteNetwork"]

BLOCK = 8  # analysis times whose footprints are laid out at once
UNITS = {"swath": "km", "half_window": "min", "footprint": "km", "altitude": "km"}


class ScanningNetwork(Network):
    r"""What networks of satellites have in common."""

    swath: Annotated[float, BeforeValidator(lambda x: parse_quantity(x, "km", "swath"))] = 2200.0
    half_window: Annotated[
        float, BeforeValidator(lambda x: parse_quantity(x, "min", "half_window"))
    ] = 45.0
    footprint: Annotated[
        float | None, BeforeValidator(lambda x: x and parse_quantity(x, "km", "footprint"))
    ] = Field(default=None, description="a length, as 50 km")
    weighting: tuple[WeightingFunction, ...] | None = Field(
        default=None,
        min_length=1,
        description="a list of weighting functions, as {peak: 500, width: 0.5}",
    )

    @field_serializer("swath", "half_window", "footprint")
    def _with_unit(self, value: float | None, info: FieldSerializationInfo) -> str | None:
        return None if value is None else f"{value!r} {UNITS[info.field_name]}"

    @model_validator(mode="after")
    def _levels_or_weighting(self) -> ScanningNetwork:
        if self.weighting is not None and (self.levels is not None or self.vertical != "exact"):
            raise UserError(
                "expected `levels` or `weighting`, which sees all levels, not both: leave out "
                "`weighting`, or `levels` and `vertical`"
            )
        return self

    @abstractmethod
    def fleet(self) -> list[Orbit]:
        r"""The orbits of the satellites."""

    def default_levels(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        r"""All levels."""
        return levels

    def stencil(
        self, latitude: NDArray[np.float64], longitude: NDArray[np.float64], grid: Grid
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        r"""Means over footprints, or interpolation where they are points."""
        if self.footprint is None:
            return bilinear(latitude, longitude, grid)
        return disc_means(latitude, longitude, grid, self.footprint)

    def _rows(self, variable: str, catalogue: Catalogue) -> Iterator[Row]:
        levels = catalogue.levels(variable)
        if self.weighting is None or not levels:
            yield from super()._rows(variable, catalogue)
            return
        sources = tuple(catalogue.index(variable, level) for level in levels)
        matrix = weighting_matrix(levels, self.weighting)
        mixtures = [(sources, tuple(row)) for row in matrix.tolist()]
        yield from self._measured(variable, catalogue, mixtures)

    def places(self, times: NDArray[np.datetime64], grid: Grid) -> Places:
        r"""The footprints of :meth:`appa_prob.orbits.Orbit.swath`, thinned to the grid.

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
        parts, fleet = [], self.fleet()
        for start in range(0, len(times), BLOCK):
            swaths = [
                orbit.swath(times[start : start + BLOCK], self.swath, self.half_window)
                for orbit in fleet
            ]
            index, latitude, longitude = (np.concatenate(x) for x in zip(*swaths, strict=True))
            kept = grid.thin(latitude, longitude, index)
            parts.append((index[kept] + start, latitude[kept], longitude[kept]))
        return Places(*(np.concatenate(x) for x in zip(*parts, strict=True)))


class SatelliteNetwork(ScanningNetwork):
    r"""Satellites whose orbits are known by their two-line elements.

    Example:
        >>> network = SatelliteNetwork(
        ...     satellites=("NOAA-20",), variables=("temperature",), error={"temperature": "1 K"}
        ... )
        >>> network.swath, network.half_window
        (2200.0, 45.0)
    """

    network: Literal["satellite"] = "satellite"
    satellites: tuple[str, ...] = Field(min_length=1, description="a list of names")

    @model_validator(mode="after")
    def _satellites_exist(self) -> SatelliteNetwork:
        known = read_satellites(self.file)
        for name in self.satellites:
            if name not in known:
                raise unknown("satellite", name, known)
        return self

    def fleet(self) -> list[Orbit]:
        r"""The orbits of the satellites."""
        known = read_satellites(self.file)
        return [known[name] for name in self.satellites]


class CircleConfig(BaseModel):
    r"""A circular orbit, as :class:`~appa_prob.circular.CircularOrbit` describes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    altitude: Annotated[float, BeforeValidator(lambda x: parse_quantity(x, "km", "altitude"))]
    inclination: float = Field(ge=0.0, le=180.0)
    phase: float = 0.0

    @field_serializer("altitude")
    def _with_unit(self, value: float) -> str:
        return f"{value!r} km"


class OrbitNetwork(ScanningNetwork):
    r"""Satellites on circular orbits.

    Example:
        >>> network = OrbitNetwork(
        ...     orbits=({"altitude": "800 km", "inclination": 75},),
        ...     variables=("temperature",),
        ...     error={"temperature": "1 K"},
        ... )
        >>> network.label
        'orbit'
    """

    network: Literal["orbit"] = "orbit"
    orbits: tuple[CircleConfig, ...] = Field(
        min_length=1, description="a list of orbits, as {altitude: 800 km, inclination: 98}"
    )

    def fleet(self) -> list[Orbit]:
        r"""The orbits of the satellites."""
        return [
            CircularOrbit(f"orbit {i + 1}", orbit.altitude, orbit.inclination, orbit.phase)
            for i, orbit in enumerate(self.orbits)
        ]
