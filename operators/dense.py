r"""What is done by a dense matrix where an operator has no better structure.

Building the matrix of an operator costs as many products as it has columns, and factorising it
:math:`O(n^3)`: right for small events only, and refused beyond ``LIMIT``, with a pointer to the
solvers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Size, Tensor

from .matvec import cholesky_solve, matvec
from .shapes import flatten, unflatten
from .transforms import holds, transformed

if TYPE_CHECKING:
    from .base import Operator

__all__ = ["LIMIT", "diagonal", "draw", "logdet", "matrix", "sample", "solve", "solve_columns"]

LIMIT = 2000


def matrix(operator: Operator) -> Tensor:
    r"""The matrix of an operator, with shape :math:`(*, M, N)`.

    Arguments:
        operator: The operator.

    Example:
        >>> from appa_prob.operators import Mask
        >>> matrix(Mask(torch.tensor([False, True])))
        tensor([[0., 1.]])
    """
    *batch, rows, columns = operator.shape
    eye = torch.eye(min(rows, columns), dtype=operator.dtype, device=operator.device)
    result: Tensor = operator._t_matmul(eye).mT if rows < columns else operator._matmul(eye)
    return result.expand(*batch, rows, columns)


def diagonal(operator: Operator) -> Tensor:
    r"""The diagonal of the matrix of an operator, with shape :math:`(*, N)`.

    Arguments:
        operator: The operator, square.

    Raises:
        ValueError: If the operator is larger than ``LIMIT``.

    Example:
        >>> from appa_prob.operators import Dense
        >>> diagonal(Dense(torch.tensor([[1.0, 2.0], [3.0, 4.0]])))
        tensor([1., 4.])
    """
    if operator.shape[-1] > LIMIT:
        raise ValueError(
            f"the diagonal of {operator!r} needs a dense matrix, and {LIMIT} rows are the limit; "
            "ask for to_dense().diagonal() if you can afford it, or estimate it from samples"
        )
    return operator.to_dense().diagonal(dim1=-2, dim2=-1)


def require_symmetric(operator: Operator, purpose: str) -> None:
    r"""Refuses operators that aren't declared symmetric.

    Arguments:
        operator: The operator.
        purpose: What needs it to be symmetric, for the error message.

    Raises:
        ValueError: If the operator isn't square or not declared symmetric.
    """
    if operator.in_shape != operator.out_shape or not operator.symmetric:
        raise ValueError(
            f"{purpose} needs a symmetric operator, got {operator!r}, which isn't declared so; "
            "solve systems that aren't symmetric with GMRES"
        )


def symmetric_matrix(operator: Operator, purpose: str, limit: float = LIMIT) -> Tensor:
    r"""The matrix of an operator, once it is known to be small and symmetric.

    Arguments:
        operator: The operator.
        purpose: What the matrix is needed for, for the error message.
        limit: The largest number of rows.

    Raises:
        ValueError: If the operator isn't square, not declared symmetric, not symmetric, or larger
            than the limit.
    """
    require_symmetric(operator, purpose)
    rows, columns = operator.out_shape.numel(), operator.in_shape.numel()
    if columns > limit:
        raise ValueError(
            f"{purpose} of {operator!r} needs a dense {rows} x {columns} matrix, and {limit} is "
            "the limit; give the covariance more structure, solve with CG or GMRES, or, if you "
            "can afford it, factorise it by Factored.of"
        )
    dense = matrix(operator)
    gap = (dense - dense.mT).abs().amax(dim=(-2, -1)) if columns else dense.sum(dim=(-2, -1))
    scale = dense.abs().amax(dim=(-2, -1)) if columns else gap
    if not holds(~(gap > torch.finfo(dense.dtype).eps ** 0.5 * scale)):
        raise ValueError(
            f"{purpose} needs a symmetric matrix, but {operator!r} is declared symmetric and "
            "isn't (entries differ from their mirror images by up to "
            f"{float((gap / scale).max()):.1e} of the largest entry), as happens with Jacobians "
            "of trained networks; use GMRES"
        )
    return dense


def cholesky(operator: Operator, purpose: str, limit: float = LIMIT) -> Tensor:
    r"""The lower Cholesky factor of a symmetric positive definite operator, with shape
    :math:`(*, N, N)`.

    Arguments:
        operator: The operator.
        purpose: What the factor is needed for, for the error message.
        limit: The largest number of rows.

    Raises:
        ValueError: If the operator isn't symmetric positive definite, or larger than the limit.
    """
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(symmetric_matrix(operator, purpose, limit))
    if transformed():
        return torch.where((info == 0)[..., None, None], factor, torch.nan)
    if bool(info.any()):
        raise ValueError(
            f"{purpose} needs a positive definite operator, but {operator!r} isn't one; add a "
            "small multiple of Identity, or use GMRES for indefinite systems"
        )
    return factor


def root(operator: Operator, purpose: str) -> Tensor:
    r"""A matrix :math:`L` with :math:`L L^T = A` for a symmetric positive semi-definite operator,
    with shape :math:`(*, N, N)`.

    The Cholesky factor where there is one, else from the eigenvectors.

    Arguments:
        operator: The operator :math:`A`.
        purpose: What the matrix is needed for, for the error message.

    Raises:
        ValueError: If the operator isn't symmetric positive semi-definite up to rounding, or
            larger than ``LIMIT``.

    Example:
        >>> from appa_prob.operators import Dense
        >>> L = root(Dense(torch.ones(2, 2), symmetric=True), "sample")
        >>> torch.allclose(L @ L.mT, torch.ones(2, 2))
        True
    """
    dense = symmetric_matrix(operator, purpose)
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(dense)
    if transformed():
        return torch.where((info == 0)[..., None, None], factor, torch.nan)
    if not bool(info.any()):
        return factor
    finite = bool(dense.isfinite().all())
    values, vectors = torch.linalg.eigh(dense if finite else torch.zeros_like(dense))
    rounding = dense.shape[-1] * torch.finfo(dense.dtype).eps * values.abs().amax(-1)
    if not finite or bool((values.amin(-1) < -rounding).any()):
        raise ValueError(
            f"{purpose} needs a positive semi-definite operator, but {operator!r} isn't one; add "
            "a multiple of Identity"
        )
    root: Tensor = vectors * values.clamp_min(0.0).sqrt()[..., None, :]
    return root


def solve(operator: Operator, b: Tensor) -> Tensor:
    r"""Solves :math:`A x = b` on fields by a Cholesky factorisation.

    Arguments:
        operator: The symmetric positive definite operator :math:`A`.
        b: A field, with shape :math:`(*, out)`.

    Example:
        >>> from appa_prob.operators import Dense
        >>> A = Dense(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), symmetric=True)
        >>> solve(A, torch.tensor([4.0, 3.0]))
        tensor([1., 3.])
    """
    factor = cholesky(operator, "solve").to(b.dtype)
    return unflatten(cholesky_solve(factor, flatten(b, operator.out_shape)), operator.in_shape)


def solve_columns(operator: Operator, rhs: Tensor, left: bool = True) -> Tensor:
    r"""Solves :math:`A X = B` on columns, as :func:`torch.linalg.solve` does, through
    ``operator.solve``.

    Arguments:
        operator: The symmetric positive definite operator :math:`A`.
        rhs: Columns, with shape :math:`(N)` or :math:`(*, N, C)`.
        left: Whether :math:`A` is on the left.

    Example:
        >>> from appa_prob.operators import Diagonal
        >>> torch.linalg.solve(Diagonal(torch.tensor([1.0, 2.0])), torch.ones(2, 3))
        tensor([[1.0000, 1.0000, 1.0000],
                [0.5000, 0.5000, 0.5000]])
    """
    if not left:
        return solve_columns(operator.T, rhs.mT).mT
    return operator._columns(operator.solve, rhs, operator.out_shape, operator.in_shape)


def sample(operator: Operator, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    r"""Draws :math:`L z` with :math:`L L^T = A` and :math:`z` white noise.

    Arguments:
        operator: The symmetric positive semi-definite operator :math:`A`.
        shape: The shape :math:`S` of the sample.
        generator: A source of random numbers.

    Example:
        >>> from appa_prob.operators import Dense
        >>> A = Dense(torch.eye(2), symmetric=True)
        >>> sample(A, (5,), None).shape
        torch.Size([5, 2])
    """
    factor = root(operator, "sample")
    noise = white(operator, shape, Size((operator.in_shape.numel(),)), generator)
    return unflatten(matvec(factor, noise), operator.in_shape)


def logdet(operator: Operator) -> Tensor:
    r"""Computes :math:`\log \det A`.

    Arguments:
        operator: The symmetric positive definite operator :math:`A`.

    Example:
        >>> from appa_prob.operators import Dense
        >>> logdet(Dense(torch.eye(2), symmetric=True))
        tensor(0.)
    """
    diagonal: Tensor = cholesky(operator, "logdet").diagonal(dim1=-2, dim2=-1)
    return 2 * diagonal.log().sum(-1)


def white(
    operator: Operator, shape: Sequence[int], event: Size, generator: torch.Generator | None
) -> Tensor:
    r"""White noise for an operator, with shape :math:`(S, *, event)`, of its type and on its
    device.

    Arguments:
        operator: The operator that gives the batch, the type and the device.
        shape: The shape :math:`S` of the sample.
        event: The shape of the event.
        generator: A source of random numbers.
    """
    size = (*shape, *operator.batch_shape, *event)
    return torch.randn(size, generator=generator, dtype=operator.dtype, device=operator.device)


def draw(
    operator: Operator, batch: Size, shape: Sequence[int], generator: torch.Generator | None
) -> Tensor:
    r"""Draws from a covariance for a batch that it is broadcast to, independently for each entry.

    Arguments:
        operator: The covariance.
        batch: The shape of the batch.
        shape: The shape :math:`S` of the sample.
        generator: A source of random numbers.

    Returns:
        Fields, with shape :math:`(S, batch, event)`.

    Example:
        >>> from appa_prob.operators import Isotropic
        >>> draw(Isotropic(1.0, 2), Size((3,)), (5,), None).shape
        torch.Size([5, 3, 2])
    """
    own = (1,) * (len(batch) - len(operator.batch_shape)) + tuple(operator.batch_shape)
    grown = [i for i, (n, m) in enumerate(zip(own, batch, strict=True)) if n != m]
    x = operator.sample((*shape, *(batch[i] for i in grown)), generator)
    first, extra = len(shape), len(grown)
    x = x.reshape(*x.shape[: first + extra], *own, *operator.in_shape)
    for k, i in enumerate(grown):
        x = x.transpose(first + k, first + extra + i)
    return x.reshape(*shape, *batch, *operator.in_shape)
