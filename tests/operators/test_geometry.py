"""Interpolation and block means on the globe."""

import math

import pytest
import torch
from torch import Tensor

from appa_prob.operators import Coarsen, Interpolate, build
from appa_prob.operators.interpolate import Method

F64 = torch.float64
LATITUDE = torch.tensor([-75.0, -40.0, -10.0, 20.0, 45.0, 80.0], dtype=F64)
LONGITUDE = torch.arange(8, dtype=F64) * 45.0


def points(n: int, south: float = -75.0, north: float = 80.0) -> tuple[Tensor, Tensor]:
    """Random points between two latitudes, on any turn."""
    phi = south + (north - south) * torch.rand(n, dtype=F64)
    return phi, 1440 * torch.rand(n, dtype=F64) - 720


def interpolate(phi: Tensor, lam: Tensor, latitude: Tensor = LATITUDE) -> Interpolate:
    return Interpolate(latitude, LONGITUDE, phi, lam)


def number(value: float) -> Tensor:
    return torch.tensor([value], dtype=F64)


@pytest.mark.parametrize("descending", [False, True])
def test_exact_for_fields_linear_in_latitude(descending: bool) -> None:
    latitude = LATITUDE.flip(0) if descending else LATITUDE
    phi, lam = points(200)
    field = (3 * latitude - 7)[:, None].expand(6, 8)
    torch.testing.assert_close(interpolate(phi, lam, latitude)(field), 3 * phi - 7)


@pytest.mark.parametrize("descending", [False, True])
def test_exact_at_grid_points(descending: bool) -> None:
    latitude = LATITUDE.flip(0) if descending else LATITUDE
    phi = latitude.repeat_interleave(8)
    lam = LONGITUDE.repeat(6)
    field = torch.randn(3, 6, 8, dtype=F64)
    torch.testing.assert_close(interpolate(phi, lam, latitude)(field), field.flatten(-2))
    torch.testing.assert_close(interpolate(phi, lam - 360, latitude)(field), field.flatten(-2))


def test_exact_for_fields_linear_between_columns() -> None:
    phi, lam = points(200)
    share = lam.remainder(45) / 45
    left = (lam.remainder(360) / 45).floor().long()
    values = torch.randn(8, dtype=F64)
    expected = (1 - share) * values[left] + share * values[(left + 1) % 8]
    torch.testing.assert_close(interpolate(phi, lam)(values.expand(6, 8)), expected)


def test_periodic_across_the_date_line() -> None:
    field = torch.randn(6, 8, dtype=F64)
    phi, lam = points(50)
    expected = interpolate(phi, lam)(field)
    for turns in (-2, -1, 1, 3):
        torch.testing.assert_close(interpolate(phi, lam + 360 * turns)(field), expected)
    seam = interpolate(number(20.0), number(337.5))(field)
    torch.testing.assert_close(seam, (field[3, 7:] + field[3, :1]) / 2)


def test_grids_may_start_anywhere() -> None:
    field = torch.randn(6, 8, dtype=F64)
    phi, lam = points(50)
    shifted = Interpolate(LATITUDE, LONGITUDE - 180, phi, lam)
    torch.testing.assert_close(shifted(field.roll(4, -1)), interpolate(phi, lam)(field))


def test_beyond_the_last_row_the_second_row_lies_across_the_pole() -> None:
    field = torch.randn(6, 8, dtype=F64)
    at_pole = interpolate(number(90.0), number(90.0))(field)
    torch.testing.assert_close(at_pole[0], (field[5, 2] + field[5, 6]) / 2)
    near = interpolate(number(-80.0), number(45.0))(field)
    torch.testing.assert_close(near[0], (25 * field[0, 1] + 5 * field[0, 5]) / 30)
    lam = points(20)[1]
    torch.testing.assert_close(
        interpolate(torch.full_like(lam, 90.0), lam)(field),
        interpolate(torch.full_like(lam, 90.0), lam + 180)(field),
    )


def test_rows_at_the_poles_are_taken_as_they_are() -> None:
    latitude = torch.tensor([90.0, 0.0, -90.0], dtype=F64)
    field = torch.randn(3, 8, dtype=F64)
    phi, lam = torch.tensor([90.0, 45.0, -90.0], dtype=F64), torch.full((3,), 90.0, dtype=F64)
    expected = torch.stack((field[0, 2], (field[0, 2] + field[1, 2]) / 2, field[2, 2]))
    torch.testing.assert_close(interpolate(phi, lam, latitude)(field), expected)


def cubic(phi: Tensor, lam: Tensor) -> Interpolate:
    return Interpolate(LATITUDE, LONGITUDE, phi, lam, method="bicubic")


def test_bicubic_is_exact_for_fields_quadratic_in_latitude() -> None:
    # Near the poles the mirrored rows bend the parabola: only points between inner rows count.
    phi, lam = points(200, -40.0, 45.0)
    field = (LATITUDE**2 / 100 - LATITUDE + 3)[:, None].expand(6, 8)
    torch.testing.assert_close(cubic(phi, lam)(field), phi**2 / 100 - phi + 3)


def test_bicubic_is_the_cubic_convolution_of_keys_between_columns() -> None:
    phi, lam = points(200, -40.0, 45.0)
    values = torch.randn(8, dtype=F64)
    place = lam.remainder(360) / 45
    distance = (place[:, None] - torch.arange(-8, 16)).abs()
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    kernel = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    expected = kernel @ values.repeat(3)
    torch.testing.assert_close(cubic(phi, lam)(values.expand(6, 8)), expected)


def test_bicubic_is_smooth_across_rows_and_columns() -> None:
    """The gradient with respect to the points is that of a function with continuous slopes."""
    field = torch.randn(6, 8, dtype=F64)
    for phi, lam in ((20.0, 100.0), (12.0, 90.0), (80.0, 10.0), (-75.0, 45.0)):
        slopes = []
        for side in (-1e-9, 1e-9):
            at = [number(phi + side).requires_grad_(), number(lam + side).requires_grad_()]
            slopes.append(torch.stack(torch.autograd.grad(cubic(*at)(field), at)))
        torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_interpolation_is_differentiable_in_the_points(method: Method) -> None:
    field = torch.randn(2, 6, 8, dtype=F64)

    def value(phi: Tensor, lam: Tensor) -> Tensor:
        return Interpolate(LATITUDE, LONGITUDE, phi, lam, method=method)(field)

    phi, lam = points(5)
    assert torch.autograd.gradcheck(value, (phi.requires_grad_(), lam.requires_grad_()))


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_smooth_fields_are_interpolated_to_the_order_of_the_method(method: Method) -> None:
    phi, lam = points(500, -90.0, 90.0)
    errors = []
    for rows in (24, 48):
        latitude = (torch.arange(rows, dtype=F64) + 0.5) * (180 / rows) - 90
        longitude = torch.arange(2 * rows, dtype=F64) * (180 / rows)
        y, x = latitude.deg2rad()[:, None], longitude.deg2rad()
        field = y.cos() ** 2 * (2 * x).cos() + y.sin() * y.cos() * x.sin()
        a, b = phi.deg2rad(), lam.deg2rad()
        exact = a.cos() ** 2 * (2 * b).cos() + a.sin() * a.cos() * b.sin()
        A = Interpolate(latitude, longitude, phi, lam, method=method)
        errors.append(float((A(field) - exact).square().mean().sqrt()))
    order = math.log2(errors[0] / errors[1])
    assert order == pytest.approx({"bilinear": 2.0, "bicubic": 3.0}[method], abs=0.3)


def test_other_methods_and_too_small_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="'bilinear' or 'bicubic' as method, got 'cubic'"):
        Interpolate(LATITUDE, LONGITUDE, *points(1), method="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="4 or more rows and columns for bicubic"):
        Interpolate(LATITUDE[:3], LONGITUDE, *points(1), method="bicubic")


def test_weights_are_shares() -> None:
    weights = interpolate(*points(500, -90.0, 90.0)).weights
    assert bool((weights >= 0).all())
    torch.testing.assert_close(weights.sum(-1), torch.ones(500, dtype=F64))


def test_leading_axes_are_interpolated_alike() -> None:
    phi, lam = points(7)
    field = torch.randn(2, 3, 6, 8, dtype=F64)
    A = Interpolate(LATITUDE, LONGITUDE, phi, lam, leading=3)
    torch.testing.assert_close(A(field), interpolate(phi, lam)(field))
    assert A(field).shape == (2, 3, 7)


@pytest.mark.parametrize(
    ("phi", "lam"),
    [(90.5, 0.0), (-91.0, 0.0), (math.nan, 0.0), (0.0, math.nan), (0.0, math.inf)],
)
def test_wrong_points_are_refused(phi: float, lam: float) -> None:
    with pytest.raises(ValueError, match=r"latitudes in \[-90, 90\] and finite longitudes"):
        interpolate(number(phi), number(lam))


@pytest.mark.parametrize(
    ("latitude", "longitude", "message"),
    [
        ([0.0, 10.0, 5.0], [0.0, 120.0, 240.0], "always increase or always decrease"),
        ([0.0, 100.0], [0.0, 120.0, 240.0], r"in \[-90, 90\]"),
        ([0.0, math.nan], [0.0, 120.0, 240.0], r"in \[-90, 90\]"),
        ([0.0, 10.0], [0.0, 10.0, 20.0], "around the globe"),
        ([0.0, 10.0], [0.0, 120.0, 240.0, 360.0], "repeated meridian"),
        ([0.0, 10.0], [0.0, math.nan, 240.0], "around the globe"),
        ([0.0], [0.0, 120.0, 240.0], "two or more"),
    ],
)
def test_wrong_grids_are_refused(
    latitude: list[float], longitude: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Interpolate(torch.tensor(latitude), torch.tensor(longitude), number(0.0), number(0.0))


def test_points_that_do_not_match_in_number_are_refused() -> None:
    with pytest.raises(ValueError, match="n points"):
        interpolate(torch.zeros(2, dtype=F64), torch.zeros(3, dtype=F64))


def test_coarse_cells_are_weighted_means() -> None:
    weights = torch.rand(4, 6, dtype=F64) + 0.1
    x = torch.randn(5, 4, 6, dtype=F64)
    y = Coarsen((2, 3), (4, 6), weights)(x)
    for i in range(2):
        for j in range(2):
            block = (..., slice(2 * i, 2 * i + 2), slice(3 * j, 3 * j + 3))
            expected = (weights[block] * x[block]).sum((-2, -1)) / weights[block].sum()
            torch.testing.assert_close(y[:, i, j], expected)


def test_unweighted_cells_are_plain_means() -> None:
    x = torch.randn(3, 4, 6, dtype=F64)
    expected = torch.nn.functional.avg_pool2d(x, 2)
    torch.testing.assert_close(Coarsen(2, (3, 4, 6))(x), expected)


@pytest.mark.parametrize("rows_only", [False, True])
def test_constant_fields_are_kept(rows_only: bool) -> None:
    weights = torch.rand(4, 1 if rows_only else 6, dtype=F64) + 0.1
    y = Coarsen(2, (4, 6), weights)(torch.full((4, 6), 7.0, dtype=F64))
    torch.testing.assert_close(y, torch.full((2, 3), 7.0, dtype=F64))


def test_elements_without_weight_do_not_count() -> None:
    weights = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=F64)
    y = Coarsen(2, (2, 2), weights)(torch.tensor([[3.0, 100.0], [100.0, 100.0]], dtype=F64))
    assert float(y) == 3.0


@pytest.mark.parametrize("factor", [(2, 3), (3, 4), (2.5, 1), (1.7, 3.2), (10, 10)])
def test_blocks_of_any_size_are_means_over_the_area_that_they_cover(
    factor: tuple[float, float],
) -> None:
    """On cells of constant value, split into a hundred parts each way."""
    weights, x = torch.rand(4, 6, dtype=F64) + 0.1, torch.randn(5, 4, 6, dtype=F64)

    def fine(field: Tensor) -> Tensor:
        return field.repeat_interleave(100, -2).repeat_interleave(100, -1)

    y = Coarsen(factor, (5, 4, 6), weights)(x)
    rows, columns = (round(100 * f) for f in factor)
    assert y.shape == (5, math.ceil(400 / rows), math.ceil(600 / columns))
    for i in range(y.shape[-2]):
        for j in range(y.shape[-1]):
            block = (
                ...,
                slice(i * rows, (i + 1) * rows),
                slice(j * columns, (j + 1) * columns),
            )
            total = fine(weights)[block].sum()
            expected = (fine(weights * x)[block]).sum((-2, -1)) / total
            torch.testing.assert_close(y[:, i, j], expected)


@pytest.mark.parametrize("factor", [2, (3, 4)])
def test_latitudes_weigh_rows_by_the_area_of_their_cells(factor: int | tuple[int, int]) -> None:
    """The mean over the globe of a block mean, by area, is that of the field."""
    latitude, x = LATITUDE, torch.randn(6, 8, dtype=F64)
    y = Coarsen(factor, (6, 8), latitude=latitude)(x)
    edges = torch.cat((-number(90.0), (latitude[1:] + latitude[:-1]) / 2, number(90.0)))
    areas = edges.deg2rad().sin().diff()[:, None]
    blocks = Coarsen(factor, (6, 8))(areas.expand(6, 8))
    torch.testing.assert_close(
        (y * blocks).sum() / blocks.sum(), (x * areas).mean() / areas.mean()
    )
    copy = build(Coarsen(factor, (6, 8), areas, latitude).spec())
    torch.testing.assert_close(copy(x), Coarsen(factor, (6, 8), areas**2)(x))


@pytest.mark.parametrize("factor", [2, (3, 4), (1.5, 2)])
@pytest.mark.parametrize("rows_only", [False, True])
def test_coarsening_is_differentiable_in_its_weights(
    factor: float | tuple[float, float], rows_only: bool
) -> None:
    x = torch.randn(4, 6, dtype=F64)
    w = (torch.rand(4, 1 if rows_only else 6, dtype=F64) + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: Coarsen(factor, (4, 6), w)(x), w)


def test_wrong_factors_are_refused() -> None:
    for factor in (0, 0.5, (2, 0.9), (1, 2, 3), math.nan):
        with pytest.raises(ValueError, match="positive factors, at least 1"):
            Coarsen(factor, (4, 6))
    with pytest.raises(ValueError, match="two or more axes"):
        Coarsen(2, (4,))
    with pytest.raises(ValueError, match="expected 4 latitudes"):
        Coarsen(2, (4, 6), latitude=LATITUDE)


def test_weights_that_make_no_means_are_refused() -> None:
    for weights in (torch.zeros(4, 6), -torch.ones(4, 6), torch.full((4, 6), math.nan)):
        with pytest.raises(ValueError, match="weights >= 0"):
            Coarsen(2, (4, 6), weights)
    with pytest.raises(ValueError, match="broadcastable"):
        Coarsen(2, (4, 6), torch.ones(4))
