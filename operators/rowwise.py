r"""Functions of many rows, each for itself, whose Jacobian keeps nothing but the point."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Size, Tensor

from .base import Map, Operator
from .jacobian import Jacobian
from .shapes import as_size, broadcast
from .tape import jvp, mathematical_attention

__all__ = ["Rowwise"]


class Rowwise(Map):
    r"""The map :math:`(x_1, \dots, x_L) \mapsto (f(x_1), \dots, f(x_L))`, some rows at once.

    .. math:: J = \{J_1, \dots, J_L\} \qquad J_l = \frac{\partial f}{\partial x}(x_l)

    Other than :class:`Nonlinear`, it does not keep what the function computed at the point: each
    product evaluates the function again, in forward mode or with a sweep back. Memory is that of
    the rows at once, however many there are.

    Arguments:
        function: The function :math:`f`, taking rows of shape :math:`(N, in)` to :math:`(N, out)`.
        length: The number :math:`L` of rows.
        in_shape: The shape of an input row.
        out_shape: The shape of an output row.
        at_once: The number of rows at once.

    Raises:
        ValueError: If there are no rows at once.

    Example:
        >>> f = Rowwise(torch.sin, 3, 2, 2, at_once=2)
        >>> y, J = f.linearize(torch.zeros(3, 2))
        >>> y.sum(), J(torch.ones(3, 2)).sum(), J.adjoint(torch.ones(3, 2)).sum()
        (tensor(0.), tensor(6.), tensor(6.))
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        length: int,
        in_shape: int | Sequence[int],
        out_shape: int | Sequence[int],
        *,
        at_once: int,
    ) -> None:
        if at_once < 1:
            raise ValueError(f"expected at least 1 row at once, got {at_once}")
        self.function, self.at_once = function, at_once
        self.in_shape = Size((length, *as_size(in_shape)))
        self.out_shape = Size((length, *as_size(out_shape)))

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[: x.ndim - len(self.in_shape)]
        parts = [self.function(part) for part in self.rows(x, self.in_shape)]
        return torch.cat(parts).reshape(*batch, *self.out_shape)

    def linearize(self, x: Tensor) -> tuple[Tensor, Operator]:
        r"""Computes :math:`f(x)` and the Jacobian, which keeps nothing unless gradients with
        respect to :math:`x` are wanted."""
        self._check(x, self.in_shape)
        if torch.is_grad_enabled() and x.requires_grad:
            jacobian = Jacobian(self.forward, x, self.in_shape)
            return jacobian.value, jacobian
        with torch.no_grad():
            return self.forward(x), _Rows(self, x.detach())

    def rows(self, x: Tensor, event: Size) -> tuple[Tensor, ...]:
        r"""The rows of fields, some at once.

        Arguments:
            x: The fields, with shape :math:`(*, event)`.
            event: The shape of an event.
        """
        return torch.split(x.reshape(-1, *event[1:]), self.at_once)


class _Rows(Operator):
    """The Jacobian of a :class:`Rowwise` map."""

    def __init__(self, map: Rowwise, x: Tensor) -> None:
        batch = x.shape[: x.ndim - len(map.in_shape)]
        super().__init__(map.in_shape, map.out_shape, batch_shape=batch)
        self.map, self.x = map, x

    def forward(self, x: Tensor) -> Tensor:
        with mathematical_attention():
            return self._each(self._push, x, self.in_shape, self.out_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return self._each(self._pull, y, self.out_shape, self.in_shape)

    def _push(self, point: Tensor, v: Tensor) -> Tensor:
        return jvp(self.map.function, point, v)

    def _pull(self, point: Tensor, u: Tensor) -> Tensor:
        row = self.in_shape[1:]
        return Jacobian(self.map.function, point, row, forward="forward-mode").adjoint(u)

    def _each(
        self, product: Callable[[Tensor, Tensor], Tensor], x: Tensor, event: Size, target: Size
    ) -> Tensor:
        batch = broadcast(x.shape[: x.ndim - len(event)], self.batch_shape)
        points = self.map.rows(self.x.expand(*batch, *self.in_shape), self.in_shape)
        fields = self.map.rows(x.expand(*batch, *event), event)
        parts = [product(point, field) for point, field in zip(points, fields, strict=True)]
        return torch.cat(parts).reshape(*batch, *target)
