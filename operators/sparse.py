r"""Operators given by a sparse matrix."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .arguments import as_single
from .base import Operator
from .kept import kept
from .registry import register
from .shapes import as_size, flatten, unflatten

__all__ = ["Sparse"]


@register(matrix=lambda A: A.to_dense())
class Sparse(Operator):
    r"""The product with a sparse matrix, :math:`A x = M x`.

    The matrix is kept in compressed rows. So is its transpose, once an adjoint product or a
    gradient asks for it: a product with the transpose of compressed rows takes a hundred times as
    long. The operator is differentiable with respect to the values.

    Arguments:
        matrix: The matrix :math:`M`, sparse of any layout or dense, with shape :math:`(m, n)`.
        in_shape: The shape of input events, of :math:`n` elements; by default :math:`(n)`.
        out_shape: The shape of output events, of :math:`m` elements; by default :math:`(m)`.

    Raises:
        ValueError: If shapes don't fit.

    Example:
        >>> Sparse(torch.tensor([[0.0, 2.0], [1.0, 0.0]]).to_sparse())(torch.tensor([1.0, 3.0]))
        tensor([6., 1.])
    """

    def __init__(
        self,
        matrix: Tensor,
        in_shape: int | Sequence[int] | None = None,
        out_shape: int | Sequence[int] | None = None,
    ) -> None:
        if matrix.ndim != 2:
            raise ValueError(f"expected a matrix of shape (m, n), got {tuple(matrix.shape)}")
        rows, columns = matrix.shape
        source = as_size(columns if in_shape is None else in_shape)
        target = as_size(rows if out_shape is None else out_shape)
        if (target.numel(), source.numel()) != (rows, columns):
            raise ValueError(
                f"expected events of {columns} and {rows} elements for a matrix of shape "
                f"{tuple(matrix.shape)}, got in_shape {tuple(source)} and out_shape "
                f"{tuple(target)}"
            )
        super().__init__(source, target)
        entries = matrix.to_sparse(layout=torch.sparse_coo).coalesce()  # in the order of rows
        # Products with 32-bit indices take a third of the time.
        small = max(rows, columns, entries.values().numel()) < 2**31
        i, j = entries.indices().to(torch.int32 if small else torch.int64)
        # Tensors of their own, since torch.compile fails at parts of sparse ones.
        self.rows, self.columns, self.values = i.clone(), j.clone(), entries.values().clone()

    def forward(self, x: Tensor) -> Tensor:
        y = product(flatten(x, self.in_shape), self.values, self, False)
        return unflatten(y, self.out_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        x = product(flatten(y, self.out_shape), self.values, self, True)
        return unflatten(x, self.in_shape)

    def multiplied(self, x: Tensor, transposed: bool) -> Tensor:
        r"""The product of the matrix, or of its transpose, with vectors, without gradients.

        Arguments:
            x: The vectors, with shape :math:`(*, n)` or :math:`(*, m)`.
            transposed: Whether to multiply by the transpose.
        """
        if self.values.requires_grad:  # an optimiser may change them in place
            matrix = self._transposed_rows() if transposed else self._compressed_rows()
        else:
            matrix = self._kept_transpose if transposed else self._kept
        dtype = torch.promote_types(x.dtype, matrix.dtype)
        x = as_single(x.to(dtype))
        if matrix.dtype != x.dtype:
            matrix = matrix.to(x.dtype)
        if x.ndim == 1:
            return (matrix @ x).to(dtype)
        columns = x.reshape(-1, x.shape[-1]).mT
        return (matrix @ columns).mT.reshape(*x.shape[:-1], matrix.shape[0]).to(dtype)

    @kept
    def _kept(self) -> Tensor:
        return self._compressed_rows()

    @kept
    def _kept_transpose(self) -> Tensor:
        return self._transposed_rows()

    @cached_property  # parameters are values, not places
    def _by_column(self) -> Tensor:
        return torch.sort(self.columns, stable=True).indices.to(self.columns.dtype)

    def _compressed_rows(self) -> Tensor:
        return compressed(self.rows, self.columns, self.values, self.shape[-2], self.shape[-1])

    def _transposed_rows(self) -> Tensor:
        i, j, order = self.rows, self.columns, self._by_column
        return compressed(j[order], i[order], self.values[order], self.shape[-1], self.shape[-2])


class Product(torch.autograd.Function):
    r"""The product of a sparse matrix with vectors.

    .. math:: y = M x \qquad \frac{\partial y}{\partial x}^T g = M^T g \qquad
        \Big( \frac{\partial y}{\partial M}^T g \Big)_{ij} = g_i \, x_j
    """

    @staticmethod
    def forward(
        x: Tensor, values: Tensor, multiply: Callable[[Tensor, bool], Tensor], transposed: bool
    ) -> Tensor:
        return multiply(x, transposed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, values, multiply, ctx.transposed = inputs
        ctx.operator = multiply.__self__
        ctx.save_for_backward(x, values)
        ctx.save_for_forward(x, values)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, values = ctx.saved_tensors
        to, of = indices(ctx)
        grad_x = grad_values = None
        if ctx.needs_input_grad[0]:
            grad_x = product(g, values, ctx.operator, not ctx.transposed)
        if ctx.needs_input_grad[1]:
            terms = g.index_select(-1, to) * x.index_select(-1, of)
            grad_values = terms.reshape(-1, terms.shape[-1]).sum(0)
        return grad_x, grad_values, None, None

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor | None, values_t: Tensor | None, *_: Any) -> Any:
        x, values = ctx.saved_tensors
        to, of = indices(ctx)
        size = ctx.operator.shape[-1 if ctx.transposed else -2]
        y_t = x.new_zeros(*x.shape[:-1], size)
        if x_t is not None:
            y_t = y_t + product(x_t, values, ctx.operator, ctx.transposed)
        if values_t is not None:
            y_t = y_t.index_add(-1, to, x.index_select(-1, of) * values_t)
        return y_t

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, values: Tensor, *rest: Any) -> Any:
        if in_dims[1] is not None:
            raise NotImplementedError("a sparse matrix can't be mapped over its values")
        multiply, transposed = rest
        return product(x.movedim(in_dims[0], 0), values, multiply.__self__, transposed), 0


def product(x: Tensor, values: Tensor, operator: Sparse, transposed: bool) -> Tensor:
    """The product of a sparse matrix, or of its transpose, with vectors."""
    if torch.compiler.is_compiling():  # which traces neither sparse matrices nor the function
        to, of = (
            (operator.columns, operator.rows) if transposed else (operator.rows, operator.columns)
        )
        terms = x.index_select(-1, of) * values
        size = operator.shape[-1 if transposed else -2]
        return terms.new_zeros(*x.shape[:-1], size).index_add(-1, to, terms)
    # The bound method, since functions of torch take an operator for a tensor of its own kind.
    multiply = operator.multiplied
    y: Tensor = Product.apply(x, values, multiply, transposed)  # type: ignore[no-untyped-call]
    return y


def indices(ctx: Any) -> tuple[Tensor, Tensor]:
    """The elements that entries of the matrix add to, and those that they multiply."""
    pair = (ctx.operator.rows, ctx.operator.columns)
    return pair[::-1] if ctx.transposed else pair


def compressed(i: Tensor, j: Tensor, values: Tensor, rows: int, columns: int) -> Tensor:
    r"""A matrix in compressed rows.

    Arguments:
        i: The rows of the entries, ascending.
        j: The columns of the entries.
        values: The entries.
        rows: The number of rows.
        columns: The number of columns.
    """
    counts = torch.bincount(i, minlength=rows)
    starts = torch.cat((counts.new_zeros(1), counts.cumsum(0))).to(j.dtype)
    with warnings.catch_warnings(), torch.inference_mode(False):
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            starts, j, values.detach(), (rows, columns), check_invariants=False
        )
