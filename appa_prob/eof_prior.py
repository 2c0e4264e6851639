r"""Optimal interpolation: a Gaussian prior on the anomalies of one state, from the empirical covariance of many.

.. math:: V = \rho \circ (F^T F) + \mathrm{diag}(d)

with :math:`F` the leading empirical orthogonal functions (EOFs), scaled by the standard deviation of their coefficients,
:math:`d` the variance that they leave, and :math:`\rho` a localisation, the correlation function of Gaspari and Cohn of the
distance on the sphere.

References:
    | Construction of correlation functions in two and three dimensions (Gaspari and Cohn, 1999)
    | https://doi.org/10.1002/qj.49712555417
"""

from __future__ import annotations

import torch
from torch import Tensor

from appa_prob.operators import Operator, WeightedGather

__all__ = ["EofCovariance", "fit_eofs", "gaspari_cohn"]


def gaspari_cohn(distance: Tensor, length: float) -> Tensor:
    r"""The correlation function of Gaspari and Cohn (1999, equation 4.10), zero beyond :math:`2 \ell`.

    Arguments:
        distance: Distances, with any shape, in the unit of `length`.
        length: The length scale :math:`\ell`.

    Example:
        >>> gaspari_cohn(torch.tensor([0.0, 1.0, 2.0]), 1.0)
        tensor([1.0000, 0.2083, 0.0000])
    """
    r = (distance / length).clamp(max=2.0)
    near = 1 + r**2 * (-5 / 3 + r * (5 / 8 + r * (1 / 2 - r / 4)))
    far = 4 - 5 * r + r**2 * (5 / 3 + r * (5 / 8 + r * (-1 / 2 + r / 12))) - 2 / (3 * r.clamp(min=1.0))
    return torch.where(r <= 1, near, far).clamp(min=0.0)


def fit_eofs(anomalies: Tensor, rows: Tensor, rank: int) -> Tensor:
    r"""The leading EOFs of anomalies, :math:`F` with shape :math:`(r, C, H, W)`.

    Arguments:
        anomalies: Standardised anomalies, with shape :math:`(L, C, H, W)`.
        rows: The area weights of the rows, with shape :math:`(H)`.
        rank: The number of EOFs.
    """
    weights = (rows / rows.mean()).sqrt().unsqueeze(-1)
    x = (anomalies * weights).flatten(1)
    gram = (x @ x.T).double() / len(x)
    _, vectors = torch.linalg.eigh(gram)
    leading = vectors[:, -rank:].flip(1).to(x)
    factor = (leading.T @ x) / len(x) ** 0.5
    return factor.reshape(rank, *anomalies.shape[1:]) / weights


class EofCovariance(Operator):
    r"""The covariance :math:`V = \rho \circ (F^T F) + \mathrm{diag}(d)` of the anomalies of a state.

    Arguments:
        factor: The EOFs :math:`F`, with shape :math:`(r, C, H, W)`.
        diagonal: The variances :math:`d`, with shape :math:`(C, H, W)`.
        localisation: The correlations :math:`\rho` between places, with shape :math:`(HW, HW)`, or None for no localisation.
    """

    def __init__(self, factor: Tensor, diagonal: Tensor, localisation: Tensor | None = None) -> None:
        super().__init__(diagonal.shape, diagonal.shape, symmetric=True)
        self.factor, self.rest, self.localisation = factor, diagonal, localisation

    def forward(self, x: Tensor) -> Tensor:
        r"""The product :math:`V x`, with one product by :math:`\rho` an EOF."""
        terms = self.factor * x.unsqueeze(-4)
        if self.localisation is None:
            terms = terms.sum((-3, -2, -1), keepdim=True)
        else:
            flat = terms.sum(-3).flatten(-2) @ self.localisation
            terms = flat.unflatten(-1, self.in_shape[-2:]).unsqueeze(-3)
        return (self.factor * terms).sum(-4) + self.rest * x

    def adjoint(self, y: Tensor) -> Tensor:
        r"""The same product."""
        return self.forward(y)

    def _diagonal(self) -> Tensor:
        return (self.factor.square().sum(0) + self.rest).flatten()
