r"""Sparse rows: each output is a weighted sum of a few elements of the field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .base import Operator
from .registry import register
from .scatter import index_add, zeros
from .selection import flat_indices
from .shapes import as_size, flatten
from .transforms import transformed

__all__ = ["WeightedGather"]

SOME = 2**16


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
        >>> A = WeightedGather(torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]]), 3)
        >>> A(torch.tensor([1.0, 3.0, 4.0]))
        tensor([2.])
    """

    scatters = True

    def __init__(self, indices: Tensor, weights: Tensor, in_shape: int | Sequence[int]) -> None:
        if indices.ndim != 2 or indices.shape != weights.shape:
            raise ValueError(
                f"expected indices and weights of one shape (n, k), got {tuple(indices.shape)} "
                f"and {tuple(weights.shape)}; pad short rows with weights of 0"
            )
        self.indices = by_corner(flat_indices(indices, as_size(in_shape)))
        self.weights = by_corner(weights)
        super().__init__(in_shape, len(indices))

    def forward(self, x: Tensor) -> Tensor:
        return weighted_sums(flatten(x, self.in_shape), self.indices, self.weights)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.add_adjoint(y, zeros(y, (*y.shape[:-1], *self.in_shape)))

    def add_adjoint(self, y: Tensor, x: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return spread_sums(y, self.indices, self.weights, x, self.in_shape)

    def _same(self, other: Operator) -> bool:
        return other is self or (
            isinstance(other, WeightedGather)
            and self.in_shape == other.in_shape
            and self.indices.equal(other.indices)
            and self.weights.equal(other.weights)
        )


def padded(A: WeightedGather, width: int) -> tuple[Tensor, Tensor]:
    r"""The indices and the weights of sums, filled with weights of 0 to one length.

    Arguments:
        A: The operator, of sums of :math:`k` elements.
        width: The length, at least :math:`k`.

    Returns:
        Indices and weights, both with shape :math:`(n, width)`.

    Example:
        >>> A = WeightedGather(torch.tensor([[2]]), torch.ones(1, 1), 3)
        >>> padded(A, 2)
        (tensor([[2, 2]]), tensor([[1., 0.]]))
    """
    more = width - A.weights.shape[1]
    indices = torch.cat((A.indices, A.indices[:, :1].expand(-1, more)), dim=1)
    return indices, torch.nn.functional.pad(A.weights, (0, more))


def by_rows(A: WeightedGather, at_once: int) -> tuple[tuple[Tensor, Tensor, WeightedGather], ...]:
    r"""Weighted sums of elements of a field as sums over blocks of its rows, the slices along its
    first axis.

    .. math:: A x = \sum_b E_b A_b x_b

    Rows that have no weight lie in no block. A sum over elements of several blocks has a part in
    each.

    Arguments:
        A: The operator :math:`A`.
        at_once: The number of rows of a block.

    Returns:
        For each block the numbers of its rows, those of its sums among all :math:`n`, where
        :math:`E_b` adds them, and :math:`A_b`.

    Example:
        >>> A = WeightedGather(torch.tensor([[6], [0], [7]]), torch.ones(3, 1), (4, 2))
        >>> [(rows, sums, A_b.indices.flatten()) for rows, sums, A_b in by_rows(A, 1)]
        [(tensor([0]), tensor([1]), tensor([0])), (tensor([3]), tensor([0, 2]), tensor([0, 1]))]
    """
    length, *event = A.in_shape
    size = torch.Size(event).numel()
    seen = torch.zeros(length, dtype=torch.bool, device=A.indices.device)
    for indices, weights in some_sums(A):
        seen[(indices // size)[weights != 0]] = True
    rows, number = seen.nonzero()[:, 0], seen.cumsum(0) - 1
    if not len(rows):
        return ()
    # Each sum once in each block from the first to the last of those that it has elements of.
    first, last = _bounds(A, number // at_once, size, len(rows))
    count = (last - first + 1).clamp_min(0)
    sums = torch.arange(len(count), device=count.device).repeat_interleave(count)
    block = first[sums] + torch.arange(len(sums), device=count.device)
    block -= (count.cumsum(0) - count)[sums]
    block, order = block.sort(stable=True)
    some = torch.split(rows, at_once)
    counts = torch.bincount(block, minlength=len(some)).tolist()
    parts = []
    for b, (own, places) in enumerate(zip(some, torch.split(sums[order], counts), strict=True)):
        indices, weights = A.indices[places], A.weights[places]
        local = number[indices // size] - b * at_once
        here = (local >= 0) & (local < at_once) & (weights != 0)
        local = torch.where(here, local * size + indices % size, 0)
        part = WeightedGather(local, torch.where(here, weights, 0), (len(own), *event))
        parts.append((own, places, part))
    return tuple(parts)


def _bounds(A: WeightedGather, block: Tensor, size: int, none: int) -> tuple[Tensor, Tensor]:
    """The first and the last block that sums have elements of, given those of the rows."""
    first, last = [], []
    for indices, weights in some_sums(A):
        blocks, used = block[indices // size], weights != 0
        first.append(torch.where(used, blocks, none).amin(1))
        last.append(torch.where(used, blocks, -1).amax(1))
    return torch.cat(first), torch.cat(last)


def some_sums(A: WeightedGather) -> Iterator[tuple[Tensor, Tensor]]:
    r"""The indices and the weights of some sums after others, for what is larger than they are to
    be made of few at once.

    Arguments:
        A: The operator, of :math:`n` sums of :math:`k` elements.

    Yields:
        Indices and weights, both with shape :math:`(n', k)`.
    """
    yield from zip(torch.split(A.indices, SOME), torch.split(A.weights, SOME), strict=True)


def by_corner(a: Tensor) -> Tensor:
    """A matrix of shape (n, k) whose columns are contiguous: the first elements of all sums, then
    the second ones, which is the order that vectorises. A parameter stays itself."""
    return a if a.requires_grad else a.mT.contiguous().mT


def weighted_sums(x: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    r"""Weighted sums of elements.

    Arguments:
        x: The elements, with shape :math:`(*, N)`.
        indices: The indices, with shape :math:`(n, k)`.
        weights: The weights, with shape :math:`(n, k)`.

    Returns:
        The sums, with shape :math:`(*, n)`.
    """
    terms = x.index_select(-1, indices.mT.reshape(-1))
    terms = terms.reshape(*x.shape[:-1], *weights.mT.shape)
    if weights.requires_grad or weights.dtype != x.dtype or transformed():
        return (terms * weights.mT).sum(-2)
    return terms.mul_(weights.mT).sum(-2)


def spread_sums(
    y: Tensor, indices: Tensor, weights: Tensor, x: Tensor, event: Sequence[int]
) -> Tensor:
    r"""The adjoint of :func:`weighted_sums`, added to a field in place.

    Arguments:
        y: The sums, with shape :math:`(*, n)`.
        indices: The indices, with shape :math:`(n, k)`.
        weights: The weights, with shape :math:`(n, k)`.
        x: The field, with shape :math:`(*, event)`, of nobody else.
        event: The event shape.
    """
    spread = (y[..., None, :] * weights.mT).flatten(-2)
    return index_add(x.to(spread.dtype), spread, indices.mT.reshape(-1), event)
