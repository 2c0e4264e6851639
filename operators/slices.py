r"""Regular parts of fields: crops and strided subsampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Operator
from .registry import register
from .scatter import paired, zeros
from .shapes import as_size

__all__ = ["Slice"]


@register
class Slice(Operator):
    r"""A regular part of a field: a crop, a strided subsampling, or both.

    .. math:: (A x)_{i \dots} = x_{a + s i, \dots}

    from :math:`a` up to, but without, :math:`b`, in steps of :math:`s`, along each of the last
    axes. The product is a view of the field: nothing is copied.

    Arguments:
        in_shape: The shape of the input event.
        start: The starts :math:`a`, one for each of the last axes, or one number for all axes.
            Negative numbers count from the end.
        stop: The ends :math:`b` likewise; None is the end of the axis.
        step: The steps :math:`s \geq 1` likewise.

    Raises:
        ValueError: If there are more numbers than axes, or a step isn't positive.

    Example:
        >>> crop = Slice((3, 4, 5), start=(1, 1), stop=(3, 4))
        >>> thin = Slice((3, 4, 5), step=(2, 2))
        >>> crop, thin
        (Slice((3, 4, 5) -> (3, 2, 3)), Slice((3, 4, 5) -> (3, 2, 3)))
        >>> Slice(6, start=1, step=2)(torch.arange(6.0))
        tensor([1., 3., 5.])
    """

    scatters = True

    def __init__(
        self,
        in_shape: int | Sequence[int],
        start: int | Sequence[int] = 0,
        stop: int | Sequence[int | None] | None = None,
        step: int | Sequence[int] = 1,
    ) -> None:
        shape = as_size(in_shape)
        self.start, self.stop, self.step = start, stop, step
        columns = [each_axis(value, len(shape)) for value in (start, stop, step)]
        steps = [1 if s is None else s for s in columns[2]]
        if any(len(column) != len(shape) for column in columns) or min(steps, default=1) < 1:
            raise ValueError(
                f"expected up to {len(shape)} starts, stops and positive steps for events of "
                f"shape {tuple(shape)}, got {start}, {stop} and {step}"
            )
        self.parts = tuple(
            slice(*slice(*bounds).indices(n)) for *bounds, n in zip(*columns, shape, strict=True)
        )
        kept = [range(n)[part] for part, n in zip(self.parts, shape, strict=True)]
        super().__init__(shape, [len(places) for places in kept])

    @property
    def _index(self) -> tuple[Any, ...]:
        return (..., *self.parts)

    def source(self, indices: Tensor) -> Tensor:
        """The flat indices of inputs that flat indices of outputs select."""
        flat = torch.zeros_like(indices)
        places = torch.unravel_index(indices, self.out_shape)
        for place, part, n in zip(places, self.parts, self.in_shape, strict=True):
            flat = flat * n + part.start + part.step * place
        return flat

    def forward(self, x: Tensor) -> Tensor:
        return x[self._index]

    def adjoint(self, y: Tensor) -> Tensor:
        batch = y.shape[: y.ndim - len(self.out_shape)]
        return self.add_adjoint(y, zeros(y, (*batch, *self.in_shape)))

    def add_adjoint(self, y: Tensor, x: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        x, y = paired(x, y, len(self.in_shape))
        x[self._index] += y
        return x


def each_axis(value: int | Sequence[int | None] | None, ndim: int) -> list[int | None]:
    """One value for each axis: values are of the last axes, and one value is of all."""
    if value is None or isinstance(value, int):
        return [value] * ndim
    return [None] * (ndim - len(value)) + list(value)
