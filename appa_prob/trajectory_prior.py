r"""A Gaussian for trajectories of latents.

It is the one that they would follow if the atmosphere were linear and blind to longitude.

Latents :math:`z_l(c, \varphi, \lambda)` are taken as a process that is stationary in time
:math:`l` and in longitude :math:`\lambda`. A Fourier transform over longitude separates the zonal
wavenumbers :math:`m`. For each of them the covariance over the :math:`n` pairs of a channel and a
latitude is diagonalised, :math:`\Sigma_m = U_m \Lambda_m U_m^*`. The complex time series of each
mode, taken as independent of the other modes, has a Hermitian Toeplitz covariance over the states
of a window, :math:`\Gamma_{mi} = V_{mi} \Lambda_{mi} V_{mi}^*`, whose phase is the speed at which
waves travel:

.. math:: \Sigma = Q \, \mathrm{diag}(\lambda) \, Q^T \qquad
    Q^T = \{V_{mi}^*\} \circ \{U_m^*\} \circ \mathrm{Fourier}_\lambda

with :math:`Q` real and orthogonal, and any function of :math:`\Sigma` at the cost of two such
transforms.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from appa_prob.operators import Eigenbasis, Operator

__all__ = ["TrajectoryBasis", "TrajectoryCovariance"]


class TrajectoryBasis(Operator):
    r"""The orthogonal basis :math:`Q`, from coefficients to trajectories.

    Coefficients have shape :math:`(w, n, W)`, trajectories :math:`(W, c, h, w)`. Along the first
    axis of the coefficients lie the real parts of wavenumbers :math:`0` to :math:`w / 2`, then the
    imaginary parts of those in between.

    Arguments:
        space: The modes :math:`U_m`, complex, with shape :math:`(w / 2 + 1, n, n)`; real for the
            first and the last.
        time: The modes :math:`V_{mi}`, complex, with shape :math:`(w / 2 + 1, n, W, W)`; likewise.
        grid: The shape :math:`(c, h, w)` of a latent.

    Raises:
        ValueError: If :math:`w` is odd, or the modes don't fit the grid.
    """

    def __init__(self, space: Tensor, time: Tensor, grid: torch.Size) -> None:
        channels, rows, columns = grid
        window = time.shape[-1]
        if columns % 2 or space.shape != (columns // 2 + 1, channels * rows, channels * rows):
            raise ValueError(
                f"expected an even grid {tuple(grid)} and modes to match, got {tuple(space.shape)}"
            )
        super().__init__((columns, channels * rows, window), (window, *grid))
        self.space, self.time, self.grid = space, time, torch.Size(grid)

    def forward(self, x: Tensor) -> Tensor:
        r"""Coefficients to trajectories."""
        self._check(x, self.in_shape)
        batch, (count, modes, window) = x.shape[:-3], self.time.shape[:3]
        if x.numel() == 0:  # which Fourier transforms refuse
            return x.new_zeros(*batch, *self.out_shape)
        waves = _to_complex(x)
        waves = waves.reshape(-1, count, modes, window).permute(1, 2, 0, 3)
        waves = waves @ self.time.mT
        return self.fields(waves).reshape(*batch, *self.out_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        r"""Trajectories to coefficients."""
        self._check(y, self.out_shape)
        batch = y.shape[:-4]
        if y.numel() == 0:
            return y.new_zeros(*batch, *self.in_shape)
        waves = self.modes(y.reshape(-1, *self.out_shape)) @ self.time.conj()
        return _to_real(waves.permute(2, 0, 1, 3)).reshape(*batch, *self.in_shape)

    def modes(self, y: Tensor) -> Tensor:
        r"""The complex time series of each mode, :math:`(B, L, c, h, w) \to (w / 2 + 1, n, B, L)`,
        for any number :math:`L` of states.
        """
        count, modes = self.space.shape[:2]
        waves = torch.fft.rfft(y, norm="ortho").flatten(2, 3).permute(3, 0, 1, 2)
        waves = waves.reshape(count, -1, modes) @ self.space.conj()
        series: Tensor = waves.reshape(count, *y.shape[:2], modes).permute(0, 3, 1, 2)
        return series

    def fields(self, waves: Tensor) -> Tensor:
        r"""The fields of time series of modes: the inverse of :meth:`modes`."""
        count, modes, batch, length = waves.shape
        waves = waves.permute(0, 2, 3, 1).reshape(count, -1, modes) @ self.space.mT
        waves = waves.reshape(count, batch, length, modes).permute(1, 2, 3, 0)
        waves = waves.reshape(batch, length, *self.grid[:2], count)
        y: Tensor = torch.fft.irfft(waves, n=self.grid[2], norm="ortho")
        return y


class TrajectoryCovariance(Eigenbasis):
    r"""The covariance of trajectories of latents.

    .. math:: \Sigma = Q \, \mathrm{diag}(\lambda) \, Q^T

    Arguments:
        space: The modes :math:`U_m`, complex, with shape :math:`(w / 2 + 1, n, n)`.
        lags: The covariances of each mode with itself :math:`0, \dots, W - 1` states before,
            complex, with shape :math:`(w / 2 + 1, n, W)`.
        grid: The shape :math:`(c, h, w)` of a latent.
        floor: The smallest eigenvalue.

    Example:
        >>> z = torch.randn(200, 2, 4, 8, generator=torch.Generator().manual_seed(0))
        >>> covariance = TrajectoryCovariance.fit(z, window=3)
        >>> covariance(torch.ones(3, 2, 4, 8)).shape
        torch.Size([3, 2, 4, 8])
    """

    basis: TrajectoryBasis

    def __init__(self, space: Tensor, lags: Tensor, grid: torch.Size, floor: float = 1e-6) -> None:
        window = lags.shape[-1]
        first = torch.arange(window, device=lags.device)
        distance = first.unsqueeze(-1) - first
        gamma = torch.where(
            distance >= 0, lags[..., distance.abs()], lags[..., distance.abs()].conj()
        )
        eigenvalues, time = torch.linalg.eigh(gamma)
        for edge in (0, -1):
            eigenvalues[edge], real = torch.linalg.eigh(gamma[edge].real)
            time[edge] = real.to(time)
        basis = TrajectoryBasis(space, time, torch.Size(grid))
        super().__init__(basis, torch.cat((eigenvalues, eigenvalues[1:-1])).clamp_min(floor))
        self.lags = lags

    @classmethod
    def fit(cls, z: Tensor, window: int) -> "TrajectoryCovariance":
        r"""Estimates the covariance from a series of latents with zero mean.

        Arguments:
            z: Latents at equal steps, with shape :math:`(L, c, h, w)`.
            window: The number :math:`W` of states of a trajectory.

        Raises:
            ValueError: If there are not more latents than states in a window.
        """
        return cls.fit_parts(lambda: iter((z,)), window)

    @classmethod
    def fit_parts(
        cls, parts: Callable[[], Iterator[Tensor]], window: int
    ) -> "TrajectoryCovariance":
        r"""Estimates the covariance from a series in parts, of which one is in memory at a time.

        Arguments:
            parts: Goes through the parts of the series, in order; twice.
            window: The number :math:`W` of states of a trajectory.

        Raises:
            ValueError: If there are not more latents than states in a window.
        """
        count, products, shape = 0, torch.zeros(()), torch.Size()
        for z in parts():
            waves = torch.fft.rfft(z, norm="ortho").flatten(1, 2).permute(2, 0, 1)
            count, products, shape = (
                count + len(z),
                products + waves.mT @ waves.conj(),
                z.shape[1:],
            )
        if count <= window:
            raise ValueError(f"expected more than {window} latents, the window, got {count}")
        _, space = torch.linalg.eigh(products / count)
        for edge in (0, -1):
            # Of real waves, whose modes are real as well.
            space[edge] = torch.linalg.eigh(products[edge].real / count)[1].to(space)
        before, lags = space.new_zeros(len(space), 0, space.shape[-1]), torch.zeros(())
        for z in parts():
            waves = torch.fft.rfft(z, norm="ortho").flatten(1, 2).permute(2, 0, 1)
            new = waves @ space.conj()
            series = torch.cat((before, new), dim=1)
            # The states of this part, by those that are as many states before.
            lags = lags + torch.stack([_lag(series, len(z), k) for k in range(window)], dim=-1)
            before = series[:, max(series.shape[1] - window + 1, 0) :]
        return cls(space, lags / count, shape)


def _lag(series: Tensor, new: int, lag: int) -> Tensor:
    r"""The sum over the last `new` states of products with those `lag` states before."""
    first = max(series.shape[1] - new, lag)
    earlier = series[:, first - lag : max(series.shape[1] - lag, 0)]
    return (series[:, first:] * earlier.conj()).sum(1)


def _to_complex(x: Tensor) -> Tensor:
    half = x.shape[-3] // 2
    inner = torch.complex(x[..., 1:half, :, :], x[..., half + 1 :, :, :]) / math.sqrt(2)
    first, last = x[..., :1, :, :], x[..., half : half + 1, :, :]
    return torch.cat((first.to(inner), inner, last.to(inner)), dim=-3)


def _to_real(z: Tensor) -> Tensor:
    inner = z[..., 1:-1, :, :] * math.sqrt(2)
    return torch.cat(
        (z[..., :1, :, :].real, inner.real, z[..., -1:, :, :].real, inner.imag), dim=-3
    )
