r"""Finite differences on regular grids: gradient, divergence and Laplacian."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .base import Operator
from .pad import Boundary, check_boundary, fold, pad
from .registry import register
from .shapes import as_size

__all__ = ["Divergence", "Gradient", "Laplacian"]

Scheme = Literal["forward", "central"]


@register(axes=lambda A: len(A.spacing))
class Gradient(Operator):
    r"""The gradient by finite differences along the last axes.

    .. math:: (A x)_{a i} = \frac{x_{i + e_a} - x_i}{\Delta_a} \qquad
        (A x)_{a i} = \frac{x_{i + e_a} - x_{i - e_a}}{2 \Delta_a}

    forward, of first order, or central, of second order; :math:`e_a` is one step along axis
    :math:`a`. Beyond the edges the field is 0 (zero), periodic, or its nearest element
    (replicate). The result has the unit of the field over that of the spacing.

    Arguments:
        in_shape: The shape of the input event, with the :math:`d` axes of the grid last.
        axes: The number :math:`d`; by default all axes.
        spacing: The distance :math:`\Delta` of elements along each axis, or one number for all.
        boundary: ``"zero"``, ``"periodic"`` or ``"replicate"``.
        scheme: ``"forward"`` or ``"central"``.

    Raises:
        ValueError: If the axes don't suit the event, a spacing isn't positive, or a name isn't
            known.

    Example:
        >>> A = Gradient((2, 3))
        >>> A
        Gradient((2, 3) -> (2, 2, 3))
        >>> A(torch.tensor([[1.0, 2.0, 4.0], [1.0, 3.0, 6.0]]))
        tensor([[[0., 1., 2.],
                 [0., 0., 0.]],
        <BLANKLINE>
                [[1., 2., 0.],
                 [2., 3., 0.]]])
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        axes: int | None = None,
        spacing: float | Sequence[float] = 1.0,
        boundary: Boundary = "replicate",
        scheme: Scheme = "forward",
    ) -> None:
        shape = as_size(in_shape)
        self.spacing = spacings(shape, axes, spacing)
        check_boundary(boundary)
        if scheme not in ("forward", "central"):
            raise ValueError(f"expected 'forward' or 'central' as scheme, got {scheme!r}")
        self.boundary, self.scheme = boundary, scheme
        d = len(self.spacing)
        lead, grid = shape[: len(shape) - d], shape[len(shape) - d :]
        super().__init__(shape, (*lead, d, *grid))

    def forward(self, x: Tensor) -> Tensor:
        d = len(self.spacing)
        parts = []
        for axis, step in enumerate(self.spacing):
            before, after = self._ends(axis)
            wide, n = pad(x, before, after, self.boundary), x.shape[axis - d]
            ahead, behind = wide.narrow(axis - d, -n, n), wide.narrow(axis - d, 0, n)
            parts.append((ahead - behind) / (step * self._reach))
        return torch.stack(parts, dim=-d - 1)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        d, none = len(self.spacing), [0] * len(self.spacing)
        x = None
        for axis, step in enumerate(self.spacing):
            before, after = self._ends(axis)
            part = y.select(-d - 1, axis) / (step * self._reach)
            both = [a + b for a, b in zip(before, after, strict=True)]
            wide = pad(part, both, none, "zero") - pad(part, none, both, "zero")
            term = fold(wide, before, after, self.boundary)
            x = term if x is None else x + term
        assert x is not None
        return x

    @property
    def _reach(self) -> int:
        return 1 if self.scheme == "forward" else 2

    def _ends(self, axis: int) -> tuple[list[int], list[int]]:
        one = [int(a == axis) for a in range(len(self.spacing))]
        return (one if self.scheme == "central" else [0] * len(one)), one


@register(
    axes=lambda A: len(A.gradient.spacing),
    spacing="gradient.spacing",
    boundary="gradient.boundary",
    scheme="gradient.scheme",
    shape="out_shape",
)
class Divergence(Operator):
    r"""The divergence by finite differences, the negative adjoint of the gradient.

    .. math:: (A x)_i = \sum_a \frac{x_{a, i} - x_{a, i - e_a}}{\Delta_a}

    backward if the gradient is forward, else central.

    Arguments:
        shape: The shape of the output event, with the :math:`d` axes of the grid last; inputs have
            an axis of :math:`d` components in front of these.
        axes: As for :class:`Gradient`.
        spacing: As for :class:`Gradient`.
        boundary: As for the gradient. What the gradient takes from beyond an edge, the divergence
            gives back.
        scheme: ``"forward"`` or ``"central"``, that of the gradient.

    Raises:
        ValueError: As :class:`Gradient`.

    Example:
        >>> Divergence((2, 3))
        Divergence((2, 2, 3) -> (2, 3))
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        axes: int | None = None,
        spacing: float | Sequence[float] = 1.0,
        boundary: Boundary = "replicate",
        scheme: Scheme = "forward",
    ) -> None:
        self.gradient = Gradient(shape, axes, spacing, boundary, scheme)
        super().__init__(self.gradient.out_shape, self.gradient.in_shape)

    def forward(self, x: Tensor) -> Tensor:
        return -self.gradient.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return -self.gradient(y)


@register(axes=lambda A: len(A.spacing))
class Laplacian(Operator):
    r"""The Laplacian by second differences along the last axes.

    .. math:: (A x)_i = \sum_a \frac{x_{i + e_a} - 2 x_i + x_{i - e_a}}{\Delta_a^2}

    It is symmetric. With a periodic or a replicate boundary it is the divergence of the forward
    gradient.

    Arguments:
        in_shape: As for :class:`Gradient`.
        axes: As for :class:`Gradient`.
        spacing: As for :class:`Gradient`.
        boundary: As for :class:`Gradient`.

    Raises:
        ValueError: As :class:`Gradient`.

    Example:
        >>> Laplacian(4, boundary="zero")(torch.tensor([0.0, 1.0, 4.0, 9.0]))
        tensor([  1.,   2.,   2., -14.])
    """

    symmetric = True

    def __init__(
        self,
        in_shape: int | Sequence[int],
        axes: int | None = None,
        spacing: float | Sequence[float] = 1.0,
        boundary: Boundary = "replicate",
    ) -> None:
        super().__init__(in_shape, in_shape)
        self.spacing = spacings(self.in_shape, axes, spacing)
        check_boundary(boundary)
        self.boundary = boundary

    def forward(self, x: Tensor) -> Tensor:
        d = len(self.spacing)
        y = x * sum(-2 / step**2 for step in self.spacing)
        for axis, step in enumerate(self.spacing):
            one, n = [int(a == axis) for a in range(d)], x.shape[axis - d]
            wide = pad(x, one, one, self.boundary)
            y = y + (wide.narrow(axis - d, 2, n) + wide.narrow(axis - d, 0, n)) / step**2
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)


def spacings(
    shape: Sequence[int], axes: int | None, spacing: float | Sequence[float]
) -> tuple[float, ...]:
    """One spacing for each axis of a grid, checked."""
    count = len(shape) if axes is None else axes
    steps = (spacing,) * count if isinstance(spacing, (int, float)) else tuple(spacing)
    grid = shape[len(shape) - count :]
    if not 0 < count <= len(shape) or len(steps) != count or not min(steps) > 0 or 0 in grid:
        raise ValueError(
            f"expected 1 to {len(shape)} axes, not empty, of events of shape {tuple(shape)} and a "
            f"positive spacing for each of them, got {count} axes and {spacing}"
        )
    return steps
