r"""Zero, identity, scalings and diagonals: operators that act element by element."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor

from .base import Operator
from .dense import white
from .kept import kept
from .registry import register
from .shapes import broadcast, flatten, over
from .transforms import holds

__all__ = ["Diagonal", "Identity", "Isotropic", "Scaling", "Zero"]


@register
class Zero(Operator):
    r"""The operator :math:`A x = 0`.

    Arguments:
        in_shape: The shape of input events.
        out_shape: The shape of output events; by default that of the input.
        batch_shape: The shape of the batch of operators.
        dtype: The type of the matrix; zeros have the type of the field.
        device: The device of the matrix.

    Example:
        >>> Zero(3, 2)(torch.ones(3))
        tensor([0., 0.])
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        out_shape: int | Sequence[int] | None = None,
        batch_shape: Sequence[int] = (),
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        out_shape = in_shape if out_shape is None else out_shape
        super().__init__(in_shape, out_shape, batch_shape=batch_shape, dtype=dtype, device=device)
        self.symmetric = self.in_shape == self.out_shape

    def forward(self, x: Tensor) -> Tensor:
        return nothing(x, self.in_shape, self.out_shape, self._batch)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return nothing(y, self.out_shape, self.in_shape, self._batch)

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        if not self.symmetric:
            return super().sample(shape, generator)
        size = (*shape, *self.batch_shape, *self.in_shape)
        return torch.zeros(size, dtype=self.dtype, device=self.device)

    def _transposed(self) -> Operator:
        return Zero(
            self.out_shape, self.in_shape, self._batch, dtype=self._dtype, device=self._device
        )

    def _mirrors(self, other: Operator) -> bool:
        return isinstance(other, Zero)

    def _diagonal(self) -> Tensor:
        size = (*self.batch_shape, self.shape[-1])
        return torch.zeros(size, dtype=self.dtype, device=self.device)


@register(shape="in_shape")
class Identity(Operator):
    r"""The identity :math:`A x = x`.

    Arguments:
        shape: The event shape.
        dtype: The type of the matrix; fields of any type pass unchanged.
        device: The device of the matrix.

    Example:
        >>> Identity(2).to_dense()
        tensor([[1., 0.],
                [0., 1.]])
    """

    symmetric = True

    def __init__(
        self,
        shape: int | Sequence[int],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(shape, shape, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return y

    def solve(self, b: Tensor) -> Tensor:
        return self(b)

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        return white(self, shape, self.in_shape, generator)

    def logdet(self) -> Tensor:
        return torch.zeros((), dtype=self.dtype, device=self.device)

    def _diagonal(self) -> Tensor:
        return torch.ones(self.shape[-1], dtype=self.dtype, device=self.device)


@register(shape="in_shape")
class Scaling(Operator):
    r"""The multiplication by a number, :math:`A x = c \, x`.

    Arguments:
        scale: The number :math:`c`, or one for each operator of a batch, with shape :math:`(*)`.
        shape: The event shape.

    Example:
        >>> Scaling(3.0, 2)(torch.ones(2))
        tensor([3., 3.])
        >>> Scaling(torch.tensor([1.0, 2.0]), 3)(torch.ones(3))
        tensor([[1., 1., 1.],
                [2., 2., 2.]])
    """

    symmetric = True

    def __init__(self, scale: float | Tensor, shape: int | Sequence[int]) -> None:
        super().__init__(
            shape, shape, batch_shape=scale.shape if isinstance(scale, Tensor) else ()
        )
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x * over(self.scale, self.in_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def solve(self, b: Tensor) -> Tensor:
        self._check(b, self.out_shape)
        if not self._invertible:
            raise ValueError(f"solve needs a scale other than 0, got {self.scale}")
        return b / over(self.scale, self.in_shape)

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        if not self._nonnegative:
            raise ValueError(f"sample needs a variance >= 0, got {self.scale}")
        return over(self._tensor.sqrt(), self.in_shape) * white(
            self, shape, self.in_shape, generator
        )

    def logdet(self) -> Tensor:
        if not self._positive:
            raise ValueError(f"logdet needs a variance > 0, got {self.scale}")
        return self.in_shape.numel() * self._tensor.log()

    @property
    def _tensor(self) -> Tensor:
        return torch.as_tensor(self.scale, dtype=self.dtype, device=self.device)

    @kept
    def _invertible(self) -> bool:
        return holds(self._tensor != 0)

    @kept
    def _nonnegative(self) -> bool:
        return holds(self._tensor >= 0)

    @kept
    def _positive(self) -> bool:
        return holds(self._tensor > 0)

    def _diagonal(self) -> Tensor:
        return self._tensor[..., None].expand(*self.batch_shape, self.shape[-1])


@register(variance="scale", shape="in_shape")
class Isotropic(Scaling):
    r"""The isotropic covariance :math:`\sigma^2 I`.

    Arguments:
        variance: The variance :math:`\sigma^2 \geq 0`, or one for each operator of a batch, with
            shape :math:`(*)`.
        shape: The event shape.

    Raises:
        ValueError: If a variance is negative or not a number.

    Example:
        >>> Isotropic(4.0, 3).solve(torch.ones(3))
        tensor([0.2500, 0.2500, 0.2500])
    """

    def __init__(self, variance: float | Tensor, shape: int | Sequence[int]) -> None:
        super().__init__(variance, shape)
        if not self._nonnegative:
            raise ValueError(
                f"expected variances >= 0, got {variance}; a signed multiple of I is a Scaling"
            )


@register(diagonal="entries", event_ndim=lambda A: len(A.in_shape))
class Diagonal(Operator):
    r"""The multiplication element by element, :math:`(A x)_i = d_i x_i`; a covariance where
    :math:`d \geq 0`.

    Arguments:
        diagonal: The entries :math:`d`, with shape :math:`(*, event)`.
        event_ndim: The number of event axes; by default all axes are.

    Example:
        >>> Diagonal(torch.tensor([1.0, 2.0]))(torch.ones(2))
        tensor([1., 2.])
        >>> Diagonal(torch.rand(5, 2), event_ndim=1).batch_shape
        torch.Size([5])
    """

    symmetric = True

    def __init__(self, diagonal: Tensor, event_ndim: int | None = None) -> None:
        ndim = diagonal.ndim if event_ndim is None else event_ndim
        if not 0 <= ndim <= diagonal.ndim:
            raise ValueError(
                f"expected event_ndim between 0 and {diagonal.ndim}, the axes of diagonal, got "
                f"{ndim}"
            )
        batch = diagonal.ndim - ndim
        event = Size(diagonal.shape[batch:])
        super().__init__(event, event, batch_shape=diagonal.shape[:batch])
        self.entries = diagonal

    def forward(self, x: Tensor) -> Tensor:
        return x * self.entries

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def solve(self, b: Tensor) -> Tensor:
        self._check(b, self.out_shape)
        if not self._invertible:
            raise ValueError(
                "solve needs diagonal entries other than 0; add a small multiple of Identity"
            )
        return b / self.entries

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        if not self._nonnegative:
            raise ValueError("sample needs variances >= 0, got a diagonal with negative entries")
        return self.entries.sqrt() * white(self, shape, self.in_shape, generator)

    def logdet(self) -> Tensor:
        if not self._positive:
            raise ValueError("logdet needs variances > 0, got a diagonal with other entries")
        return self._diagonal().log().sum(-1)

    @kept
    def _invertible(self) -> bool:
        return holds(self.entries != 0)

    @kept
    def _nonnegative(self) -> bool:
        return holds(self.entries >= 0)

    @kept
    def _positive(self) -> bool:
        return holds(self.entries > 0)

    def _diagonal(self) -> Tensor:
        return flatten(self.entries, self.in_shape)


def filled(scaling: Scaling, like: Diagonal) -> Tensor:
    r"""The diagonal of a scaling, shaped to be added to that of another operator.

    Arguments:
        scaling: The scaling :math:`c I`.
        like: A diagonal over the same events.
    """
    scale = over(scaling.scale, scaling.in_shape)
    if isinstance(scale, Tensor):
        return scale
    return torch.full((), scale, dtype=like.entries.dtype, device=like.entries.device)


def nothing(x: Tensor, source: Size, target: Size, batch: Size) -> Tensor:
    r"""Zeros that depend upon a field, as far as autograd is concerned.

    Arguments:
        x: The field, with shape :math:`(*, source)`.
        source: Its event shape.
        target: The event shape of the zeros.
        batch: The shape of a batch that its own is broadcast with.
    """
    own = x.shape[: x.ndim - len(source)]
    none = x.reshape(*own, source.numel())[..., :0].sum(-1)
    return none.reshape(*own, *(1,) * len(target)).expand(*broadcast(own, batch), *target)
