r"""Fields as sums of spherical harmonics, to store smooth fields in few numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .grid import Grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Harmonics", "normalised_legendre"]


class Harmonics:
    r"""Real spherical harmonics up to a degree, on a grid.

    .. math:: Y_{l0} = P_{l0} \qquad Y_{lm} = \sqrt{2} P_{lm}(\sin \varphi) \cos m \lambda, \;
        \sqrt{2} P_{lm}(\sin \varphi) \sin m \lambda

    with :math:`P_{lm}` the associated Legendre functions of unit mean square over the sphere.

    Arguments:
        grid: The grid.
        degree: The largest degree :math:`l`.

    Example:
        >>> grid = Grid(np.linspace(-80, 80, 9), np.arange(0, 360, 20))
        >>> harmonics = Harmonics(grid, 3)
        >>> x = torch.as_tensor(grid.latitude).deg2rad().sin().float().unsqueeze(-1).expand(9, 18)
        >>> torch.allclose(harmonics.synthesis(harmonics.analysis(x)), x, atol=1e-5)
        True
    """

    def __init__(self, grid: Grid, degree: int) -> None:
        self.shape = grid.shape
        mu, longitude = np.sin(np.deg2rad(grid.latitude)), np.deg2rad(grid.longitude)
        columns = []
        for m in range(degree + 1):
            norm = math.sqrt(2) if m else 1.0
            waves = [norm * np.cos(m * longitude)] + ([norm * np.sin(m * longitude)] if m else [])
            for row in normalised_legendre(m, degree, mu):
                columns += [np.outer(row, wave).ravel() for wave in waves]
        basis = np.stack(columns, axis=1)
        weights = np.sqrt(np.repeat(grid.weights, grid.shape[1]))[:, None]
        self._synthesis = torch.as_tensor(basis, dtype=torch.float32)
        inverse = np.linalg.pinv(basis * weights) * weights.T
        self._analysis = torch.as_tensor(inverse, dtype=torch.float32)

    def analysis(self, x: Tensor) -> Tensor:
        r"""The coefficients that fit fields best, :math:`(*, H, W) \to (*, K)`.

        Best by least squares, weighted by area.
        """
        return x.flatten(-2) @ self._analysis.T

    def synthesis(self, c: Tensor) -> Tensor:
        r"""The fields of some coefficients, :math:`(*, K) \to (*, H, W)`."""
        return (c @ self._synthesis.T).reshape(*c.shape[:-1], *self.shape)


def normalised_legendre(m: int, degree: int, mu: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""The associated Legendre functions :math:`P_{lm}` of one order, of all degrees from it on.

    .. math:: P_{lm} = a_{lm} (\mu P_{l - 1, m} - P_{l - 2, m} / a_{l - 1, m}) \qquad
        a_{lm} = \sqrt{\frac{4 l^2 - 1}{l^2 - m^2}}

    from :math:`P_{mm} = (-1)^m \prod_{k = 1}^m \sqrt{(2 k + 1) / 2 k} \, (1 - \mu^2)^{m / 2}`, so
    that :math:`P_{lm} e^{i m \lambda}` has unit mean square over the sphere. The recurrence is
    stable.

    Arguments:
        m: The order.
        degree: The largest degree :math:`L \ge m`.
        mu: The sines of latitudes, with shape :math:`(H)`.

    Returns:
        Their values, with shape :math:`(L - m + 1, H)`.

    Example:
        >>> normalised_legendre(0, 1, np.array([1.0])).ravel()
        array([1.        , 1.73205081])
    """
    k = np.arange(1, m + 1)
    rows = [(-1.0) ** m * np.sqrt(1 + 1 / (2 * k)).prod() * (1 - mu**2) ** (m / 2)]
    before, last = np.zeros_like(mu), np.inf
    for order in range(m + 1, degree + 1):
        a = math.sqrt((4 * order**2 - 1) / (order**2 - m**2))
        rows.append(a * (mu * rows[-1] - before / last))
        before, last = rows[-2], a
    return np.stack(rows)
