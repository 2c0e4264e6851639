r"""Covariances that are the same everywhere on the sphere, by spherical harmonics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from .base import Operator
from .dense import white
from .legendre import normalised_legendre
from .registry import register
from .sphere import check_latitude

__all__ = ["SphericalStationary"]


@register
class SphericalStationary(Operator):
    r"""The covariance of isotropic fields on the sphere, given their power by degree.

    .. math:: V_{ij} = \sum_{l = 0}^L \frac{S_l}{2 l + 1} \sum_{m = -l}^l Y_{l m}(s_i) Y_{l m}(s_j)
        = \sum_{l = 0}^L S_l \, P_l(\cos \theta_{ij})

    with the real spherical harmonics :math:`Y_{lm}` of unit mean square, the polynomials
    :math:`P_l` of Legendre and the angle :math:`\theta_{ij}` between two points. The variance is
    :math:`\sum_l S_l` everywhere. Products and samples cost two Fourier transforms along parallels
    and :math:`2 H L^2` multiplications, and :math:`H L^2` numbers are kept, where the matrix has
    :math:`H^2 W^2`. Fields hold no more than :math:`(L + 1)^2` modes: add a multiple of
    :class:`Identity` to what is inverted.

    Arguments:
        power: The power :math:`S_l \geq 0` by degree, with shape :math:`(*, L + 1)`: one for each
            of several independent fields, whose axes become the first event axes.
        latitude: The latitudes of the rows, in degrees, with shape :math:`(H)`.
        columns: The number :math:`W` of columns, at equal distances around the globe.

    Raises:
        ValueError: If shapes don't fit, if power is negative or not finite, if latitudes aren't
            ordered, or if columns are too few for the degree.

    Example:
        >>> V = SphericalStationary(torch.tensor([1.0, 2.0]), torch.tensor([60.0, 0.0, -60.0]), 4)
        >>> V.diagonal()[:2], V.to_dense()[4, 4:8]  # along the equator, 1 + 2 cos(theta)
        (tensor([3., 3.]), tensor([ 3.0000,  1.0000, -1.0000,  1.0000]))
    """

    symmetric = True

    def __init__(self, power: Tensor, latitude: Tensor, columns: int) -> None:
        check_latitude(latitude)
        if not power.ndim or not 0 < power.shape[-1] <= (columns + 1) // 2:
            raise ValueError(
                f"expected power of shape (*, degrees), of 1 to {(columns + 1) // 2} degrees, as "
                f"many as {columns} columns resolve, got {tuple(power.shape)}"
            )
        if not bool((power >= 0).all()) or not bool(power.isfinite().all()):
            raise ValueError("expected finite power >= 0, got other values")
        event = (*power.shape[:-1], len(latitude), columns)
        super().__init__(event, event)
        self.power, self.latitude, self.columns = power, latitude.to(power), columns

    @cached_property  # parameters are powers, not places
    def legendre(self) -> Tensor:
        """The functions of each order, zero for degrees below it, with shape (M, H, L + 1)."""
        mu, degree = self.latitude.double().deg2rad().sin(), self.power.shape[-1] - 1
        rows = [pad(normalised_legendre(m, degree, mu), (0, 0, m, 0)) for m in range(degree + 1)]
        return torch.stack(rows).mT.to(self.power)

    def forward(self, x: Tensor) -> Tensor:
        if not x.numel():
            return x * self.power.sum()
        rows, orders = len(self.latitude), len(self.legendre)
        fields = x.reshape(-1, *self.power.shape[:-1], rows, self.columns)
        waves = torch.view_as_real(torch.fft.rfft(fields)[..., :orders])
        # Orders first, rows next: then all fields are columns of one product for each order.
        columns = waves.movedim((-2, -3), (0, 1)).reshape(orders, rows, -1)
        modes = (self.legendre.mT @ columns).reshape(orders, orders, *waves.shape[:-3], 2)
        return self._synthesis(self.columns * self._variance * modes).reshape(x.shape)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return self.forward(y)

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        orders, leading = len(self.legendre), self.power.shape[:-1]
        noise = white(self, shape, torch.Size((*leading, 2, orders, orders)), generator)
        modes = noise.reshape(-1, *noise.shape[len(shape) :]).movedim((-2, -1, -3), (0, 1, -1))
        # A wave of order m > 0 has a cosine and a sine of which its transform takes the halves.
        half = torch.full((orders, *(1,) * (modes.ndim - 1)), 0.5, dtype=noise.dtype)
        half[0] = 1.0
        x = self._synthesis(self.columns * (half.to(modes) * self._variance).sqrt() * modes)
        return x.reshape(*shape, *self.in_shape)

    @property
    def _variance(self) -> Tensor:
        """The variance of a mode, with shape (1, L + 1, 1, *, 1), that of modes."""
        degrees = torch.arange(self.power.shape[-1], device=self.power.device)
        return (self.power / (2 * degrees + 1)).movedim(-1, 0)[None, :, None, ..., None]

    def _synthesis(self, modes: Tensor) -> Tensor:
        """Fields, with shape (n, *, H, W), of modes, with shape (M, L + 1, n, *, 2)."""
        columns = self.legendre @ modes.flatten(2)
        waves = columns.reshape(*columns.shape[:2], *modes.shape[2:]).movedim((0, 1), (-2, -3))
        y: Tensor = torch.fft.irfft(torch.view_as_complex(waves.contiguous()), n=self.columns)
        return y

    def _diagonal(self) -> Tensor:
        return self.power.sum(-1)[..., None, None].expand(self.in_shape).flatten()
