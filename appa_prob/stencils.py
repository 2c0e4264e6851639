r"""The cells that an observation sees, and their weights: points, footprints and blocks of a grid.

All are rows of a sparse matrix on one field of :math:`H \times W` cells, whose weights sum to 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from appa_prob.operators import Interpolate

from .grid import EARTH_RADIUS, Grid
from .orbits import coordinates, directions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Stencil = tuple[NDArray[np.int64], Array]

__all__ = ["bilinear", "block_means", "compact", "disc_means"]

# Points in a disc: 1, 6 and 12 on rings whose annuli have areas in proportion, so that each stands
# for the same area; a ring lies at the root mean square radius of its annulus.
RINGS = ((1, 0.0), (6, math.sqrt(4 / 19)), (12, math.sqrt(13 / 19)))


def bilinear(latitude: Array, longitude: Array, grid: Grid) -> Stencil:
    r"""Bilinear interpolation at points, by :class:`~appa_prob.operators.Interpolate`.

    Arguments:
        latitude: The latitudes of points in degrees, with shape :math:`(N)`.
        longitude: Their longitudes, with shape :math:`(N)`.
        grid: The grid.

    Returns:
        Indices :math:`i W + j` of cells and weights, both with shape :math:`(N, 4)`.
    """
    points = Interpolate(
        torch.tensor(grid.latitude),
        torch.tensor(grid.longitude),
        torch.tensor(latitude),
        torch.tensor(longitude),
    )
    return points.indices.numpy(), points.weights.double().numpy()


def disc_means(latitude: Array, longitude: Array, grid: Grid, diameter: float) -> Stencil:
    r"""Means over discs around points, of 19 points each.

    Arguments:
        latitude: The latitudes of the centres in degrees, with shape :math:`(N)`.
        longitude: Their longitudes, with shape :math:`(N)`.
        grid: The grid.
        diameter: The diameter of the discs in km.

    Returns:
        Indices :math:`i W + j` of cells and weights, both with shape :math:`(N, S)`; short rows
        are filled with weights of 0.

    Example:
        >>> grid = Grid(np.linspace(-85.0, 85.0, 18), np.arange(36) * 10.0)
        >>> cells, weights = disc_means(np.array([90.0]), np.array([0.0]), grid, 500.0)
        >>> round(float(weights.sum()), 6)
        1.0
    """
    centre = directions(latitude, longitude)
    # A pole other than the nearer one gives two directions across.
    other = np.where(np.abs(centre[:, 2:]) > 0.9, [[1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]])
    first = np.cross(other, centre)
    first /= np.linalg.norm(first, axis=-1, keepdims=True)
    second = np.cross(centre, first)
    points = []
    for count, share in RINGS:
        angle = share * diameter / 2 / EARTH_RADIUS
        for turn in 2 * np.pi * (np.arange(count) + 0.5) / count:
            across = np.cos(turn) * first + np.sin(turn) * second
            points.append(np.cos(angle) * centre + np.sin(angle) * across)
    spread = np.stack(points, axis=1)
    phi, lam = coordinates(spread.reshape(-1, 3))
    cells, weights = bilinear(phi, lam, grid)
    size = spread.shape[1]
    return compact(cells.reshape(-1, 4 * size), weights.reshape(-1, 4 * size) / size)


def block_means(latitude: Array, longitude: Array, grid: Grid, factor: int) -> Stencil:
    r"""Means over the blocks of cells in which points lie, weighted by area.

    They are those of :class:`~appa_prob.operators.Coarsen`.

    Arguments:
        latitude: The latitudes of points in degrees, with shape :math:`(N)`.
        longitude: Their longitudes, with shape :math:`(N)`.
        grid: The grid.
        factor: The number of rows and columns of a block.

    Returns:
        Indices :math:`i W + j` of cells and weights, both with shape :math:`(N, f^2)`.
    """
    height, width = grid.shape
    rows, columns = np.divmod(grid.cells(latitude, longitude), width)
    steps = np.arange(factor)
    i = (rows // factor * factor)[:, None] + steps
    j = (columns // factor * factor)[:, None] + steps
    inside = (i < height)[:, :, None] & (j < width)[:, None, :]
    i, j = np.minimum(i, height - 1), np.minimum(j, width - 1)
    weights = np.where(inside, grid.weights[i][:, :, None], 0.0).reshape(len(rows), -1)
    cells = (i[:, :, None] * width + j[:, None, :]).reshape(len(rows), -1)
    return cells, weights / weights.sum(-1, keepdims=True)


def compact(cells: NDArray[np.int64], weights: Array) -> Stencil:
    r"""Adds the weights of cells that a row lists more than once.

    Arguments:
        cells: Indices, with shape :math:`(N, S)`.
        weights: Weights, with shape :math:`(N, S)`.

    Returns:
        The same sums, with as few columns as the longest row needs; short rows are filled with
        weights of 0.

    Example:
        >>> compact(np.array([[3, 5, 3]]), np.array([[0.25, 0.5, 0.25]]))
        (array([[3, 5]]), array([[0.5, 0.5]]))
    """
    order = np.argsort(cells, axis=1, kind="stable")
    cells = np.take_along_axis(cells, order, axis=1)
    weights = np.take_along_axis(weights, order, axis=1)
    new = np.diff(cells, axis=1, prepend=-1) != 0
    place = new.cumsum(1) - 1
    size = int(place.max(initial=0)) + 1
    shape = (len(cells), size)
    rows = np.arange(len(cells))[:, None]
    out, sums = np.repeat(cells[:, :1], size, axis=1), np.zeros(shape)
    out[rows, place] = cells
    np.add.at(sums, (np.broadcast_to(rows, place.shape), place), weights)
    return out, sums
