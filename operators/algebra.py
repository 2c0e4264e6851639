r"""Expressions of operators, simplified.

The functions :func:`compose`, :func:`add` and :func:`scale` are what ``A @ B``, ``A + B`` and
``2.0 * A`` call. They flatten nested expressions, move numbers to the front, and merge neighbours
by the rules of :mod:`.simplify`.
"""

from __future__ import annotations

from torch import Tensor

from .base import Operator, common_dtype
from .elementary import Identity, Scaling
from .expressions import Composition, Scaled, Sum, check_chain, check_terms
from .simplify import merge_product, merge_sum, scaled_leaf

__all__ = ["add", "compose", "scale"]


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
            current = None if isinstance(merged, Identity) and stack else merged
        if current is not None:
            stack.append(current)
    product = stack[0] if len(stack) == 1 else Composition(*stack)
    if dtype is not None and product._own_dtype() is None:
        product = product.to(dtype)  # the type of an identity that vanished
    return scale(times(c, d), product)


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
    common_dtype((left, right))
    terms = list(left.terms) if isinstance(left, Sum) else [left]
    for term in right.terms if isinstance(right, Sum) else (right,):
        for i, other in enumerate(terms):
            merged = merge_sum(other, term)
            if merged is not None:
                terms[i] = merged
                break
        else:
            terms.append(term)
    return terms[0] if len(terms) == 1 else Sum(*terms)


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
    leaf = scaled_leaf(times(c, d), rest)
    return Scaled(times(c, d), rest) if leaf is None else leaf


def factors(operator: Operator) -> tuple[Operator, ...]:
    """The factors of a product, or the operator alone."""
    return operator.factors if isinstance(operator, Composition) else (operator,)


def split(operator: Operator) -> tuple[float | Tensor, Operator]:
    """The number and the operator that a multiple is made of."""
    if isinstance(operator, Scaling):
        return operator.scale, Identity(
            operator.in_shape, dtype=operator._own_dtype(), device=operator._own_device()
        )
    return (operator.scale, operator.operator) if isinstance(operator, Scaled) else (1.0, operator)


def times(c: float | Tensor, d: float | Tensor) -> float | Tensor:
    """The product of two numbers, or of one for each operator of a batch."""
    return d if not isinstance(c, Tensor) and c == 1.0 else c * d
