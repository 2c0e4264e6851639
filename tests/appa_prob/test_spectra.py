"""Spectra of fields whose coefficients are known, on grids of all kinds."""

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.polynomial.legendre import leggauss
from scipy.special import sph_harm_y

from appa_prob.errors import UserError
from appa_prob.operators.legendre import normalised_legendre
from appa_prob.regions import average
from appa_prob.spectra import largest_degree, power_spectrum, quadrature

GRIDS = {
    "poles": np.linspace(90.0, -90.0, 33),
    "offset": np.linspace(-87.1875, 87.1875, 32),
    "gaussian": np.rad2deg(np.arcsin(leggauss(16)[0])),
}


def harmonic(latitude: np.ndarray, columns: int, degree: int, order: int) -> xr.DataArray:
    longitude = np.arange(columns) * 360.0 / columns
    theta, phi = np.deg2rad(90 - latitude)[:, None], np.deg2rad(longitude)
    values = np.sqrt(4 * np.pi) * sph_harm_y(degree, order, theta, phi).real
    return xr.DataArray(values, {"latitude": latitude, "longitude": longitude})


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("degree", "order"), [(0, 0), (3, 0), (7, 3), (15, 15), (15, 1)])
def test_a_single_harmonic_has_power_at_its_degree_alone(
    grid: str, degree: int, order: int
) -> None:
    x = harmonic(GRIDS[grid], 64, degree, order)
    spectrum = power_spectrum(3 * x)
    expected = np.zeros(spectrum.sizes["degree"])
    expected[degree] = 9.0 if order == 0 else 4.5  # the mean square
    np.testing.assert_allclose(spectrum, expected, atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_powers_sum_to_the_mean_square(grid: str) -> None:
    latitude = GRIDS[grid]
    x = harmonic(latitude, 64, 15, 4) - 2 * harmonic(latitude, 64, 14, 0)
    x = x + 3 * harmonic(latitude, 64, 13, 13) + harmonic(latitude, 64, 15, 6)
    weights = xr.DataArray(quadrature(latitude), {"latitude": latitude})
    square = ((x**2).mean("longitude") * weights).sum()
    assert float(square) == pytest.approx(0.5 + 4.0 + 4.5 + 0.5, rel=1e-12)
    assert float(power_spectrum(x).sum()) == pytest.approx(float(square), rel=1e-12)
    # Cells' areas are a quadrature of second order: close, not exact.
    assert float(average(x**2)) == pytest.approx(float(square), rel=0.02)


def test_turning_a_field_leaves_its_spectrum() -> None:
    x = harmonic(GRIDS["poles"], 64, 5, 2) + harmonic(GRIDS["poles"], 64, 9, 0)
    xr.testing.assert_allclose(power_spectrum(x.roll(longitude=7)), power_spectrum(x))


def test_datasets_keep_their_other_dimensions() -> None:
    x = harmonic(GRIDS["gaussian"], 32, 4, 1)
    levels = xr.concat([x, 2 * x], "level")
    found = power_spectrum(xr.Dataset({"a": x, "b": levels}), degree=6)
    assert found["b"].dims == ("level", "degree") and found.sizes["degree"] == 7
    xr.testing.assert_allclose(found["b"][1], 4 * found["a"])


@pytest.mark.parametrize("m", [0, 1, 170, 359])
def test_legendre_functions_of_large_degree_are_orthonormal(m: int) -> None:
    mu, weights = leggauss(361)
    functions = normalised_legendre(m, 360, torch.as_tensor(mu)).numpy()
    gram = (functions * weights / 2) @ functions.T
    np.testing.assert_allclose(gram, np.eye(361 - m), atol=1e-11)


def test_grids_of_a_quarter_of_a_degree_resolve_degree_360() -> None:
    latitude = np.linspace(90.0, -90.0, 721)
    assert largest_degree(latitude, 1440) == 360
    mu = np.sin(np.deg2rad(latitude))
    high = normalised_legendre(0, 360, torch.as_tensor(mu)).numpy()[[0, 180, 359, 360]]
    gram = (high * quadrature(latitude)) @ high.T
    np.testing.assert_allclose(gram, np.eye(4), atol=1e-10)


def test_degrees_beyond_the_grid_are_refused() -> None:
    with pytest.raises(UserError, match="expected a degree from 0 to 15, the largest"):
        power_spectrum(harmonic(GRIDS["gaussian"], 64, 2, 0), degree=16)
