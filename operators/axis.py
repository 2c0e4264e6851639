r"""Weighted sums of a few elements along one axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Operator
from .registry import register
from .scatter import paired, zeros
from .selection import flat_indices
from .shapes import as_axis, as_size
from .transforms import transformed

__all__ = ["AxisGather", "axis_sums", "spread_axis"]


@register
class AxisGather(Operator):
    r"""Weighted sums of :math:`k` elements each along one axis of the event.

    .. math:: (A x)_{\dots i \dots} = \sum_{j=1}^k w_{ij} \, x_{\dots m_{ij} \dots}

    What :class:`WeightedGather` does to elements this does to slices: it selects levels or times,
    interpolates between them and averages them.

    Arguments:
        indices: The indices :math:`m` along the axis, with shape :math:`(n, k)`.
        weights: The weights :math:`w`, with shape :math:`(n, k)`.
        in_shape: The shape of the input event.
        axis: The event axis, counted from 0, or from the end if negative.

    Raises:
        TypeError: If the indices aren't integers.
        ValueError: If the shapes differ, the axis doesn't exist, or an index lies outside it.

    Example:
        >>> A = AxisGather(torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]]), (3, 2))
        >>> A(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        tensor([[2., 3.]])
    """

    scatters = True

    def __init__(
        self, indices: Tensor, weights: Tensor, in_shape: int | Sequence[int], axis: int = 0
    ) -> None:
        shape = as_size(in_shape)
        self.axis = as_axis(axis, shape)
        if indices.ndim != 2 or indices.shape != weights.shape:
            raise ValueError(
                f"expected indices and weights of one shape (n, k), got {tuple(indices.shape)} "
                f"and {tuple(weights.shape)}; pad short rows with weights of 0"
            )
        self.indices = flat_indices(indices, as_size(shape[self.axis]))
        self.weights = weights
        target = list(shape)
        target[self.axis] = len(indices)
        super().__init__(shape, target)

    def forward(self, x: Tensor) -> Tensor:
        return axis_sums(x, self.indices, self.weights, self.axis)

    def adjoint(self, y: Tensor) -> Tensor:
        batch = y.shape[: y.ndim - len(self.out_shape)]
        return self.add_adjoint(y, zeros(y, (*batch, *self.in_shape)))

    def add_adjoint(self, y: Tensor, x: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        x, y = paired(x, y, len(self.in_shape))
        return spread_axis(y, self.indices, self.weights, x, self.axis)


def axis_sums(x: Tensor, indices: Tensor, weights: Tensor, axis: int) -> Tensor:
    r"""Weighted sums of slices, one after another, so that no more than two lie in memory.

    Arguments:
        x: The fields.
        indices: The indices along the axis, with shape :math:`(n, k)`.
        weights: The weights, with shape :math:`(n, k)`.
        axis: The axis, counted from the end.
    """
    terms = zip(indices.unbind(1), over_axis(weights, axis), strict=True)
    index, w = next(terms)
    y = x.index_select(axis, index) * w
    alone = not weights.requires_grad and weights.dtype == x.dtype and not transformed()
    for index, w in terms:
        term = x.index_select(axis, index)
        y = y.addcmul_(term, w) if alone else y + term * w
    return y


def spread_axis(y: Tensor, indices: Tensor, weights: Tensor, x: Tensor, axis: int) -> Tensor:
    r"""The adjoint of :func:`axis_sums`, added to fields in place.

    Arguments:
        y: The sums.
        indices: The indices along the axis, with shape :math:`(n, k)`.
        weights: The weights, with shape :math:`(n, k)`.
        x: The fields, of nobody else.
        axis: The axis, counted from the end.
    """
    x = x.to(torch.promote_types(y.dtype, weights.dtype))
    for index, w in zip(indices.unbind(1), over_axis(weights, axis), strict=True):
        x = x.index_add_(axis, index, y * w)
    return x


def over_axis(weights: Tensor, axis: int) -> tuple[Tensor, ...]:
    """The columns of weights, shaped to multiply slices along an axis."""
    return tuple(w.reshape(-1, *(1,) * (-axis - 1)) for w in weights.unbind(1))
