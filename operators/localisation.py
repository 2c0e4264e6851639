r"""Correlations that end: the function of Gaspari and Cohn."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gaspari_cohn"]


def gaspari_cohn(distance: Tensor, length: float) -> Tensor:
    r"""The correlation function of Gaspari and Cohn (equation 4.10), zero beyond :math:`2 \ell`.

    It is a covariance in up to three dimensions, thus also between places on the sphere, with
    distances straight through it. With distances along great circles it is one too, as long as
    :math:`2 \ell` isn't more than half a great circle (Gneiting, 2013, theorem 3).

    Arguments:
        distance: Distances, with any shape, in the unit of `length`.
        length: The length scale :math:`\ell`.

    References:
        | Construction of Correlation Functions in Two and Three Dimensions (Gaspari and Cohn,
        1999) | https://doi.org/10.1002/qj.49712555417
        | Strictly and Non-Strictly Positive Definite Functions on Spheres (Gneiting, 2013)
        | https://doi.org/10.3150/12-BEJSP06

    Example:
        >>> gaspari_cohn(torch.tensor([0.0, 1.0, 2.0]), 1.0).round(decimals=4)
        tensor([1.0000, 0.2083, 0.0000])
    """
    r = (distance / length).clamp(max=2.0)
    near = 1 + r**2 * (-5 / 3 + r * (5 / 8 + r * (1 / 2 - r / 4)))
    far = 4 - 5 * r + r**2 * (5 / 3 + r * (5 / 8 + r * (-1 / 2 + r / 12)))
    far = far - 2 / (3 * r.clamp(min=1.0))
    return torch.where(r <= 1, near, torch.where(r < 2, far.clamp(min=0.0), 0.0))
