r"""Global latitude-longitude grids: cells, areas and distances."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .errors import UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["EARTH_RADIUS", "Grid", "great_circle", "row_weights"]

EARTH_RADIUS = 6371.0  # km


def great_circle(
    latitude_1: ArrayLike, longitude_1: ArrayLike, latitude_2: ArrayLike, longitude_2: ArrayLike
) -> NDArray[np.float64]:
    r"""The distance between points along the sphere, in km (haversine).

    .. math:: d = 2 R \arcsin \sqrt{\sin^2 \tfrac{\varphi_2 - \varphi_1}{2}
        + \cos \varphi_1 \cos \varphi_2 \sin^2 \tfrac{\lambda_2 - \lambda_1}{2}}

    Arguments:
        latitude_1: Latitudes :math:`\varphi_1` in degrees.
        longitude_1: Longitudes :math:`\lambda_1` in degrees.
        latitude_2: Latitudes :math:`\varphi_2` in degrees.
        longitude_2: Longitudes :math:`\lambda_2` in degrees.

    Example:
        >>> round(float(great_circle(0.0, 350.0, 0.0, 10.0)))
        2224
    """
    phi_1, lambda_1, phi_2, lambda_2 = (
        np.deg2rad(np.asarray(x, dtype=np.float64))
        for x in (latitude_1, longitude_1, latitude_2, longitude_2)
    )
    chord = np.sin((phi_2 - phi_1) / 2) ** 2
    chord = chord + np.cos(phi_1) * np.cos(phi_2) * np.sin((lambda_2 - lambda_1) / 2) ** 2
    return np.asarray(2 * EARTH_RADIUS * np.arcsin(np.sqrt(np.clip(chord, 0.0, 1.0))))


def row_weights(latitude: ArrayLike) -> NDArray[np.float64]:
    r"""The areas of the cells of each row of a grid, with shape :math:`(H)` and mean 1.

    .. math:: w_i \propto |\sin \varphi_{i + 1/2} - \sin \varphi_{i - 1/2}|

    Arguments:
        latitude: The latitudes of the rows in degrees, with shape :math:`(H)`, ascending or
            descending.

    Example:
        >>> row_weights([-60.0, 0.0, 60.0])
        array([0.75, 1.5 , 0.75])
    """
    latitude = np.asarray(latitude, dtype=np.float64)
    pole = np.sign(latitude[-1] - latitude[0]) * 90.0
    edges = np.concatenate(([-pole], (latitude[1:] + latitude[:-1]) / 2, [pole]))
    areas = np.abs(np.diff(np.sin(np.deg2rad(edges))))
    return np.asarray(areas / areas.mean())


@dataclass(frozen=True, eq=False)
class Grid:
    r"""A global grid of :math:`H` latitudes and :math:`W` longitudes.

    Latitudes go either way and may be irregular, as Gaussian ones are; longitudes are regular and
    go once around the globe eastwards, from anywhere. A cell reaches half-way to the neighbouring
    rows and columns, and to the pole beyond the first and the last row.

    Arguments:
        latitude: The latitudes of the rows in degrees, with shape :math:`(H)`.
        longitude: The longitudes of the columns in degrees, with shape :math:`(W)`.

    Raises:
        UserError: If the latitudes are not monotonic or leave :math:`[-90, 90]`, or if the
        longitudes are not
            regular or don't go once around the globe.

    Example:
        >>> grid = Grid(np.array([60.0, 0.0, -60.0]), np.array([0.0, 90.0, 180.0, 270.0]))
        >>> grid.shape
        (3, 4)
        >>> grid.cells([55.0, -80.0], [-20.0, 100.0])
        array([0, 9])
    """

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("latitude", "longitude"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
                raise UserError(
                    f"expected two or more finite {name}s in one dimension, got {values.shape}"
                )
            object.__setattr__(self, name, values)
        steps = np.diff(self.latitude)
        if not ((steps > 0).all() or (steps < 0).all()):
            raise UserError("latitudes go neither up nor down all the way: sort the dataset")
        if np.abs(self.latitude).max() > 90.0:
            worst = self.latitude[np.abs(self.latitude).argmax()]
            raise UserError(f"expected latitudes in degrees, from -90 to 90, got {worst:g}")
        step = 360.0 / len(self.longitude)
        if not np.allclose(np.diff(self.longitude), step, rtol=0, atol=1e-2 * step):
            raise UserError(
                f"expected {len(self.longitude)} longitudes around the globe eastwards, "
                f"{step:g} degrees apart, got {self.longitude[0]:g}, {self.longitude[1]:g}, ..., "
                f"{self.longitude[-1]:g}: regional grids are not supported"
            )

    @property
    def shape(self) -> tuple[int, int]:
        r"""The numbers :math:`(H, W)` of rows and columns."""
        return len(self.latitude), len(self.longitude)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        r"""The areas of the cells of each row, as :func:`row_weights` gives them."""
        return row_weights(self.latitude)

    @property
    def _edges(self) -> NDArray[np.float64]:
        return (self.latitude[1:] + self.latitude[:-1]) / 2

    def check(self, latitude: ArrayLike, longitude: ArrayLike) -> None:
        r"""Checks that coordinates are those of the grid, to :math:`10^{-3}` degrees.

        Arguments:
            latitude: Latitudes in degrees.
            longitude: Longitudes in degrees.

        Raises:
            UserError: If they are not.
        """
        for name, values in (("latitude", latitude), ("longitude", longitude)):
            expected, found = getattr(self, name), np.asarray(values, dtype=np.float64)
            if expected.shape != found.shape:
                raise UserError(
                    f"expected {len(expected)} {name}s, those of the model, got an array of shape "
                    f"{found.shape}: interpolate the data to the grid of the model"
                )
            gap = np.abs(expected - found)
            if not (gap <= 1e-3).all():
                worst = int(np.flatnonzero(~(gap <= 1e-3))[0])
                raise UserError(
                    f"expected {name} {worst} at {expected[worst]:g} degrees, as on the grid of "
                    f"the model, got {found[worst]:g}: sort or interpolate the data"
                )

    def cells(self, latitude: ArrayLike, longitude: ArrayLike) -> NDArray[np.int64]:
        r"""The cells in which points lie.

        Arguments:
            latitude: The latitudes of points in degrees, with shape :math:`(N)`.
            longitude: Their longitudes in degrees, of any turn, with shape :math:`(N)`.

        Returns:
            The indices :math:`i W + j` of the cells of row :math:`i` and column :math:`j`, with
            shape :math:`(N)`.

        Raises:
            UserError: If a point is not on the globe.
        """
        latitude = np.asarray(latitude, dtype=np.float64)
        longitude = np.asarray(longitude, dtype=np.float64)
        bad = ~(np.abs(latitude) <= 90.0) | ~np.isfinite(longitude)
        if bad.any():
            raise UserError(
                f"{int(bad.sum())} points are not on the globe, the first at latitude "
                f"{latitude[bad][0]:g} and longitude {longitude[bad][0]:g}"
            )
        height, width = self.shape
        rows = np.searchsorted(np.sort(self._edges), latitude)
        if self.latitude[0] > self.latitude[-1]:
            rows = height - 1 - rows
        columns = np.rint((longitude - self.longitude[0]) * (width / 360.0)).astype(np.int64)
        return np.asarray(rows * width + columns % width)

    def thin(
        self, latitude: ArrayLike, longitude: ArrayLike, time: ArrayLike = 0
    ) -> NDArray[np.int64]:
        r"""Picks at most one point a cell and time: the nearest to its centre.

        Arguments:
            latitude: The latitudes of points in degrees, with shape :math:`(N)`.
            longitude: Their longitudes in degrees, with shape :math:`(N)`.
            time: The indices of their times, with shape :math:`(N)`, or one for all.

        Returns:
            The indices of the points that are picked, sorted by time, then by cell.

        Example:
            >>> grid = Grid(np.array([-45.0, 45.0]), np.array([0.0, 180.0]))
            >>> grid.thin([40.0, 44.0, -10.0], [10.0, 5.0, 170.0])
            array([2, 1])
        """
        cells = self.cells(latitude, longitude)
        rows, columns = np.divmod(cells, self.shape[1])
        distance = great_circle(latitude, longitude, self.latitude[rows], self.longitude[columns])
        places = np.asarray(time, dtype=np.int64) * (self.shape[0] * self.shape[1]) + cells
        nearest = np.full(int(places.max(initial=-1)) + 1, np.inf)
        np.minimum.at(nearest, places, distance)
        kept = np.flatnonzero(distance == nearest[places])
        _, first = np.unique(places[kept], return_index=True)
        return np.asarray(kept[first])
