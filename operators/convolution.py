r"""Convolutions: blurs, point spread functions, smoothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from .arguments import as_single
from .base import Operator
from .kept import kept
from .pad import Boundary, check_boundary, fold, pad
from .registry import register
from .shapes import as_size

__all__ = ["Convolution"]

Method = Literal["direct", "fft"]

CROSSOVER = 64  # elements of a kernel from which the FFT takes less time, on a CPU
DIRECT = (functional.conv1d, functional.conv2d, functional.conv3d)


@register
class Convolution(Operator):
    r"""The convolution with a kernel along the last axes, with outputs as large as inputs.

    .. math:: (A x)_i = \sum_j k_j \, x_{i + c - j} \qquad c = \lfloor m / 2 \rfloor

    with :math:`c` the centre of the kernel of :math:`m` elements, along each axis. Beyond the
    edges the field is 0 (zero), periodic, or its nearest element (replicate). Axes before those of
    the kernel are convolved alike.

    The direct method costs :math:`O(n m)`, the other :math:`O(n \log n)`, by fast Fourier
    transforms of the smallest suitable lengths.

    Arguments:
        kernel: The kernel :math:`k`, with one axis for each of the last axes of the event.
        in_shape: The shape of the input event.
        boundary: ``"zero"``, ``"periodic"`` or ``"replicate"``.
        method: ``"direct"``, for kernels of up to three axes, or ``"fft"``; by default the faster
            one for kernels of this size.

    Raises:
        ValueError: If the kernel has no axis, more axes than the event, or more elements along an
            axis than a periodic field; or if a name isn't known.

    Example:
        >>> A = Convolution(torch.tensor([0.25, 0.5, 0.25]), 4, boundary="periodic")
        >>> A(torch.tensor([0.0, 4.0, 0.0, 0.0]))
        tensor([1., 2., 1., 0.])
    """

    def __init__(
        self,
        kernel: Tensor,
        in_shape: int | Sequence[int],
        boundary: Boundary = "zero",
        method: Method | None = None,
    ) -> None:
        shape = as_size(in_shape)
        super().__init__(shape, shape)
        check_boundary(boundary)
        if method not in (None, "direct", "fft"):
            raise ValueError(f"expected 'direct' or 'fft' as method, got {method!r}")
        grid = shape[len(shape) - kernel.ndim :]
        if not 0 < kernel.ndim <= len(shape) or not kernel.numel() or not grid.numel():
            raise ValueError(
                f"expected a kernel with one to {len(shape)} axes, none of them empty, for events "
                f"of shape {tuple(shape)}, got shape {tuple(kernel.shape)}"
            )
        if method == "direct" and kernel.ndim > 3:
            raise ValueError(f"expected up to 3 axes for the direct method, got {kernel.ndim}")
        if boundary == "periodic" and any(m > n for m, n in zip(kernel.shape, grid, strict=True)):
            raise ValueError(
                f"expected a kernel no larger than the periodic grid {tuple(grid)}, got "
                f"{tuple(kernel.shape)}"
            )
        self.kernel, self.boundary, self.method = kernel, boundary, method
        self.grid = grid
        small = kernel.numel() < CROSSOVER and kernel.ndim <= 3
        self._direct = small if method is None else method == "direct"
        self._axes = list(range(-kernel.ndim, 0))
        self._centre = [m // 2 for m in kernel.shape]
        self._before = [m - 1 - m // 2 for m in kernel.shape]
        # Whether the padding is what convolutions of torch do by themselves.
        self._unpadded = boundary == "zero" and self._before == self._centre

    def forward(self, x: Tensor) -> Tensor:
        if self._direct:
            turned = self.kernel.flip(self._axes)
            if self._unpadded:
                return self._correlated(x, turned, self._centre)
            return self._correlated(self._padded(x), turned)
        if self.boundary == "periodic":
            return self._filtered(x, self._spectrum)
        ends = [m - 1 for m in self.kernel.shape]
        if self.boundary == "zero":
            return self._cropped(self._filtered(x, self._spectrum), self._centre)
        return self._cropped(self._filtered(self._padded(x), self._spectrum), ends)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        ends = [m - 1 for m in self.kernel.shape]
        if self._direct:
            if self._unpadded:
                return self._correlated(y, self.kernel, self._centre)
            if self.boundary == "periodic":  # a correlation, periodic as well
                return self._correlated(
                    pad(y, self._centre, self._before, "periodic"), self.kernel
                )
            wide = self._correlated(y, self.kernel, ends)
            return fold(wide, self._before, self._centre, self.boundary)
        if self.boundary == "periodic":
            return self._filtered(y, self._spectrum.conj())
        none = [0] * len(ends)
        if self.boundary == "zero":
            shifted = pad(y, self._centre, none, "zero")
            return self._cropped(self._filtered(shifted, self._spectrum.conj()), none)
        wide = self._filtered(pad(y, ends, none, "zero"), self._spectrum.conj())
        for axis, (n, m) in enumerate(zip(self.grid, self.kernel.shape, strict=True), -len(ends)):
            wide = wide.narrow(axis, 0, n + m - 1)
        return fold(wide, self._before, self._centre, self.boundary)

    @property
    def _lengths(self) -> list[int]:
        if self.boundary == "periodic":
            return list(self.grid)
        pairs = zip(self.grid, self.kernel.shape, strict=True)
        return [fast_length(n + m - 1) for n, m in pairs]

    @property
    def _spectrum(self) -> Tensor:
        return self._transform() if self.kernel.requires_grad else self._kept

    @kept
    def _kept(self) -> Tensor:
        with torch.inference_mode(False):
            return self._transform()

    def _transform(self) -> Tensor:
        kernel = as_single(self.kernel)
        if self.boundary == "periodic":  # the centre goes to the origin
            ends = [n - m for n, m in zip(self.grid, kernel.shape, strict=True)]
            kernel = pad(kernel, [0] * len(ends), ends, "zero")
            kernel = kernel.roll([-c for c in self._centre], self._axes)
        spectrum: Tensor = torch.fft.rfftn(kernel, s=self._lengths, dim=self._axes)
        return spectrum

    def _padded(self, x: Tensor) -> Tensor:
        return pad(x, self._before, self._centre, self.boundary)

    def _correlated(self, x: Tensor, kernel: Tensor, padding: Sequence[int] | int = 0) -> Tensor:
        # Batch and leading axes go to channels, each convolved by itself: with one channel and
        # many batch entries the same takes up to a hundred times as long on a CPU.
        size = kernel.shape
        batch = x.shape[: -len(size)]
        channels = batch.numel()
        if not channels:  # which grouped convolutions refuse
            one = self._correlated(x.new_zeros(x.shape[-len(size) :]), kernel, padding)
            return one.expand(*batch, *one.shape)
        fields = x.reshape(1, channels, *x.shape[-len(size) :])
        weight = kernel.expand(channels, 1, *size)
        y = DIRECT[len(size) - 1](fields, weight, None, 1, padding, 1, channels)
        return y.reshape(*batch, *y.shape[2:])

    def _filtered(self, x: Tensor, spectrum: Tensor) -> Tensor:
        if not x.numel():  # an empty batch, which MKL refuses to transform
            return x.new_zeros(*x.shape[: -self.kernel.ndim], *self._lengths)
        dtype = torch.promote_types(x.dtype, self.kernel.dtype)
        x = as_single(x.to(dtype))
        product = torch.fft.rfftn(x, s=self._lengths, dim=self._axes) * spectrum
        result: Tensor = torch.fft.irfftn(product, s=self._lengths, dim=self._axes)
        return result.to(dtype)

    def _cropped(self, x: Tensor, start: Sequence[int]) -> Tensor:
        for axis, a, n in zip(self._axes, start, self.grid, strict=True):
            x = x.narrow(axis, a, n)
        return x


def fast_length(n: int) -> int:
    r"""The smallest length :math:`\geq n` without prime factors beyond 5, which Fourier transforms
    are fast for.

    Arguments:
        n: The length.

    Example:
        >>> fast_length(721), fast_length(16)
        (729, 16)
    """
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1
