r"""Fields continued beyond their edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from .base import Operator
from .registry import register
from .shapes import as_size

__all__ = ["BOUNDARIES", "Boundary", "Pad", "fold", "pad"]

Boundary = Literal["zero", "periodic", "replicate"]
BOUNDARIES: tuple[Boundary, ...] = ("zero", "periodic", "replicate")


@register
class Pad(Operator):
    r"""A field continued beyond its edges.

    .. math:: (A x)_i = x_{p(i - a)} \qquad -a \leq i - a < n + b

    where beyond the edges :math:`x_{p(i)}` is 0 (zero), :math:`x_{i \bmod n}` (periodic) or the
    nearest element (replicate). With zeros, the adjoint is a crop.

    Arguments:
        in_shape: The shape of the input event.
        before: The numbers :math:`a` of elements to add in front, one for each of the last axes.
        after: The numbers :math:`b` of elements to add behind; by default as many.
        boundary: ``"zero"``, ``"periodic"`` or ``"replicate"``.

    Raises:
        ValueError: If the numbers don't suit the event, or a periodic field is to be continued by
            more than itself.

    Example:
        >>> Pad(3, [1], [2], boundary="periodic")(torch.tensor([1.0, 2.0, 3.0]))
        tensor([3., 1., 2., 3., 1., 2.])
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        before: Sequence[int],
        after: Sequence[int] | None = None,
        boundary: Boundary = "zero",
    ) -> None:
        shape = as_size(in_shape)
        self.before, self.boundary = tuple(before), boundary
        self.after = self.before if after is None else tuple(after)
        check_boundary(boundary)
        ends = (*self.before, *self.after)
        if not len(self.before) == len(self.after) <= len(shape) or min(ends, default=0) < 0:
            raise ValueError(
                f"expected as many numbers >= 0 before as after, for up to {len(shape)} axes, "
                f"got {list(before)} and {None if after is None else list(after)}"
            )
        size = len(self.before)
        last = shape[len(shape) - size :]
        triples = list(zip(self.before, last, self.after, strict=True))
        if any(
            (boundary == "periodic" and max(a, b) > n) or (boundary == "replicate" and n == 0)
            for a, n, b in triples
        ):
            raise ValueError(
                f"expected {boundary} padding of a field of shape {tuple(shape)} by at most the "
                f"field itself, got {list(self.before)} and {list(self.after)}"
            )
        super().__init__(shape, (*shape[: len(shape) - size], *(sum(t) for t in triples)))

    def forward(self, x: Tensor) -> Tensor:
        return pad(x, self.before, self.after, self.boundary)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return fold(y, self.before, self.after, self.boundary)


def check_boundary(boundary: str) -> None:
    """Refuses boundaries that aren't known."""
    if boundary not in BOUNDARIES:
        raise ValueError(f"expected one of {', '.join(BOUNDARIES)} as boundary, got {boundary!r}")


def pad(x: Tensor, before: Sequence[int], after: Sequence[int], boundary: Boundary) -> Tensor:
    r"""Continues fields along their last axes.

    Arguments:
        x: The fields.
        before: The numbers of elements to add in front, one for each of the last axes.
        after: The numbers of elements to add behind.
        boundary: What lies beyond the edges.

    Example:
        >>> pad(torch.tensor([1.0, 2.0]), (1,), (2,), "replicate")
        tensor([1., 1., 2., 2., 2.])
    """
    ends = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
    if boundary == "zero":
        return functional.pad(x, ends)
    if len(before) <= 3 and x.numel():
        grid = x.shape[-len(before) :]
        mode = "circular" if boundary == "periodic" else "replicate"
        wide = functional.pad(x.reshape(1, -1, *grid), ends, mode=mode)
        return wide.reshape(*x.shape[: -len(before)], *wide.shape[2:])
    for axis, (a, b) in enumerate(zip(before, after, strict=True), -len(before)):
        n = x.shape[axis]
        if boundary == "periodic":
            parts = [x.narrow(axis, n - a, a), x, x.narrow(axis, 0, b)]
        else:
            shape = list(x.shape)
            first, last = x.narrow(axis, 0, 1), x.narrow(axis, n - 1, 1)
            shape[axis] = a
            parts = [first.expand(shape), x]
            shape[axis] = b
            parts.append(last.expand(shape))
        x = torch.cat(parts, axis)
    return x


def fold(y: Tensor, before: Sequence[int], after: Sequence[int], boundary: Boundary) -> Tensor:
    r"""The adjoint of :func:`pad`.

    Arguments:
        y: The continued fields.
        before: The numbers of elements that were added in front, one for each of the last axes.
        after: The numbers of elements that were added behind.
        boundary: What they were.

    Example:
        >>> fold(torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0]), (1,), (2,), "replicate")
        tensor([2., 3.])
    """
    for axis, (a, b) in enumerate(zip(before, after, strict=True), -len(before)):
        n = y.shape[axis] - a - b
        x = y.narrow(axis, a, n)
        if boundary != "zero":
            x = x.clone()
            front, back = y.narrow(axis, 0, a), y.narrow(axis, a + n, b)
            if boundary == "periodic":
                x.narrow(axis, n - a, a).add_(front)
                x.narrow(axis, 0, b).add_(back)
            else:
                x.narrow(axis, 0, 1).add_(front.sum(axis, keepdim=True))
                x.narrow(axis, n - 1, 1).add_(back.sum(axis, keepdim=True))
        y = x
    return y
