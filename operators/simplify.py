r"""Rules of simplification, as in a textbook.

.. math::
    I A = A \qquad 0 A = 0 \qquad (c I)(d I) = cd I \qquad \mathrm{diag}(a) \, \mathrm{diag}(b) =
    \mathrm{diag}(ab) \qquad S_k S_l = S_{l_k} \qquad M M^T = I \qquad A A^{-1} = I \\
    A + 0 = A \qquad c A + d A = (c + d) A \qquad \mathrm{diag}(a) + c I = \mathrm{diag}(a + c)

A rule returns None where it doesn't apply. Numbers are taken out of products before the rules see
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor

from .arguments import common_dtype
from .base import Operator
from .concatenate import Concatenate
from .elementary import Diagonal, Identity, Isotropic, Scaling, Zero, filled
from .expressions import Adjoint, Scaled, typed
from .fields import Restrict
from .inverse import Inverse
from .kronecker import Kronecker
from .power import Power
from .reorder import Permute, Reshape
from .selection import Gather, Mask
from .shapes import broadcast, over
from .slices import Slice
from .stack import BlockDiagonal, Stack
from .weighted import WeightedGather

__all__ = ["merge_product", "merge_sum", "scaled_leaf"]

# Products that are made of the products of the parts, by the kinds of the factors.
PARTWISE: set[tuple[type, type]] = {
    (BlockDiagonal, BlockDiagonal),
    (BlockDiagonal, Stack),
    (Concatenate, BlockDiagonal),
    (Concatenate, Stack),
    (Kronecker, Kronecker),
}


def merge_product(left: Operator, right: Operator) -> Operator | None:
    r"""The product of two neighbours as one operator, if a rule knows one.

    Arguments:
        left: The left factor.
        right: The right factor, applied first.

    Example:
        >>> merge_product(Gather(torch.tensor([1]), 2), Gather(torch.tensor([3, 5]), 9)).indices
        tensor([5])
    """
    if isinstance(left, Identity):
        return right
    if isinstance(right, Identity):
        return left
    if isinstance(left, Zero) or isinstance(right, Zero):
        return absorbed(right, left)
    if inverses(left, right):
        return Identity(right.in_shape, dtype=right._own_dtype(), device=right.device)
    if isinstance(left, Power) or isinstance(right, Power):
        (base, m), (other, n) = exponent(left), exponent(right)
        return Power(base, m + n) if base is other else None
    if isinstance(left, Diagonal) and isinstance(right, Diagonal):
        return Diagonal(left.entries * right.entries, len(left.in_shape))
    if isinstance(left, (Gather, Mask, WeightedGather)) and isinstance(
        right, (Gather, Mask, Restrict, Slice, Reshape, Permute)
    ):
        indices = right.source(left.indices)
        if isinstance(left, WeightedGather):
            return WeightedGather(indices, left.weights, right.in_shape)
        return typed(Gather(indices, right.in_shape), common_dtype((left, right)))
    if isinstance(left, Restrict) and isinstance(right, Adjoint):
        return between_fields(left, right)
    if isinstance(left, Mask) and right.T is left:
        return Identity(left.out_shape, dtype=left._own_dtype(), device=left.device)
    if isinstance(left, Adjoint) and isinstance(right, Adjoint):
        merged = merge_product(right.operator, left.operator)
        return None if merged is None else merged.T
    return merge_parts(left, right)


def between_fields(left: Restrict, right: Adjoint) -> Operator | None:
    """The product of a restriction with the adjoint of another one of the same layout."""
    other = right.operator
    if not isinstance(other, Restrict) or left.fields.shapes != other.fields.shapes:
        return None
    if left.name != other.name:
        return absorbed(right, left)
    return Identity(left.out_shape, dtype=common_dtype((left, other)), device=left.device)


def merge_parts(left: Operator, right: Operator) -> Operator | None:
    r"""The product of operators made of parts, part by part.

    .. math::
        \begin{pmatrix} A & B \end{pmatrix} \begin{pmatrix} C \\ D \end{pmatrix} = A C + B D \qquad
        (A \otimes B) (C \otimes D) = A C \otimes B D

    Arguments:
        left: The left factor.
        right: The right factor, applied first.
    """
    if not pairs(left, right):
        return None
    products = [a @ b for a, b in zip(pieces(left), pieces(right), strict=True)]
    if isinstance(left, Concatenate) and isinstance(right, Stack):
        total: Operator = reduce(add, products)
        return total
    if isinstance(left, Kronecker) and all(isinstance(p, Identity) for p in products):
        return Identity(right.in_shape, dtype=right._own_dtype(), device=right.device)
    if isinstance(left, Kronecker):
        return Kronecker(products)
    if isinstance(left, Concatenate):
        return Concatenate(products)
    return Stack(products) if isinstance(right, Stack) else BlockDiagonal(products)


def pairs(left: Operator, right: Operator) -> bool:
    """Whether a product of two operators is made of products of their parts."""
    return (type(left), type(right)) in PARTWISE and [a.in_shape for a in pieces(left)] == [
        b.out_shape for b in pieces(right)
    ]


def pieces(operator: Operator) -> tuple[Operator, ...]:
    """The parts of an operator that is made of parts."""
    found: tuple[Operator, ...] = getattr(operator, "blocks", ()) or getattr(
        operator, "factors", ()
    )
    return found


def merge_sum(left: Operator, right: Operator) -> Operator | None:
    r"""The sum of two terms as one operator, if a rule knows one.

    Arguments:
        left: The first term.
        right: The second term.

    Example:
        >>> merge_sum(Identity(2), Diagonal(torch.tensor([1.0, 2.0]))).to_dense().diagonal()
        tensor([2., 3.])
    """
    a, b = as_scaling(left), as_scaling(right)
    if a is not None and b is not None:
        kind = Isotropic if isinstance(a, Isotropic) and isinstance(b, Isotropic) else Scaling
        return kind(a.scale + b.scale, a.in_shape)
    if isinstance(left, Diagonal) and isinstance(right, Diagonal):
        return Diagonal(left.entries + right.entries, len(left.in_shape))
    if isinstance(left, Diagonal) and b is not None:
        return Diagonal(left.entries + filled(b, left), len(left.in_shape))
    if isinstance(right, Diagonal) and a is not None:
        return merge_sum(right, left)
    for one, other in ((left, right), (right, left)):
        if isinstance(one, Zero) and broadcast(one.batch_shape, other.batch_shape) == (
            other.batch_shape
        ):
            return other
    (c, first), (d, second) = split(left), split(right)
    return multiple(c + d, first) if first is second else None


def scaled_leaf(c: float | Tensor, operator: Operator) -> Operator | None:
    r"""The multiple of an operator as an operator of the same kind, if a rule knows one.

    Arguments:
        c: A number, or one for each operator of a batch.
        operator: The operator, itself not a multiple.

    Example:
        >>> scaled_leaf(2.0, Diagonal(torch.ones(2))).entries
        tensor([2., 2.])
    """
    if isinstance(operator, Zero) or (not isinstance(c, Tensor) and c == 0.0):
        return absorbed(operator, operator, c.shape if isinstance(c, Tensor) else ())
    if isinstance(operator, Identity):
        if not isinstance(c, Tensor) and c == 1.0:
            return operator
        if not isinstance(c, Tensor) and operator._own_dtype() is not None:
            c = torch.tensor(c, dtype=operator.dtype, device=operator.device)
        return Scaling(c, operator.in_shape)
    if isinstance(operator, Diagonal):
        return Diagonal(operator.entries * over(c, operator.in_shape), len(operator.in_shape))
    return None


def multiple(c: float | Tensor, operator: Operator) -> Operator:
    r"""The multiple of an operator, simplified.

    Arguments:
        c: A number, or one for each operator of a batch.
        operator: The operator, itself not a multiple.
    """
    if not isinstance(c, Tensor) and c == 1.0:
        return operator
    leaf = scaled_leaf(c, operator)
    return Scaled(c, operator) if leaf is None else leaf


def as_scaling(operator: Operator) -> Scaling | None:
    """The operator as a multiple of the identity, if it is one."""
    if isinstance(operator, Identity):
        scaling = scaled_leaf(2.0, operator)
        assert isinstance(scaling, Scaling)
        return Scaling(scaling.scale / 2, operator.in_shape)
    return operator if isinstance(operator, Scaling) else None


def split(operator: Operator) -> tuple[float | Tensor, Operator]:
    """The number and the operator that a multiple is made of."""
    if isinstance(operator, Scaling):
        return operator.scale, Identity(
            operator.in_shape, dtype=operator._own_dtype(), device=operator._own_device()
        )
    return (operator.scale, operator.operator) if isinstance(operator, Scaled) else (1.0, operator)


def times(c: float | Tensor, d: float | Tensor) -> float | Tensor:
    """The product of two numbers, or of one for each operator of a batch."""
    if not isinstance(d, Tensor) and d == 1.0:
        return c
    return d if not isinstance(c, Tensor) and c == 1.0 else c * d


def absorbed(right: Operator, left: Operator, batch: Sequence[int] = ()) -> Zero:
    """The zero operator from the inputs of one operator to the outputs of another."""
    return Zero(
        right.in_shape,
        left.out_shape,
        broadcast(left.batch_shape, right.batch_shape, batch),
        dtype=common_dtype((left, right)),
        device=right.device,
    )


def inverses(left: Operator, right: Operator) -> bool:
    """Whether one operator is made as the inverse of the other."""
    return not left.batch_shape and (
        (isinstance(left, Inverse) and left.operator is right)
        or (isinstance(right, Inverse) and right.operator is left)
    )


def exponent(operator: Operator) -> tuple[Operator, int]:
    """The base and the exponent of a power; other operators have the exponent 1."""
    return (operator.operator, operator.exponent) if isinstance(operator, Power) else (operator, 1)
