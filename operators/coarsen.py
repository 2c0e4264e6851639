r"""Block means: what a coarse instrument or a coarse model sees of a fine field."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .axis import axis_sums, spread_axis
from .base import Operator
from .registry import register
from .shapes import as_size
from .sphere import row_areas
from .transforms import holds

__all__ = ["Coarsen"]

LOOP = 4
POOLED = 2048  # outputs up to which pooling takes less time on a CPU than sums of slices


@register(factor="factors", latitude=lambda A: None)  # the weights hold the areas
class Coarsen(Operator):
    r"""Weighted means over blocks of the last two axes.

    .. math:: (A x)_{IJ} = \sum_{i, j} r_{Ii} \, c_{Jj} \, w_{ij} \, x_{ij} \Big/
        \sum_{i, j} r_{Ii} \, c_{Jj} \, w_{ij}

    with :math:`r` and :math:`c` the shares of rows and columns that lie in a block: 0 or 1 for
    blocks of whole cells. Factors need neither be integers nor divide the grid: a cell at an edge
    is shared between blocks, and the last block of an axis is smaller where the grid ends in it.

    Arguments:
        factor: The numbers of rows and columns of a block, or one number for both.
        in_shape: The shape of the input event, with two or more axes.
        weights: The weights :math:`w`, broadcastable to the last two axes; by default 1.
        latitude: The latitudes of the rows, in degrees; weights are then multiplied by the areas
            of their cells.

    Raises:
        ValueError: If factors are less than 1, weights or latitudes don't suit the grid, or a
            block has no weight.

    Example:
        >>> A = Coarsen(2, (2, 4))
        >>> A(torch.arange(8.0).reshape(2, 4))
        tensor([[2.5000, 4.5000]])
        >>> Coarsen((1, 2.5), (1, 5))(torch.arange(5.0).reshape(1, 5))
        tensor([[0.8000, 3.2000]])
    """

    def __init__(
        self,
        factor: float | Sequence[float],
        in_shape: Sequence[int],
        weights: Tensor | None = None,
        latitude: Tensor | None = None,
    ) -> None:
        shape = as_size(in_shape)
        factors = (factor, factor) if isinstance(factor, (int, float)) else tuple(factor)
        if len(shape) < 2 or len(factors) != 2 or not min(factors) >= 1:
            raise ValueError(
                f"expected one or two positive factors, at least 1, and two or more axes, got "
                f"{factor} and {tuple(shape)}"
            )
        self.factors = factors
        self._blocks = [int(f) for f in factors]
        self.whole = all(
            f == int(f) and n % f == 0 for n, f in zip(shape[-2:], factors, strict=True)
        )
        coarse = [math.ceil(n / f) for n, f in zip(shape[-2:], factors, strict=True)]
        super().__init__(shape, (*shape[:-2], *coarse))
        self.weights = self._areas(weights, latitude)
        self.shares: tuple[tuple[Tensor, Tensor], ...] = ()
        if not self.whole:
            like = torch.ones(()) if self.weights is None else self.weights
            self.shares = tuple(
                shares(n, f, like) for n, f in zip(shape[-2:], factors, strict=True)
            )
        self.reciprocal = self._reciprocal()

    def forward(self, x: Tensor) -> Tensor:
        if self.reciprocal is None and x.is_floating_point() and x.numel():
            if x.device.type != "cpu" or x.numel() <= POOLED * self._cells:
                means = functional.avg_pool2d(x.reshape(1, -1, *x.shape[-2:]), self._blocks)
                return means.reshape(*x.shape[:-2], *self.out_shape[-2:])
        y = self._sums(x)
        return y * (1 / self._cells if self.reciprocal is None else self.reciprocal)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        x = self._spread(y * (1 / self._cells if self.reciprocal is None else self.reciprocal))
        return x if self.weights is None else x * self.weights

    @property
    def _cells(self) -> float:
        return self.factors[0] * self.factors[1]

    def _sums(self, x: Tensor) -> Tensor:
        w = self.weights
        if not self.whole:
            (i, r), (j, c) = self.shares
            return axis_sums(axis_sums(x if w is None else x * w, i, r, -2), j, c, -1)
        f, g = self._blocks
        if w is None:
            return block_sums(block_sums(x, f), g, columns=True)
        if w.shape[-1] > 1:
            return block_sums(block_sums(x * w, f), g, columns=True)
        return block_sums(block_sums(x, f, w), g, columns=True)

    def _spread(self, y: Tensor) -> Tensor:
        rows, columns = self.in_shape[-2:]
        if not y.numel():
            return y.new_zeros(*y.shape[:-2], rows, columns)
        if not self.whole:
            (i, r), (j, c) = self.shares
            x = spread_axis(y, j, c, y.new_zeros(*y.shape[:-1], columns), -1)
            return spread_axis(x, i, r, x.new_zeros(*y.shape[:-2], rows, columns), -2)
        if y.is_complex():
            f, g = self._blocks
            blocks = y[..., :, None, :, None].expand(*y.shape[:-1], f, y.shape[-1], g)
            return blocks.reshape(*y.shape[:-2], rows, columns)
        fine = functional.interpolate(y.reshape(1, -1, *y.shape[-2:]), size=(rows, columns))
        return fine.reshape(*y.shape[:-2], rows, columns)

    def _areas(self, weights: Tensor | None, latitude: Tensor | None) -> Tensor | None:
        rows, columns = self.in_shape[-2:]
        if latitude is not None:
            if latitude.shape != (rows,):
                raise ValueError(
                    f"expected {rows} latitudes, one a row, got shape {tuple(latitude.shape)}"
                )
            areas = row_areas(latitude)[:, None]
            weights = areas if weights is None else areas * weights
        if weights is None:
            return None
        try:
            full = weights.expand(rows, columns)
        except RuntimeError:
            raise ValueError(
                f"expected weights broadcastable to {(rows, columns)}, got "
                f"{tuple(weights.shape)}; a weight for each row has shape (rows, 1)"
            ) from None
        return weights.expand(rows, 1) if weights.ndim > 1 and weights.shape[-1] == 1 else full

    def _reciprocal(self) -> Tensor | None:
        if self.weights is None and self.whole:
            return None
        like = self.shares[0][1] if self.weights is None else self.weights
        total = self._sums(like.new_ones(self.in_shape[-2:]))
        negative = self.weights is not None and not holds(self.weights >= 0)
        if negative or not holds(total > 0):
            raise ValueError("expected weights >= 0, some of them > 0 in every block")
        return 1 / total


def block_sums(
    x: Tensor, factor: int, weights: Tensor | None = None, columns: bool = False
) -> Tensor:
    r"""Sums over blocks of rows or of columns.

    Arguments:
        x: The fields, with shape :math:`(*, m, n)`.
        factor: The number :math:`f` of rows or columns of a block.
        weights: The weights of rows, with shape :math:`(m, 1)`.
        columns: Whether to sum over columns.

    Returns:
        The sums, with shape :math:`(*, m / f, n)` or :math:`(*, m, n / f)`.

    Example:
        >>> block_sums(torch.arange(6.0).reshape(1, 6), 3, columns=True)
        tensor([[ 3., 12.]])
    """
    axis = -1 if columns else -2
    if factor == 1 and weights is None:
        return x
    *batch, m, n = x.shape
    shape = (*batch, m, n // factor, factor) if columns else (*batch, m // factor, factor, n)
    blocks = x.reshape(shape)
    if weights is not None:
        w = weights.reshape(-1, 1, factor).to(x.dtype)
        return (w @ blocks).squeeze(-2)
    if factor > LOOP:
        return blocks.sum(axis)
    # Few elements are added faster as slices than by a reduction over a short axis.
    total = blocks.select(axis, 0) + blocks.select(axis, 1)
    for i in range(2, factor):
        total += blocks.select(axis, i)
    return total


def shares(n: int, factor: float, like: Tensor) -> tuple[Tensor, Tensor]:
    r"""The shares of :math:`n` cells in blocks of a number of cells.

    Arguments:
        n: The number of cells.
        factor: The number of cells of a block, not necessarily an integer.
        like: The tensor whose type and device the shares have.

    Returns:
        For each block the cells that it meets, and their shares in it.

    Example:
        >>> shares(5, 2.5, torch.ones(()))[1]
        tensor([[1.0000, 1.0000, 0.5000],
                [0.5000, 1.0000, 1.0000]])
    """
    start = torch.arange(math.ceil(n / factor), dtype=torch.float64) * factor
    stop = (start + factor).clamp(max=n)
    first = start.floor().long()
    cells = first[:, None] + torch.arange(int((stop.ceil().long() - first).max()))
    inside = torch.minimum(stop[:, None], cells + 1.0) - torch.maximum(start[:, None], 0.0 + cells)
    weights = inside.clamp_min(0).to(like)
    return cells.clamp(max=n - 1).to(like.device), weights
