r"""Satellites on circular orbits over a spherical Earth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import UserError
from .orbits import Orbit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Times = NDArray[np.datetime64]

__all__ = ["CircularOrbit"]

RADIUS = 6371.0088  # the mean one of the Earth, km
GRAVITY = 3.986004415e5  # of the Earth, km3 / s2
DAY = 86400.0  # s
ORIGIN = np.datetime64("2000-01-01T00", "us")


@dataclass(frozen=True)
class CircularOrbit(Orbit):
    r"""A satellite on a circle, whose plane does not turn.

    .. math:: r(t) = R_z(\phi - \Omega t) \, R_x(90° - i) \,
        (\cos \omega t, \, 0, \, -\sin \omega t)^T \qquad \omega^2 a^3 = G M

    At the origin of time it crosses the equator southwards at the longitude :math:`\phi`. The
    Earth turns once a day.

    Arguments:
        name: What the satellite is called.
        altitude: The height :math:`a - R` over the ground in km.
        inclination: The inclination :math:`i` in degrees.
        phase: The longitude :math:`\phi` in degrees.
        origin: The origin of time.

    Raises:
        UserError: If the altitude is not positive.

    Example:
        >>> orbit = CircularOrbit("polar", altitude=800.0, inclination=90.0, phase=10.0)
        >>> round(orbit.period, 2)
        100.72
        >>> latitude, longitude = orbit.track(np.array([orbit.origin]))
        >>> abs(round(float(latitude[0]), 9)), round(float(longitude[0]), 9)
        (0.0, 10.0)
    """

    name: str
    altitude: float
    inclination: float
    phase: float = 0.0
    origin: np.datetime64 = ORIGIN

    def __post_init__(self) -> None:
        if not self.altitude > 0:
            raise UserError(f"{self.name}: expected a positive altitude, got {self.altitude:g} km")

    @property
    def period(self) -> float:
        r"""The orbital period in minutes."""
        return 2 * math.pi * math.sqrt((RADIUS + self.altitude) ** 3 / GRAVITY) / 60.0

    def fly(self, times: Times) -> tuple[Array, Array]:
        r"""Positions in km and velocities in km/s over the rotating Earth."""
        seconds = (times.astype("datetime64[us]") - self.origin) / np.timedelta64(1, "s")
        rate = 2 * math.pi / (self.period * 60.0)
        angle, zero = rate * seconds, np.zeros(len(seconds))
        cos, sin = np.cos(angle), np.sin(angle)
        tilt, turn = (
            math.radians(90.0 - self.inclination),
            np.deg2rad(self.phase - 360.0 * seconds / DAY),
        )
        place = _turned(np.stack((cos, zero, -sin), axis=-1), tilt, turn)
        speed = _turned(np.stack((-sin, zero, -cos), axis=-1), tilt, turn) * rate
        radius = RADIUS + self.altitude
        return radius * place, radius * (speed - np.cross([0.0, 0.0, 2 * math.pi / DAY], place))


def _turned(points: Array, tilt: float, turn: Array) -> Array:
    r"""Points turned about the first axis, then about the third."""
    x, y, z = np.moveaxis(points, -1, 0)
    y, z = (
        math.cos(tilt) * y - math.sin(tilt) * z,
        math.sin(tilt) * y + math.cos(tilt) * z,
    )
    cos, sin = np.cos(turn), np.sin(turn)
    return np.stack((cos * x - sin * y, sin * x + cos * y, z), axis=-1)
