"""Powers of operators."""

from __future__ import annotations

from torch import Tensor

from .base import Operator
from .expressions import enclosed, mirrored
from .registry import register

__all__ = ["Power"]


@register
class Power(Operator):
    r"""The power :math:`A^n = A A \cdots A`.

    Arguments:
        operator: The operator :math:`A`, with inputs and outputs of one shape.
        exponent: The exponent :math:`n \geq 1`.

    Raises:
        ValueError: If the shapes differ, or if the exponent isn't positive.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Dense
        >>> A = Dense(torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
        >>> A**3, (A**3)(torch.tensor([0.0, 1.0]))
        (Dense((2,)) ** 3, tensor([3., 1.]))
    """

    def __init__(self, operator: Operator, exponent: int) -> None:
        if operator.in_shape != operator.out_shape or exponent < 1:
            raise ValueError(
                "expected an operator with inputs and outputs of one shape and an exponent >= 1, "
                f"got {operator!r} and {exponent}"
            )
        self.operator, self.exponent = operator, exponent
        super().__init__(
            operator.in_shape,
            operator.out_shape,
            batch_shape=operator.batch_shape,
            symmetric=operator.symmetric,
            dtype=operator._own_dtype(),
        )

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.exponent):
            x = self.operator.forward(x)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        for _ in range(self.exponent):
            y = self.operator.adjoint(y)
        return y

    def solve(self, b: Tensor) -> Tensor:
        for _ in range(self.exponent):
            b = self.operator.solve(b)
        return b

    def logdet(self) -> Tensor:
        return self.exponent * self.operator.logdet()

    def _transposed(self) -> Operator:
        return Power(self.operator.T, self.exponent)

    def _mirrors(self, other: Operator) -> bool:
        return (
            isinstance(other, Power)
            and self.exponent == other.exponent
            and mirrored((self.operator,), (other.operator,))
        )

    def __repr__(self) -> str:
        return f"{enclosed(self.operator)} ** {self.exponent}"
