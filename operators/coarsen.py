r"""Block means: what a coarse instrument or a coarse model sees of a fine field."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .base import Operator
from .registry import register
from .shapes import as_size

__all__ = ["Coarsen"]


@register(factor="factors")
class Coarsen(Operator):
    r"""Weighted means over blocks of the last two axes.

    .. math:: (A x)_{IJ} = \sum_{(i, j) \in B_{IJ}} w_{ij} \, x_{ij} \Big/
        \sum_{(i, j) \in B_{IJ}} w_{ij}

    Arguments:
        factor: The numbers of rows and columns of a block, or one number for both.
        in_shape: The shape of the input event, with two or more axes.
        weights: The weights :math:`w`, such as cell areas, broadcastable to the last two axes; by
            default 1.

    Raises:
        ValueError: If blocks don't tile the grid, or if a block has no weight.

    Example:
        >>> import torch
        >>> A = Coarsen(2, (2, 4))
        >>> A(torch.arange(8.0).reshape(2, 4))
        tensor([[2.5000, 4.5000]])
    """

    def __init__(
        self,
        factor: int | Sequence[int],
        in_shape: Sequence[int],
        weights: Tensor | None = None,
    ) -> None:
        shape = as_size(in_shape)
        factors = (factor, factor) if isinstance(factor, int) else tuple(factor)
        if len(shape) < 2 or len(factors) != 2 or min(factors) < 1:
            raise ValueError(
                f"expected one or two positive factors and two or more axes, got {factor} and "
                f"{tuple(shape)}"
            )
        if any(n % f for n, f in zip(shape[-2:], factors, strict=True)):
            raise ValueError(
                f"expected blocks of {factors[0]} x {factors[1]} that tile the last two axes, got "
                f"{tuple(shape)}; crop or pad the field first"
            )
        self.factors = factors
        coarse = [n // f for n, f in zip(shape[-2:], factors, strict=True)]
        super().__init__(shape, (*shape[:-2], *coarse))
        self.weights = None if weights is None else self._normalised(weights)

    def forward(self, x: Tensor) -> Tensor:
        if self.weights is None:
            return self._blocks(x).mean((-3, -1))
        return self._blocks(x * self.weights).sum((-3, -1))

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return (
            self._spread(y / self._cells)
            if self.weights is None
            else self._spread(y) * self.weights
        )

    @property
    def _cells(self) -> int:
        return self.factors[0] * self.factors[1]

    def _blocks(self, x: Tensor) -> Tensor:
        (f, g), (rows, columns) = self.factors, self.out_shape[-2:]
        return x.reshape(*x.shape[:-2], rows, f, columns, g)

    def _spread(self, y: Tensor) -> Tensor:
        x = y[..., :, None, :, None].expand(
            *y.shape[:-1], self.factors[0], y.shape[-1], self.factors[1]
        )
        return x.reshape(*y.shape[:-2], *self.in_shape[-2:])

    def _normalised(self, weights: Tensor) -> Tensor:
        try:
            weights = weights.expand(self.in_shape[-2:])
        except RuntimeError:
            raise ValueError(
                f"expected weights broadcastable to {tuple(self.in_shape[-2:])}, got "
                f"{tuple(weights.shape)}; a weight for each row has shape (rows, 1)"
            ) from None
        total = self._blocks(weights).sum((-3, -1))
        if not bool((weights >= 0).all()) or not bool((total > 0).all()):
            raise ValueError("expected weights >= 0, some of them > 0 in every block")
        return weights / self._spread(total)
