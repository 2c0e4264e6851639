r"""Structure in the rows of a Jacobian, found by its products."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Size, Tensor

from appa_prob.operators import Dense, Diagonal, Gather, Jacobian, Mask, Operator, Reshape

__all__ = ["near", "row_structure", "select", "selection"]

LARGEST = 2**20  # elements of a matrix that is still made
NEAR = 1e-5  # of the largest number: rounding in single precision


def row_structure(J: Jacobian, rows: slice, known: Sequence[Any] = ()) -> Operator | None:
    r"""Some rows of a Jacobian as an operator of their own, if there is one that gives the same
    product with a random field: one that is known, a selection of elements or of multiples of
    these, or the matrix, where it is small.

    Arguments:
        J: The Jacobian at one point.
        rows: The rows.
        known: What they may be, tried first; what is no operator, or has other shapes, is not.

    Example:
        >>> J = Jacobian(lambda x: 2 * x[::2], torch.zeros(4))
        >>> row_structure(J, slice(0, 2))
        Diagonal((2,)) @ Mask((4,) -> (2,))
    """
    x = _random(J)
    expected = J.forward(x)[rows]
    for candidate in _candidates(J, rows, known):
        if near(candidate.forward(x), expected):
            return candidate
    return None


def selection(Js: Iterable[Jacobian]) -> Gather | Mask | None:
    r"""The selection of the element of the state that each row of a Jacobian depends on, if it is
    one, and the same at several points; no row may be 0 at all of them.

    Arguments:
        Js: Jacobians at these points.

    Example:
        >>> def f(x):
        ...     return x[[2, 0]].exp()
        >>> selection([Jacobian(f, torch.zeros(3)), Jacobian(f, torch.ones(3))])
        Gather((3,) -> (2,))
        >>> selection([Jacobian(lambda x: x.cumsum(0), torch.zeros(3))]) is None
        True
    """
    index: Tensor | float = 0.0
    found: Tensor | bool = False
    for J in Js:
        x = _random(J)
        weight, where = _weighted_index(J)
        moved = found & (weight != 0) & (where != index)
        if bool(moved.any()) or not near(weight * x.flatten()[where.long()], J.forward(x)):
            return None
        index, found = torch.where(weight != 0, where, index), found | (weight != 0)
    assert isinstance(index, Tensor) and isinstance(found, Tensor)
    return select(index.long(), J.in_shape) if bool(found.all()) else None


def select(index: Tensor, shape: Size) -> Gather | Mask:
    r"""A selection, as a mask where that is possible: of these more is known.

    Arguments:
        index: Flat indices, with shape :math:`(n)`.
        shape: The shape of the state.
    """
    if not bool((index.diff() > 0).all()):
        return Gather(index, shape)
    mask = torch.zeros(shape.numel(), dtype=torch.bool, device=index.device)
    return Mask(mask.index_fill(0, index, True).reshape(shape))


def near(found: Tensor, expected: Tensor) -> bool:
    r"""Whether rows are the same, up to rounding.

    Arguments:
        found: What there is.
        expected: What there should be.
    """
    scale = expected.abs().amax(-1, keepdim=True)
    return bool(((found - expected).abs() <= NEAR * scale).all())


def _candidates(J: Jacobian, rows: slice, known: Sequence[Any]) -> Iterator[Operator]:
    count = rows.stop - rows.start
    for A in known:
        same = isinstance(A, Operator) and A.in_shape == J.in_shape
        if same and A.out_shape.numel() == count:
            yield A if A.out_shape == (count,) else Reshape(A.out_shape, count) @ A
    weight, where = (one[rows] for one in _weighted_index(J))
    chosen = select(where.long(), J.in_shape)
    yield chosen if bool((weight == 1).all()) else Diagonal(weight) @ chosen
    if count * J.in_shape.numel() <= LARGEST:
        own = Gather(torch.arange(rows.start, rows.stop, device=J.device), J.out_shape)
        yield Dense((own @ J).to_dense(), J.in_shape, count)


def _weighted_index(J: Jacobian) -> tuple[Tensor, Tensor]:
    """The weight and the index of the element that each row is, if it is one."""
    count = J.in_shape.numel()
    index = torch.arange(count, dtype=J.dtype, device=J.device).reshape(J.in_shape)
    weight = J.forward(torch.ones_like(index))
    where = J.forward(index) / torch.where(weight == 0, 1.0, weight)
    return weight, where.nan_to_num().round().clamp(0, count - 1)


def _random(J: Jacobian) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randn(J.in_shape, generator=g, dtype=J.dtype).to(J.device)
