r"""The same elements in another order or shape."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Operator
from .registry import register
from .shapes import as_size

__all__ = ["Permute", "Reshape"]


@register
class Permute(Operator):
    r"""The axes of an event in another order.

    .. math:: (A x)_{i_{p_1} \dots i_{p_k}} = x_{i_1 \dots i_k}

    Arguments:
        axes: The order :math:`p` of event axes, counted from 0.
        in_shape: The shape of the input event.

    Raises:
        ValueError: If the axes aren't those of the event.

    Example:
        >>> Permute((2, 0, 1), (2, 3, 4))
        Permute((2, 3, 4) -> (4, 2, 3))
    """

    def __init__(self, axes: Sequence[int], in_shape: int | Sequence[int]) -> None:
        shape = as_size(in_shape)
        self.axes = tuple(axes)
        if sorted(self.axes) != list(range(len(shape))):
            raise ValueError(
                f"expected the axes 0 to {len(shape) - 1} of events of shape {tuple(shape)} in "
                f"some order, got {list(axes)}"
            )
        super().__init__(shape, [shape[axis] for axis in self.axes])

    def source(self, indices: Tensor) -> Tensor:
        """The flat indices of inputs that flat indices of outputs are."""
        places = dict(zip(self.axes, torch.unravel_index(indices, self.out_shape), strict=True))
        flat = torch.zeros_like(indices)
        for axis, n in enumerate(self.in_shape):
            flat = flat * n + places[axis]
        return flat

    def forward(self, x: Tensor) -> Tensor:
        return reordered(x, self.axes)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return reordered(y, sorted(range(len(self.axes)), key=self.axes.__getitem__))


@register
class Reshape(Operator):
    r"""The elements of an event, in row-major order, in another shape.

    Arguments:
        in_shape: The shape of the input event.
        out_shape: The shape of the output event.

    Raises:
        ValueError: If the numbers of elements differ.

    Example:
        >>> Reshape((2, 3), 6)(torch.ones(5, 2, 3)).shape
        torch.Size([5, 6])
    """

    def __init__(self, in_shape: int | Sequence[int], out_shape: int | Sequence[int]) -> None:
        super().__init__(in_shape, out_shape)
        if self.in_shape.numel() != self.out_shape.numel():
            raise ValueError(
                f"expected shapes of as many elements, got {tuple(self.in_shape)} and "
                f"{tuple(self.out_shape)}"
            )

    def source(self, indices: Tensor) -> Tensor:
        """The flat indices of inputs that flat indices of outputs are."""
        return indices

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[: x.ndim - len(self.in_shape)], *self.out_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return y.reshape(*y.shape[: y.ndim - len(self.out_shape)], *self.in_shape)


def reordered(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Fields with their event axes in another order."""
    batch = x.ndim - len(axes)
    return x.permute(*range(batch), *(batch + axis for axis in axes))
