r"""Bilinear interpolation of global fields at points of the sphere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Operator
from .registry import register
from .shapes import as_size
from .weighted import row_sums, scatter_rows

__all__ = ["Interpolate"]


@dataclass(frozen=True)
class Coordinates:
    """The arguments that weights were made of, kept as they were given, to be described by."""

    latitude: Tensor
    longitude: Tensor
    points_latitude: Tensor
    points_longitude: Tensor


@register(
    latitude="coordinates.latitude",
    longitude="coordinates.longitude",
    points_latitude="coordinates.points_latitude",
    points_longitude="coordinates.points_longitude",
    leading=lambda A: A.in_shape[:-2],
)
class Interpolate(Operator):
    r"""Bilinear interpolation from a latitude-longitude grid to points.

    For a point between rows :math:`i, i + 1` and columns :math:`j, j + 1`, at fractions :math:`a`
    and :math:`b` of the way,

    .. math:: y = (1 - a) (1 - b) \, x_{i, j} + (1 - a) \, b \, x_{i, j + 1}
        + a \, (1 - b) \, x_{i + 1, j} + a \, b \, x_{i + 1, j + 1}

    Columns are periodic. A point beyond the first or the last row is interpolated across the pole:
    its second row is the same row half a turn away, which lies as far behind the pole. That suits
    scalars; the components of a vector change sign there.

    Arguments:
        latitude: The latitudes of the rows, in degrees north, with shape :math:`(n_\varphi)`:
            ascending or descending, and not necessarily at equal distances.
        longitude: The longitudes of the columns, in degrees east, with shape :math:`(n_\lambda)`:
            ascending at equal distances, all around the globe.
        points_latitude: The latitudes of the points, with shape :math:`(n)`.
        points_longitude: The longitudes of the points, with shape :math:`(n)`, of any turn.
        leading: The event axes before latitude and longitude.

    Raises:
        ValueError: If a latitude lies beyond a pole, the grid isn't as described, or the points
            don't match in number.

    Example:
        >>> rows, columns = torch.tensor([45.0, -45.0]), torch.tensor([0.0, 90.0, 180.0, 270.0])
        >>> A = Interpolate(rows, columns, torch.tensor([0.0, 45.0]), torch.tensor([45.0, -45.0]))
        >>> A(torch.tensor([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]))
        tensor([2.5000, 1.5000])
    """

    def __init__(
        self,
        latitude: Tensor,
        longitude: Tensor,
        points_latitude: Tensor,
        points_longitude: Tensor,
        leading: int | Sequence[int] = (),
    ) -> None:
        check_grid(latitude, longitude)
        if points_latitude.ndim != 1 or points_latitude.shape != points_longitude.shape:
            raise ValueError(
                "expected latitudes and longitudes of n points, got shapes "
                f"{tuple(points_latitude.shape)} and {tuple(points_longitude.shape)}"
            )
        if not bool((points_latitude.abs() <= 90).all()) or not bool(
            points_longitude.isfinite().all()
        ):
            raise ValueError(
                "expected points with latitudes in [-90, 90] and finite longitudes, in degrees"
            )
        self.coordinates = Coordinates(latitude, longitude, points_latitude, points_longitude)
        indices, weights = stencil(
            *(a.double() for a in (latitude, longitude, points_latitude, points_longitude))
        )
        self.indices, self.weights = (
            indices,
            weights.to(torch.promote_types(latitude.dtype, torch.float32)),
        )
        super().__init__(
            (*as_size(leading), len(latitude), len(longitude)),
            (*as_size(leading), len(points_latitude)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return row_sums(x.flatten(-2).index_select(-1, self.indices.reshape(-1)), self.weights)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        rows, columns = self.in_shape[-2:]
        x = scatter_rows(y, self.indices, self.weights, rows * columns)
        return x.reshape(*y.shape[:-1], rows, columns)


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
    steps = latitude.diff()
    if not bool((latitude.abs() <= 90).all()) or not bool((steps > 0).all() or (steps < 0).all()):
        raise ValueError(
            "expected latitudes in [-90, 90] degrees that always increase or always decrease"
        )
    step = 360 / len(longitude)
    if not bool(((longitude.double().diff() - step).abs() < 1e-3 * step).all()):
        raise ValueError(
            f"expected {len(longitude)} longitudes at steps of {step:g} degrees, ascending around "
            f"the globe, got {float(longitude[0]):g} to {float(longitude[-1]):g}; sort them, or "
            "drop a repeated meridian"
        )


def stencil(
    latitude: Tensor, longitude: Tensor, phi: Tensor, lam: Tensor
) -> tuple[Tensor, Tensor]:
    r"""The four neighbours of each point on the grid and their weights.

    Arguments:
        latitude: The latitudes of the rows, in degrees.
        longitude: The longitudes of the columns, in degrees.
        phi: The latitudes of the points.
        lam: The longitudes of the points.

    Returns:
        Flat indices and weights, both with shape :math:`(n, 4)`.
    """
    descending = bool(latitude[0] > latitude[-1])
    ascending = latitude.flip(0) if descending else latitude
    rows, columns = len(latitude), len(longitude)
    # A row is added behind each pole, as far as the last one: it is that row, half a turn away.
    ends = torch.stack((-180 - ascending[0], 180 - ascending[-1]))
    extended = torch.cat((ends[:1], ascending, ends[1:]))
    above = torch.searchsorted(extended, phi, right=True).clamp(1, rows + 1)
    bottom, top = extended[above - 1], extended[above]
    a = torch.where(
        top > bottom, (phi - bottom) / torch.where(top > bottom, top - bottom, 1.0), 0.0
    )
    indices, weights = [], []
    for row, share in ((above - 1, 1 - a), (above, a)):
        behind = (row == 0) | (row == rows + 1)
        line = (row - 1).clamp(0, rows - 1)
        line = rows - 1 - line if descending else line
        column = (
            torch.where(behind, lam + 180, lam)
            .sub(longitude[0])
            .mul(columns / 360)
            .remainder(columns)
        )
        left = column.floor()
        b = column - left
        left = left.long() % columns
        indices += [line * columns + left, line * columns + (left + 1) % columns]
        weights += [share * (1 - b), share * b]
    return torch.stack(indices, dim=-1), torch.stack(weights, dim=-1)
