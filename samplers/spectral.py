r"""Functions of a covariance that is diagonalised once.

With :math:`\Sigma = Q \Lambda Q^T`, whatever a Gaussian prior needs at any time, as the gain
:math:`\alpha \Sigma (\alpha^2 \Sigma + \sigma^2 I)^{-1}`, is a function of :math:`\Lambda`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from appa_prob.operators import (
    Dense,
    Diagonal,
    Eigenbasis,
    Identity,
    Operator,
    Scaling,
    Stationary,
)

from .denoiser import over

__all__ = ["diagonalise", "noised", "remainder", "wiener"]


def diagonalise(covariance: Operator) -> Eigenbasis:
    r"""The covariance in its own basis, by structure where structure allows it.

    Arguments:
        covariance: A covariance, or a batch of them.

    Raises:
        ValueError: If it is not symmetric, not positive semi-definite, or too large to
            be diagonalised densely.

    Example:
        >>> diagonalise(Diagonal(torch.tensor([1.0, 2.0]))).eigenvalues
        tensor([1., 2.])
    """
    if isinstance(covariance, Eigenbasis):
        return covariance
    if isinstance(covariance, Stationary) and covariance.periodic:
        return covariance.eigenbasis
    shape = covariance.in_shape
    identity = Identity(shape, dtype=covariance.dtype, device=covariance.device)
    if isinstance(covariance, Identity | Scaling | Diagonal):
        variances = covariance.diagonal()
        return Eigenbasis(identity, variances.reshape((*variances.shape[:-1], *shape)))
    dense = covariance.to_dense()
    scale = dense.abs().max()
    tolerance = 1e3 * torch.finfo(dense.dtype).eps * scale
    if not bool((dense - dense.mT).abs().max() <= tolerance):
        raise ValueError(f"expected a symmetric covariance, got {covariance!r}, which is not")
    values, vectors = torch.linalg.eigh(dense)
    if not bool(values.min() >= -tolerance * values.shape[-1]):
        raise ValueError(
            f"expected a positive semi-definite covariance, got {covariance!r} with an eigenvalue "
            f"of {float(values.min()):.2e}; add a small multiple of Identity if it is rounding"
        )
    basis = Dense(vectors, in_shape=values.shape[-1], out_shape=shape)
    return Eigenbasis(basis, values.clamp_min(0.0))


def wiener(spectrum: Eigenbasis, alpha: Tensor, sigma: Tensor) -> Eigenbasis:
    r"""The gain :math:`\alpha \Sigma (\alpha^2 \Sigma + \sigma^2 I)^{-1}` of the mean.

    Arguments:
        spectrum: The covariance :math:`\Sigma`, diagonalised.
        alpha: The scale :math:`\alpha` of the signal, with a shape that broadcasts to the batch.
        sigma: The scale :math:`\sigma` of the noise, of the same shape.
    """
    return _function(spectrum, lambda v, a, s: a * v / _total(v, a, s), alpha, sigma)


def remainder(spectrum: Eigenbasis, alpha: Tensor, sigma: Tensor) -> Eigenbasis:
    r"""The covariance :math:`\sigma^2 \Sigma (\alpha^2 \Sigma + \sigma^2 I)^{-1}` that is left.

    Arguments:
        spectrum: The covariance :math:`\Sigma`, diagonalised.
        alpha: The scale :math:`\alpha` of the signal, with a shape that broadcasts to the batch.
        sigma: The scale :math:`\sigma` of the noise, of the same shape.
    """
    return _function(spectrum, lambda v, a, s: s.square() * v / _total(v, a, s), alpha, sigma)


def noised(spectrum: Eigenbasis, alpha: Tensor, sigma: Tensor) -> Eigenbasis:
    r"""The covariance :math:`\alpha^2 \Sigma + \sigma^2 I` of noisy states.

    Arguments:
        spectrum: The covariance :math:`\Sigma`, diagonalised.
        alpha: The scale :math:`\alpha` of the signal, with a shape that broadcasts to the batch.
        sigma: The scale :math:`\sigma` of the noise, of the same shape.
    """
    return _function(spectrum, lambda v, a, s: a.square() * v + s.square(), alpha, sigma)


def _total(v: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """Kept from 0, where there is neither variance nor noise, and 0 is the gain."""
    total = a.square() * v + s.square()
    return total.clamp_min(torch.finfo(total.dtype).tiny)


def _function(
    spectrum: Eigenbasis,
    function: Callable[[Tensor, Tensor, Tensor], Tensor],
    alpha: Tensor,
    sigma: Tensor,
) -> Eigenbasis:
    """A function of the covariance, which has the same eigenvectors."""
    a, s = (over(c, spectrum.basis.in_shape) for c in (alpha, sigma))
    inner = function(spectrum.eigenvalues, a, s)
    return spectrum.with_values(inner, function(spectrum.rest, alpha, sigma))
