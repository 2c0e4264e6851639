r"""Expressions of operators, simplified.

The functions :func:`compose`, :func:`add`, :func:`scale` and :func:`power` are what ``A @ B``,
``A + B``, ``2.0 * A`` and ``A**n`` call. They flatten nested expressions, move numbers to the
front, and merge neighbours by the rules of :mod:`.simplify`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import common_dtype
from .base import Operator
from .elementary import Diagonal, Identity, Scaling
from .expressions import Composition, Sum, check_chain, check_terms, typed
from .kronecker import Kronecker
from .power import Power
from .simplify import merge_product, merge_sum, multiple, pairs, pieces, split, times
from .stack import BlockDiagonal

__all__ = ["add", "compose", "power", "scale"]


def compose(left: Operator, right: Operator) -> Operator:
    r"""The operator :math:`A B`, simplified.

    Arguments:
        left: The operator :math:`A`.
        right: The operator :math:`B`, applied first.

    Raises:
        ValueError: If the outputs of :math:`B` aren't inputs of :math:`A`.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Diagonal
        >>> compose(Diagonal(torch.tensor([2.0])), Diagonal(torch.tensor([3.0]))).to_dense()
        tensor([[6.]])
    """
    check_chain((left, right))
    dtype = common_dtype((left, right))
    (c, first), (d, second) = split(left), split(right)
    stack: list[Operator] = []
    for factor in factors(first) + factors(second):
        current: Operator | None = factor
        while stack and current is not None:
            merged = merge_product(stack[-1], current)
            if merged is None:
                break
            stack.pop()
            e, merged = split(merged)
            c = times(c, e)
            current = None if isinstance(merged, Identity) and stack else merged
        if current is not None:
            stack.append(current)
    product = stack[0] if len(stack) == 1 else Composition(*stack)
    return scale(times(c, d), typed(product, dtype))


def add(left: Operator, right: Operator) -> Operator:
    r"""The operator :math:`A + B`, simplified.

    Arguments:
        left: The operator :math:`A`.
        right: The operator :math:`B`.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> from appa_prob.operators import Identity
        >>> add(Identity(2), Identity(2))
        Scaling((2,))
    """
    check_terms((left, right))
    dtype = common_dtype((left, right))
    terms = list(left.terms) if isinstance(left, Sum) else [left]
    for term in right.terms if isinstance(right, Sum) else (right,):
        for i, other in enumerate(terms):
            merged = merge_sum(other, term)
            if merged is not None:
                terms[i] = merged
                break
        else:
            terms.append(term)
    return typed(terms[0], dtype) if len(terms) == 1 else Sum(*terms)


def scale(c: float | Tensor, operator: Operator) -> Operator:
    r"""The operator :math:`c A`, simplified.

    Arguments:
        c: A number, or one for each operator of a batch, with shape :math:`(*)`.
        operator: The operator :math:`A`.

    Example:
        >>> from appa_prob.operators import Identity
        >>> scale(3.0, scale(2.0, Identity(1))).to_dense()
        tensor([[6.]])
    """
    if not isinstance(c, Tensor) and c == 1.0:
        return operator
    d, rest = split(operator)
    return multiple(times(c, d), rest)


def power(operator: Operator, exponent: int) -> Operator:
    r"""The operator :math:`A^n`, simplified.

    Arguments:
        operator: The operator :math:`A`, with inputs and outputs of one shape.
        exponent: The exponent :math:`n`; if it is negative, that of the inverse.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Diagonal
        >>> power(Diagonal(torch.tensor([1.0, 2.0])), -2).entries
        tensor([1.0000, 0.2500])
    """
    if exponent < 0:
        return power(operator.inverse(), -exponent)
    c, rest = split(operator)
    if not exponent or isinstance(rest, Identity):
        check_chain((operator, operator))
        if operator.batch_shape and not exponent:  # an identity for each of them
            ones = torch.ones(operator.batch_shape, dtype=operator.dtype, device=operator.device)
            return Scaling(ones, operator.in_shape)
        found: Operator = Identity(
            operator.in_shape, dtype=operator._own_dtype(), device=operator._own_device()
        )
    elif isinstance(rest, Diagonal):
        found = Diagonal(rest.entries**exponent, len(rest.in_shape))
    elif isinstance(rest, (BlockDiagonal, Kronecker)) and pairs(rest, rest):
        parts = [power(part, exponent) for part in pieces(rest)]
        found = type(rest)(parts)
    elif isinstance(rest, Power):
        found = Power(rest.operator, rest.exponent * exponent)
    else:
        found = rest if exponent == 1 else Power(rest, exponent)
    return scale(c**exponent, found)


def factors(operator: Operator) -> tuple[Operator, ...]:
    """The factors of a product, or the operator alone."""
    return operator.factors if isinstance(operator, Composition) else (operator,)
