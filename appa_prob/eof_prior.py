r"""A Gaussian prior on the anomalies of one state, from the empirical covariance of many.

.. math:: V = \rho \circ (F^T F) + \mathrm{diag}(d)

with :math:`F` the leading empirical orthogonal functions (EOFs), scaled by the standard deviation
of their coefficients, :math:`d` the variance that they leave, and :math:`\rho` a localisation, the
correlation function of Gaspari and Cohn of the distance on the sphere.

References:
    | Construction of correlation functions in two and three dimensions (Gaspari and Cohn, 1999)
    | https://doi.org/10.1002/qj.49712555417
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from appa_prob.operators import Operator, WeightedGather
from appa_prob.operators.shapes import unflatten

from .errors import UserError
from .files import load_tensors, save_tensors
from .grid import great_circle
from .harmonics import Harmonics

if TYPE_CHECKING:
    from .grid import Grid

__all__ = ["EofCovariance", "fit_eofs", "gaspari_cohn", "load_eofs", "localisation", "save_eofs"]


def gaspari_cohn(distance: Tensor, length: float) -> Tensor:
    r"""The correlation function of Gaspari and Cohn (1999, equation 4.10), zero beyond
    :math:`2 \ell`.

    Arguments:
        distance: Distances, with any shape, in the unit of `length`.
        length: The length scale :math:`\ell`.

    Example:
        >>> gaspari_cohn(torch.tensor([0.0, 1.0, 2.0]), 1.0).round(decimals=4)
        tensor([1.0000, 0.2083, 0.0000])
    """
    r = (distance / length).clamp(max=2.0)
    near = 1 + r**2 * (-5 / 3 + r * (5 / 8 + r * (1 / 2 - r / 4)))
    far = 4 - 5 * r + r**2 * (5 / 3 + r * (5 / 8 + r * (-1 / 2 + r / 12)))
    far = far - 2 / (3 * r.clamp(min=1.0))
    return torch.where(r <= 1, near, far).clamp(min=0.0)


def localisation(grid: Grid, length: float) -> Tensor:
    r"""The correlations :math:`\rho` between all points of a grid, with shape :math:`(HW, HW)`.

    Arguments:
        grid: The grid.
        length: The length scale :math:`\ell` in km.
    """
    latitude = np.repeat(grid.latitude, len(grid.longitude))
    longitude = np.tile(grid.longitude, len(grid.latitude))
    distance = great_circle(latitude[:, None], longitude[:, None], latitude, longitude)
    return gaspari_cohn(torch.as_tensor(distance, dtype=torch.float32), length)


def fit_eofs(anomalies: Tensor, rows: Tensor, rank: int, seed: int = 0) -> Tensor:
    r"""The leading EOFs of anomalies, by a randomised singular value decomposition.

    Arguments:
        anomalies: Standardised anomalies, with shape :math:`(L, C, H, W)`.
        rows: The area weights of the rows, with shape :math:`(H)`.
        rank: The number :math:`r` of EOFs.
        seed: What the randomised decomposition depends on.

    Returns:
        The EOFs times the standard deviations of their coefficients, :math:`F` with shape
        :math:`(r, C, H, W)`.

    References:
        | Finding Structure with Randomness (Halko et al., 2011) | https://doi.org/10.1137/090771806
    """
    weights = (rows / rows.mean()).sqrt().unsqueeze(-1)
    x = (anomalies * weights).flatten(1) / len(anomalies) ** 0.5
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, values, vectors = torch.svd_lowrank(x, q=min(rank + 50, *x.shape), niter=4)
    factor = (vectors[:, :rank] * values[:rank]).T
    return factor.reshape(-1, *anomalies.shape[1:]) / weights


class EofCovariance(Operator):
    r"""The covariance :math:`V = \rho \circ (F^T F) + \mathrm{diag}(d)` of the anomalies of a
    state.

    Arguments:
        factor: The EOFs :math:`F`, with shape :math:`(r, C, H, W)`.
        diagonal: The variances :math:`d`, with shape :math:`(C, H, W)`.
        correlation: The correlations :math:`\rho` between places, with shape :math:`(HW, HW)`, or
            None for no localisation.

    Example:
        >>> V = EofCovariance(torch.ones(1, 1, 2, 2), torch.ones(1, 2, 2))
        >>> V(torch.ones(1, 2, 2))
        tensor([[[5., 5.],
                 [5., 5.]]])
    """

    symmetric = True

    def __init__(
        self, factor: Tensor, diagonal: Tensor, correlation: Tensor | None = None
    ) -> None:
        super().__init__(diagonal.shape, diagonal.shape)
        self.factor, self.variances, self.correlation = factor, diagonal, correlation

    def forward(self, x: Tensor) -> Tensor:
        terms = self.factor * x.unsqueeze(-4)
        if self.correlation is None:
            terms = terms.sum((-3, -2, -1), keepdim=True)
        else:
            flat = terms.sum(-3).flatten(-2) @ self.correlation
            terms = unflatten(flat, self.in_shape[-2:]).unsqueeze(-3)
        return (self.factor * terms).sum(-4) + self.variances * x

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return self.forward(y)

    def rows(self, indices: Tensor) -> Tensor:
        r"""Rows of the matrix, at the cost of one matrix product.

        Arguments:
            indices: The indices of the rows among the flattened points, with shape :math:`(n)`.

        Returns:
            The rows, with shape :math:`(n, C, H, W)`.
        """
        flat = self.factor.flatten(1)
        product = flat[:, indices].T @ flat
        if self.correlation is not None:
            cells = self.correlation.shape[0]
            product = unflatten(product, (len(flat[0]) // cells, cells))
            product.mul_(self.correlation[indices % cells].unsqueeze(-2))
            product = product.flatten(-2)
        product[torch.arange(len(indices)), indices] += self.variances.flatten()[indices]
        return unflatten(product, self.in_shape)

    def cross(self, H: Operator) -> Tensor:
        if not isinstance(H, WeightedGather):
            return super().cross(H)
        rows = self.factor.new_empty(len(H.indices), *self.in_shape)
        for start in range(0, len(rows), 512):
            part = slice(start, start + 512)
            corners = zip(H.indices[part].T, H.weights[part].T, strict=True)
            terms = (w.reshape(-1, 1, 1, 1) * self.rows(i) for i, w in corners)
            rows[part] = sum(terms)
        return rows

    def _diagonal(self) -> Tensor:
        return (self.factor.square().sum(0) + self.variances).flatten()


def save_eofs(
    path: Path, factor: Tensor, grid: Grid, *, degree: int, length: float | None
) -> None:
    r"""Writes EOFs as 8-bit coefficients of spherical harmonics.

    Arguments:
        path: The safetensors file.
        factor: The EOFs :math:`F`, with shape :math:`(r, C, H, W)`.
        grid: The grid.
        degree: The largest degree of the harmonics.
        length: The length scale of the localisation in km, or None for none.
    """
    coefficients = Harmonics(grid, degree).analysis(factor)
    scale = coefficients.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    packed = (coefficients / scale).round().to(torch.int8)
    metadata = {"degree": degree, "length": length}
    save_tensors(path, {"coefficients": packed, "scale": scale}, metadata)


def load_eofs(path: Path, grid: Grid, variability: Tensor) -> EofCovariance:
    r"""Reads what :func:`save_eofs` wrote.

    Arguments:
        path: The safetensors file.
        grid: The grid.
        variability: The standard deviations of the anomalies, with shape :math:`(C, H, W)`; what
            the EOFs leave of the variance goes to the diagonal, at least 1% of it.

    Raises:
        UserError: If the file can't be read, or has other channels.
    """
    tensors, metadata = load_tensors(path)
    coefficients = tensors["coefficients"].float() * tensors["scale"]
    if coefficients.shape[1] != len(variability):
        raise UserError(
            f"{path} has EOFs of {coefficients.shape[1]} channels, the model {len(variability)}: "
            "fit them for this model by `appa-prob train eofs`"
        )
    degree, length = metadata["degree"], metadata["length"]
    assert isinstance(degree, int) and (length is None or isinstance(length, float))
    factor = Harmonics(grid, degree).synthesis(coefficients)
    variance = variability.square()
    rest = torch.maximum(variance - factor.square().sum(0), 0.01 * variance)
    correlation = None if length is None else localisation(grid, length)
    return EofCovariance(factor, rest, correlation)
