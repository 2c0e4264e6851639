r"""Covariances that are the same everywhere on a regular grid, by the fast Fourier transform."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .arguments import as_single
from .base import Operator
from .dense import white
from .eigenbasis import Eigenbasis
from .hartley import Hartley
from .registry import register
from .shapes import as_size
from .transforms import holds

__all__ = ["Stationary"]

LARGEST = 2**24  # points of a torus that is still made longer


@register(shape="in_shape", event_ndim=lambda V: len(V.in_shape))
class Stationary(Operator):
    r"""A stationary covariance on a regular grid, :math:`V_{ij} = c(i - j)`.

    .. math:: V = P^T \, F^{-1} \, \mathrm{diag}(\lambda) \, F \, P

    with the transform of Fourier :math:`F` on a torus, the spectrum :math:`\lambda \geq 0`, and
    :math:`P`, which pads the grid with zeros where the torus is longer. Products and samples cost
    two transforms. Where no axis is padded (periodic boundaries), so do systems, and determinants
    are sums. Where some are, nothing correlates across the boundary; systems then have no fast
    direct solution: use :class:`CG`, preconditioned by the ``solve`` of a covariance that is
    periodic.

    Arguments:
        spectrum: The spectrum :math:`\lambda` of the torus, in the order of
            :func:`torch.fft.fftn`, with shape :math:`(*, torus)`.
        shape: The shape of the grid, no axis longer than that of the torus; by default that of the
            torus.
        event_ndim: The number of axes of the grid; by default all axes of the spectrum are.

    Raises:
        ValueError: If shapes don't fit, or if the spectrum isn't that of a real covariance: if it
            has negative values, or values that differ between :math:`k` and :math:`-k`.

    References:
        | Fast and Exact Simulation of Stationary Gaussian Processes through Circulant Embedding of
        the Covariance Matrix (Dietrich and Newsam, 1997)
        | https://doi.org/10.1137/S1064827592240555

    Example:
        >>> V = Stationary.of(lambda r: torch.exp(-r), (4,))
        >>> V.to_dense()[0]
        tensor([1.0000, 0.3679, 0.1353, 0.3679])
        >>> V = Stationary.of(lambda r: torch.exp(-r), (4,), periodic=False)
        >>> V.to_dense()[0]
        tensor([1.0000, 0.3679, 0.1353, 0.0498])
    """

    symmetric = True

    def __init__(
        self,
        spectrum: Tensor,
        shape: int | Sequence[int] | None = None,
        event_ndim: int | None = None,
    ) -> None:
        ndim = spectrum.ndim if event_ndim is None else event_ndim
        cut = spectrum.ndim - ndim
        torus = spectrum.shape[max(cut, 0) :]
        event = torus if shape is None else as_size(shape)
        if not 0 < ndim <= spectrum.ndim or len(event) != ndim:
            raise ValueError(
                f"expected a spectrum of shape (*, torus) with {ndim} axes, those of the grid "
                f"{tuple(event)}, got {tuple(spectrum.shape)}"
            )
        if any(n > m for n, m in zip(event, torus, strict=True)):
            raise ValueError(
                f"expected a grid no longer than the torus {tuple(torus)}, got {tuple(event)}"
            )
        super().__init__(event, event, batch_shape=spectrum.shape[:cut])
        self.torus = torus
        self.spectrum = self._checked(spectrum)

    @classmethod
    def of(
        cls,
        covariance: Callable[[Tensor], Tensor],
        shape: int | Sequence[int],
        *,
        spacing: float | Sequence[float] = 1.0,
        periodic: bool | Sequence[bool] = True,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Stationary:
        r"""The covariance whose entries are a function of distance, the shortest around the torus.

        Axes that aren't periodic are padded: to twice their length, and further if the function
        is no covariance on that torus. On periodic ones length scales must be short enough for it
        to be one.

        Arguments:
            covariance: The function :math:`c(r)` of distances :math:`r \geq 0`; also
                ``gaspari_cohn`` with a length.
            shape: The shape of the grid.
            spacing: The distance between neighbours, one for all axes or one for each, in the
                units of :math:`r`.
            periodic: Whether distances go around the grid, for all axes or for each.
            dtype: The floating type.
            device: The device.

        Raises:
            ValueError: If shapes don't fit, or if the function is no covariance on the torus.
        """
        event = as_size(shape)
        steps = _each(spacing, len(event), "spacing")
        closed = _each(periodic, len(event), "periodic")
        for growth in (2, 4, 8, 16):
            torus = [n if p else growth * n for n, p in zip(event, closed, strict=True)]
            square = torch.zeros(torus, dtype=dtype, device=device)
            for axis, (n, step) in enumerate(zip(torus, steps, strict=True)):
                lag = torch.arange(n, dtype=square.dtype, device=device)
                lag = step * torch.minimum(lag, n - lag)
                square = square + lag.square().reshape(-1, *(1,) * (len(torus) - axis - 1))
            spectrum = torch.fft.fftn(covariance(square.sqrt())).real
            enough = bool(spectrum.min() >= -_rounding(spectrum))
            if enough or all(closed) or spectrum.numel() > LARGEST:
                break
        return cls(spectrum, event)

    @property
    def periodic(self) -> bool:
        """Whether no axis is padded."""
        return self.in_shape == self.torus

    @property
    def eigenbasis(self) -> Eigenbasis:
        """The covariance in its own basis, that of :class:`Hartley`, if it is periodic."""
        if not self.periodic:
            raise ValueError(
                f"expected periodic boundaries, got {self!r}, whose torus {tuple(self.torus)} is "
                "longer and whose eigenvectors aren't waves"
            )
        basis = Hartley(self.torus, dtype=self.dtype, device=self.device)
        return Eigenbasis(basis, self.spectrum)

    def forward(self, x: Tensor) -> Tensor:
        return self._filter(self.spectrum, x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def solve(self, b: Tensor) -> Tensor:
        if not self.periodic:
            return super().solve(b)
        self._check(b, self.out_shape)
        return self._filter(1 / self._positive("solve"), b)

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        return self._filter(self.spectrum.sqrt(), white(self, shape, self.torus, generator))

    def logdet(self) -> Tensor:
        if not self.periodic:
            return super().logdet()
        return self._positive("logdet").log().sum(self._axes)

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-len(self.torus), 0))

    def _filter(self, spectrum: Tensor, x: Tensor) -> Tensor:
        """The product with the operator of another spectrum, the result cut to the grid."""
        if not x.numel():  # transforms of nothing are refused by some backends
            return x * spectrum.sum(self._axes, keepdim=True)
        half = as_single(spectrum)[..., : self.torus[-1] // 2 + 1]
        z = torch.fft.rfftn(as_single(x), s=self.torus, dim=self._axes) * half
        y: Tensor = torch.fft.irfftn(z, s=self.torus, dim=self._axes)
        y = y.to(torch.promote_types(x.dtype, spectrum.dtype))
        for axis, n in zip(self._axes, self.in_shape, strict=True):
            y = y.narrow(axis, 0, n)
        return y

    def _positive(self, purpose: str) -> Tensor:
        if not holds(self.spectrum > 0):
            raise ValueError(f"{purpose} needs a spectrum > 0; add a small multiple of Identity")
        return self.spectrum

    def _checked(self, spectrum: Tensor) -> Tensor:
        """The spectrum without the negative values that rounding leaves."""
        allowed = _rounding(spectrum)
        mirror = spectrum.flip(self._axes).roll([1] * len(self._axes), self._axes)
        if not holds((spectrum - mirror).abs() <= 2 * allowed):
            raise ValueError(
                "expected a spectrum with one value for k and -k, in the order of fftn, got others"
            )
        if not holds(spectrum >= -allowed):
            raise ValueError(
                f"expected a spectrum >= 0, got {float(spectrum.min()):.1e} beside "
                f"{float(spectrum.max()):.1e}: the function is no covariance on this torus; take "
                "a shorter length scale, or one that ends, such as gaspari_cohn"
            )
        return spectrum.clamp_min(0.0)

    def _diagonal(self) -> Tensor:
        return self.spectrum.mean(self._axes)[..., None].expand(self.shape[:-1])


def _rounding(spectrum: Tensor) -> Tensor:
    """What rounding may add to values of a transform."""
    return 100 * torch.finfo(spectrum.dtype).eps * spectrum.abs().amax()


def _each(value: float | Sequence[float], n: int, name: str) -> list[float]:
    """One value for each axis."""
    values = [value] * n if isinstance(value, (int, float)) else list(value)
    if len(values) != n:
        raise ValueError(f"expected one {name} for each of {n} axes, got {len(values)}")
    return values
