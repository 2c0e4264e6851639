r"""Errors with heavy tails, which forgive outliers."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor

from appa_prob.operators import Map

from .map_likelihood import MapLikelihood, positive

__all__ = ["Laplace", "StudentT"]


class StudentT(MapLikelihood):
    r"""Errors of Student's law, :math:`y = h(x) + s \, \epsilon` with :math:`\epsilon \sim
    t_\nu`.

    .. math:: g = \frac{(\nu + 1) \, r}{\nu s^2 + r^2} \qquad W = \frac{\nu + 1}{(\nu + 3) s^2}
        \qquad r = y - h(x)

    Arguments:
        map: The map :math:`h`.
        scale: The scale :math:`s`, a number or a tensor that is broadcast to observations.
        df: The degrees :math:`\nu` of freedom, likewise.

    Raises:
        ValueError: If a parameter is not positive, or doesn't fit the map.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Identity
        >>> StudentT(Identity(2), 0.5)(torch.zeros(2)).log_prob(torch.zeros(2)).round(decimals=3)
        tensor(-0.5750)
    """

    def __init__(self, map: Map, scale: Tensor | float, df: Tensor | float = 4.0) -> None:
        super().__init__(map)
        self.scale = positive("scale", scale, map)
        self.df = positive("number of degrees of freedom", df, map)

    def law(self, h: Tensor) -> Any:
        return dist.StudentT(self.df.to(h), h, self.scale.to(h))


class Laplace(MapLikelihood):
    r"""Errors of Laplace's law, :math:`p(y \mid x) \propto \exp(-|y - h(x)| / s)`.

    .. math:: g = \frac{\mathrm{sign}(y - h(x))}{s} \qquad W = \frac{1}{s^2}

    Arguments:
        map: The map :math:`h`.
        scale: The scale :math:`s`, a number or a tensor that is broadcast to observations.

    Raises:
        ValueError: If the scale is not positive, or doesn't fit the map.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Identity
        >>> Laplace(Identity(2), 0.5)(torch.zeros(2)).log_prob(torch.zeros(2))
        tensor(0.)
    """

    def __init__(self, map: Map, scale: Tensor | float) -> None:
        super().__init__(map)
        self.scale = positive("scale", scale, map)

    def law(self, h: Tensor) -> Any:
        return dist.Laplace(h, self.scale.to(h))
