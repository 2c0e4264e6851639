r"""Sparse rows: each output is a weighted sum of a few elements of the field."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .base import Operator
from .registry import register
from .selection import flat_indices, pick
from .shapes import as_size

__all__ = ["WeightedGather"]


@register
class WeightedGather(Operator):
    r"""Weighted sums of :math:`k` elements each, the sparse operator that compiled networks of
    stations use.

    .. math:: (A x)_i = \sum_{j=1}^k w_{ij} \, x_{m_{ij}} \qquad
        (A^T y)_l = \sum_{i, j: m_{ij} = l} w_{ij} \, y_i

    On a GPU the adjoint adds in an order that varies between runs, as
    :func:`torch.Tensor.index_add` does.

    Arguments:
        indices: The flat (row-major) indices :math:`m` into the input event, with shape
            :math:`(n, k)`.
        weights: The weights :math:`w`, with shape :math:`(n, k)`.
        in_shape: The shape of the input event.

    Raises:
        TypeError: If the indices aren't integers.
        ValueError: If the shapes differ, or an index lies outside the event.

    Example:
        >>> import torch
        >>> A = WeightedGather(torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]]), 3)
        >>> A(torch.tensor([1.0, 3.0, 4.0]))
        tensor([2.])
    """

    def __init__(self, indices: Tensor, weights: Tensor, in_shape: int | Sequence[int]) -> None:
        if indices.ndim != 2 or indices.shape != weights.shape:
            raise ValueError(
                f"expected indices and weights of one shape (n, k), got {tuple(indices.shape)} "
                f"and {tuple(weights.shape)}; pad short rows with weights of 0"
            )
        self.indices = flat_indices(indices, as_size(in_shape))
        self.weights = weights
        super().__init__(in_shape, len(indices))

    def forward(self, x: Tensor) -> Tensor:
        return row_sums(pick(x, self.indices.reshape(-1), self.in_shape), self.weights)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return scatter_rows(y, self.indices, self.weights, self.in_shape.numel()).reshape(
            *y.shape[:-1], *self.in_shape
        )


def row_sums(elements: Tensor, weights: Tensor) -> Tensor:
    r"""Weighted sums of gathered elements.

    Arguments:
        elements: The elements, row by row, with shape :math:`(*, n k)`.
        weights: The weights, with shape :math:`(n, k)`.

    Returns:
        The sums, with shape :math:`(*, n)`.
    """
    return (elements.reshape(*elements.shape[:-1], *weights.shape) * weights).sum(-1)


def scatter_rows(y: Tensor, indices: Tensor, weights: Tensor, size: int) -> Tensor:
    r"""The adjoint of gathering and summing.

    Arguments:
        y: The sums, with shape :math:`(*, n)`.
        indices: The indices, with shape :math:`(n, k)`.
        weights: The weights, with shape :math:`(n, k)`.
        size: The number of elements.

    Returns:
        The elements, with shape :math:`(*, size)`.
    """
    spread = (y[..., None] * weights).reshape(*y.shape[:-1], weights.numel())
    return spread.new_zeros(*y.shape[:-1], size).index_add(-1, indices.reshape(-1), spread)
