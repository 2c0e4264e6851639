r"""Pseudo-inverses of operators, by structure, by a matrix or by a solver.

.. math::
    (c A)^+ = c^{-1} A^+ \qquad (A^+)^+ = A \qquad (A^T)^+ = (A^+)^T \qquad
    (A \otimes B)^+ = A^+ \otimes B^+

and block by block for block diagonals. Selections of distinct elements have :math:`M^+ = M^T`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Operator
from .dense import LIMIT
from .elementary import Diagonal, Identity, Scaling, Zero
from .expressions import Scaled, enclosed, mirrored, typed
from .inverse import Inverse, by_parts
from .kept import kept
from .leastsquares import LeastSquaresSolver
from .matrices import Dense
from .registry import register
from .selection import Mask
from .shapes import over

__all__ = ["PseudoInverse", "pseudo_inverse"]


@register
class PseudoInverse(Operator):
    r"""The pseudo-inverse :math:`A^+` of Moore and Penrose.

    .. math:: A^+ y = \arg \min_x \|x\| \quad \text{among the minimisers of} \quad \|A x - y\|

    Arguments:
        operator: The operator :math:`A`, of any shape and rank.
        solver: What solves the least-squares problems from a first guess of 0, such as
            ``LSMR``; by default a singular value decomposition of the matrix, which drops singular
            values within rounding of 0.

    Raises:
        ValueError: If there is no solver, and the smaller side of the matrix is above 2000.

    Example:
        >>> from appa_prob.operators import Dense
        >>> A = Dense(torch.tensor([[1.0, 1.0]]))
        >>> PseudoInverse(A)(torch.tensor([4.0])).round(decimals=4)
        tensor([2., 2.])
    """

    def __init__(self, operator: Operator, solver: LeastSquaresSolver | None = None) -> None:
        if solver is None and min(operator.shape[-2:]) > LIMIT:
            raise ValueError(
                f"the pseudo-inverse of {operator!r} by its matrix is limited to {LIMIT} rows or "
                "columns; give a solver of least-squares problems"
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
        if self.solver is not None:
            return self.solver(self.operator, x).value
        return self._dense.forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        if self.solver is not None:
            return self.solver(self.operator.T, y).value
        return self._dense.adjoint(y)

    @kept
    def _dense(self) -> Dense:
        matrix: Tensor = torch.linalg.pinv(self.operator.to_dense())
        return Dense(matrix, self.in_shape, self.out_shape)

    def _transposed(self) -> Operator:
        return PseudoInverse(self.operator.T, self.solver)

    def _mirrors(self, other: Operator) -> bool:
        return isinstance(other, PseudoInverse) and mirrored((self.operator,), (other.operator,))

    def __repr__(self) -> str:
        return f"{enclosed(self.operator)}.pseudo_inverse({self.solver or ''})"


def pseudo_inverse(operator: Operator, solver: LeastSquaresSolver | None = None) -> Operator:
    r"""The operator :math:`A^+`, simplified.

    Arguments:
        operator: The operator :math:`A`.
        solver: What solves the problems that no structure does, see :class:`PseudoInverse`.

    Example:
        >>> from appa_prob.operators import Diagonal, Mask
        >>> A = Mask(torch.tensor([True, False]))
        >>> pseudo_inverse(4.0 * A), pseudo_inverse(Diagonal(torch.tensor([4.0, 0.0]))).entries
        (0.25 * Mask((2,) -> (1,)).T, tensor([0.2500, 0.0000]))
    """

    def of(part: Operator) -> Operator:
        return pseudo_inverse(part, solver)

    if isinstance(operator, (Inverse, PseudoInverse)):
        return operator.operator
    if isinstance(operator, Identity):
        return operator
    if isinstance(operator, (Mask, Zero)):
        return operator.T
    if isinstance(operator, Diagonal):
        return Diagonal(torch.as_tensor(reciprocals(operator.entries)), len(operator.in_shape))
    if isinstance(operator, Scaling):
        number = Scaling(reciprocals(operator.scale), operator.in_shape)
        return typed(number, operator._own_dtype())
    if isinstance(operator, Scaled):
        c = over(reciprocals(operator.scale), (1, 1))
        multiple: Operator = of(operator.operator) * c
        return multiple
    found = by_parts(operator, of)
    return PseudoInverse(operator, solver) if found is None else found


def reciprocals(c: float | Tensor) -> float | Tensor:
    """The reciprocals of numbers, and 0 of 0."""
    if not isinstance(c, Tensor):
        return 1 / c if c else 0.0
    zero = c == 0
    return torch.where(zero, 0.0, 1 / torch.where(zero, 1.0, c))
