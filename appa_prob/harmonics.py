r"""Fields as sums of spherical harmonics, to store smooth fields in few numbers."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from appa_prob.operators.legendre import normalised_legendre

from .grid import Grid

__all__ = ["Harmonics"]


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
        longitude = np.deg2rad(grid.longitude)
        mu = torch.as_tensor(np.sin(np.deg2rad(grid.latitude)))
        columns = []
        for m in range(degree + 1):
            norm = math.sqrt(2) if m else 1.0
            waves = [norm * np.cos(m * longitude)] + ([norm * np.sin(m * longitude)] if m else [])
            for row in normalised_legendre(m, degree, mu).numpy():
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
