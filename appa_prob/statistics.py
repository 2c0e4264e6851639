r"""The climatology that states are standardised with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .moments import SeasonalMoments
from .seasons import seasonal_basis

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Statistics"]


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
        moments = SeasonalMoments(tuple(x.shape[1:]), harmonics)
        for start in range(0, len(x), 256):
            part = slice(start, start + 256)
            moments.add(x[part], times[part])
        return cls.from_moments(moments, weights)

    @classmethod
    def from_moments(
        cls, moments: SeasonalMoments, weights: Tensor, partial: Tensor | None = None
    ) -> Statistics:
        r"""The climatology of the states whose moments these are.

        Arguments:
            moments: The moments.
            weights: The area weights of the rows, with shape :math:`(H)`.
            partial: Which channels may be absent in places, with shape :math:`(C)`: their scale is
                that of the other places.
        """
        coefficients, square = moments.fit()
        rows = weights.double().unsqueeze(-1).expand_as(square)
        rows = rows.masked_fill(square.isnan(), 0.0)
        scale = ((square.nan_to_num() * rows).sum((-2, -1)) / rows.sum((-2, -1))).sqrt()
        return cls(coefficients.float(), scale.float(), partial)

    def climatology(self, times: NDArray[np.datetime64]) -> Tensor:
        r"""The mean :math:`m(\tau)` at some times, :math:`(L) \to (L, C, H, W)`."""
        basis = seasonal_basis(times, self.harmonics).to(self.coefficients)
        mean: Tensor = torch.tensordot(basis, self.coefficients, dims=1)
        return mean

    def standardise(self, x: Tensor, times: NDArray[np.datetime64]) -> Tensor:
        r"""Physical to standardised states, :math:`(*, L, C, H, W)`."""
        x = x.to(self.scale.device)
        found = (x - self.climatology(times)) / self.scale.reshape(-1, 1, 1)
        if self.partial is None:
            return found
        return found.masked_fill(found.isnan() & self.partial.reshape(-1, 1, 1), 0.0)

    def restore(self, x: Tensor, times: NDArray[np.datetime64]) -> Tensor:
        r"""Standardised to physical states, :math:`(*, L, C, H, W)`."""
        return x * self.scale.reshape(-1, 1, 1) + self.climatology(times)
