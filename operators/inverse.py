r"""Inverses of operators, by structure or by a solver.

.. math::
    (c A)^{-1} = c^{-1} A^{-1} \qquad (A^{-1})^{-1} = A \qquad (A^T)^{-1} = (A^{-1})^T \qquad
    (A \otimes B)^{-1} = A^{-1} \otimes B^{-1}

and block by block for block diagonals. What remains is solved for at each product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .base import Operator
from .elementary import Diagonal, Identity, Scaling
from .expressions import Adjoint, Composition, Scaled, enclosed, mirrored, typed
from .kronecker import Kronecker
from .power import Power
from .registry import register
from .reorder import Permute, Reshape
from .shapes import over
from .solution import Solver
from .stack import BlockDiagonal
from .transforms import holds
from .tree import differentiable, tensors

__all__ = ["Inverse", "inverse"]


@register
class Inverse(Operator):
    r"""The inverse :math:`A^{-1}` of an operator.

    A product solves :math:`A x = b`. It is differentiable with respect to :math:`b` and to the
    tensors of :math:`A`, once, at the cost of one more solve whatever the number of iterations:

    .. math:: \bar{b} = A^{-T} \bar{x} \qquad \bar{A} = -\bar{b} \, x^T

    Arguments:
        operator: The operator :math:`A`, with inputs and outputs of one shape.
        solver: What solves the systems, to its tolerance; by default :meth:`Operator.solve`, for a
            symmetric positive definite :math:`A` of some structure, or small.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> from appa_prob.operators import GMRES, Dense
        >>> A = Dense(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
        >>> Inverse(A, GMRES())(torch.tensor([3.0, 1.0]))
        tensor([1., 1.])
    """

    def __init__(self, operator: Operator, solver: Solver | None = None) -> None:
        if operator.in_shape != operator.out_shape:
            raise ValueError(
                f"expected an operator with inputs and outputs of one shape, got {operator!r}; "
                "others have a pseudo-inverse"
            )
        self.operator, self.solver = operator, solver
        super().__init__(
            operator.out_shape,
            operator.in_shape,
            batch_shape=operator.batch_shape,
            symmetric=operator.symmetric,
            dtype=operator._own_dtype(),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.solver is None:
            return self.operator.solve(x)
        A, solver = self.operator, self.solver
        moving = x.requires_grad or any(a.requires_grad for a in tensors(A) if differentiable(a))
        if not (moving and torch.is_grad_enabled()):
            return solver(A, x).value
        with torch.no_grad():
            value = solver(A, x).value
        # The residual is 0, but for its derivatives: with respect to the system, value held fixed.
        correction: Tensor = Implicit.apply(x - A.forward(value), self)  # type: ignore[no-untyped-call]
        return value + correction

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return self.forward(y) if self.symmetric else self._transposed().forward(y)

    def solve(self, b: Tensor) -> Tensor:
        return self.operator(b)

    def logdet(self) -> Tensor:
        return -self.operator.logdet()

    def _transposed(self) -> Operator:
        return Inverse(self.operator.T, self.solver)

    def _mirrors(self, other: Operator) -> bool:
        return isinstance(other, Inverse) and mirrored((self.operator,), (other.operator,))

    def __repr__(self) -> str:
        return f"{enclosed(self.operator)}.inverse({self.solver or ''})"


class Implicit(torch.autograd.Function):
    """The solution of a system whose right-hand side is 0, and its derivative."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, inverse: Inverse) -> Tensor:
        ctx.inverse = inverse
        return torch.zeros_like(residual)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():  # the value that the residual was made with is a constant
            raise RuntimeError(
                "an Inverse by a solver is differentiated once, got a derivative with "
                "create_graph=True; call the solver, which is differentiated iteration by "
                "iteration"
            )
        return ctx.inverse.adjoint(gradient), None


def inverse(operator: Operator, solver: Solver | None = None) -> Operator:
    r"""The operator :math:`A^{-1}`, simplified.

    Arguments:
        operator: The operator :math:`A`.
        solver: What solves the systems that no structure does, see :class:`Inverse`.

    Raises:
        ValueError: If :math:`A` isn't square, or if it is a diagonal with zeros.

    Example:
        >>> from appa_prob.operators import Diagonal, Identity
        >>> inverse(2.0 * Kronecker([Diagonal(torch.tensor([1.0, 4.0])), Identity(3)]))
        0.5 * Kronecker([Diagonal((2,)), Identity((3,))])
    """

    def of(part: Operator) -> Operator:
        return inverse(part, solver)

    if isinstance(operator, (Inverse, Identity)):
        return operator.operator if isinstance(operator, Inverse) else operator
    if isinstance(operator, Scaling):
        number = type(operator)(reciprocal(operator.scale), operator.in_shape)
        return typed(number, operator._own_dtype())
    if isinstance(operator, Diagonal):
        return Diagonal(torch.as_tensor(reciprocal(operator.entries)), len(operator.in_shape))
    if isinstance(operator, Scaled):
        found: Operator = of(operator.operator) * over(reciprocal(operator.scale), (1, 1))
        return found
    if isinstance(operator, Power):
        return Power(of(operator.operator), operator.exponent)
    if isinstance(operator, (Permute, Reshape)):
        return operator.T
    if isinstance(operator, Composition) and all(map(invertible, operator.factors)):
        factors = [of(factor) for factor in reversed(operator.factors)]
        if not any(isinstance(factor, Inverse) for factor in factors):
            return Composition(*factors)
    if operator.shape[-1] != operator.shape[-2]:
        raise ValueError(
            f"expected a square operator to be inverted, got {operator!r}; others have a "
            "pseudo-inverse"
        )
    parts = getattr(operator, "blocks", getattr(operator, "factors", ()))
    whole = by_parts(operator, of) if all(map(invertible, parts)) else None
    return Inverse(operator, solver) if whole is None else whole


def reciprocal(c: float | Tensor) -> float | Tensor:
    """The reciprocals of numbers, none of which may be 0."""
    if not holds(torch.as_tensor(c) != 0):
        raise ValueError(
            "expected no zeros to be inverted, got some; add a small multiple of Identity, or "
            "take the pseudo-inverse"
        )
    return 1 / c


def by_parts(operator: Operator, function: Callable[[Operator], Operator]) -> Operator | None:
    r"""Maps the parts of an operator whose inverse is made of theirs.

    Arguments:
        operator: The operator: an adjoint, a block diagonal or a product of Kronecker.
        function: What becomes of the parts.

    Returns:
        The operator of the same kind, or None for other operators.
    """
    if isinstance(operator, Adjoint):
        return function(operator.operator).T
    if isinstance(operator, BlockDiagonal):
        return BlockDiagonal([function(block) for block in operator.blocks])
    if isinstance(operator, Kronecker):
        return Kronecker([function(factor) for factor in operator.factors])
    return None


def invertible(operator: Operator) -> bool:
    """Whether the shapes of a part are those of an inverse."""
    base = operator.operator if isinstance(operator, Adjoint) else operator
    return base.in_shape == base.out_shape or isinstance(base, (Permute, Reshape))
