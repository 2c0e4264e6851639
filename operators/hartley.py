r"""The transform of Hartley: Fourier's in real numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .arguments import as_single, real
from .base import Operator
from .registry import register

__all__ = ["Hartley"]


@register(shape="in_shape")
class Hartley(Operator):
    r"""The discrete transform of Hartley over all axes of the event.

    .. math:: (Q x)_k = \frac{1}{\sqrt{n}} \sum_j x_j \, \mathrm{cas} \! \left( \sum_a
        \frac{2 \pi j_a k_a}{n_a} \right) \qquad \mathrm{cas} \, \phi = \cos \phi + \sin \phi

    It is orthonormal, symmetric and its own inverse, and diagonalises every covariance that is
    stationary on a torus: the transform of Fourier without complex numbers.

    Arguments:
        shape: The event shape.
        dtype: The type of the matrix; fields of any type are transformed in their own.
        device: The device of the matrix.

    References:
        | A More Symmetrical Fourier Analysis Applied to Transmission Problems (Hartley, 1942)
        | https://doi.org/10.1109/JRPROC.1942.234333

    Example:
        >>> Q = Hartley(4)
        >>> Q(torch.tensor([1.0, 0.0, 0.0, 0.0])), Q(Q(torch.arange(4.0)))
        (tensor([0.5000, 0.5000, 0.5000, 0.5000]), tensor([0., 1., 2., 3.]))
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
        if not x.numel():
            return x  # transforms of nothing are refused by some backends
        axes = tuple(range(-len(self.in_shape), 0))
        z: Tensor = torch.fft.fftn(as_single(real(x, self)), dim=axes, norm="ortho")
        return (z.real - z.imag).to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def solve(self, b: Tensor) -> Tensor:
        return self(b)
