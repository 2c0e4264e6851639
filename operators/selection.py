r"""Selections: observing some elements of a field, as they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor

from .base import Operator
from .registry import register
from .scatter import index_add, zeros
from .shapes import as_size, flatten, unflatten

__all__ = ["Gather", "Mask"]


@register
class Mask(Operator):
    r"""The selection of the elements where a mask is true, in row-major order.

    .. math:: (A x)_i = x_{m_i}

    Arguments:
        mask: The truth values, with the shape of the input event.

    Raises:
        TypeError: If the mask isn't boolean.

    Example:
        >>> A = Mask(torch.tensor([[True, False], [False, True]]))
        >>> A(torch.arange(4.0).reshape(2, 2))
        tensor([0., 3.])
        >>> A.adjoint(torch.ones(2))
        tensor([[1., 0.],
                [0., 1.]])
    """

    scatters = True

    def __init__(self, mask: Tensor) -> None:
        if mask.dtype is not torch.bool:
            raise TypeError(
                f"expected a boolean mask, got {mask.dtype}; flat indices make a Gather"
            )
        self.indices = mask.reshape(-1).nonzero()[:, 0]
        super().__init__(mask.shape, self.indices.shape)

    @property
    def mask(self) -> Tensor:
        """The truth values, with the shape of the input event."""
        flat = torch.zeros(self.in_shape.numel(), dtype=torch.bool, device=self.indices.device)
        return flat.index_fill(0, self.indices, True).reshape(self.in_shape)

    def source(self, indices: Tensor) -> Tensor:
        """The flat indices of inputs that flat indices of outputs select."""
        return self.indices[indices]

    def forward(self, x: Tensor) -> Tensor:
        return pick(x, self.indices, self.in_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        flat = zeros(y, (*y.shape[:-1], self.in_shape.numel()))
        return unflatten(flat.index_add_(-1, self.indices, y), self.in_shape)

    def add_adjoint(self, y: Tensor, x: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return index_add(x, y, self.indices, self.in_shape)


@register
class Gather(Operator):
    r"""The selection of elements by flat indices, in any order and as often as wanted.

    .. math:: (A x)_i = x_{k_i} \qquad (A^T y)_j = \sum_{i: k_i = j} y_i

    Its adjoint ``A.T`` is the scatter: it adds elements up at their indices.

    Arguments:
        indices: The flat (row-major) indices :math:`k` into the input event; their shape is that
            of the output event.
        in_shape: The shape of the input event.

    Raises:
        TypeError: If the indices aren't integers.
        ValueError: If an index lies outside the event.

    Example:
        >>> A = Gather(torch.tensor([2, 0, 2]), 3)
        >>> A(torch.tensor([1.0, 2.0, 3.0]))
        tensor([3., 1., 3.])
        >>> A.adjoint(torch.ones(3))
        tensor([1., 0., 2.])
    """

    scatters = True

    def __init__(self, indices: Tensor, in_shape: int | Sequence[int]) -> None:
        self.indices = flat_indices(indices, as_size(in_shape))
        super().__init__(in_shape, indices.shape)

    def source(self, indices: Tensor) -> Tensor:
        """The flat indices of inputs that flat indices of outputs select."""
        return self.indices.reshape(-1)[indices]

    def forward(self, x: Tensor) -> Tensor:
        return unflatten(pick(x, self.indices.reshape(-1), self.in_shape), self.out_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        y = flatten(y, self.out_shape)
        flat = zeros(y, (*y.shape[:-1], self.in_shape.numel()))
        return unflatten(flat.index_add_(-1, self.indices.reshape(-1), y), self.in_shape)

    def add_adjoint(self, y: Tensor, x: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return index_add(x, flatten(y, self.out_shape), self.indices.reshape(-1), self.in_shape)

    def _same(self, other: Operator) -> bool:
        # Rules of simplification make equal selections of equal parts, as different objects.
        return other is self or (
            isinstance(other, Gather)
            and self.in_shape == other.in_shape
            and self.indices.equal(other.indices)
        )


def pick(x: Tensor, indices: Tensor, event: Size) -> Tensor:
    r"""Selects elements of events by flat indices.

    Arguments:
        x: A field, with shape :math:`(*, event)`.
        indices: Flat indices, with shape :math:`(n)`.
        event: The event shape.

    Returns:
        The elements, with shape :math:`(*, n)`.
    """
    return flatten(x, event).index_select(-1, indices)


def flat_indices(indices: Tensor, event: Size) -> Tensor:
    r"""Checks flat indices into an event, and returns them as 64-bit integers.

    Arguments:
        indices: The indices, of any shape.
        event: The event shape.

    Raises:
        TypeError: If the indices aren't integers.
        ValueError: If an index lies outside the event.
    """
    if indices.is_floating_point() or indices.is_complex() or indices.dtype is torch.bool:
        raise TypeError(
            f"expected integer indices, got {indices.dtype}; a boolean tensor makes a Mask"
        )
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < event.numel():
        raise ValueError(
            f"expected flat indices between 0 and {event.numel() - 1} for events of shape "
            f"{tuple(event)}, got {int(indices.min())} to {int(indices.max())}; ravel "
            "multi-dimensional indices row-major first"
        )
    return indices.long()
