r"""Interpolation of global fields at points of the sphere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .base import Operator
from .registry import register
from .scatter import zeros
from .shapes import as_size
from .sphere import across_poles, check_grid
from .weighted import by_corner, spread_sums, weighted_sums

__all__ = ["Interpolate"]

Method = Literal["bilinear", "bicubic"]


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
    r"""Interpolation from a latitude-longitude grid to points.

    Bilinear: for a point between rows :math:`i, i + 1` and columns :math:`j, j + 1`, at fractions
    :math:`a` and :math:`b` of the way,

    .. math:: y = (1 - a) (1 - b) \, x_{i, j} + (1 - a) \, b \, x_{i, j + 1}
        + a \, (1 - b) \, x_{i + 1, j} + a \, b \, x_{i + 1, j + 1}

    Bicubic: from the 16 nearest elements, by the cubic convolution of Keys along either axis. Its
    interpolant has continuous derivatives and is exact for quadratic fields. Between rows at
    unequal distances :math:`h` the derivative at a row is that of the parabola through it and its
    neighbours.

    Columns are periodic. A point beyond the first or the last row is interpolated across the pole:
    its next row is the same row half a turn away, which lies as far behind the pole. That suits
    scalars; the components of a vector change sign there.

    The operator is differentiable with respect to the points.

    References:
        | Cubic convolution interpolation for digital image processing (Keys, 1981)
        | https://doi.org/10.1109/TASSP.1981.1163711

    Arguments:
        latitude: The latitudes of the rows, in degrees north, with shape :math:`(n_\varphi)`:
            ascending or descending, and not necessarily at equal distances.
        longitude: The longitudes of the columns, in degrees east, with shape :math:`(n_\lambda)`:
            ascending at equal distances, all around the globe.
        points_latitude: The latitudes of the points, with shape :math:`(n)`.
        points_longitude: The longitudes of the points, with shape :math:`(n)`, of any turn.
        leading: The event axes before latitude and longitude.
        method: ``"bilinear"`` or ``"bicubic"``.

    Raises:
        ValueError: If a latitude lies beyond a pole, the grid isn't as described or too small, the
            points don't match in number, or the method isn't known.

    Example:
        >>> rows, columns = torch.tensor([45.0, -45.0]), torch.tensor([0.0, 90.0, 180.0, 270.0])
        >>> A = Interpolate(rows, columns, torch.tensor([0.0, 45.0]), torch.tensor([45.0, -45.0]))
        >>> A(torch.tensor([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]))
        tensor([2.5000, 1.5000])
    """

    scatters = True

    def __init__(
        self,
        latitude: Tensor,
        longitude: Tensor,
        points_latitude: Tensor,
        points_longitude: Tensor,
        leading: int | Sequence[int] = (),
        method: Method = "bilinear",
    ) -> None:
        check_grid(latitude, longitude)
        if method not in NEIGHBOURS:
            raise ValueError(f"expected 'bilinear' or 'bicubic' as method, got {method!r}")
        if min(len(latitude), len(longitude)) < NEIGHBOURS[method]:
            raise ValueError(
                f"expected {NEIGHBOURS[method]} or more rows and columns for {method} "
                f"interpolation, got {len(latitude)} x {len(longitude)}"
            )
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
        self.method = method
        indices, weights = stencil(
            latitude.double(),
            longitude.double(),
            points_latitude.double(),
            points_longitude.double(),
            NEIGHBOURS[method],
        )
        dtype = torch.promote_types(latitude.dtype, torch.float32)
        self.indices, self.weights = by_corner(indices), by_corner(weights.to(dtype))
        super().__init__(
            (*as_size(leading), len(latitude), len(longitude)),
            (*as_size(leading), len(points_latitude)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return weighted_sums(x.flatten(-2), self.indices, self.weights)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.add_adjoint(y, zeros(y, (*y.shape[:-1], *self.in_shape[-2:])))

    def add_adjoint(self, y: Tensor, x: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return spread_sums(y, self.indices, self.weights, x, self.in_shape[-2:])


NEIGHBOURS: dict[str, int] = {"bilinear": 2, "bicubic": 4}


def stencil(
    latitude: Tensor, longitude: Tensor, phi: Tensor, lam: Tensor, order: int
) -> tuple[Tensor, Tensor]:
    r"""The neighbours of each point on the grid and their weights.

    Arguments:
        latitude: The latitudes of the rows, in degrees.
        longitude: The longitudes of the columns, in degrees.
        phi: The latitudes of the points.
        lam: The longitudes of the points.
        order: The number :math:`k` of neighbours along either axis, 2 or 4.

    Returns:
        Flat indices and weights, both with shape :math:`(n, k^2)`.
    """
    rows, columns, half = len(latitude), len(longitude), order // 2
    descending = bool(latitude[0] > latitude[-1])
    extended, lines = across_poles(latitude.flip(0) if descending else latitude, half)
    steps = torch.arange(-half, half, device=phi.device)
    near = torch.searchsorted(extended, phi.detach(), right=True)[:, None] + steps
    behind = (near < half) | (near >= rows + half)
    line = lines[near]
    line = rows - 1 - line if descending else line
    turned = torch.where(behind, lam[:, None] + 180, lam[:, None])
    place = ((turned - longitude[0]) * (columns / 360)).remainder(columns)
    left = place.detach().floor()
    column = (left.long()[..., None] + steps + 1) % columns
    across = node_weights((left[..., None] + steps + 1), place)
    along = node_weights(extended[near], phi)
    indices = line[..., None] * columns + column
    return indices.flatten(1), (along[..., None] * across).flatten(1)


def node_weights(nodes: Tensor, point: Tensor) -> Tensor:
    r"""The weights of the values at 2 or 4 nodes in the value between the two in the middle.

    Arguments:
        nodes: The places of the nodes, ascending, with shape :math:`(*, k)`.
        point: The place of the point, with shape :math:`(*)`.

    Returns:
        The weights, with shape :math:`(*, k)`.

    Example:
        >>> node_weights(torch.arange(4.0), torch.tensor(1.5))
        tensor([-0.0625,  0.5625,  0.5625, -0.0625])
    """
    if nodes.shape[-1] == 2:
        t = (point - nodes[..., 0]) / (nodes[..., 1] - nodes[..., 0])
        return torch.stack((1 - t, t), dim=-1)
    h0, h1, h2 = nodes.diff().unbind(-1)
    t = (point - nodes[..., 1]) / h1
    # Hermite's basis, for derivatives with respect to t at the two nodes in the middle
    start, end = t * (1 - t) ** 2, t**2 * (t - 1)
    value = t**2 * (3 - 2 * t)
    return torch.stack(
        (
            -start * h1**2 / (h0 * (h0 + h1)),
            1 - value + start * (h1 - h0) / h0 - end * h2 / (h1 + h2),
            value + start * h0 / (h0 + h1) + end * (h2 - h1) / h2,
            end * h1**2 / (h2 * (h1 + h2)),
        ),
        dim=-1,
    )
