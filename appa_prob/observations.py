r"""What was observed of a trajectory: values, errors, and the operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from appa_prob.operators import WeightedGather
from appa_prob.operators.weighted import some_sums, weighted_sums

from .seasons import seasonal_basis
from .statistics import Statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Observations"]


@dataclass(frozen=True, eq=False)
class Observations:
    r"""Observations :math:`y = H x + \eta`, :math:`\eta \sim \mathcal{N}(0, \mathrm{diag}(r^2))`,
    of a trajectory.

    Arguments:
        operator: The operator :math:`H`, from trajectories of shape :math:`(L, C, H, W)` to
            :math:`(n)`.
        values: The observations in physical units, with shape :math:`(n)`.
        errors: The standard deviations :math:`r` of their errors in physical units, with shape
            :math:`(n)`.
        time: The index of the time of each, with shape :math:`(n)`.
        channel: The index of the channel of each, with shape :math:`(n)`.
        latitude: The latitude of each, with shape :math:`(n)`.
        longitude: The longitude of each, with shape :math:`(n)`.
        biases: Their biases in physical units, with shape :math:`(n)`, which the values hold.
        masked: The number of observations that were left out since they were not finite.
        rejected: The number of those that :mod:`appa_prob.quality` left out.
    """

    operator: WeightedGather
    values: Tensor
    errors: Tensor
    time: NDArray[np.int64]
    channel: NDArray[np.int64]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    biases: Tensor
    masked: int = 0
    rejected: int = 0

    @classmethod
    def none(cls, shape: Sequence[int]) -> Observations:
        r"""No observations, of trajectories of a shape :math:`(L, C, H, W)`.

        Example:
            >>> len(Observations.none((2, 1, 4, 8)))
            0
        """
        empty, number, place = torch.zeros(0), np.zeros(0, np.int64), np.zeros(0)
        nowhere = torch.zeros(0, 1, dtype=torch.int64)
        operator = WeightedGather(nowhere, torch.zeros(0, 1), shape)
        return cls(operator, empty, empty, number, number, place, place, empty)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def counts(self) -> dict[str, int]:
        r"""How many there are, and how many were left out, as attributes of a dataset."""
        return {
            "observations": len(self),
            "masked_observations": self.masked,
            "rejected_observations": self.rejected,
        }

    def select(self, where: NDArray[np.bool_] | NDArray[np.int64]) -> Observations:
        r"""Some of the observations.

        Arguments:
            where: Which, with shape :math:`(n)`, or their indices.
        """
        where = np.flatnonzero(where) if where.dtype == np.bool_ else where
        keep = torch.as_tensor(where)
        operator = WeightedGather(
            self.operator.indices[keep], self.operator.weights[keep], self.operator.in_shape
        )
        return Observations(
            operator,
            self.values[keep],
            self.errors[keep],
            self.time[where],
            self.channel[where],
            self.latitude[where],
            self.longitude[where],
            self.biases[keep],
            self.masked,
            self.rejected,
        )

    def at(self, state: int) -> Observations:
        r"""The observations of one state, with the operator on that state, of shape
        :math:`(C, H, W)`.
        """
        chosen = self.select(self.time == state)
        event = torch.Size(self.operator.in_shape[1:])
        indices = chosen.operator.indices - state * event.numel()
        operator = WeightedGather(indices, chosen.operator.weights, event)
        return Observations(**{**vars(chosen), "operator": operator})

    def within(self, start: int, stop: int) -> Observations:
        r"""The observations of the states from `start` to `stop`, without the latter, with the
        operator on these states.
        """
        chosen = self.select((self.time >= start) & (self.time < stop))
        event = torch.Size(self.operator.in_shape[1:])
        indices = chosen.operator.indices - start * event.numel()
        operator = WeightedGather(indices, chosen.operator.weights, (stop - start, *event))
        moved = {"operator": operator, "time": chosen.time - start}
        return Observations(**{**vars(chosen), **moved})

    def standardised(
        self, statistics: Statistics, times: NDArray[np.datetime64], error: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""The observations of the standardised trajectory, and the variances of their errors.

        Arguments:
            statistics: The climatology.
            times: The times of the trajectory.
            error: The standard deviation of what standardised states hold beside what the
                operator sees, as the error of an autoencoder, with shape :math:`(C, H, W)`; its
                variance is added.

        Returns:
            The values and the variances, both with shape :math:`(n)`, on the device of the
            statistics.

        Raises:
            ValueError: If there are times of more or fewer states.
        """
        scale = statistics.scale[torch.as_tensor(self.channel)]
        H = self.operator.to(scale.device)
        basis = seasonal_basis(times, statistics.harmonics).to(scale)
        mean = observed_sums(H, basis, statistics.coefficients)
        variance = (self.errors.to(scale) / scale).square()
        if error is not None:
            squares = (error * statistics.scale.reshape(-1, 1, 1)).square()
            squares = squares.expand(1, *H.in_shape[-3:])
            variance = variance + observed_sums(H, basis[:, :1], squares) / scale**2
        return (self.values.to(scale) - self.biases.to(scale) - mean) / scale, variance

    def standardised_operator(self, statistics: Statistics) -> WeightedGather:
        r"""The operator on standardised trajectories, whose values :meth:`standardised` gives.

        It is that on physical ones, unless observations mix channels of different scales.

        .. math:: \hat{H} = S^{-1} H \, \mathrm{diag}(s)

        Arguments:
            statistics: The climatology, for its scales :math:`s`.
        """
        H = self.operator
        if H.device != statistics.scale.device:
            H = H.to(statistics.scale.device)
        scale = statistics.scale.to(H.weights)
        points, channels = H.in_shape[-2:].numel(), H.in_shape[-3]
        parts = [scale[indices // points % channels] for indices, _ in some_sums(H)]
        ratio = torch.cat(parts) / scale[torch.as_tensor(self.channel)].unsqueeze(-1)
        if bool((ratio == 1).all()):
            return H
        return WeightedGather(H.indices, H.weights * ratio, H.in_shape)

    def observed(self) -> NDArray[np.bool_]:
        r"""The points of the trajectory that an observation depends on, with shape
        :math:`(L, C, H, W)`.
        """
        seen = torch.zeros(self.operator.in_shape, dtype=torch.bool)
        seen.view(-1)[self.operator.indices[self.operator.weights > 0]] = True
        return seen.numpy()


def observed_sums(H: WeightedGather, factors: Tensor, fields: Tensor) -> Tensor:
    r"""What is observed of states that are sums of a few fields, without these states.

    .. math:: (H x)_i = \sum_j w_{ij} \sum_k b_{l(i, j) k} \, m_{k, c(i, j)} \qquad
        x_l = \sum_k b_{lk} \, m_k

    Arguments:
        H: The operator :math:`H`, from trajectories of shape :math:`(L, C, H, W)`, or from one
            state of shape :math:`(C, H, W)`, to :math:`(n)`.
        factors: The factors :math:`b`, with shape :math:`(L, K)`.
        fields: The fields :math:`m`, with shape :math:`(K, C, H, W)`; or with shape
            :math:`(K, C, 1, 1)`, if they are the same everywhere.

    Raises:
        ValueError: If there are factors for another number of states.

    Example:
        >>> H = WeightedGather(torch.tensor([[7], [1]]), torch.ones(2, 1), (3, 1, 1, 3))
        >>> fields = torch.arange(3.0).reshape(1, 1, 1, 3)
        >>> observed_sums(H, torch.tensor([[1.0], [2.0], [3.0]]), fields)
        tensor([3., 1.])
    """
    size = H.in_shape[-3:].numel()
    if len(factors) != H.in_shape.numel() // size:
        raise ValueError(
            f"expected a time for each state of {tuple(H.in_shape)}, got {len(factors)} times"
        )
    alike = size // fields[0].numel()  # points that share one value
    found = []
    for indices, weights in some_sums(H):
        state, place = indices // size, indices % size // alike
        terms = [
            weighted_sums(m, place, weights * b[state])
            for b, m in zip(factors.T, fields.flatten(1), strict=True)
        ]
        found.append(torch.stack(terms).sum(0))
    return torch.cat(found)
