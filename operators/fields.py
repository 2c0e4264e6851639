r"""States of several fields of unlike shapes, as one flat event.

A state of the atmosphere has levels in some variables and none in others; that of a coupled model
has two grids. Operators, denoisers and samplers work on tensors of one event shape: a layout says
which part of a flat event is which field, and the restriction to a field is an operator as any
other.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from itertools import accumulate

from torch import Size, Tensor

from .base import Operator
from .registry import register
from .scatter import paired, zeros
from .shapes import as_size, flatten, unflatten
from .stack import BlockDiagonal, Stack, cut, join

__all__ = ["Fields", "Restrict"]


class Fields:
    r"""The layout of named fields in a flat event.

    .. math:: x = (x_1, \dots, x_k) \in \mathbb{R}^{n_1 + \dots + n_k}

    Arguments:
        shapes: The event shapes of the fields by name, in the order of the layout.

    Raises:
        ValueError: If there is no field.

    Example:
        >>> import torch
        >>> layout = Fields({"temperature": (2, 3), "pressure": 3})
        >>> x = layout.pack({"temperature": torch.zeros(5, 2, 3), "pressure": torch.ones(5, 3)})
        >>> x.shape, layout.unpack(x)["temperature"].shape
        (torch.Size([5, 9]), torch.Size([5, 2, 3]))
        >>> layout["pressure"](x)[0]
        tensor([1., 1., 1.])
    """

    def __init__(self, shapes: Mapping[str, int | Sequence[int]]) -> None:
        if not shapes:
            raise ValueError("expected one or more fields, got none")
        self.shapes = {name: as_size(shape) for name, shape in shapes.items()}
        ends = accumulate(shape.numel() for shape in self.shapes.values())
        self.ends = dict(zip(self.shapes, ends, strict=True))

    @property
    def shape(self) -> Size:
        """The shape of the flat event."""
        return Size((list(self.ends.values())[-1],))

    def pack(self, fields: Mapping[str, Tensor]) -> Tensor:
        r"""Makes a flat event of fields.

        Arguments:
            fields: The fields by name, with shapes :math:`(*, event_i)`.

        Returns:
            The event, with shape :math:`(*, n)`.

        Raises:
            ValueError: If a field is missing or not known, or if a shape doesn't fit.
        """
        self._check_names(fields)
        for name, event in self.shapes.items():
            shape = fields[name].shape
            if shape[len(shape) - len(event) :] != event:
                raise ValueError(
                    f"expected {name!r} with shape (*, {', '.join(map(str, event))}), got "
                    f"{tuple(shape)}; batch axes come first"
                )
        return join([fields[name] for name in self.shapes], list(self.shapes.values()))

    def unpack(self, x: Tensor) -> dict[str, Tensor]:
        r"""Undoes :meth:`pack`.

        Arguments:
            x: The event, with shape :math:`(*, n)`.

        Returns:
            The fields by name, as views where that is possible.

        Raises:
            ValueError: If the shape doesn't fit.
        """
        if x.shape[-1:] != self.shape:
            raise ValueError(
                f"expected an event of shape (*, {self.shape[0]}), got {tuple(x.shape)}"
            )
        return dict(zip(self.shapes, cut(x, list(self.shapes.values())), strict=True))

    def __getitem__(self, name: str) -> Restrict:
        """The restriction to one field."""
        return Restrict(self, name)

    def only(self, *names: str) -> Stack:
        """The restriction to several fields, laid out as ``Fields`` of these would be."""
        return Stack([self[name] for name in names])

    def blocks(self, operators: Mapping[str, Operator]) -> BlockDiagonal:
        r"""The operator that acts on each field by itself: a change of units, or the covariance of
        independent fields.

        Arguments:
            operators: The operators by the names of the fields.

        Raises:
            ValueError: If a field is missing or not known, or if a shape doesn't fit.
        """
        self._check_names(operators)
        for name, event in self.shapes.items():
            if operators[name].in_shape != event:
                raise ValueError(
                    f"expected an operator on {name!r}, of shape {tuple(event)}, got "
                    f"{operators[name]!r}"
                )
        return BlockDiagonal([operators[name] for name in self.shapes])

    def check_name(self, name: str) -> None:
        """Checks that there is a field of this name."""
        if name not in self.shapes:
            near = difflib.get_close_matches(name, self.shapes, 1)
            raise ValueError(
                f"expected one of the fields {', '.join(self.shapes)}, got {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )

    def _check_names(self, given: Mapping[str, object]) -> None:
        for name in given:
            self.check_name(name)
        missing = [name for name in self.shapes if name not in given]
        if missing:
            raise ValueError(
                f"expected all of the fields {', '.join(self.shapes)}, got none for "
                f"{', '.join(missing)}"
            )

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name!r}: {tuple(shape)}" for name, shape in self.shapes.items())
        return f"Fields({{{shapes}}})"


@register(fields="fields.shapes")
class Restrict(Operator):
    r"""The restriction of a state to one of its fields, a view.

    .. math:: A x = x_i \qquad A^T y = (0, \dots, y, \dots, 0)

    What a field is observed by is composed with it, ``H @ fields["pressure"]``, and becomes an
    operator on the state.

    Arguments:
        fields: The layout of the state, or the shapes of its fields by name.
        name: The name of the field.

    Raises:
        ValueError: If there is no such field.

    Example:
        >>> import torch
        >>> A = Restrict({"temperature": (2, 2), "pressure": 2}, "pressure")
        >>> A, A(torch.arange(6.0)), A.adjoint(torch.ones(2))
        (Restrict('pressure', (6,) -> (2,)), tensor([4., 5.]), tensor([0., 0., 0., 0., 1., 1.]))
    """

    scatters = True

    def __init__(self, fields: Fields | Mapping[str, int | Sequence[int]], name: str) -> None:
        self.fields = fields if isinstance(fields, Fields) else Fields(fields)
        self.fields.check_name(name)
        self.name = name
        super().__init__(self.fields.shape, self.fields.shapes[name])
        self.start = self.fields.ends[name] - self.out_shape.numel()

    def source(self, indices: Tensor) -> Tensor:
        """The flat indices of inputs that flat indices of outputs select."""
        return indices + self.start

    def forward(self, x: Tensor) -> Tensor:
        return unflatten(x.narrow(-1, self.start, self.out_shape.numel()), self.out_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        y = flatten(y, self.out_shape)
        return self._added(zeros(y, (*y.shape[:-1], *self.in_shape)), y)

    def add_adjoint(self, y: Tensor, x: Tensor) -> Tensor:
        return self._added(*paired(x, flatten(y, self.out_shape)))

    def _added(self, x: Tensor, y: Tensor) -> Tensor:
        x.narrow(-1, self.start, y.shape[-1]).add_(y)
        return x

    def __repr__(self) -> str:
        return super().__repr__().replace("(", f"({self.name!r}, ", 1)
