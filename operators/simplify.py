r"""Rules of simplification, as in a textbook.

.. math::
    I A = A \qquad (c I)(d I) = cd I \qquad \mathrm{diag}(a) \, \mathrm{diag}(b) =
    \mathrm{diag}(ab) \qquad S_k S_l = S_{l_k} \qquad M M^T = I \qquad \mathrm{diag}(a) + c I =
    \mathrm{diag}(a + c) \qquad A + A = 2 A

A rule returns None where it doesn't apply. Numbers are taken out of products before the rules see
them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Operator
from .elementary import Diagonal, Identity, Isotropic, Scaling, filled
from .selection import Gather, Mask
from .shapes import over
from .stack import BlockDiagonal, Stack
from .weighted import WeightedGather

__all__ = ["merge_product", "merge_sum", "scaled_leaf"]


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
    if isinstance(left, Diagonal) and isinstance(right, Diagonal):
        return Diagonal(left.entries * right.entries, len(left.in_shape))
    if isinstance(right, (Gather, Mask)):
        inner = right.indices.reshape(-1)
        if isinstance(left, (Gather, Mask)):
            gather = Gather(inner[left.indices], right.in_shape)
            gather._dtype = left._own_dtype() or right._own_dtype()
            return gather
        if isinstance(left, WeightedGather):
            return WeightedGather(inner[left.indices], left.weights, right.in_shape)
    if isinstance(left, Mask) and right.T is left:
        return Identity(left.out_shape, dtype=left._own_dtype(), device=left.device)
    return merge_blocks(left, right)


def merge_blocks(left: Operator, right: Operator) -> Operator | None:
    r"""The product of block-diagonal and stacked operators, block by block.

    Arguments:
        left: The left factor.
        right: The right factor, applied first.
    """
    if not isinstance(left, BlockDiagonal) or not isinstance(right, (BlockDiagonal, Stack)):
        return None
    pairs = list(zip(left.blocks, right.blocks, strict=False))
    if len(left.blocks) != len(right.blocks) or any(a.in_shape != b.out_shape for a, b in pairs):
        return None
    return type(right)([a @ b for a, b in pairs])


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
    return left * 2.0 if left is right else None


def scaled_leaf(c: float | Tensor, operator: Operator) -> Operator | None:
    r"""The multiple of an operator as an operator of the same kind, if a rule knows one.

    Arguments:
        c: A number, or one for each operator of a batch.
        operator: The operator, itself not a multiple.

    Example:
        >>> scaled_leaf(2.0, Diagonal(torch.ones(2))).entries
        tensor([2., 2.])
    """
    if isinstance(operator, Identity):
        if not isinstance(c, Tensor) and c == 1.0:
            return operator
        if not isinstance(c, Tensor) and operator._own_dtype() is not None:
            c = torch.tensor(c, dtype=operator.dtype, device=operator.device)
        return Scaling(c, operator.in_shape)
    if isinstance(operator, Diagonal):
        return Diagonal(operator.entries * over(c, operator.in_shape), len(operator.in_shape))
    return None


def as_scaling(operator: Operator) -> Scaling | None:
    """The operator as a multiple of the identity, if it is one."""
    if isinstance(operator, Identity):
        scaling = scaled_leaf(2.0, operator)
        assert isinstance(scaling, Scaling)
        return Scaling(scaling.scale / 2, operator.in_shape)
    return operator if isinstance(operator, Scaling) else None
