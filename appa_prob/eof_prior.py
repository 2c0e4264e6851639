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

from appa_prob.operators import Dense, Ensemble, LowRankPlusDiagonal, gaspari_cohn

from .errors import UserError
from .files import load_tensors, save_tensors
from .grid import great_circle
from .harmonics import Harmonics

if TYPE_CHECKING:
    from .grid import Grid

__all__ = ["fit_eofs", "load_eofs", "localisation", "save_eofs"]


def localisation(grid: Grid, length: float) -> Dense:
    r"""The correlations :math:`\rho` between all points of a grid, of shape :math:`(H, W)`.

    Arguments:
        grid: The grid.
        length: The length scale :math:`\ell` in km.
    """
    latitude = np.repeat(grid.latitude, len(grid.longitude))
    longitude = np.tile(grid.longitude, len(grid.latitude))
    distance = great_circle(latitude[:, None], longitude[:, None], latitude, longitude)
    rho = gaspari_cohn(torch.as_tensor(distance, dtype=torch.float32), length)
    return Dense(rho, (len(grid.latitude), len(grid.longitude)), symmetric=True)


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


def load_eofs(path: Path, grid: Grid, variability: Tensor) -> Ensemble | LowRankPlusDiagonal:
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
    if length is None:
        return LowRankPlusDiagonal(factor, rest)
    return Ensemble(factor, rest, localisation(grid, length))
