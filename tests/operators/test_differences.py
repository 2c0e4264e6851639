"""Finite differences converge to derivatives, on the plane and on the sphere, poles included."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    Divergence,
    Gradient,
    Laplacian,
    SphereDivergence,
    SphereGradient,
    SphereLaplacian,
)
from appa_prob.operators.differences import Scheme
from appa_prob.operators.pad import Boundary
from appa_prob.operators.sphere import row_areas

F64 = torch.float64
RADIUS = 3.0


def grid(rows: int, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Latitudes in degrees, and both coordinates in radians."""
    if kind == "poles":
        latitude = torch.linspace(90.0, -90.0, rows + 1, dtype=F64)
    else:  # uneven rows, none at a pole
        step = (torch.arange(rows, dtype=F64) + 0.5) / rows
        latitude = 180 * step - 90 + 4 * (2 * math.pi * step).sin()
    longitude = torch.arange(2 * rows, dtype=F64) * (math.pi / rows)
    return latitude, latitude.deg2rad()[:, None], longitude[None]


def harmonic(phi: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A sum of spherical harmonics of degree 2 on all orders, and its two derivatives."""
    sin, cos = phi.sin(), phi.cos()
    wave, turn = lam.cos() + 0.5 * lam.sin(), -lam.sin() + 0.5 * lam.cos()
    x = (3 * sin**2 - 1) / 2 + sin * cos * wave + cos**2 * (2 * lam).sin()
    east = (sin * turn + 2 * cos * (2 * lam).cos()) / RADIUS
    along = 3 * sin * cos + (cos**2 - sin**2) * wave - 2 * sin * cos * (2 * lam).sin()
    return x, east, along / RADIUS


def gradient_error(rows: int, kind: str) -> Tensor:
    latitude, phi, lam = grid(rows, kind)
    x, east, north = harmonic(phi, lam)
    A = SphereGradient(latitude, 2 * rows, radius=RADIUS)
    return A(x) - torch.stack((east, north))


def laplacian_error(rows: int, kind: str) -> Tensor:
    latitude, phi, lam = grid(rows, kind)
    x, *_ = harmonic(phi, lam)
    return SphereLaplacian(latitude, 2 * rows, radius=RADIUS)(x) + 6 * x / RADIUS**2


def divergence_error(rows: int, kind: str) -> Tensor:
    latitude, phi, lam = grid(rows, kind)
    x, east, north = harmonic(phi, lam)
    A = SphereDivergence(latitude, 2 * rows, radius=RADIUS)
    return A(torch.stack((east, north))) + 6 * x / RADIUS**2


@pytest.mark.parametrize("error", [gradient_error, divergence_error, laplacian_error])
@pytest.mark.parametrize("kind", ["poles", "offset"])
def test_differences_on_the_sphere_converge(
    error: Callable[[int, str], Tensor], kind: str
) -> None:
    """At second order on average over the area, and everywhere at least at first order."""
    errors = []
    for rows in (24, 48):
        found = error(rows, kind)
        areas = row_areas(grid(rows, kind)[0])[:, None] / found.shape[-1]
        errors.append((float((found.square() * areas).sum().sqrt()), float(found.abs().max())))
    (coarse, coarse_worst), (fine, fine_worst) = errors
    assert math.log2(coarse / fine) > 1.7
    assert math.log2(coarse_worst / fine_worst) > 0.9


@pytest.mark.parametrize("kind", ["poles", "offset"])
def test_differences_on_the_sphere_balance(kind: str) -> None:
    latitude, *_ = grid(12, kind)
    rows, columns = len(latitude), 24
    areas = row_areas(latitude)[:, None].expand(rows, columns)
    L = SphereLaplacian(latitude, columns, radius=RADIUS)
    D = SphereDivergence(latitude, columns, radius=RADIUS)
    x, v = torch.randn(rows, columns, dtype=F64), torch.randn(2, rows, columns, dtype=F64)
    assert abs(float((areas * D(v)).sum())) < 1e-12 * rows * columns
    assert abs(float((areas * L(x)).sum())) < 1e-12 * rows * columns
    torch.testing.assert_close(L(torch.ones_like(x)), torch.zeros_like(x))
    torch.testing.assert_close(L.adjoint(areas * x), areas * L(x), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("boundary", ["periodic", "replicate"])
def test_the_laplacian_is_the_divergence_of_the_gradient(boundary: Boundary) -> None:
    shape, steps = (5, 6), (0.5, 2.0)
    A = Divergence(shape, None, steps, boundary) @ Gradient(shape, None, steps, boundary)
    x = torch.randn(3, *shape, dtype=F64)
    torch.testing.assert_close(A(x), Laplacian(shape, None, steps, boundary)(x))


@pytest.mark.parametrize(("scheme", "order"), [("forward", 1), ("central", 2)])
def test_gradients_converge_at_their_order(scheme: Scheme, order: int) -> None:
    errors = []
    for n in (32, 64):
        t = torch.arange(n, dtype=F64) * (2 * math.pi / n)
        A = Gradient(n, None, 2 * math.pi / n, "periodic", scheme)
        errors.append(float((A(t.sin())[0] - t.cos()).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_grids_without_differences_are_refused() -> None:
    latitude = torch.tensor([90.0, 0.0, -90.0])
    for make in (SphereGradient, SphereDivergence, SphereLaplacian):
        with pytest.raises(ValueError, match="a multiple of 4"):
            make(latitude, 6)
        with pytest.raises(ValueError, match="a multiple of 2"):
            make(latitude * 0.9, 5)
        with pytest.raises(ValueError, match="positive radius"):
            make(latitude, 8, radius=0.0)
        with pytest.raises(ValueError, match="always increase or always decrease"):
            make(latitude[[0, 2, 1]], 8)
    with pytest.raises(ValueError, match="1 to 2 axes"):
        Gradient((3, 4), 3)
    with pytest.raises(ValueError, match="positive spacing"):
        Laplacian((3, 4), spacing=(1.0, -1.0))
    with pytest.raises(ValueError, match="'forward' or 'central'"):
        Gradient(3, scheme="backward")  # type: ignore[arg-type]
