r"""Hypothesis strategies: random expressions of operators, with the matrices that they stand for.

A :class:`Twin` is an operator, its matrix made by dense arithmetic alone, and what that arithmetic
gives for absolute values,

.. math:: |A B| \leq |A| \, |B| \qquad |A + B| \leq |A| + |B|

which bounds how far rounding can take the two apart, however much cancels. The module needs
``hypothesis``, which the extra ``testing`` installs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from .base import Operator
from .concatenate import Concatenate
from .elementary import Diagonal, Identity, Isotropic, Scaling, Zero
from .innovation import InnovationCovariance
from .kronecker import Kronecker
from .lowrank import LowRankPlusDiagonal
from .matrices import Dense
from .reorder import Reshape
from .selection import Gather, Mask
from .stack import BlockDiagonal, Stack
from .weighted import WeightedGather

__all__ = ["Leaf", "Twin", "covariances", "expressions"]

BATCHES = ((), (2,), (3, 2))


@dataclass(frozen=True)
class Twin:
    r"""An operator and its matrix.

    Arguments:
        operator: The operator, from flat events to flat events.
        matrix: Its matrix, with shape :math:`(*, m, n)`.
        bound: The matrix of the expression in absolute values, with the same shape; by default
            that of the matrix.
    """

    operator: Operator
    matrix: Tensor
    bound: Tensor | None = None

    @property
    def size(self) -> Tensor:
        """The bound of absolute values."""
        return self.matrix.abs() if self.bound is None else self.bound

    def __matmul__(self, other: Twin) -> Twin:
        return Twin(
            self.operator @ other.operator, self.matrix @ other.matrix, self.size @ other.size
        )

    def __add__(self, other: Twin) -> Twin:
        return Twin(
            self.operator + other.operator, self.matrix + other.matrix, self.size + other.size
        )

    def __mul__(self, c: float | Tensor) -> Twin:
        return Twin(self.operator * c, self.matrix * c, self.size * torch.as_tensor(c).abs())

    @property
    def T(self) -> Twin:
        """The twin of the adjoint."""
        return Twin(self.operator.T, self.matrix.mT, self.size.mT)


Leaf = Callable[[st.DrawFn, int, int, tuple[int, ...], torch.dtype], Twin]


@st.composite
def expressions(
    draw: st.DrawFn, *, depth: int = 5, dtype: torch.dtype | None = None, leaf: Leaf | None = None
) -> Twin:
    r"""Random expressions of operators.

    Arguments:
        depth: The largest depth of the tree.
        dtype: The floating type; by default double or single precision.
        leaf: What draws the leaves, from the numbers of rows and columns, the shape of the batch
            and the type; by default the elementary operators of this package.

    Example:
        >>> from hypothesis import given
        >>> @given(expressions(depth=2, dtype=torch.float64))
        ... def test(twin):
        ...     torch.testing.assert_close(twin.operator.to_dense(), twin.matrix)
    """
    torch.manual_seed(draw(st.integers(0, 1000)))
    grower = Grower(draw, draw(st.sampled_from(BATCHES)), _type(draw, dtype), leaf or elementary)
    return grower.tree(
        draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(0, depth))
    )


@st.composite
def covariances(
    draw: st.DrawFn, *, depth: int = 3, dtype: torch.dtype | None = None, leaf: Leaf | None = None
) -> Twin:
    r"""Random expressions of symmetric positive definite operators, far enough from singular to
    be solved.

    Arguments:
        depth: The largest depth of the tree.
        dtype: The floating type; by default double or single precision.
        leaf: What draws the observation operators, as in :func:`expressions`.
    """
    torch.manual_seed(draw(st.integers(0, 1000)))
    grower = Grower(draw, draw(st.sampled_from(BATCHES)), _type(draw, dtype), leaf or elementary)
    return grower.covariance(draw(st.integers(1, 4)), draw(st.integers(0, depth)))


def elementary(
    draw: st.DrawFn, rows: int, columns: int, batch: tuple[int, ...], dtype: torch.dtype
) -> Twin:
    r"""An elementary operator, perhaps a batch of them.

    Arguments:
        draw: What draws.
        rows: The number of rows.
        columns: The number of columns.
        batch: The shape that a batch may have.
        dtype: The floating type.
    """
    square = ["identity", "scaling", "isotropic", "diagonal"] if rows == columns else []
    kind = draw(st.sampled_from(["dense", "gather", "mask", "weighted", "zero", *square]))
    here = batch if draw(st.booleans()) else ()
    eye = torch.eye(columns, dtype=dtype)
    if kind == "mask" and rows <= columns:
        chosen = torch.randperm(columns) < rows
        return Twin(Mask(chosen).to(dtype), eye[chosen])
    if kind in ("gather", "mask"):
        indices = torch.randint(columns, (rows,))
        return Twin(Gather(indices, columns).to(dtype), eye[indices])
    if kind == "weighted":
        indices, weights = torch.randint(columns, (rows, 2)), torch.randn(rows, 2, dtype=dtype)
        matrix = (weights[..., None] * eye[indices]).sum(1)
        return Twin(WeightedGather(indices, weights, columns), matrix)
    if kind == "zero":
        zeros = torch.zeros(*here, rows, columns, dtype=dtype)
        return Twin(Zero(columns, rows, here, dtype=dtype), zeros)
    if kind == "identity":
        return Twin(Identity(columns, dtype=dtype), eye)
    if kind == "diagonal":
        d = torch.randn(*here, columns, dtype=dtype)
        return Twin(Diagonal(d, event_ndim=1), torch.diag_embed(d))
    if kind in ("scaling", "isotropic"):
        c = torch.randn(here, dtype=dtype).square() + 0.1
        make = Scaling if kind == "scaling" else Isotropic
        return Twin(make(c, columns), c[..., None, None] * eye)
    matrix = torch.randn(*here, rows, columns, dtype=dtype)
    return Twin(Dense(matrix), matrix)


@dataclass(frozen=True)
class Grower:
    """Grows trees of one batch and one type."""

    draw: st.DrawFn
    batch: tuple[int, ...]
    dtype: torch.dtype
    leaf: Leaf

    def tree(self, rows: int, columns: int, depth: int) -> Twin:
        """A random expression."""
        kinds = ["product", "sum", "difference", "twice", "multiple", "adjoint"]
        kinds += ["stack"] if rows > 1 else []
        kinds += ["row"] if columns > 1 else []
        kinds += ["blocks"] if min(rows, columns) > 1 else []
        kinds += ["kronecker"] if (rows, columns) in ((4, 4), (4, 2), (2, 4)) else []
        kinds += ["power"] if rows == columns else []
        kind = self.draw(st.sampled_from(kinds)) if depth else "leaf"
        grow: Callable[[int, int, int], Twin] | None = getattr(self, f"_{kind}", None)
        if grow is None:
            return self.leaf(self.draw, rows, columns, self.batch, self.dtype)
        return grow(rows, columns, depth - 1)

    def covariance(self, n: int, depth: int) -> Twin:
        """A random positive definite expression."""
        kinds = ["sum", "multiple", "innovation", "inverse", "product"]
        kinds += ["blocks"] if n > 1 else []
        kinds += ["kronecker"] if n == 4 else []
        kind = self.draw(st.sampled_from(kinds)) if depth else "leaf"
        if kind == "leaf":
            return self._definite(n)
        if kind in ("innovation", "product"):
            V = self.covariance(self.draw(st.integers(1, 4)), depth - 1)
            H = self.leaf(self.draw, n, V.matrix.shape[-1], self.batch, self.dtype)
            R = self._definite(n)
            total = H @ V @ H.T + R
            if kind == "product":
                return total
            S = InnovationCovariance(H.operator, V.operator, R.operator)
            return replace(total, operator=S)
        if kind == "kronecker":
            return kron(self.covariance(2, depth - 1), self._definite(2))
        if kind == "blocks":
            return blocks(self.covariance(n - 1, depth - 1), self._definite(1))
        V = self.covariance(n, depth - 1)
        if kind == "multiple":
            return V * self.draw(st.sampled_from([0.5, 1.0, 3.0]))
        if kind == "inverse":
            inverse = torch.linalg.inv(V.matrix)
            return Twin(V.operator.inverse(), inverse, inverse.abs() @ V.size @ inverse.abs())
        return V + self._definite(n)

    def _definite(self, n: int) -> Twin:
        kind = self.draw(st.sampled_from(["dense", "diagonal", "isotropic", "low rank"]))
        here = self.batch if self.draw(st.booleans()) else ()
        eye = torch.eye(n, dtype=self.dtype)
        if kind == "isotropic":
            c = torch.rand(here, dtype=self.dtype) + 0.5
            return Twin(Isotropic(c, n), c[..., None, None] * eye)
        d = torch.rand(*here, n, dtype=self.dtype) + 0.5
        if kind == "diagonal":
            return Twin(Diagonal(d, event_ndim=1), torch.diag_embed(d))
        if kind == "low rank":
            F, d = self._noise(2, n), torch.rand(n, dtype=self.dtype) + 0.5
            return Twin(LowRankPlusDiagonal(F, d), F.mT @ F + torch.diag(d))
        F = self._noise(*here, n, n)
        return Twin(Dense(F @ F.mT + eye, symmetric=True), F @ F.mT + eye)

    def _product(self, rows: int, columns: int, depth: int) -> Twin:
        inner = self.draw(st.integers(1, 4))
        return self.tree(rows, inner, depth) @ self.tree(inner, columns, depth)

    def _sum(self, rows: int, columns: int, depth: int) -> Twin:
        return self.tree(rows, columns, depth) + self.tree(rows, columns, depth)

    def _difference(self, rows: int, columns: int, depth: int) -> Twin:
        return self.tree(rows, columns, depth) + self.tree(rows, columns, depth) * -1.0

    def _twice(self, rows: int, columns: int, depth: int) -> Twin:
        one = self.tree(rows, columns, depth)
        return one + one * self.draw(st.sampled_from([-1.0, 1.0]))

    def _multiple(self, rows: int, columns: int, depth: int) -> Twin:
        number = self._noise(*self.batch, 1, 1) if self.batch else self._noise()
        c: float | Tensor = self.draw(st.sampled_from([-2.0, 0.0, 0.5, 1.0]))
        return self.tree(rows, columns, depth) * (number if self.draw(st.booleans()) else c)

    def _adjoint(self, rows: int, columns: int, depth: int) -> Twin:
        return self.tree(columns, rows, depth).T

    def _stack(self, rows: int, columns: int, depth: int) -> Twin:
        cut = self.draw(st.integers(1, rows - 1))
        A, B = self.tree(cut, columns, depth), self.tree(rows - cut, columns, depth)
        return Twin(
            Stack([A.operator, B.operator]), joined(A.matrix, B.matrix), joined(A.size, B.size)
        )

    def _row(self, rows: int, columns: int, depth: int) -> Twin:
        other = self._stack(columns, rows, depth)
        assert isinstance(other.operator, Stack)
        row = Concatenate([block.T for block in other.operator.blocks])
        return Twin(row, other.matrix.mT, other.size.mT)

    def _blocks(self, rows: int, columns: int, depth: int) -> Twin:
        m, n = self.draw(st.integers(1, rows - 1)), self.draw(st.integers(1, columns - 1))
        return blocks(self.tree(m, n, depth), self.tree(rows - m, columns - n, depth))

    def _kronecker(self, rows: int, columns: int, depth: int) -> Twin:
        A, B = self.tree(2, 2, depth), self.tree(rows // 2, columns // 2, depth)
        return kron(A, B)

    def _power(self, rows: int, columns: int, depth: int) -> Twin:
        A, n = self.tree(rows, columns, depth), self.draw(st.integers(0, 3))
        return Twin(
            A.operator**n,
            torch.linalg.matrix_power(A.matrix, n),
            torch.linalg.matrix_power(A.size, n),
        )

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=self.dtype)


def blocks(A: Twin, B: Twin) -> Twin:
    """The twin of a block diagonal."""

    def placed(first: Tensor, second: Tensor) -> Tensor:
        pad = torch.nn.functional.pad
        return joined(pad(first, (0, second.shape[-1])), pad(second, (first.shape[-1], 0)))

    operator = BlockDiagonal([A.operator, B.operator])
    return Twin(operator, placed(A.matrix, B.matrix), placed(A.size, B.size))


def kron(A: Twin, B: Twin) -> Twin:
    """The twin of a product of Kronecker, flattened."""

    def product(a: Tensor, b: Tensor) -> Tensor:
        cells = a[..., :, None, :, None] * b[..., None, :, None, :]
        return cells.flatten(-2).flatten(-3, -2)

    K = Kronecker([A.operator, B.operator])
    outputs = Reshape(K.out_shape, K.out_shape.numel())
    inputs = outputs if K.in_shape == K.out_shape else Reshape(K.in_shape, K.in_shape.numel())
    return Twin(outputs @ K @ inputs.T, product(A.matrix, B.matrix), product(A.size, B.size))


def joined(a: Tensor, b: Tensor) -> Tensor:
    """One matrix above another, batches broadcast."""
    shape = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])  # type: ignore[no-untyped-call]
    return torch.cat((a.expand(*shape, -1, -1), b.expand(*shape, -1, -1)), dim=-2)


def _type(draw: st.DrawFn, dtype: torch.dtype | None) -> torch.dtype:
    return draw(st.sampled_from([torch.float64, torch.float32])) if dtype is None else dtype
