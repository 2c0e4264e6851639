"""The pivoted Cholesky factorisation, stopped early, and preconditioning by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Operator
from .elementary import Diagonal, Identity, Scaling
from .expressions import Sum
from .innovation import InnovationCovariance
from .lowrank import LowRankPlusDiagonal
from .preconditioner import Preconditioner
from .registry import register
from .shapes import flatten, unflatten
from .stack import BlockDiagonal

__all__ = ["PivotedCholesky", "pivoted_cholesky"]


@register
@dataclass(frozen=True)
class PivotedCholesky(Preconditioner):
    r"""Preconditioning of :math:`S = K + D`, a smooth covariance :math:`K` and uncorrelated errors
    :math:`D`, by a few rows of the pivoted Cholesky factorisation of :math:`K`.

    .. math:: M = (F^T F + D)^{-1}

    The errors are read from the structure of :math:`S`: from :math:`R` of :math:`H V H^T + R`, or
    from the diagonal terms of a sum.

    Arguments:
        rank: The number of rows.
        noise: The variance of the errors, for operators that don't show it.

    Raises:
        ValueError: If the errors are neither given nor to be seen, or if the operator has no
            structure to read its diagonal from and is too large for a dense matrix.

    References:
        | On the Low-Rank Approximation by the Pivoted Cholesky Decomposition (Harbrecht et al.,
        2012) | https://doi.org/10.1016/j.apnum.2011.10.001

    Example:
        >>> from appa_prob.operators import CG, Dense, Isotropic
        >>> place = torch.linspace(0, 1, 60)
        >>> kernel = torch.exp(-200 * (place[:, None] - place).square())
        >>> S, b = Dense(kernel, symmetric=True) + Isotropic(0.01, 60), torch.ones(60)
        >>> CG(rtol=1e-4, preconditioner=PivotedCholesky(20))(S, b).iterations < 10
        tensor(True)
    """

    rank: int
    noise: float | None = None

    def prepare(self, S: Operator) -> Callable[[Tensor], Tensor]:
        if self.noise is None:
            noise = uncorrelated(S)
        else:
            noise = torch.tensor(self.noise, dtype=S.dtype, device=S.device)
        if noise is None or not bool((noise > 0).all()):
            raise ValueError(
                f"PivotedCholesky needs the variance > 0 of uncorrelated errors, and {S!r} shows "
                "none; give noise, or use Nystrom"
            )
        factor, _ = pivoted_cholesky(S, self.rank, noise)
        diagonal = noise.expand(S.shape[:-1])
        event = S.in_shape
        return LowRankPlusDiagonal(
            unflatten(factor, event), unflatten(diagonal, event), event_ndim=len(event)
        ).solve


def pivoted_cholesky(S: Operator, rank: int, noise: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    r"""Approximates a symmetric positive semi-definite matrix :math:`K = S - D` by :math:`r` of
    its rows, each chosen where the rows before leave the most variance.

    .. math:: K \approx F^T F

    Arguments:
        S: The operator :math:`S`.
        rank: The number :math:`r` of rows, each a product.
        noise: The diagonal :math:`D`, with shape :math:`(*, n)`.

    Returns:
        The factor :math:`F`, with shape :math:`(*, r, n)`, and the variances that it leaves, the
        diagonal of :math:`K - F^T F`, with shape :math:`(*, n)`.

    Raises:
        ValueError: If :math:`S` isn't declared symmetric, or the rank is less than 1; for its
            diagonal, as :meth:`Operator.diagonal`.

    Example:
        >>> from appa_prob.operators import Dense
        >>> pivoted_cholesky(Dense(torch.ones(3, 3), symmetric=True), 1)
        (tensor([[1., 1., 1.]]), tensor([0., 0., 0.]))
    """
    if not S.symmetric:
        raise ValueError(
            f"PivotedCholesky needs a symmetric operator, got {S!r}, which isn't declared so"
        )
    if rank < 1:
        raise ValueError(f"expected a rank >= 1, got {rank}")
    with torch.no_grad():
        left = (S.diagonal() - noise).expand(S.shape[:-1])
        least = 10 * torch.finfo(S.dtype).eps * left.amax(-1, keepdim=True)
        rows = left.new_zeros(*left.shape[:-1], 0, left.shape[-1])
        for _ in range(min(rank, S.shape[-1])):
            pivot = left.argmax(-1, keepdim=True)
            unit = torch.zeros_like(left).scatter_(-1, pivot, 1.0)
            row = flatten(S.forward(unflatten(unit, S.in_shape)), S.in_shape) - noise * unit
            known = torch.gather(rows, -1, pivot[..., None, :].expand(*rows.shape[:-1], 1))
            row = row - (known.mT @ rows)[..., 0, :]
            size = torch.gather(left, -1, pivot)
            usable = size > least
            row = torch.where(usable, row / torch.where(usable, size, 1.0).sqrt(), 0.0)
            rows = torch.cat((rows, row[..., None, :]), dim=-2)
            left = (left - row.square()).clamp_min(0.0)
    return rows, left


def uncorrelated(operator: Operator) -> Tensor | None:
    r"""The variances of the uncorrelated errors that an expression shows, with shape :math:`(*,
    n)`, or None.

    Arguments:
        operator: The operator.

    Example:
        >>> from appa_prob.operators import Dense, Isotropic
        >>> uncorrelated(Dense(torch.eye(2), symmetric=True) + Isotropic(3.0, 2))
        tensor([3., 3.])
    """
    if isinstance(operator, (Identity, Scaling, Diagonal)):
        return operator.diagonal()
    if isinstance(operator, InnovationCovariance):
        return uncorrelated(operator.R)
    if isinstance(operator, LowRankPlusDiagonal):
        return flatten(operator.variances, operator.in_shape)
    if isinstance(operator, BlockDiagonal):
        if any(uncorrelated(block) is None for block in operator.blocks):
            return None
        return operator.diagonal()
    if isinstance(operator, Sum):
        parts = [part for part in map(uncorrelated, operator.terms) if part is not None]
        return sum(parts[1:], parts[0]) if parts else None
    return None
