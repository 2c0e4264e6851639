r"""Orbits over the rotating Earth, and what an instrument that scans across the track sees.

With :math:`r` the direction to the satellite and :math:`v` its velocity over the rotating ground,
the instrument scans the great circle through the sub-satellite point that is perpendicular to
:math:`v`:

.. math:: p(\theta) = \cos\theta \, r + \sin\theta \, \frac{r \times v}{\|r \times v\|}
    \qquad |\theta| \le \frac{w}{2 R}

for a swath of width :math:`w`. The Earth is a sphere here, which misplaces footprints by 0.2
degrees at most.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from .errors import UserError
from .grid import EARTH_RADIUS, Grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Times = NDArray[np.datetime64]

__all__ = ["EARTH_ROTATION", "Orbit", "coordinates", "directions", "visible_cells"]

EARTH_ROTATION = 7.292115e-5  # rad / s


class Orbit(ABC):
    r"""The orbit of a satellite.

    Attributes:
        name: The name of the satellite.
    """

    name: str

    @property
    @abstractmethod
    def period(self) -> float:
        r"""The orbital period in minutes."""

    @abstractmethod
    def fly(self, times: Times) -> tuple[Array, Array]:
        r"""Positions in km and velocities in km/s over the rotating Earth.

        Arguments:
            times: Times, with shape :math:`(N)`.

        Returns:
            Both with shape :math:`(N, 3)`, in a frame that turns with the Earth: the first axis
            towards Greenwich, the third to the north.
        """

    def shift(self, times: Times) -> Times:
        r"""The times at which the satellite is taken to be where it is at some times."""
        return times.astype("datetime64[us]")

    def track(self, times: Times) -> tuple[Array, Array]:
        r"""The points below the satellite, without any shift of the times.

        Arguments:
            times: Times, with shape :math:`(N)`.

        Returns:
            Latitudes and longitudes in degrees, each with shape :math:`(N)`.

        Raises:
            UserError: If the satellite has decayed, or the times are too far from the epoch.
        """
        position, _ = self.fly(times)
        return coordinates(position)

    def swath(
        self, times: Times, width: float, half_window: float, spacing: float = 50.0
    ) -> tuple[NDArray[np.int64], Array, Array]:
        r"""The footprints around analysis times, on rows across the track.

        Arguments:
            times: The analysis times, with shape :math:`(L)`; they are shifted as :meth:`shift`
                says.
            width: The width :math:`w` of the swath in km.
            half_window: How long before and after an analysis time footprints count, in minutes.
            spacing: The distance between rows and at most between the footprints of a row, in km.
                By default about that of a microwave sounder.

        Returns:
            The index of the analysis time, the latitude and the longitude of each footprint, each
            with shape :math:`(N)`. Within an analysis time footprints are in order of time, then
            from left to right.

        Raises:
            UserError: If the swath reaches beyond the horizon of the satellite.
        """
        seconds = spacing / (2 * math.pi * EARTH_RADIUS) * self.period * 60.0
        steps = int(half_window * 60.0 / seconds)
        offsets = np.arange(-steps, steps + 1) * np.timedelta64(round(seconds * 1e6), "us")
        position, velocity = self.fly((self.shift(times)[:, None] + offsets).ravel())
        radius = np.linalg.norm(position, axis=-1)
        horizon = math.acos(EARTH_RADIUS / float(radius.min(initial=math.inf)))
        if width / 2 > horizon * EARTH_RADIUS:
            raise UserError(
                f"a swath of {width:g} km reaches beyond the horizon of {self.name}, "
                f"which is {horizon * EARTH_RADIUS:.0f} km away on each side"
            )
        angles = np.linspace(-0.5, 0.5, math.ceil(width / spacing) + 1) * (width / EARTH_RADIUS)
        angles = angles[:, None]
        nadir = position / radius[:, None]
        right = np.cross(velocity, nadir)
        right /= np.linalg.norm(right, axis=-1, keepdims=True)
        points = np.cos(angles) * nadir[:, None] + np.sin(angles) * right[:, None]
        index = np.repeat(np.arange(len(times)), len(offsets) * len(angles))
        return index, *coordinates(points.reshape(-1, 3))


def coordinates(points: Array) -> tuple[Array, Array]:
    r"""Latitudes and longitudes in degrees of points :math:`(N, 3)` in the Earth's frame."""
    x, y, z = np.moveaxis(points, -1, 0)
    return np.rad2deg(np.arctan2(z, np.hypot(x, y))), np.rad2deg(np.arctan2(y, x)) % 360.0


def directions(latitude: Array, longitude: Array) -> Array:
    r"""Unit vectors to points, with shape :math:`(*, 3)`.

    Arguments:
        latitude: Latitudes in degrees, with shape :math:`(*)`.
        longitude: Longitudes in degrees, with shape :math:`(*)`.

    Example:
        >>> directions(np.array([0.0, 90.0]), np.array([0.0, 0.0])).round(9)
        array([[1., 0., 0.],
               [0., 0., 1.]])
    """
    phi, lam = np.deg2rad(latitude), np.deg2rad(longitude)
    return np.stack((np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)), axis=-1)


def visible_cells(
    latitude: Array, longitude: Array, grid: Grid, radius: float
) -> NDArray[np.int64]:
    r"""The cells whose centres lie within a distance of a track.

    Arguments:
        latitude: The latitudes of the track in degrees, with shape :math:`(N)`.
        longitude: Its longitudes, with shape :math:`(N)`.
        grid: The grid.
        radius: The distance along the sphere, in degrees.

    Returns:
        The indices :math:`i W + j` of the cells, sorted.
    """
    rows, columns = np.meshgrid(grid.latitude, grid.longitude, indexing="ij")
    centres = directions(rows.ravel(), columns.ravel())
    chord = 2 * math.sin(math.radians(radius) / 2)
    distance, _ = cKDTree(directions(latitude, longitude)).query(
        centres, distance_upper_bound=chord * (1 + 1e-12)
    )
    return np.flatnonzero(np.isfinite(distance))
