"""Shapes of events and batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor

__all__ = ["as_axis", "as_size", "broadcast", "flatten", "over", "unflatten"]


def as_size(shape: int | Sequence[int]) -> Size:
    r"""An event shape from an integer or a sequence of integers.

    Arguments:
        shape: One length, or the lengths of all event axes.

    Raises:
        ValueError: If a length is negative.

    Example:
        >>> as_size(3), as_size((2, 3))
        (torch.Size([3]), torch.Size([2, 3]))
    """
    size = Size((shape,) if isinstance(shape, int) else shape)
    if any(n < 0 for n in size):
        raise ValueError(f"expected an event shape of lengths >= 0, got {tuple(size)}")
    return size


def as_axis(axis: int, event: Sequence[int]) -> int:
    r"""The number of an event axis, counted from the end, so that batch axes don't shift it.

    Arguments:
        axis: The number, from 0 for the first event axis on, or negative from the last one.
        event: The event shape.

    Raises:
        ValueError: If there is no such axis.

    Example:
        >>> as_axis(0, (3, 4, 5)), as_axis(-1, (3, 4, 5))
        (-3, -1)
    """
    if not -len(event) <= axis < len(event):
        raise ValueError(f"expected an axis of events of shape {tuple(event)}, got {axis}")
    return axis if axis < 0 else axis - len(event)


def broadcast(*shapes: Sequence[int]) -> Size:
    r"""The shape that batches have together.

    Arguments:
        shapes: The shapes of the batches.

    Raises:
        ValueError: If they don't broadcast.

    Example:
        >>> broadcast((3, 1), (), (2,))
        torch.Size([3, 2])
    """
    distinct = {tuple(shape) for shape in shapes if len(shape)}
    if len(distinct) <= 1:  # the rule, and torch takes its time for the rest
        return Size(distinct.pop() if distinct else ())
    try:
        return Size(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
    except RuntimeError:
        found = " and ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(f"expected batches that broadcast, got shapes {found}") from None


def over(c: float | Tensor, event: Sequence[int]) -> float | Tensor:
    r"""Numbers, one for each entry of a batch, shaped to multiply fields.

    Arguments:
        c: A number, or numbers with shape :math:`(*)`.
        event: The event shape.

    Example:
        >>> over(torch.ones(5), (2, 3)).shape
        torch.Size([5, 1, 1])
    """
    return c.reshape(*c.shape, *(1,) * len(event)) if isinstance(c, Tensor) and c.ndim else c


def flatten(x: Tensor, event: Sequence[int]) -> Tensor:
    r"""Fields as vectors.

    Arguments:
        x: A field, with shape :math:`(*, event)`.
        event: The event shape.

    Returns:
        Vectors, with shape :math:`(*, n)`; a view where that is possible.

    Example:
        >>> flatten(torch.zeros(5, 2, 3), (2, 3)).shape
        torch.Size([5, 6])
    """
    if len(event) == 1:
        return x
    return x.reshape((*x.shape[: x.ndim - len(event)], Size(event).numel()))


def unflatten(x: Tensor, event: Sequence[int]) -> Tensor:
    r"""Undoes :func:`flatten`.

    Arguments:
        x: Vectors, with shape :math:`(*, n)`.
        event: The event shape.

    Returns:
        A field, with shape :math:`(*, event)`.

    Example:
        >>> unflatten(torch.zeros(5, 6), (2, 3)).shape
        torch.Size([5, 2, 3])
    """
    return x if len(event) == 1 else x.reshape((*x.shape[:-1], *event))
