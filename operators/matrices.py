r"""Operators given by their matrix."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .base import Operator
from .matvec import matvec
from .registry import register
from .selection import Gather, Mask
from .shapes import as_size, flatten, unflatten

__all__ = ["Dense"]


@register
class Dense(Operator):
    r"""The product with a matrix, :math:`A x = M x`.

    Arguments:
        matrix: The matrix :math:`M`, with shape :math:`(*, m, n)`.
        in_shape: The shape of input events, of :math:`n` elements; by default :math:`(n)`.
        out_shape: The shape of output events, of :math:`m` elements; by default :math:`(m)`, or
            that of the input if symmetric.
        symmetric: Whether :math:`M = M^T`. It isn't checked here, but where it matters.

    Raises:
        ValueError: If shapes don't fit.

    Example:
        >>> import torch
        >>> Dense(torch.tensor([[1.0, 2.0]]))(torch.ones(5, 2))
        tensor([[3.],
                [3.],
                [3.],
                [3.],
                [3.]])
    """

    def __init__(
        self,
        matrix: Tensor,
        in_shape: int | Sequence[int] | None = None,
        out_shape: int | Sequence[int] | None = None,
        *,
        symmetric: bool = False,
    ) -> None:
        if matrix.ndim < 2:
            raise ValueError(f"expected a matrix of shape (*, m, n), got {tuple(matrix.shape)}")
        rows, columns = matrix.shape[-2:]
        source = as_size(columns if in_shape is None else in_shape)
        target = as_size((source if symmetric else rows) if out_shape is None else out_shape)
        if (target.numel(), source.numel()) != (rows, columns) or (symmetric and target != source):
            raise ValueError(
                f"expected events of {columns} and {rows} elements for a matrix of shape "
                f"{tuple(matrix.shape)}, and of one shape if symmetric, got in_shape "
                f"{tuple(source)} and out_shape {tuple(target)}"
            )
        super().__init__(source, target, batch_shape=matrix.shape[:-2], symmetric=symmetric)
        self.matrix = matrix

    def forward(self, x: Tensor) -> Tensor:
        return unflatten(matvec(self.matrix, flatten(x, self.in_shape)), self.out_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return unflatten(matvec(self.matrix.mT, flatten(y, self.out_shape)), self.in_shape)

    def _diagonal(self) -> Tensor:
        return self.matrix.diagonal(dim1=-2, dim2=-1)

    def cross(self, H: Operator) -> Tensor:
        if not isinstance(H, (Gather, Mask)):
            return super().cross(H)
        return unflatten(self.matrix[..., H.indices.reshape(-1), :], self.in_shape)
