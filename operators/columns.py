r"""Operators as matrices over flattened fields, in the manner of ``linear_operator``.

Columns have shape :math:`(N)` or :math:`(*, N, C)`; products with them are those with fields, made
of the columns and flattened again. What that package builds its own functions on is overridden
here, so that these functions see the products, the type and the device of the operator.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Size, Tensor

from . import dense
from .external import LinearOperator, to_linear_operator
from .shapes import broadcast, flatten
from .tree import Replant, differentiable, fields, replace, tensors

if TYPE_CHECKING:
    from .base import Operator

__all__ = ["Columns"]

# Not dtype.to_real(), which torch.compile doesn't know.
REAL = {
    torch.complex32: torch.float16,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}


class Columns(LinearOperator):
    """What :class:`Operator` owes to :class:`linear_operator.LinearOperator`."""

    in_shape: Size
    out_shape: Size
    _batch: Size
    _dtype: torch.dtype | None
    _device: torch.device | None

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Computes the product with a field."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Computes the adjoint product with a field."""

    @property
    @abstractmethod
    def T(self) -> Operator:
        """The adjoint operator."""

    @property
    def batch_shape(self) -> Size:
        """The shape of the batch of operators."""
        return self._batch

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the operator's tensors."""
        return self._own_dtype() or torch.get_default_dtype()

    @property
    def device(self) -> torch.device:
        """The device of the operator's tensors."""
        return self._own_device() or torch.device("cpu")

    def diagonal(self, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
        """The diagonal of the matrix, with shape ``(*batch, N)``."""
        rows_and_columns = {dim1 % self.ndim, dim2 % self.ndim} == {self.ndim - 2, self.ndim - 1}
        if self.shape[-2] != self.shape[-1] or offset or not rows_and_columns:
            raise ValueError(
                f"expected a square operator and its main diagonal, got {self!r} and offset "
                f"{offset}"
            )
        return self._diagonal()

    def to_dense(self) -> Tensor:
        """The matrix, with shape ``(*batch, M, N)``; costs :math:`min(M, N)` products."""
        return dense.matrix(cast("Operator", self))

    def matmul(self, other: Any) -> Any:
        """Multiplies columns, with shape ``(N,)`` or ``(*, N, C)``."""
        if not isinstance(other, Tensor):
            return super().matmul(other)
        if other.shape[-2:][0] != self.shape[-1]:
            raise ValueError(
                f"expected columns of shape ({self.shape[-1]},) or (*, {self.shape[-1]}, C), got "
                f"{tuple(other.shape)}; fields of shape (*, {', '.join(map(str, self.in_shape))}) "
                "go to A(x)"
            )
        return self._matmul(other[:, None]).squeeze(-1) if other.ndim == 1 else self._matmul(other)

    def representation(self) -> tuple[Tensor, ...]:
        """The floating tensors that the matrix depends upon, each of them once."""
        return tuple({id(a): a for a in tensors(self) if differentiable(a)}.values())

    def representation_tree(self) -> Replant:
        """What rebuilds the operator from :meth:`representation`."""
        return Replant(self)

    def clone(self) -> Self:
        """A copy with copies of the tensors."""
        return replace(self, Tensor.clone)

    def detach(self) -> Self:
        """A copy whose tensors are those of this operator, cut off from the graph."""
        return replace(self, Tensor.detach)

    def type(self, dtype: torch.dtype) -> Any:
        """As ``to``, under the name that ``linear_operator`` has for it."""
        return self.to(dtype)

    def cpu(self) -> Any:
        """The operator on the CPU."""
        return self.to("cpu")

    def cuda(self, device: int | str = "cuda") -> Any:
        """The operator on a GPU."""
        return self.to(torch.device(device))

    @abstractmethod
    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Moves to a device or a floating type."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.linalg.solve and isinstance(args[0], Columns):
            return dense.solve_columns(cast("Operator", args[0]), *args[1:], **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: not what is computed from it, and kept."""
        return dict(fields(self))

    def _own_dtype(self) -> torch.dtype | None:
        found = next((a.dtype for a in tensors(self) if differentiable(a)), None)
        return self._dtype if found is None else REAL.get(found, found)

    def _own_device(self) -> torch.device | None:
        return next((a.device for a in tensors(self)), None) or self._device

    def _size(self) -> Size:
        return Size((*self.batch_shape, self.out_shape.numel(), self.in_shape.numel()))

    def _matmul(self, rhs: Tensor) -> Tensor:
        return self._columns(self.forward, rhs, self.in_shape, self.out_shape)

    def _t_matmul(self, rhs: Tensor) -> Tensor:
        return self._columns(self.adjoint, rhs, self.out_shape, self.in_shape)

    def _columns(
        self, product: Callable[[Tensor], Tensor], rhs: Tensor, source: Size, target: Size
    ) -> Tensor:
        if rhs.ndim == 1:
            return self._columns(product, rhs[:, None], source, target).squeeze(-1)
        batch = (1,) * max(len(self.batch_shape) + 2 - rhs.ndim, 0) + tuple(rhs.shape[:-2])
        y = product(rhs.movedim(-1, 0).reshape(rhs.shape[-1], *batch, *source))
        y = flatten(y, target).movedim(0, -1)
        full = broadcast(self.batch_shape, batch) if self.batch_shape else batch
        return y if y.shape[:-2] == full else y.expand(*full, *y.shape[-2:])

    # What the base class computes from one triangle, whatever is in the other.

    def _cholesky(self, upper: bool | None = False) -> Any:
        dense.require_symmetric(cast("Operator", self), "a Cholesky factorisation")
        return super()._cholesky(upper)

    def _symeig(self, *args: Any, **kwargs: Any) -> Any:
        dense.require_symmetric(cast("Operator", self), "an eigendecomposition")
        return super()._symeig(*args, **kwargs)

    def inv_quad_logdet(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The quadratic forms of the inverse, and the logarithm of the determinant."""
        dense.require_symmetric(cast("Operator", self), "inv_quad_logdet")
        return super().inv_quad_logdet(*args, **kwargs)

    def root_decomposition(self, method: str | None = None) -> Any:
        r"""A root :math:`L` with :math:`L L^T = A`."""
        dense.require_symmetric(cast("Operator", self), "a root")
        return super().root_decomposition(method)

    # What the base class does by calling the constructor on all of its tensors, which ours isn't
    # made for. Batches are indexed and permuted on the matrix, since parts may have smaller ones.

    def _set_requires_grad(self, val: bool) -> None:
        for a in self.representation():
            a.requires_grad_(val)

    def _expand_batch(self, batch_shape: Sequence[int]) -> Self:
        copy = replace(self, lambda a: a)
        copy._batch = Size(batch_shape)
        return copy

    def _unsqueeze_batch(self, dim: int) -> Any:
        return self._as_dense("unsqueeze").unsqueeze(dim)

    def _permute_batch(self, *dims: int) -> Any:
        return self._as_dense("permute").permute(*dims, -2, -1)

    def _getitem(self, row_index: Any, col_index: Any, *batch_indices: Any) -> Any:
        if not (_whole(row_index) and _whole(col_index)):
            return super()._getitem(row_index, col_index, *batch_indices)
        return self if all(map(_whole, batch_indices)) else self._as_dense("index")[batch_indices]

    def _as_dense(self, purpose: str) -> Any:
        if min(self.shape[-2:]) > dense.LIMIT:
            raise ValueError(
                f"to {purpose} the batch of {self!r} needs its dense matrix, and {dense.LIMIT} "
                "rows or columns are the limit; make it of the tensors that are wanted instead"
            )
        return to_linear_operator(self.to_dense())

    def _transpose_nonbatch(self) -> Operator:
        return self.T

    def _diagonal(self) -> Tensor:
        return dense.diagonal(cast("Operator", self))


def _whole(index: Any) -> bool:
    return isinstance(index, slice) and index == slice(None)
