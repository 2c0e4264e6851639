r"""Moments of states about their seasonal cycle, in one pass.

The mean, the seasonal cycle and what it leaves come from the means and the co-moments of states
:math:`x` and of the seasonal functions :math:`b` of their times, all of them sums. Each part of a
dataset has its own, about its own means, and two of them make one (Chan et al., 1979):

.. math::
    \delta = \bar{x}_2 - \bar{x}_1 \qquad
    \bar{x} = \bar{x}_1 + \frac{n_2}{n} \delta \qquad
    M = M_1 + M_2 + \frac{n_1 n_2}{n} \, \delta \delta^T

so that nothing is lost where means are much larger than what varies about them, as those of
geopotential are.

References:
    | Updating Formulae and a Pairwise Algorithm for Computing Sample Variances (Chan et al., 1979)
    | https://doi.org/10.1007/978-3-642-51461-6_3
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import UserError
from .parallel import sum_over_ranks
from .seasons import seasonal_basis

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["SeasonalMoments"]


class SeasonalMoments:
    r"""Means and co-moments of states and of the functions of the season, in double precision.

    A point that lacks a value (NaN) at one time lacks all of its moments.

    Arguments:
        shape: The shape :math:`(C, H, W)` of a state.
        harmonics: The number of harmonics of the seasonal cycle.

    Example:
        >>> import numpy as np
        >>> times = np.datetime64("2000-01-01") + np.arange(4)
        >>> moments = SeasonalMoments((1, 1, 1), harmonics=0)
        >>> for part in (slice(0, 1), slice(1, 4)):
        ...     moments.add(torch.arange(4.0).reshape(4, 1, 1, 1)[part], times[part])
        >>> [found.item() for found in moments.fit()]
        [1.5, 1.25]
    """

    def __init__(self, shape: tuple[int, ...], harmonics: int) -> None:
        def zeros(*sizes: int) -> Tensor:
            return torch.zeros(*sizes, dtype=torch.float64)

        self.harmonics, waves = harmonics, 2 * harmonics
        self.count = 0
        self.basis, self.gram = zeros(waves), zeros(waves, waves)
        self.mean, self.square = zeros(*shape), zeros(*shape)
        self.moment = zeros(waves, *shape)

    def add(self, x: Tensor, times: NDArray[np.datetime64]) -> None:
        r"""Counts some more states.

        Arguments:
            x: The states, with shape :math:`(n, C, H, W)`.
            times: Their times, with shape :math:`(n)`.
        """
        if not len(x):
            return
        b = seasonal_basis(times, self.harmonics)[:, 1:].double()
        mean_b = b.mean(0)
        b = b - mean_b
        total = self.count + len(x)
        share, factor = len(x) / total, self.count * len(x) / total
        delta_b = mean_b - self.basis
        # By channel, as copies in double precision are large.
        for channel in range(x.shape[1]):
            y = x[:, channel].double()
            mean = y.mean(0)
            y = y - mean
            delta = mean - self.mean[channel]
            self.mean[channel] += share * delta
            self.square[channel] += y.square().sum(0) + factor * delta.square()
            self.moment[:, channel] += torch.tensordot(b.T, y, dims=1)
            self.moment[:, channel] += factor * delta_b.reshape(-1, 1, 1) * delta
        self.gram += b.T @ b + factor * torch.outer(delta_b, delta_b)
        self.basis += share * delta_b
        self.count = total

    def over_ranks(self) -> SeasonalMoments:
        r"""The moments of the states of all ranks."""
        whole = SeasonalMoments(tuple(self.mean.shape), self.harmonics)
        count = sum_over_ranks(torch.tensor(float(self.count), dtype=torch.float64))
        whole.count = int(count)
        whole.basis, whole.mean = (
            sum_over_ranks(self.count / count * mean) for mean in (self.basis, self.mean)
        )
        delta_b, delta = self.basis - whole.basis, self.mean - whole.mean
        spread = delta_b.reshape(-1, 1, 1, 1) * delta
        whole.gram = sum_over_ranks(self.gram + self.count * torch.outer(delta_b, delta_b))
        whole.moment = sum_over_ranks(self.moment + self.count * spread)
        whole.square = sum_over_ranks(self.square + self.count * delta.square())
        return whole

    def fit(self) -> tuple[Tensor, Tensor]:
        r"""The least-squares fit of the seasonal cycle.

        Returns:
            Its coefficients, with shape :math:`(1 + 2 \, \mathrm{harmonics}, C, H, W)`, and the
            mean square of what it leaves, with shape :math:`(C, H, W)`.

        Raises:
            UserError: If there is no state, or the times don't tell the seasons apart.
        """
        if not self.count:
            raise UserError("expected states to take the statistics of, got none")
        waves = self.moment.flatten(1)
        if self.harmonics and not torch.linalg.cond(self.gram) < 1e12:
            raise UserError(
                f"{self.count} states don't tell {self.harmonics} harmonics of the seasonal cycle "
                "apart: take a longer period, or fewer harmonics"
            )
        slopes = torch.linalg.solve(self.gram, waves)
        residual = self.square - (slopes * waves).sum(0).reshape(self.square.shape)
        slopes = slopes.reshape(self.moment.shape)
        first = self.mean - torch.tensordot(self.basis, slopes, dims=1)
        return torch.cat((first.unsqueeze(0), slopes)), residual.clamp_min(0.0) / self.count
