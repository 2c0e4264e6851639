r"""Finite differences on latitude-longitude grids: gradient, divergence and Laplacian.

With the latitude :math:`\varphi`, the longitude :math:`\lambda` and the radius :math:`R`,

.. math::
    \nabla x &= \frac{1}{R \cos \varphi} \frac{\partial x}{\partial \lambda} \, e_\lambda
        + \frac{1}{R} \frac{\partial x}{\partial \varphi} \, e_\varphi \\
    \nabla \cdot (u, v) &= \frac{1}{R \cos \varphi} \Big( \frac{\partial u}{\partial \lambda}
        + \frac{\partial (v \cos \varphi)}{\partial \varphi} \Big) \\
    \Delta x &= \frac{1}{R^2 \cos^2 \varphi} \frac{\partial^2 x}{\partial \lambda^2}
        + \frac{1}{R^2 \cos \varphi} \frac{\partial}{\partial \varphi} \Big( \cos \varphi
        \frac{\partial x}{\partial \varphi} \Big)

to second order. Divergence and Laplacian are balances of the fluxes through the edges of cells, so
that they vanish on average over the globe. No flux passes a pole; a row at a pole is one round
cell, which has one value. The gradient at a row next to a pole, or at it, uses the row across,
half a turn away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Operator
from .registry import register
from .shapes import as_size
from .sphere import across_poles, check_latitude, row_edges

__all__ = ["SphereDivergence", "SphereGradient", "SphereLaplacian"]

EARTH_RADIUS = 6.371e6  # m
Bands = tuple[Tensor, Tensor, Tensor]


@register(columns=lambda A: A.in_shape[-1], leading=lambda A: A.in_shape[:-2])
class SphereGradient(Operator):
    r"""The gradient of scalars on a latitude-longitude grid, eastward and northward.

    Along meridians the derivative is that of the parabola through three rows, along parallels a
    central difference. At a pole both components follow from the rows around it: there the
    eastward derivative at one longitude is the northward one, up to sign, a quarter turn away.

    Arguments:
        latitude: The latitudes of the rows, in degrees, with shape :math:`(H)`, ascending or
            descending, and not necessarily at equal distances.
        columns: The number :math:`W` of columns, at equal distances around the globe, even; a
            multiple of 4 if a row lies at a pole.
        leading: The event axes before latitude and longitude.
        radius: The radius :math:`R`; by default that of the Earth in metres. The result has the
            unit of the field over that of the radius, and shape :math:`(*, 2, H, W)`.

    Raises:
        ValueError: If the latitudes don't ascend or descend within [-90, 90], or the number of
            columns or the radius aren't as described.

    Example:
        >>> A = SphereGradient(torch.tensor([60.0, 0.0, -60.0]), 4, radius=1.0)
        >>> A
        SphereGradient((3, 4) -> (2, 3, 4))
        >>> A(torch.tensor([1.0, 0.0, -1.0]).reshape(3, 1).expand(3, 4))[1, 1]
        tensor([0.9549, 0.9549, 0.9549, 0.9549])
    """

    def __init__(
        self,
        latitude: Tensor,
        columns: int,
        leading: int | Sequence[int] = (),
        radius: float = EARTH_RADIUS,
    ) -> None:
        check_sphere(latitude, columns, radius)
        self.latitude, self.radius = latitude, radius
        phi = latitude.double()
        descending = bool(phi[0] > phi[-1])
        extended, lines = across_poles(phi.flip(0) if descending else phi, 1)
        if descending:
            extended, lines = extended.flip(0), len(phi) - 1 - lines.flip(0)
        self.beyond = int(lines[0]), int(lines[-1])
        before, after = extended.deg2rad().diff().unfold(0, 2, 1).unbind(1)
        both = before + after
        lower, upper = -after / (radius * before * both), before / (radius * after * both)
        self.bands = banded(lower, -lower - upper, upper, latitude)
        poles = at_pole(phi)
        self.poles = tuple(
            (int(row), 1.0 if phi[row] < 0 else -1.0) for row in poles.nonzero()[:, 0]
        )
        cosine = torch.where(poles, math.inf, phi.deg2rad().cos())
        self.zonal = rowwise(columns / (4 * math.pi * radius * cosine), latitude)
        lead = as_size(leading)
        super().__init__((*lead, len(phi), columns), (*lead, 2, len(phi), columns))

    def forward(self, x: Tensor) -> Tensor:
        half, quarter = x.shape[-1] // 2, x.shape[-1] // 4
        first, last = self.beyond
        lower, _, upper = self.bands
        north = tridiagonal(x, self.bands)
        north[..., 0, :] += lower[0] * x[..., first, :].roll(half, -1)
        north[..., -1, :] += upper[-1] * x[..., last, :].roll(half, -1)
        east = (x.roll(-1, -1) - x.roll(1, -1)) * self.zonal
        for row, sign in self.poles:
            east[..., row, :] = sign * north[..., row, :].roll(-quarter, -1)
        return torch.stack((east, north), dim=-3)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        half, quarter = y.shape[-1] // 2, y.shape[-1] // 4
        first, last = self.beyond
        lower, _, upper = self.bands
        east, north = y.unbind(-3)
        if self.poles:
            north = north.clone()
        for row, sign in self.poles:
            north[..., row, :] += sign * east[..., row, :].roll(quarter, -1)
        east = east * self.zonal
        x = tridiagonal(north, transposed(self.bands)) + east.roll(1, -1) - east.roll(-1, -1)
        x[..., first, :] += lower[0] * north[..., 0, :].roll(half, -1)
        x[..., last, :] += upper[-1] * north[..., -1, :].roll(half, -1)
        return x


@register(columns=lambda A: A.out_shape[-1], leading=lambda A: A.out_shape[:-2])
class SphereDivergence(Operator):
    r"""The divergence of eastward and northward components on a latitude-longitude grid.

    Arguments:
        latitude: As for :class:`SphereGradient`.
        columns: As for :class:`SphereGradient`.
        leading: The event axes before those of components, latitude and longitude.
        radius: The radius :math:`R`; by default that of the Earth in metres. The result has the
            unit of the components over that of the radius; inputs have shape
            :math:`(*, 2, H, W)`.

    Raises:
        ValueError: As :class:`SphereGradient`.

    Example:
        >>> SphereDivergence(torch.tensor([60.0, 0.0, -60.0]), 4)
        SphereDivergence((2, 3, 4) -> (3, 4))
    """

    def __init__(
        self,
        latitude: Tensor,
        columns: int,
        leading: int | Sequence[int] = (),
        radius: float = EARTH_RADIUS,
    ) -> None:
        check_sphere(latitude, columns, radius)
        self.latitude, self.radius = latitude, radius
        phi, edges = latitude.double(), row_edges(latitude.double()).deg2rad()
        height, area = edges.diff(), edges.sin().diff() * radius
        flux = edges.cos() / 2
        flux[0] = flux[-1] = 0.0
        lower, upper = -flux[:-1] / area, flux[1:] / area
        self.bands = banded(lower, lower + upper, upper, latitude)
        zonal = torch.where(at_pole(phi), 0.0, height / area) * columns / (4 * math.pi)
        self.zonal = rowwise(zonal, latitude)
        self.poles = tuple(at_pole(phi).nonzero()[:, 0].tolist())
        lead = as_size(leading)
        super().__init__((*lead, 2, len(phi), columns), (*lead, len(phi), columns))

    def forward(self, x: Tensor) -> Tensor:
        east, north = x.unbind(-3)
        y = round_cells(tridiagonal(north, self.bands), self.poles)
        return y + (east.roll(-1, -1) - east.roll(1, -1)) * self.zonal

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        north = tridiagonal(round_cells(y, self.poles), transposed(self.bands))
        east = y * self.zonal
        return torch.stack((east.roll(1, -1) - east.roll(-1, -1), north), dim=-3)


@register(columns=lambda A: A.in_shape[-1], leading=lambda A: A.in_shape[:-2])
class SphereLaplacian(Operator):
    r"""The Laplacian of scalars on a latitude-longitude grid.

    It is symmetric with respect to the areas of cells, :math:`W A = A^T W`.

    Arguments:
        latitude: As for :class:`SphereGradient`.
        columns: As for :class:`SphereGradient`.
        leading: The event axes before latitude and longitude.
        radius: The radius :math:`R`; by default that of the Earth in metres. The result has the
            unit of the field over that of the radius squared.

    Raises:
        ValueError: As :class:`SphereGradient`.

    Example:
        >>> SphereLaplacian(torch.tensor([60.0, 0.0, -60.0]), 4)
        SphereLaplacian((3, 4))
    """

    def __init__(
        self,
        latitude: Tensor,
        columns: int,
        leading: int | Sequence[int] = (),
        radius: float = EARTH_RADIUS,
    ) -> None:
        check_sphere(latitude, columns, radius)
        self.latitude, self.radius = latitude, radius
        phi, edges = latitude.double().deg2rad(), row_edges(latitude.double()).deg2rad()
        poles = at_pole(latitude.double())
        height, area = edges.diff(), edges.sin().diff() * radius**2
        flux = edges.cos()
        flux[1:-1] /= phi.diff()
        flux[0] = flux[-1] = 0.0
        lower, upper = flux[:-1] / area, flux[1:] / area
        cosine = torch.where(poles, math.inf, phi.cos())
        zonal = height / (cosine * area) * (columns / (2 * math.pi)) ** 2
        self.bands = banded(lower, -lower - upper, upper, latitude)
        self.zonal = rowwise(zonal, latitude)
        self.poles = tuple(poles.nonzero()[:, 0].tolist())
        shape = (*as_size(leading), len(phi), columns)
        super().__init__(shape, shape)

    def forward(self, x: Tensor) -> Tensor:
        y = tridiagonal(round_cells(x, self.poles), self.bands)
        return round_cells(y, self.poles) + self._along(x)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        x = tridiagonal(round_cells(y, self.poles), transposed(self.bands))
        return round_cells(x, self.poles) + self._along(y)

    def _along(self, x: Tensor) -> Tensor:
        return (x.roll(-1, -1) - 2 * x + x.roll(1, -1)) * self.zonal


def tridiagonal(x: Tensor, bands: Bands) -> Tensor:
    r"""The product with a tridiagonal matrix along rows.

    .. math:: y_i = l_i x_{i - 1} + d_i x_i + u_i x_{i + 1}

    Arguments:
        x: The fields, with shape :math:`(*, H, W)`.
        bands: The entries :math:`l`, :math:`d` and :math:`u`, with shape :math:`(H, 1)`; the first
            :math:`l` and the last :math:`u` aren't used.
    """
    lower, main, upper = bands
    y = main * x
    y[..., 1:, :] += lower[1:] * x[..., :-1, :]
    y[..., :-1, :] += upper[:-1] * x[..., 1:, :]
    return y


def transposed(bands: Bands) -> Bands:
    """The bands of the transposed matrix."""
    lower, main, upper = bands
    return upper.roll(1, 0), main, lower.roll(-1, 0)


def round_cells(x: Tensor, poles: Sequence[int]) -> Tensor:
    """Fields whose rows at poles are replaced by their means."""
    if poles:
        x = x.clone()
    for row in poles:
        x[..., row, :] = x[..., row, :].mean(-1, keepdim=True)
    return x


def rowwise(value: Tensor, like: Tensor) -> Tensor:
    """Numbers of rows, shaped to multiply fields, in the type of the latitudes."""
    return value.to(like.dtype)[:, None]


def banded(lower: Tensor, main: Tensor, upper: Tensor, like: Tensor) -> Bands:
    """Bands shaped to multiply fields, in the type of the latitudes."""
    return rowwise(lower, like), rowwise(main, like), rowwise(upper, like)


def at_pole(phi: Tensor) -> Tensor:
    """Which rows lie at a pole."""
    return phi.abs() == 90


def check_sphere(latitude: Tensor, columns: int, radius: float) -> None:
    """Refuses grids and radii that no differences can be taken on."""
    check_latitude(latitude)
    turn = 4 if bool(at_pole(latitude).any()) else 2
    if columns < 4 or columns % turn or not radius > 0:
        raise ValueError(
            f"expected 4 or more columns, a multiple of {turn}, for rows across the poles to have "
            f"points half a turn away (and a quarter turn, if at a pole), and a positive radius, "
            f"got {columns} columns and a radius of {radius}"
        )
