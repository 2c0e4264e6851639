r"""The climatology that states are standardised with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Statistics", "seasonal_basis"]

YEAR = 365.2425  # days


def seasonal_basis(times: NDArray[np.datetime64], harmonics: int) -> Tensor:
    r"""The functions of the seasonal cycle.

    .. math:: 1, \cos(2 \pi k \tau), \sin(2 \pi k \tau) \qquad k = 1, 2, \dots

    with :math:`\tau` the time since 2000-01-01 in years of 365.2425 days.

    Arguments:
        times: Times, with shape :math:`(L)`.
        harmonics: The number of harmonics.

    Returns:
        Their values, with shape :math:`(L, 1 + 2 \, \mathrm{harmonics})`.

    Example:
        >>> seasonal_basis(np.array(["2000-01-01"], dtype="datetime64[h]"), 1)
        tensor([[1., 1., 0.]])
    """
    days = (times - np.datetime64("2000-01-01")) / np.timedelta64(1, "D")
    phase = torch.as_tensor(2 * math.pi * (days / YEAR), dtype=torch.float64).unsqueeze(-1)
    orders = torch.arange(1, harmonics + 1, dtype=torch.float64)
    waves = torch.stack((torch.cos(orders * phase), torch.sin(orders * phase)), dim=-1).flatten(-2)
    return torch.cat((torch.ones_like(phase), waves), dim=-1).float()


class Statistics(nn.Module):
    r"""A seasonal climatology by grid point, and a scale by channel.

    .. math:: \hat{x} = \frac{x - m(\tau)}{s} \qquad m(\tau) = \sum_k b_k(\tau) \, m_k

    The mean carries what stands still, orography included; the scale is the global (area-weighted)
    standard deviation of the anomalies.

    Arguments:
        coefficients: The coefficients :math:`m_k`, with shape :math:`(K, C, H, W)` and
            :math:`K = 1 + 2 \, \mathrm{harmonics}`; or with shape :math:`(K, C, 1, 1)`, if they
            are the same everywhere.
        scale: The scale :math:`s`, with shape :math:`(C)`.
        partial: Which channels may be absent (NaN) in places, as the temperature of the sea is
            over land, with shape :math:`(C)`; there they are standardised to 0. By default none:
            what is absent stays so.
    """

    coefficients: Tensor
    scale: Tensor
    partial: Tensor | None

    def __init__(self, coefficients: Tensor, scale: Tensor, partial: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("coefficients", coefficients)
        self.register_buffer("scale", scale)
        self.register_buffer("partial", None if partial is None else partial.bool())

    @property
    def harmonics(self) -> int:
        r"""The number of harmonics of the seasonal cycle."""
        return (len(self.coefficients) - 1) // 2

    @classmethod
    def fit(
        cls, x: Tensor, times: NDArray[np.datetime64], weights: Tensor, harmonics: int = 2
    ) -> Statistics:
        r"""Fits the climatology by least squares.

        Arguments:
            x: States in physical units, with shape :math:`(L, C, H, W)`.
            times: Their times, with shape :math:`(L)`.
            weights: The area weights of the rows, with shape :math:`(H)`.
            harmonics: The number of harmonics.
        """
        basis = seasonal_basis(times, harmonics).double()
        gram = basis.T @ basis
        flat = x.flatten(1)
        parts = torch.split(flat, 8192, dim=1)
        moment = torch.cat([basis.T @ part.double() for part in parts], dim=1)
        coefficients = torch.linalg.solve(gram, moment).float().reshape(-1, *x.shape[1:])
        fitted = cls(coefficients, torch.ones(x.shape[1]))
        square = torch.zeros(x.shape[1:], dtype=torch.float64)
        for start in range(0, len(x), 256):
            part = slice(start, start + 256)
            square += fitted.standardise(x[part], times[part]).square().double().sum(0)
        rows = (weights / weights.mean()).double().unsqueeze(-1)
        fitted.scale = ((square / len(x)) * rows).mean(dim=(-2, -1)).sqrt().float()
        return fitted

    def climatology(self, times: NDArray[np.datetime64]) -> Tensor:
        r"""The mean :math:`m(\tau)` at some times, :math:`(L) \to (L, C, H, W)`."""
        basis = seasonal_basis(times, self.harmonics).to(self.coefficients)
        mean: Tensor = torch.tensordot(basis, self.coefficients, dims=1)
        return mean

    def standardise(self, x: Tensor, times: NDArray[np.datetime64]) -> Tensor:
        r"""Physical to standardised states, :math:`(*, L, C, H, W)`."""
        found = (x - self.climatology(times)) / self.scale.reshape(-1, 1, 1)
        if self.partial is None:
            return found
        return found.masked_fill(found.isnan() & self.partial.reshape(-1, 1, 1), 0.0)

    def restore(self, x: Tensor, times: NDArray[np.datetime64]) -> Tensor:
        r"""Standardised to physical states, :math:`(*, L, C, H, W)`."""
        return x * self.scale.reshape(-1, 1, 1) + self.climatology(times)
