r"""Functions of many rows, each for itself, whose Jacobian keeps nothing but the point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Size, Tensor, nn

from .arguments import as_target
from .base import Map, Operator
from .elementary import Identity
from .jacobian import Jacobian
from .shapes import as_size, broadcast
from .tape import jvp, mathematical_attention
from .tree import convert, replace
from .weighted import WeightedGather, by_rows

__all__ = ["Rowwise"]

Places = slice | Tensor
Block = tuple[Places, Places, Operator]  # rows, what is observed of them, and how
Product = Callable[[Tensor, Tensor], Tensor]


class Rowwise(Map):
    r"""The map :math:`(x_1, \dots, x_L) \mapsto (f(x_1), \dots, f(x_L))`, or what an operator
    :math:`H` observes of it, some rows at once.

    .. math:: y = H \, (f(x_1), \dots, f(x_L)) = \sum_b H_b \, f(x_b) \qquad
        J v = \sum_b H_b J_b v_b \qquad (J^T u)_b = J_b^T H_b^T u

    with :math:`b` blocks of rows. Other than :class:`Nonlinear`, it does not keep what the
    function computed at the point: each product evaluates the function again, in forward mode or
    with a sweep back. Beside inputs and outputs, memory is that of the rows at once, however many
    there are. With an operator, values of the function are outputs no more: there are those of one
    block at a time, and rows that it does not observe are not evaluated at all.

    Arguments:
        function: The function :math:`f`, taking rows of shape :math:`(N, in)` to :math:`(N, out)`.
        length: The number :math:`L` of rows.
        in_shape: The shape of an input row.
        out_shape: The shape of an output row.
        at_once: The number of rows at once, of all events of a batch.
        observed: The operator :math:`H`, on fields of shape :math:`(L, out)`; by default the
            identity.

    Raises:
        ValueError: If there are no rows at once, or if the operator is one on other fields.

    Example:
        >>> f = Rowwise(torch.sin, 3, 2, 2, at_once=2)
        >>> y, J = f.linearize(torch.zeros(3, 2))
        >>> y.sum(), J(torch.ones(3, 2)).sum(), J.adjoint(torch.ones(3, 2)).sum()
        (tensor(0.), tensor(6.), tensor(6.))
        >>> H = WeightedGather(torch.tensor([[5], [0]]), torch.ones(2, 1), (3, 2))
        >>> Rowwise(torch.cos, 3, 2, 2, at_once=1, observed=H)(torch.zeros(3, 2))
        tensor([1., 1.])
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        length: int,
        in_shape: int | Sequence[int],
        out_shape: int | Sequence[int],
        *,
        at_once: int,
        observed: WeightedGather | None = None,
    ) -> None:
        if at_once < 1:
            raise ValueError(f"expected at least 1 row at once, got {at_once}")
        self.function = function
        self.in_shape = Size((length, *as_size(in_shape)))
        rows = Size((length, *as_size(out_shape)))
        if observed is None:
            self.out_shape, self.blocks = rows, _all_rows(rows, at_once)
        elif observed.in_shape == rows:
            self.out_shape, self.blocks = observed.out_shape, by_rows(observed, at_once)
        else:
            raise ValueError(
                f"expected an operator on fields of shape {tuple(rows)}, the rows of the "
                f"function, got {observed!r}"
            )
        largest = max((H.in_shape[0] for *_, H in self.blocks), default=1)
        self.events = max(1, at_once // largest)  # of a batch, at once

    def forward(self, x: Tensor) -> Tensor:
        return self.push(lambda rows, _: self.function(rows), x, x)

    def linearize(self, x: Tensor) -> tuple[Tensor, Operator]:
        r"""Computes the value and the Jacobian, which keeps nothing unless gradients with respect
        to :math:`x` are wanted."""
        self._check(x, self.in_shape)
        if torch.is_grad_enabled() and x.requires_grad:
            jacobian = Jacobian(self.forward, x, self.in_shape)
            return jacobian.value, jacobian
        with torch.no_grad():
            return self.forward(x), _Rows(self, x.detach())

    def to(self, *args: Any, **kwargs: Any) -> Rowwise:
        """Moves the operator, and the function if it is a module (in place, as modules move)."""
        if isinstance(self.function, nn.Module):
            self.function.to(*args, **kwargs)
        dtype, device = as_target(*args, **kwargs)
        return replace(self, lambda a: convert(a, dtype, device))

    def push(self, product: Product, x: Tensor, v: Tensor) -> Tensor:
        r"""The sum :math:`\sum_b H_b \, g(x_b, v_b)`.

        Arguments:
            product: The function :math:`g`, taking rows of points and of fields, with shape
                :math:`(N, in)`, to :math:`(N, out)`.
            x: The points, with shape :math:`(*, in)`.
            v: The fields, with shape :math:`(*, in)`.
        """

        def observe(x: Tensor, v: Tensor) -> Tensor:
            parts = (
                (places, H.forward(_by_row(product, x[:, rows], v[:, rows])))
                for rows, places, H in self.blocks
            )
            return _assembled(parts, self.out_shape, v)

        return self._some_events(observe, x, v, self.in_shape, self.out_shape)

    def pull(self, product: Product, x: Tensor, u: Tensor) -> Tensor:
        r"""The rows :math:`g(x_b, H_b^T u)`.

        Arguments:
            product: The function :math:`g`, taking rows of points, with shape :math:`(N, in)`,
                and of values, with shape :math:`(N, out)`, to :math:`(N, in)`.
            x: The points, with shape :math:`(*, in)`.
            u: What is observed, with shape :math:`(*, out)`.
        """

        def explain(x: Tensor, u: Tensor) -> Tensor:
            parts = (
                (rows, _by_row(product, x[:, rows], H.adjoint(u[:, places])))
                for rows, places, H in self.blocks
            )
            return _assembled(parts, self.in_shape, u)

        return self._some_events(explain, x, u, self.out_shape, self.in_shape)

    def _some_events(
        self, function: Product, x: Tensor, field: Tensor, event: Size, target: Size
    ) -> Tensor:
        """A function of points and fields, some events of a batch at once."""
        batch = field.shape[: field.ndim - len(event)]
        points = torch.split(x.reshape(batch.numel(), *self.in_shape), self.events)
        fields = torch.split(field.reshape(batch.numel(), *event), self.events)
        parts = [function(*pair) for pair in zip(points, fields, strict=True)]
        return torch.cat(parts).reshape(*batch, *target)


class _Rows(Operator):
    """The Jacobian of a :class:`Rowwise` map."""

    def __init__(self, map: Rowwise, x: Tensor) -> None:
        batch = x.shape[: x.ndim - len(map.in_shape)]
        super().__init__(map.in_shape, map.out_shape, batch_shape=batch)
        self.x, self.map = x, map

    def forward(self, x: Tensor) -> Tensor:
        with mathematical_attention():
            return self.map.push(self._pushed, *self._paired(x, self.in_shape))

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return self.map.pull(self._pulled, *self._paired(y, self.out_shape))

    def _pushed(self, point: Tensor, v: Tensor) -> Tensor:
        return jvp(self.map.function, point, v)

    def _pulled(self, point: Tensor, u: Tensor) -> Tensor:
        row = self.in_shape[1:]
        return Jacobian(self.map.function, point, row, forward="forward-mode").adjoint(u)

    def _paired(self, field: Tensor, event: Size) -> tuple[Tensor, Tensor]:
        batch = broadcast(field.shape[: field.ndim - len(event)], self.batch_shape)
        return self.x.expand(*batch, *self.in_shape), field.expand(*batch, *event)


def _all_rows(shape: Size, at_once: int) -> tuple[Block, ...]:
    """The blocks of a field whose rows are observed as they are."""
    length, *row = shape
    some = [slice(n, min(n + at_once, length)) for n in range(0, length, at_once)]
    return tuple((rows, rows, Identity((rows.stop - rows.start, *row))) for rows in some)


def _by_row(product: Product, x: Tensor, field: Tensor) -> Tensor:
    """A product of rows of shape (N, ...), with those of all events side by side."""
    found = product(x.flatten(0, 1), field.flatten(0, 1))
    return found.reshape(*x.shape[:2], *found.shape[1:])


def _assembled(parts: Iterable[tuple[Places, Tensor]], event: Size, like: Tensor) -> Tensor:
    """The sum of parts of events, each at its places along the first axis."""
    found: Tensor | None = None
    for places, part in parts:
        if found is None:
            found = part.new_zeros(len(part), *event)
        if isinstance(places, slice):
            found[:, places] = part
        else:
            found.index_add_(1, places, part)
    return like.new_zeros(len(like), *event) if found is None else found
