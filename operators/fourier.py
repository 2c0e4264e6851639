r"""Fourier transforms, and observations of some frequencies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .arguments import as_single, real
from .base import Operator
from .registry import register
from .shapes import as_size

__all__ = ["Fourier"]


@register(shape="shape_in", mask=lambda A: None if A.indices is None else A.mask)
class Fourier(Operator):
    r"""The unitary discrete Fourier transform along the last axes, at all frequencies or some.

    .. math:: (A x)_k = \frac{1}{\sqrt{n_1 \cdots n_d}} \sum_j x_j
        \exp \Big( -2 \pi i \sum_a \frac{j_a k_a}{n_a} \Big)

    Complex numbers are pairs of real ones along an additional last axis, as made by
    :func:`torch.view_as_real`. So the operator is a real one, and its adjoint belongs to the real
    inner product, the sum of :math:`\mathrm{Re} \, x \, \mathrm{Re} \, y + \mathrm{Im} \, x \,
    \mathrm{Im} \, y`; covariances, solvers and likelihoods remain real. At all frequencies
    :math:`A^T A = I`, for real and for complex fields.

    Frequencies are in the order of :func:`torch.fft.fftn`. Those of a real field come in conjugate
    pairs: a mask should keep one of a pair, unless both were measured.

    Arguments:
        shape: The shape of input events, without the axis of complex pairs.
        mask: The frequencies to keep, a boolean tensor with the shape of the last axes; by default
            all are kept, in place of the axes.
        axes: The number :math:`d` of last axes to transform; by default those of the mask, or all.
        complex_input: Whether input events are complex, with a last axis of pairs.

    Raises:
        TypeError: If the mask isn't boolean.
        ValueError: If the mask or the number of axes don't suit the event.

    Example:
        >>> A = Fourier((4, 4), mask=torch.eye(4).bool())
        >>> A
        Fourier((4, 4) -> (4, 2))
        >>> A(torch.ones(4, 4))[0]
        tensor([4., 0.])
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        mask: Tensor | None = None,
        axes: int | None = None,
        complex_input: bool = False,
    ) -> None:
        self.shape_in = as_size(shape)
        count = len(self.shape_in) if mask is None else mask.ndim
        self.axes = count if axes is None else axes
        grid = self.shape_in[len(self.shape_in) - self.axes :]
        if not 0 < self.axes <= len(self.shape_in) or not grid.numel():
            raise ValueError(
                f"expected 1 to {len(self.shape_in)} axes to transform, not empty, of events of "
                f"shape {tuple(self.shape_in)}, got {self.axes}"
            )
        if mask is not None and mask.dtype is not torch.bool:
            raise TypeError(f"expected a boolean mask, got {mask.dtype}")
        if mask is not None and mask.shape != grid:
            raise ValueError(f"expected a mask of shape {tuple(grid)}, got {tuple(mask.shape)}")
        self.grid, self.complex_input = grid, complex_input
        self.indices = None if mask is None else mask.reshape(-1).nonzero()[:, 0]
        kept = grid if self.indices is None else self.indices.shape
        lead = self.shape_in[: len(self.shape_in) - self.axes]
        pair = (2,) if complex_input else ()
        super().__init__((*self.shape_in, *pair), (*lead, *kept, 2))

    @property
    def mask(self) -> Tensor:
        """The frequencies that are kept, with the shape of the last axes."""
        if self.indices is None:
            return torch.ones(self.grid, dtype=torch.bool, device=self.device)
        flat = torch.zeros(self.grid.numel(), dtype=torch.bool, device=self.indices.device)
        return flat.index_fill(0, self.indices, True).reshape(self.grid)

    def forward(self, x: Tensor) -> Tensor:
        if not x.numel():
            return x.new_zeros(*x.shape[: x.ndim - len(self.in_shape)], *self.out_shape)
        wide = as_single(real(x, self))
        z = torch.view_as_complex(wide.contiguous()) if self.complex_input else wide
        z = torch.fft.fftn(z, dim=self._dims, norm="ortho")
        if self.indices is not None:
            z = z.flatten(-self.axes).index_select(-1, self.indices)
        return torch.view_as_real(z).to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        if not y.numel():
            return y.new_zeros(*y.shape[: y.ndim - len(self.out_shape)], *self.in_shape)
        z = torch.view_as_complex(as_single(real(y, self)).contiguous())
        if self.indices is not None:
            full = z.new_zeros(*z.shape[:-1], self.grid.numel())
            z = full.index_add_(-1, self.indices, z).reshape(*z.shape[:-1], *self.grid)
        z = torch.fft.ifftn(z, dim=self._dims, norm="ortho")
        return (torch.view_as_real(z) if self.complex_input else z.real).to(y.dtype)

    @property
    def _dims(self) -> list[int]:
        return list(range(-self.axes, 0))
