r"""Power spectra of fields on the sphere.

.. math:: x = \sum_{l m} c_{l m} Y_{l m} \qquad S_l = \sum_{m = -l}^l |c_{l m}|^2 \qquad
    \sum_l S_l = \overline{x^2}

for spherical harmonics of unit mean square. The wavelength of a degree is :math:`2 \pi R / \sqrt{l
(l + 1)}`. Coefficients are those of an FFT along parallels, followed by a quadrature along
meridians that is exact for polynomials in :math:`\sin \varphi` of a degree below the number of
rows (of twice that on Gaussian grids): that of Gauss, of Clenshaw and Curtis, or of Fejér where
the rows are theirs.

References:
    | Comparison of Spectral Methods of Quadrature on the Sphere (Driscoll and Healy, 1994)
    | https://doi.org/10.1006/aama.1994.1008
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from numpy.polynomial import legendre

from appa_prob.operators.legendre import normalised_legendre

from .errors import UserError
from .regions import SPACE, Field

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.floating]

__all__ = ["largest_degree", "power_spectrum", "quadrature"]


def power_spectrum(field: Field, degree: int | None = None) -> Field:
    r"""The power by degree of spherical harmonics.

    Arguments:
        field: Fields with dimensions `latitude, longitude` on a global grid, and any others.
        degree: The largest degree; by default the largest for which the spectrum of a field
            without higher degrees is exact, :func:`largest_degree`.

    Returns:
        The spectra, along a new dimension `degree` in place of these two, in the squared units of
        the field.

    Raises:
        UserError: If the degree is larger than that.

    Example:
        >>> latitude = np.linspace(-80.0, 80.0, 9)
        >>> x = np.sin(np.deg2rad(latitude))[:, None] * np.ones(8)
        >>> coords = {"latitude": latitude, "longitude": np.arange(8) * 45.0}
        >>> power_spectrum(xr.DataArray(x, coords)).values.round(4)
        array([0.    , 0.3333, 0.    , 0.    ])
    """
    latitude = field["latitude"].to_numpy()
    most = largest_degree(latitude, field.sizes["longitude"])
    degree = most if degree is None else degree
    if not 0 <= degree <= most:
        raise UserError(
            f"expected a degree from 0 to {most}, the largest that a grid of {len(latitude)} x "
            f"{field.sizes['longitude']} resolves, got {degree}"
        )
    found: Field = xr.apply_ufunc(
        lambda x: _spectrum(x, latitude, degree),
        field,
        input_core_dims=[SPACE],
        output_core_dims=[["degree"]],
    )
    return found.assign_coords(degree=np.arange(degree + 1))


def largest_degree(latitude: Array, columns: int) -> int:
    r"""The largest degree whose products with itself the quadrature of a grid integrates.

    Arguments:
        latitude: The latitudes of the rows in degrees.
        columns: The number of columns.

    Example:
        >>> largest_degree(np.linspace(90.0, -90.0, 721), 1440)
        360
    """
    rows = len(latitude)
    exact = 2 * rows - 1 if _is_gaussian(latitude) else rows - 1
    return min(exact // 2, (columns - 1) // 2)


def quadrature(latitude: Array) -> Array:
    r"""The weights of rows that average polynomials in the sine of latitude exactly.

    .. math:: \sum_i w_i P_l(\sin \varphi_i) = \delta_{l 0} \qquad l = 0, \dots, H - 1

    Arguments:
        latitude: The latitudes of the rows in degrees, with shape :math:`(H)`.

    Example:
        >>> quadrature(np.array([-90.0, 0.0, 90.0]))
        array([0.16666667, 0.66666667, 0.16666667])
    """
    mu = np.sin(np.deg2rad(latitude))
    target = np.zeros(len(mu))
    target[0] = 1.0
    return np.linalg.solve(legendre.legvander(mu, len(mu) - 1).T, target)


def _is_gaussian(latitude: Array) -> bool:
    nodes = np.rad2deg(np.arcsin(legendre.leggauss(len(latitude))[0]))
    return bool(np.allclose(np.sort(latitude), nodes, rtol=0.0, atol=1e-3))


@lru_cache(maxsize=2)
def _rules(latitude: tuple[float, ...], degree: int) -> list[Array]:
    r"""For each order :math:`m`, what gives the coefficients of a column of Fourier's."""
    rows = np.array(latitude)
    weights, mu = quadrature(rows), torch.as_tensor(np.sin(np.deg2rad(rows)))
    return [normalised_legendre(m, degree, mu).numpy() * weights for m in range(degree + 1)]


def _spectrum(x: Array, latitude: Array, degree: int) -> Array:
    waves = np.fft.rfft(x, norm="forward")[..., : degree + 1]
    power = np.zeros((*x.shape[:-2], degree + 1))
    for m, rule in enumerate(_rules(tuple(latitude.tolist()), degree)):
        coefficients = waves[..., m] @ rule.T
        power[..., m:] += (1 if m == 0 else 2) * np.abs(coefficients) ** 2
    return power
