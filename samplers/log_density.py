r"""The density of a Gaussian with a lazy covariance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from appa_prob.operators import InnovationCovariance, Operator
from appa_prob.operators.dense import LIMIT
from appa_prob.operators.shapes import flatten

__all__ = ["log_density"]


def log_density(r: Tensor, covariance: Operator) -> Tensor:
    r"""Computes :math:`\log \mathcal{N}(r \mid 0, S)`.

    .. math:: -\frac{1}{2} \left( r^T S^{-1} r + \log \det S + n \log 2 \pi \right)

    Arguments:
        r: The field :math:`r`, with shape :math:`(*, event)`.
        covariance: The covariance :math:`S`.

    Returns:
        The logarithms, with shape :math:`(*)`.

    Raises:
        ValueError: If the covariance is not positive definite, or has no structure and is too
            large for a dense factorisation.

    Example:
        >>> from appa_prob.operators import Isotropic
        >>> log_density(torch.zeros(2), Isotropic(1.0, 2))
        tensor(-1.8379)
    """
    if isinstance(covariance, InnovationCovariance):
        square, logdet = _by_factor(r, covariance)
    else:
        products = flatten(r * covariance.solve(r), covariance.in_shape)
        square, logdet = products.sum(-1), covariance.logdet()
    size = covariance.in_shape.numel()
    return -0.5 * (square + logdet + size * math.log(2 * math.pi))


def _by_factor(r: Tensor, S: InnovationCovariance) -> tuple[Tensor, Tensor]:
    """The square of the whitened field, and the log-determinant, from the factor that S keeps."""
    if S.shape[-1] > LIMIT or not S.symmetric:
        raise ValueError(
            f"the density of {S!r} needs a dense factorisation of its {S.shape[-1]} rows, and "
            f"{LIMIT} is the limit"
        )
    factor, info = S.factor
    if bool(info.any()):
        raise ValueError(
            f"expected a positive definite covariance of observations, got {S!r}, which isn't"
        )
    columns = flatten(r, S.out_shape).to(factor)[..., None]
    white = torch.linalg.solve_triangular(factor, columns, upper=False)[..., 0]
    logdet = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return white.square().sum(-1).to(r.dtype), logdet.to(r.dtype)
