r"""Nonlinear maps from torch functions, and chains of maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .algebra import compose
from .base import Map, Operator
from .jacobian import Forward, Jacobian
from .linearised import Linearised
from .shapes import as_size

__all__ = ["Chain", "Nonlinear", "chain"]


class Nonlinear(Map):
    r"""A map :math:`f` given by any differentiable torch function.

    Arguments:
        function: The function, taking fields of shape :math:`(*, in)` to fields of shape
            :math:`(*, out)`, each batch entry independently of the others.
        in_shape: The shape of input events.
        out_shape: The shape of output events.
        batched: Whether the function accepts batch axes; otherwise it is called on one event after
            another.
        forward: How the Jacobian computes its forward products, see :class:`Jacobian`. If
            ``"linearised"``, the function is traced once for each shape of points.

    Example:
        >>> f = Nonlinear(torch.sin, 3, 3)
        >>> y, J = f.linearize(torch.zeros(2, 3))
        >>> y, J(torch.ones(2, 3))
        (tensor([[0., 0., 0.],
                [0., 0., 0.]]), tensor([[1., 1., 1.],
                [1., 1., 1.]]))
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        in_shape: int | Sequence[int],
        out_shape: int | Sequence[int],
        batched: bool = True,
        *,
        forward: Forward | None = None,
    ) -> None:
        self.function = function
        self.in_shape = as_size(in_shape)
        self.out_shape = as_size(out_shape)
        self.batched = batched
        self.mode = forward
        self._kept = Linearised(self.forward) if forward == "linearised" else self.forward

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(x) if self.batched else self._one_by_one(x)
        expected = (*x.shape[: x.ndim - len(self.in_shape)], *self.out_shape)
        if y.shape != expected:
            raise ValueError(
                f"expected the function to return a field of shape {expected} for one of shape "
                f"{tuple(x.shape)}, got {tuple(y.shape)}; correct out_shape, or say batched=False "
                "if it takes single events only"
            )
        return y

    def linearize(self, x: Tensor) -> tuple[Tensor, Operator]:
        self._check(x, self.in_shape)
        jacobian = Jacobian(self._kept, x, self.in_shape, forward=self.mode)
        return jacobian.value, jacobian

    def to(self, *args: Any, **kwargs: Any) -> Nonlinear:
        """Moves the function if it is a module (in place, as modules move)."""
        if isinstance(self.function, nn.Module):
            self.function.to(*args, **kwargs)
        return self

    def _one_by_one(self, x: Tensor) -> Tensor:
        batch = x.shape[: x.ndim - len(self.in_shape)]
        if not batch:
            return self.function(x)
        events = x.reshape(batch.numel(), *self.in_shape)
        if not len(events):
            return x.new_zeros(*batch, *self.out_shape)
        y = torch.stack([self.function(event) for event in events])
        return y.reshape((*batch, *y.shape[1:]))


class Chain(Map):
    r"""The composition :math:`f_1 \circ f_2 \circ \dots \circ f_k`, the last map applied first.

    .. math:: \frac{\partial (f_1 \circ f_2)}{\partial x}
        = \frac{\partial f_1}{\partial x}(f_2(x)) \, \frac{\partial f_2}{\partial x}(x)

    Arguments:
        maps: The maps, from left to right.

    Raises:
        ValueError: If the output of one isn't an input of its left neighbour.

    Example:
        >>> from appa_prob.operators import Scaling
        >>> f = Scaling(2.0, 3) @ Nonlinear(torch.exp, 3, 3)
        >>> f(torch.zeros(3))
        tensor([2., 2., 2.])
    """

    def __init__(self, *maps: Map) -> None:
        for left, right in pairwise(maps):
            if left.in_shape != right.out_shape:
                raise ValueError(
                    f"expected a right map with outputs of shape {tuple(left.in_shape)}, the "
                    f"inputs of the left one, got {tuple(right.out_shape)}; the right map is "
                    "applied first"
                )
        self.maps = maps
        self.in_shape = maps[-1].in_shape
        self.out_shape = maps[0].out_shape

    def forward(self, x: Tensor) -> Tensor:
        for f in reversed(self.maps):
            x = f.forward(x)
        return x

    def linearize(self, x: Tensor) -> tuple[Tensor, Operator]:
        value, operator = self.maps[-1].linearize(x)
        for f in reversed(self.maps[:-1]):
            value, jacobian = f.linearize(value)
            operator = compose(jacobian, operator)
        return value, operator

    def to(self, *args: Any, **kwargs: Any) -> Chain:
        """Moves every map."""
        return Chain(*(f.to(*args, **kwargs) for f in self.maps))


def chain(left: Map, right: Map) -> Map:
    r"""The map :math:`g \circ f`, with neighbouring operators merged.

    Arguments:
        left: The map :math:`g`.
        right: The map :math:`f`, applied first.

    Example:
        >>> from appa_prob.operators import Scaling
        >>> len(chain(Scaling(2.0, 3), Scaling(3.0, 3) @ Nonlinear(torch.exp, 3, 3)).maps)
        2
    """
    maps = list(left.maps) if isinstance(left, Chain) else [left]
    for f in right.maps if isinstance(right, Chain) else (right,):
        last = maps[-1]
        if isinstance(last, Operator) and isinstance(f, Operator):
            maps[-1] = compose(last, f)
        else:
            maps.append(f)
    return maps[0] if len(maps) == 1 else Chain(*maps)
