r"""Gaussian errors of instruments that saturate, or that record an interval only."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from appa_prob.operators import Map

from .bounded_normal import BoundedNormal, CensoredNormal, TruncatedNormal
from .map_likelihood import MapLikelihood, positive

__all__ = ["Censored", "Truncated"]


class _Bounded(MapLikelihood):
    """Gaussian errors on an interval."""

    distribution: type[BoundedNormal]

    def __init__(
        self,
        map: Map,
        noise: Tensor | float,
        lower: Tensor | float = -math.inf,
        upper: Tensor | float = math.inf,
    ) -> None:
        super().__init__(map)
        self.noise = positive("standard deviation", noise, map)
        self.lower, self.upper = lower, upper

    def law(self, h: Tensor) -> Any:
        return self.distribution(h, self.noise.to(h), self.lower, self.upper)


class Censored(_Bounded):
    r"""Gaussian errors of an instrument that saturates: what lies beyond its range is recorded at
    the end of the range.

    .. math:: y = \min(\max(h(x) + \epsilon, a), b) \qquad \epsilon \sim \mathcal{N}(0, s^2)

    Arguments:
        map: The map :math:`h`.
        noise: The standard deviation :math:`s`, a number or a tensor that is broadcast to
            observations.
        lower: The lower end :math:`a` of the range, likewise; none by default.
        upper: The upper end :math:`b`.

    Raises:
        ValueError: If the noise is not positive or doesn't fit the map, or if a range is empty.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Identity
        >>> gauge = Censored(Identity(2), 1.0, lower=0.0)
        >>> gauge(torch.zeros(2)).log_prob(torch.zeros(2)).exp()  # both at 0 or below
        tensor(0.2500)
    """

    distribution = CensoredNormal


class Truncated(_Bounded):
    r"""Gaussian errors of an instrument that records what lies within its range, and nothing
    else.

    .. math:: p(y \mid x) \propto \mathcal{N}(y \mid h(x), s^2) \qquad a \leq y \leq b

    Arguments:
        map: The map :math:`h`.
        noise: The standard deviation :math:`s`, a number or a tensor that is broadcast to
            observations.
        lower: The lower end :math:`a` of the range, likewise; none by default.
        upper: The upper end :math:`b`.

    Raises:
        ValueError: If the noise is not positive or doesn't fit the map, or if a range is empty.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Identity
        >>> Truncated(Identity(1), 1.0, lower=0.0)(torch.zeros(1)).log_prob(torch.ones(1)).exp()
        tensor(0.4839)
    """

    distribution = TruncatedNormal
