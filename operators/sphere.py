r"""Latitude-longitude grids: rows across the poles, areas of cells.

A grid has rows :math:`\varphi_i`, ascending or descending and not necessarily at equal distances,
and columns :math:`\lambda_j`, at equal distances all around the globe. Going on beyond a pole one
meets the same rows again, half a turn away.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["across_poles", "check_grid", "check_latitude", "row_areas", "row_edges"]


def check_grid(latitude: Tensor, longitude: Tensor) -> None:
    r"""Checks that a grid has ordered latitudes and regular longitudes around the globe.

    Arguments:
        latitude: The latitudes of the rows, in degrees.
        longitude: The longitudes of the columns, in degrees.

    Raises:
        ValueError: If it hasn't.
    """
    if latitude.ndim != 1 or longitude.ndim != 1 or len(latitude) < 2 or len(longitude) < 2:
        raise ValueError(
            f"expected two or more latitudes and longitudes, got shapes {tuple(latitude.shape)} "
            f"and {tuple(longitude.shape)}"
        )
    check_latitude(latitude)
    step = 360 / len(longitude)
    if not bool(((longitude.double().diff() - step).abs() < 1e-3 * step).all()):
        raise ValueError(
            f"expected {len(longitude)} longitudes at steps of {step:g} degrees, ascending around "
            f"the globe, got {float(longitude[0]):g} to {float(longitude[-1]):g}; sort them, or "
            "drop a repeated meridian"
        )


def check_latitude(latitude: Tensor) -> None:
    r"""Checks that the latitudes of rows are ordered.

    Arguments:
        latitude: The latitudes of the rows, in degrees.

    Raises:
        ValueError: If they aren't.
    """
    if latitude.ndim != 1 or len(latitude) < 2:
        raise ValueError(f"expected two or more latitudes, got shape {tuple(latitude.shape)}")
    steps = latitude.diff()
    if not bool((latitude.abs() <= 90).all()) or not bool((steps > 0).all() or (steps < 0).all()):
        raise ValueError(
            "expected latitudes in [-90, 90] degrees that always increase or always decrease"
        )


def across_poles(latitude: Tensor, count: int) -> tuple[Tensor, Tensor]:
    r"""Latitudes continued beyond both poles by the rows that lie there, half a turn away.

    A row at a pole is its own continuation, and is not repeated.

    Arguments:
        latitude: Ascending latitudes of the rows, in degrees, with shape :math:`(n)`.
        count: The number of rows to add at either end.

    Returns:
        The latitudes, below -90 and above 90 where they are continued, and the numbers of the rows
        that they are, both with shape :math:`(n + 2 \, \mathrm{count})`.

    Example:
        >>> across_poles(torch.tensor([-80.0, 0.0, 90.0]), 1)
        (tensor([-100.,  -80.,    0.,   90.,  180.]), tensor([0, 0, 1, 2, 1]))
    """
    n = len(latitude)
    rows = torch.arange(n, device=latitude.device)
    south = rows[int(latitude[0] == -90) :][:count].flip(0)
    north = rows.flip(0)[int(latitude[-1] == 90) :][:count]
    extended = torch.cat((-180 - latitude[south], latitude, 180 - latitude[north]))
    return extended, torch.cat((south, rows, north))


def row_areas(latitude: Tensor) -> Tensor:
    r"""The areas of the cells of each row, as shares of the sphere.

    .. math:: w_i = \tfrac{1}{2} |\sin \varphi_{i + 1/2} - \sin \varphi_{i - 1/2}|

    A cell reaches half-way to the neighbouring rows, and to the pole beyond the first and the last
    row.

    Arguments:
        latitude: The latitudes of the rows, in degrees, with shape :math:`(n)`, ascending or
            descending.

    Example:
        >>> row_areas(torch.tensor([60.0, 0.0, -60.0]))
        tensor([0.2500, 0.5000, 0.2500])
    """
    edges = row_edges(latitude).deg2rad().sin()
    return edges.diff().abs() / 2


def row_edges(latitude: Tensor) -> Tensor:
    r"""The latitudes between rows, and the poles at the ends, with shape :math:`(n + 1)`.

    Arguments:
        latitude: The latitudes of the rows, in degrees, with shape :math:`(n)`.
    """
    pole = latitude.new_tensor([90.0]).copysign(latitude[-1] - latitude[0])
    return torch.cat((-pole, (latitude[1:] + latitude[:-1]) / 2, pole))
