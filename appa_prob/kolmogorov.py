r"""Two-dimensional Kolmogorov flow: the incompressible Navier-Stokes equations on a torus.

On :math:`[0, 2 \pi]^2`, with lengths and times in units in which the torus and the forcing are as
they are written here, the velocity :math:`u = (u, v)` of a fluid of Reynolds number
:math:`\mathrm{Re}`, slowed by a drag :math:`\mu` and driven with amplitude :math:`A`, follows

.. math:: \partial_t u + u \cdot \nabla u = - \nabla p + \mathrm{Re}^{-1} \nabla^2 u - \mu u
    + A \sin(m y) \, e_x \qquad \nabla \cdot u = 0

The state is the vorticity :math:`\omega = \partial_x v - \partial_y u`, which knows no pressure:
in Fourier's basis

.. math:: \partial_t \hat{\omega} = (k_x^2 - k_y^2) \, \widehat{u v}
    + k_x k_y \, \widehat{(v^2 - u^2)} - (|k|^2 / \mathrm{Re} + \mu) \, (\hat{\omega} - \hat{s})
    \qquad (\hat{u}, \hat{v}) = \frac{i}{|k|^2} (k_y, - k_x) \, \hat{\omega}

with the laminar state :math:`s = - m A \cos(m y) / (m^2 / \mathrm{Re} + \mu)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from appa_prob.operators import LinearFunction, Operator

__all__ = ["KolmogorovFlow"]


class _Tables(NamedTuple):
    """Multipliers of Fourier coefficients; those of modes that are left out are 0."""

    kept: Tensor  # 1 or 0
    square: Tensor  # |k|^2, 1 for the mean
    velocity: Tensor  # from vorticity to velocity, with shape (2, n, n // 2 + 1)
    flux: Tensor  # from (u v, v^2 - u^2) to what they change vorticity by, likewise
    forcing: Tensor  # the curl of the forcing for A = 1


@dataclass(frozen=True)
class KolmogorovFlow:
    r"""A step of Kolmogorov flow, for :class:`~appa_prob.simulator.StepSimulator`.

    Pseudo-spectral: products are computed on the grid and their modes with
    :math:`|k_x|` or :math:`|k_y| \geq n / 3` left out, so that energy and enstrophy are conserved
    but for viscosity, drag and forcing. In time by the exponential method of Lawson on the
    classical Runge-Kutta method of fourth order, applied to :math:`\omega - s`: viscosity, drag
    and forcing are exact, and so are the laminar state and decaying eddies of one wavenumber. It
    is differentiable with respect to the vorticity and all parameters.

    References:
        | Generalized Runge-Kutta Processes for Stable Systems with Large Lipschitz Constants
        (Lawson, 1967) | https://doi.org/10.1137/0704033

        | Technical Note: On the Use of Fourier Pseudo-spectral Methods for Incompressible
        Turbulence (Basdevant, 1983) | https://doi.org/10.1016/0021-9991(83)90132-2

    Arguments:
        n: The number of points along each axis; rows are :math:`y = 2 \pi j / n`, columns
            :math:`x = 2 \pi i / n`.
        dt: The length of a step.
        substeps: The number of steps of the method that it is divided into.
        wavenumber: The wavenumber :math:`m` of the forcing.

    Raises:
        ValueError: If a number is not positive, or if the grid leaves the forcing out.

    Example:
        The laminar state stays.

        >>> flow = KolmogorovFlow(16, 0.1, wavenumber=2)
        >>> y = 2 * torch.pi * torch.arange(16.0) / 16
        >>> laminar = (-2 * 3.0 / (4 / 10 + 0.1) * torch.cos(2 * y))[:, None].expand(16, 16)
        >>> after = flow(laminar, reynolds=10.0, forcing=3.0, drag=0.1)
        >>> torch.allclose(after, laminar, atol=1e-5)
        True
    """

    n: int
    dt: float
    substeps: int = 1
    wavenumber: int = 4

    def __post_init__(self) -> None:
        if self.n < 4 or not self.dt > 0 or self.substeps < 1:
            raise ValueError(
                f"expected at least 4 points, 1 substep and dt > 0, got n={self.n}, "
                f"substeps={self.substeps} and dt={self.dt}"
            )
        if not 1 <= self.wavenumber < self.n / 3:
            raise ValueError(
                f"expected a wavenumber of at least 1 and less than n / 3 = {self.n / 3:.1f}, got "
                f"{self.wavenumber}; take more points"
            )

    @property
    def order(self) -> int:
        r"""The power of the step that the error falls with."""
        return 4

    def __call__(
        self,
        vorticity: Tensor,
        reynolds: Tensor | float,
        forcing: Tensor | float,
        drag: Tensor | float = 0.0,
    ) -> Tensor:
        r"""The vorticity after a step.

        Arguments:
            vorticity: The vorticity :math:`\omega`, with shape :math:`(*, n, n)`.
            reynolds: The Reynolds number :math:`\mathrm{Re} > 0`, a number or a tensor with shape
                :math:`(*, 1, 1)`.
            forcing: The amplitude :math:`A`, likewise.
            drag: The drag :math:`\mu \geq 0`, likewise; the laminar state exists if it or
                viscosity is not 0.

        Returns:
            The vorticity, with shape :math:`(*, n, n)`, without its mean and the modes that are
            left out.
        """
        table = self._tables(vorticity)
        h = self.dt / self.substeps
        rate = table.square / reynolds + drag
        half = torch.exp(-0.5 * h * rate)
        full = half.square()
        laminar = table.forcing * forcing / rate
        w = table.kept * torch.fft.rfft2(vorticity) - laminar
        for _ in range(self.substeps):
            a = self._advection(w + laminar, table)
            b = self._advection(half * (w + 0.5 * h * a) + laminar, table)
            c = self._advection(half * w + 0.5 * h * b + laminar, table)
            d = self._advection(full * w + h * half * c + laminar, table)
            w = full * (w + h / 6 * a) + h / 3 * half * (b + c) + h / 6 * d
        return self._grid(w + laminar)

    def velocity(self, shape: Sequence[int] = ()) -> Operator:
        r"""The operator from vorticity to velocity.

        Arguments:
            shape: The shape of what comes before the grid in an event, such as times.

        Returns:
            The operator, from shape :math:`(shape, n, n)` to :math:`(shape, 2, n, n)`: :math:`u`
            along :math:`x`, then :math:`v` along :math:`y`.
        """
        grid = (self.n, self.n)
        return LinearFunction(
            self._velocity, (*shape, *grid), (*shape, 2, *grid), self._velocity_adjoint
        )

    def _velocity(self, vorticity: Tensor) -> Tensor:
        if not vorticity.numel():  # an empty batch, which MKL refuses to transform
            return vorticity.unsqueeze(-3).repeat_interleave(2, -3)
        w = torch.fft.rfft2(vorticity).unsqueeze(-3)
        velocity = self._tables(vorticity).velocity * w
        return self._grid(velocity)

    def _velocity_adjoint(self, velocity: Tensor) -> Tensor:
        if not velocity.numel():
            return velocity[..., 0, :, :]
        parts = self._tables(velocity).velocity.conj() * torch.fft.rfft2(velocity)
        return self._grid(parts.sum(-3))

    def _advection(self, w: Tensor, table: _Tables) -> Tensor:
        """What advection changes the coefficients of the vorticity by."""
        u, v = self._grid(table.velocity * w.unsqueeze(-3)).unbind(-3)
        products = torch.stack((u * v, (v - u) * (v + u)), dim=-3)
        change: Tensor = (table.flux * torch.fft.rfft2(products)).sum(-3)
        return change

    def _grid(self, coefficients: Tensor) -> Tensor:
        """The field with these coefficients."""
        field: Tensor = torch.fft.irfft2(coefficients, s=(self.n, self.n))
        return field

    def _tables(self, like: Tensor) -> _Tables:
        return _tables(self.n, self.wavenumber, like.dtype, like.device)


@cache
def _tables(n: int, wavenumber: int, dtype: torch.dtype, device: torch.device) -> _Tables:
    ky = torch.fft.fftfreq(n, 1 / n, dtype=dtype, device=device)[:, None]
    kx = torch.fft.rfftfreq(n, 1 / n, dtype=dtype, device=device)[None, :]
    square = kx.square() + ky.square()
    kept = ((kx < n / 3) & (ky.abs() < n / 3) & (square > 0)).to(dtype)
    square = square.clamp_min(1.0)
    velocity = 1j * torch.stack((ky.expand_as(square), -kx.expand_as(square))) / square
    flux = torch.stack((kx.square() - ky.square(), kx * ky))
    y = 2 * torch.pi * torch.arange(n, dtype=dtype, device=device) / n
    curl = -wavenumber * torch.cos(wavenumber * y)[:, None].expand(n, n)
    return _Tables(kept, square, kept * velocity, kept * flux, kept * torch.fft.rfft2(curl))
