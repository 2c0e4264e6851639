r"""The product with a matrix along one axis, such as the weighting functions of a sounder."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Size, Tensor

from .base import Operator
from .registry import register
from .shapes import as_axis, as_size

__all__ = ["Mix", "along"]


@register
class Mix(Operator):
    r"""The product with a matrix along one axis of the event.

    .. math:: (A x)_{\dots i \dots} = \sum_j M_{ij} \, x_{\dots j \dots}

    With the weighting functions of a satellite sounder as rows of :math:`M`, the radiances that it
    measures of the levels above each point.

    Arguments:
        matrix: The matrix :math:`M`, with shape :math:`(*, m, n)`.
        in_shape: The shape of the input event, with :math:`n` elements along the axis.
        axis: The event axis, counted from 0, or from the end if negative.

    Raises:
        ValueError: If the axis doesn't exist or has another length than the rows of the matrix.

    Example:
        >>> import torch
        >>> Mix(torch.tensor([[0.5, 0.5, 0.0]]), (3, 4))(torch.ones(3, 4))
        tensor([[1., 1., 1., 1.]])
    """

    def __init__(self, matrix: Tensor, in_shape: int | Sequence[int], axis: int = 0) -> None:
        shape = as_size(in_shape)
        self.matrix, self.axis = matrix, as_axis(axis, shape)
        if matrix.ndim < 2 or matrix.shape[-1] != shape[self.axis]:
            raise ValueError(
                f"expected a matrix of shape (*, m, {shape[self.axis]}) for axis {axis} of events "
                f"of shape {tuple(shape)}, got {tuple(matrix.shape)}"
            )
        target = list(shape)
        target[self.axis] = matrix.shape[-2]
        super().__init__(shape, target, batch_shape=matrix.shape[:-2])

    def forward(self, x: Tensor) -> Tensor:
        return along(self.matrix, x, self.in_shape, self.axis)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return along(self.matrix.mT, y, self.out_shape, self.axis)


def along(matrix: Tensor, x: Tensor, event: Size, axis: int) -> Tensor:
    r"""The product with a matrix along one axis of fields.

    Arguments:
        matrix: The matrix, with shape :math:`(*, m, n)`.
        x: The fields, with shape :math:`(*, event)`.
        event: The event shape.
        axis: The event axis, counted from the end.

    Example:
        >>> import torch
        >>> along(torch.ones(1, 3), torch.ones(5, 3, 2), (3, 2), -2).shape
        torch.Size([5, 1, 2])
    """
    front, back = event[:axis], event[len(event) + axis + 1 :]
    batch = x.shape[: x.ndim - len(event)]
    blocks = x.reshape(*batch, Size(front).numel(), event[axis], Size(back).numel())
    y = matrix.unsqueeze(-3) @ blocks
    return y.reshape(*y.shape[:-3], *front, matrix.shape[-2], *back)
