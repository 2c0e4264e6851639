r"""Where polar-orbiting satellites look.

An orbit is propagated from its two-line elements by SGP4, in an inertial frame, and turned by
Greenwich mean sidereal time into the frame of the Earth.

Elements are good for a couple of weeks around their epoch, while the times of a simulation may be
decades away. Times are therefore shifted by a whole multiple of 16 days to the 16 days around the
epoch. Hours of day stay, and so do local times, since the orbits are sun-synchronous; 16 days is
also the time after which NOAA-20 and NOAA-21 come back to the same track. Times that lie within 8
days of the epoch are not shifted.

References:
    | Revisiting Spacetrack Report #3 (Vallado et al., 2006)
    | https://doi.org/10.2514/6.2006-6753
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sgp4.api import SGP4_ERRORS, Satrec
from sgp4.io import verify_checksum

from .errors import UserError
from .orbits import EARTH_ROTATION, Orbit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Times = NDArray[np.datetime64]

__all__ = ["Satellite", "read_satellites"]

CYCLE = np.timedelta64(16, "D")
NOON_2000 = np.datetime64("2000-01-01T12", "us")
JULIAN_2000 = 2451545.0  # that noon in Julian days


@dataclass(frozen=True)
class Satellite(Orbit):
    r"""A satellite on the orbit of its two-line elements.

    Arguments:
        name: The name of the satellite.
        line_1: The first line of the elements.
        line_2: The second line of the elements.

    Raises:
        UserError: If the lines are no two-line elements, or a checksum is wrong.

    Example:
        >>> satellite = read_satellites()["NOAA-20"]
        >>> round(satellite.period, 1)
        101.4
        >>> times = np.array(["2023-02-14T18:00"], dtype="datetime64[m]")
        >>> latitude, longitude = satellite.track(times)
        >>> index, latitude, longitude = satellite.swath(times, width=2200.0, half_window=45.0)
    """

    name: str
    line_1: str
    line_2: str

    def __post_init__(self) -> None:
        try:
            verify_checksum(self.line_1, self.line_2)
            good = len(self.line_1) == len(self.line_2) == 69 and self._record.error == 0
        except (ValueError, IndexError):
            good = False
        if not good or self.line_1[:2] != "1 " or self.line_2[:2] != "2 ":
            raise UserError(f"the two-line elements of {self.name} are broken: fetch them again")

    @property
    def _record(self) -> Satrec:
        return Satrec.twoline2rv(self.line_1, self.line_2)

    @property
    def epoch(self) -> np.datetime64:
        r"""The time at which the elements were true."""
        record = self._record
        days = (record.jdsatepoch - JULIAN_2000) + record.jdsatepochF
        return NOON_2000 + np.timedelta64(round(days * 86400e6), "us")

    @property
    def period(self) -> float:
        r"""The orbital period in minutes."""
        return float(2 * math.pi / self._record.no_kozai)

    def shift(self, times: Times) -> Times:
        r"""Shifts times by a whole multiple of 16 days to at most 8 days from the epoch.

        Arguments:
            times: Times, with any shape.

        Example:
            >>> satellite = read_satellites()["NOAA-20"]
            >>> satellite.epoch.astype("datetime64[m]")
            np.datetime64('2023-02-14T13:10')
            >>> satellite.shift(np.array(["2003-06-01T06"], dtype="datetime64[h]"))
            array(['2023-02-16T06:00:00.000000'], dtype='datetime64[us]')
        """
        times = times.astype("datetime64[us]")
        cycles = np.rint((self.epoch - times) / CYCLE).astype(np.int64)
        return times + cycles * CYCLE

    def fly(self, times: Times) -> tuple[Array, Array]:
        r"""Positions in km and velocities in km/s over the rotating Earth, as :math:`(N, 3)`."""
        days = (times.astype("datetime64[us]") - NOON_2000) / np.timedelta64(1, "D")
        whole = np.floor(days)
        errors, position, velocity = self._record.sgp4_array(JULIAN_2000 + whole, days - whole)
        if errors.any():
            reason = SGP4_ERRORS[int(errors[errors > 0][0])]
            raise UserError(f"{self.name} can't be propagated to {times[errors > 0][0]}: {reason}")
        angle = _sidereal_angle(days)
        cos, sin, zero = np.cos(angle), np.sin(angle), np.zeros_like(angle)
        turn = np.stack((cos, sin, zero, -sin, cos, zero, zero, zero, zero + 1.0), axis=-1)
        turn = turn.reshape(-1, 3, 3)
        position = np.einsum("nij,nj->ni", turn, position)
        velocity = np.einsum("nij,nj->ni", turn, velocity)
        return position, velocity - np.cross([0.0, 0.0, EARTH_ROTATION], position)


def _sidereal_angle(days: Array) -> Array:
    r"""Greenwich mean sidereal time in radians (IAU 1982, its linear terms).

    Arguments:
        days: Days since 2000-01-01T12.
    """
    turns = 0.779057273264 + 1.00273790935 * days
    return 2 * math.pi * (turns % 1.0)


def read_satellites(path: str | Path | None = None) -> dict[str, Satellite]:
    r"""Reads two-line elements, each after a line with the name of the satellite.

    Arguments:
        path: A file of elements. By default those that come with the package, of five weather
            satellites.

    Raises:
        UserError: If the file can't be read, or holds something else.

    Example:
        >>> list(read_satellites())
        ['NOAA-18', 'NOAA-19', 'NOAA-20', 'NOAA-21', 'MetOp-A']
    """
    file = resources.files("appa_prob") / "data" / "satellites.tle" if path is None else Path(path)
    try:
        lines = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read as two-line elements: {error}") from None
    if not lines or len(lines) % 3:
        raise UserError(
            f"{path}: expected three lines for each satellite, its name and the two of its "
            f"elements, got {len(lines)} lines"
        )
    satellites = [Satellite(*lines[i : i + 3]) for i in range(0, len(lines), 3)]
    return {satellite.name: satellite for satellite in satellites}
