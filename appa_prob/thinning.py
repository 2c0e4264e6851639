r"""Thinning: points that are not too close to each other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from .grid import EARTH_RADIUS
from .orbits import directions

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["thin_by_distance"]


def thin_by_distance(
    time: NDArray[np.int64],
    latitude: NDArray[np.float64],
    longitude: NDArray[np.float64],
    spacing: float,
) -> NDArray[np.int64]:
    r"""Picks points of which no two of one time are nearer than a distance, the first ones first.

    No point can be added: each one that is left out is nearer to one that is kept.

    Arguments:
        time: The indices of the times of points, with shape :math:`(N)`.
        latitude: Their latitudes in degrees, with shape :math:`(N)`.
        longitude: Their longitudes, with shape :math:`(N)`.
        spacing: The distance along the sphere, in km.

    Returns:
        The indices of the points that are kept, sorted.

    Example:
        >>> zero = np.zeros(3)
        >>> thin_by_distance(np.zeros(3, dtype=int), zero, np.array([0.0, 1.0, 2.0]), 150.0)
        array([0, 2])
    """
    chord = 2 * math.sin(min(spacing / EARTH_RADIUS, math.pi) / 2)
    points = directions(latitude, longitude)
    kept = []
    for index in np.unique(time):
        here = np.flatnonzero(time == index)
        tree = cKDTree(points[here])
        near = tree.query_ball_point(points[here], chord * (1 - 1e-12))
        free = np.ones(len(here), dtype=bool)
        for i, others in enumerate(near):
            if free[i]:
                free[others] = False
                free[i] = True
                kept.append(here[i])
    return np.sort(np.array(kept, dtype=np.int64))
