r"""Covariances of an ensemble, localised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Operator
from .dense import white
from .registry import register
from .selection import Gather
from .shapes import flatten, unflatten
from .transforms import holds
from .weighted import WeightedGather

__all__ = ["Ensemble"]


@register(diagonal="variances")
class Ensemble(Operator):
    r"""The covariance :math:`\rho \circ (F^T F) + \mathrm{diag}(d)`: of few factors, multiplied
    entry by entry by a correlation of places.

    The sample covariance of a small ensemble is of low rank, and correlates by chance what lies
    far apart. A correlation :math:`\rho` that ends with distance, such as :func:`gaspari_cohn`,
    removes this (localisation) and makes the rank full. Places are the last axes of the event;
    what is at one place, such as the variables of one column, keeps its sample covariance.

    .. math:: V x = \sum_k F_k \circ \rho (F_k \circ x) + d \circ x \qquad
        \sum_k F_k \circ z_k + \sqrt{d} \circ \epsilon \sim \mathcal{N}(0, V) \quad \mathrm{with}
        \; z_k \sim \mathcal{N}(0, \rho)

    Without localisation use :class:`LowRankPlusDiagonal`, which also solves.

    Arguments:
        factor: The factor :math:`F`, with shape :math:`(r, event)`.
        diagonal: The variances :math:`d \geq 0`, with shape :math:`(event)`.
        correlation: The covariance :math:`\rho` of places, which are the last axes of the event:
            for instance a :class:`Stationary`, a :class:`KernelCovariance` or a :class:`Dense`.

    Raises:
        ValueError: If shapes don't fit, or if a variance is negative or not a number.
        TypeError: If two floating types meet.

    References:
        | A Sequential Ensemble Kalman Filter for Atmospheric Data Assimilation (Houtekamer and
        Mitchell, 2001) | https://doi.org/10.1175/1520-0493(2001)129<0123:ASEKFF>2.0.CO;2

    Example:
        >>> from appa_prob.operators import Dense, gaspari_cohn
        >>> place = torch.arange(5.0)
        >>> rho = gaspari_cohn((place[:, None] - place).abs(), 1.0)
        >>> V = Ensemble.of(torch.randn(10, 3, 5), Dense(rho, symmetric=True))
        >>> V.in_shape, V.to_dense()[0, 2]
        (torch.Size([3, 5]), tensor(0.))
    """

    symmetric = True

    def __init__(self, factor: Tensor, diagonal: Tensor, correlation: Operator) -> None:
        places = correlation.in_shape
        event = diagonal.shape
        if factor.shape[1:] != event or factor.ndim < 1:
            raise ValueError(
                "expected a factor of shape (rank, *event) and a diagonal of shape event, got "
                f"{tuple(factor.shape)} and {tuple(event)}"
            )
        if (
            event[len(event) - len(places) :] != places
            or correlation.out_shape != places
            or correlation.batch_shape
            or not correlation.symmetric
        ):
            raise ValueError(
                f"expected one symmetric correlation of the last axes of {tuple(event)}, got "
                f"{correlation!r}"
            )
        if correlation._own_dtype() not in (None, factor.dtype):
            raise TypeError(
                f"expected a correlation of the type of the factor, {factor.dtype}, got "
                f"{correlation.dtype}; convert one with .to(dtype)"
            )
        if not holds(diagonal >= 0):
            raise ValueError("expected a diagonal of variances >= 0, got negative entries or NaN")
        super().__init__(event, event)
        self.factor, self.variances, self.correlation = factor, diagonal, correlation

    @classmethod
    def of(
        cls, members: Tensor, correlation: Operator, diagonal: Tensor | None = None
    ) -> Ensemble:
        r"""The localised sample covariance of an ensemble, :math:`F_k = (x_k - \bar{x}) /
        \sqrt{m - 1}`.

        Arguments:
            members: The members :math:`x_k`, with shape :math:`(m, event)`.
            correlation: The correlation :math:`\rho` of places.
            diagonal: Variances to add, with shape :math:`(event)`; by default none.

        Raises:
            ValueError: If there are fewer than 2 members, or as the constructor does.
        """
        if len(members) < 2:
            raise ValueError(f"expected 2 members or more, got {len(members)}")
        factor = (members - members.mean(0)) / (len(members) - 1) ** 0.5
        return cls(
            factor, torch.zeros_like(factor[0]) if diagonal is None else diagonal, correlation
        )

    def forward(self, x: Tensor) -> Tensor:
        terms = self._spread(self.correlation.forward(self._gather(self.factor * x[self._before])))
        return (self.factor * terms).sum(-len(self.in_shape) - 1) + self.variances * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        z = self._spread(self.correlation.sample((*shape, len(self.factor)), generator))
        noise = self.variances.sqrt() * white(self, shape, self.in_shape, generator)
        return (self.factor * z).sum(-len(self.in_shape) - 1) + noise

    def rows(self, indices: Tensor) -> Tensor:
        r"""Rows of the matrix, at the cost of one matrix product.

        Arguments:
            indices: The indices of the rows among the flattened elements, with shape :math:`(n)`.

        Returns:
            The rows, with shape :math:`(n, event)`.
        """
        places = self.correlation.in_shape
        cells = places.numel()
        flat = self.factor.reshape(len(self.factor), -1)
        product = (flat[:, indices].T @ flat).reshape(len(indices), -1, cells)
        near = self.correlation.cross(Gather(indices % cells, places))
        product = product.mul_(near.reshape(len(indices), 1, cells)).reshape(len(indices), -1)
        product[torch.arange(len(indices)), indices] += self.variances.reshape(-1)[indices]
        return unflatten(product, self.in_shape)

    def cross(self, H: Operator) -> Tensor:
        if not isinstance(H, WeightedGather):
            return super().cross(H)
        rows = self.factor.new_empty(len(H.indices), *self.in_shape)
        single = (1,) * len(self.in_shape)
        for start in range(0, len(rows), 512):
            part = slice(start, start + 512)
            total = rows[part].zero_()
            for i, w in zip(H.indices[part].T, H.weights[part].T, strict=True):
                total.addcmul_(w.reshape(-1, *single), self.rows(i))
        return rows

    @property
    def _before(self) -> tuple[Any, ...]:
        """Where the axis of factors goes: before those of the event."""
        return (..., None, *(slice(None),) * len(self.in_shape))

    def _gather(self, terms: Tensor) -> Tensor:
        """The sum over all that is at one place."""
        inner = len(self.in_shape) - len(self.correlation.in_shape)
        axes = tuple(range(-len(self.in_shape), -len(self.in_shape) + inner))
        return terms.sum(axes) if axes else terms

    def _spread(self, terms: Tensor) -> Tensor:
        """Undoes what summing does to the shape."""
        places = self.correlation.in_shape
        inner = (1,) * (len(self.in_shape) - len(places))
        return terms.reshape(*terms.shape[: terms.ndim - len(places)], *inner, *places)

    def _diagonal(self) -> Tensor:
        local = unflatten(self.correlation.diagonal(), self.correlation.in_shape)
        return flatten(self.factor.square().sum(0) * local + self.variances, self.in_shape)
