r"""The singular vectors of a linear observation, in units of its errors.

.. math:: R^{-1/2} H = U \, \mathrm{diag}(1 / \tau) \, Q^T \qquad
    \bar{y} = \mathrm{diag}(\tau) \, U^T R^{-1/2} y = Q^T x + \mathrm{diag}(\tau) \, \epsilon

Whatever the map and the covariance of the errors are, an observation is :math:`k` numbers
:math:`\bar{y}` with independent errors of standard deviations :math:`\tau`, along the orthonormal
columns of :math:`Q`. Spectral methods treat each by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from appa_prob.operators import Dense, Diagonal, Identity, Mask, Operator, Scaling
from appa_prob.operators.dense import LIMIT, cholesky
from appa_prob.operators.shapes import flatten

from .likelihood import Likelihood

__all__ = ["Modes"]


@dataclass(frozen=True, eq=False)
class Modes:
    r"""What a linear observation says of a state, one orthonormal direction at a time.

    Arguments:
        basis: The operator :math:`Q`, from :math:`k` coefficients to states.
        y: The observed coefficients :math:`\bar{y}`, with shape :math:`(*, k)`.
        std: The standard deviations :math:`\tau` of their errors, with shape :math:`(k)`.

    Example:
        >>> from appa_prob.samplers import GaussianLikelihood
        >>> A = Mask(torch.tensor([True, False, True]))
        >>> y = GaussianLikelihood(A, torch.tensor([1.0, 2.0]), torch.tensor([0.25, 4.0]))
        >>> modes = Modes.of(y, "DDRM")
        >>> modes.y, modes.std
        (tensor([1., 2.]), tensor([0.5000, 2.0000]))
    """

    basis: Operator
    y: Tensor
    std: Tensor

    @classmethod
    def of(cls, likelihood: Likelihood, method: str) -> Modes:
        r"""The modes of a likelihood, by structure for masks and by singular values elsewhere.

        Arguments:
            likelihood: The likelihood, Gaussian with a linear map.
            method: The name of the method that needs them, for errors.

        Raises:
            ValueError: If the likelihood is another, or too large for a dense factorisation.
        """
        if not getattr(likelihood, "linear", False):
            raise ValueError(
                f"{method} works along the singular vectors of a linear map with Gaussian errors, "
                f"got {type(likelihood).__name__}, which is not known to be one; use MMPS or DAPS"
            )
        y = likelihood.y
        zero = torch.zeros(likelihood.in_shape, dtype=y.dtype, device=y.device)
        y, H, R = likelihood.linearize(zero)
        if H.batch_shape or R.batch_shape:
            raise ValueError(f"{method} needs one map and one covariance of errors, got a batch")
        flat = flatten(y, H.out_shape)
        if isinstance(H, Identity):
            H = Mask(torch.ones(H.in_shape, dtype=torch.bool, device=y.device))
        if isinstance(H, Mask) and isinstance(R, Scaling | Diagonal):
            return cls(H.T, flat, R.diagonal().to(flat).sqrt())
        if min(H.shape[-2:]) > LIMIT:
            raise ValueError(
                f"{method} needs the singular values of {H!r}, and {LIMIT} rows or columns are "
                "the limit, but for masks with independent errors; use MMPS or DAPS"
            )
        return cls(*_decomposed(flat, H, R, method))


def _decomposed(
    y: Tensor, H: Operator, R: Operator, method: str
) -> tuple[Operator, Tensor, Tensor]:
    """The basis, the coefficients and their errors, by dense algebra."""
    dtype, y = y.dtype, y.to(torch.promote_types(y.dtype, torch.float32))  # half has no SVD
    matrix, columns = H.to_dense().to(y), y.mT if y.ndim > 1 else y[:, None]
    if isinstance(R, Scaling | Diagonal):
        scale = R.diagonal().to(y).sqrt()[:, None]
        matrix, columns = matrix / scale, columns / scale
    else:
        factor = cholesky(R, method).to(y)
        matrix, columns = (
            torch.linalg.solve_triangular(factor, f, upper=False) for f in (matrix, columns)
        )
    U, s, Q = torch.linalg.svd(matrix, full_matrices=False)
    kept = s > s.max() * torch.finfo(s.dtype).eps * max(matrix.shape)
    U, s, Q = U[:, kept], s[kept], Q[kept]
    found = U.mT @ columns / s[:, None]
    found = found.mT if y.ndim > 1 else found[:, 0]
    return Dense(Q.mT.to(dtype), len(s), H.in_shape), found.to(dtype), (1 / s).to(dtype)
