r"""Counts and events."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor

from appa_prob.operators import Map

from .map_likelihood import MapLikelihood, positive

__all__ = ["Bernoulli", "NegativeBinomial", "Poisson"]


class Poisson(MapLikelihood):
    r"""Counts, :math:`y \sim \mathrm{Poisson}(e \, \exp h(x))`.

    .. math:: g = y - \lambda \qquad W = \lambda = e \, \exp h(x)

    Arguments:
        map: The map :math:`h`, to logarithms of intensities; compose a map to intensities with
            ``Nonlinear(torch.log, shape, shape)``.
        exposure: The exposure :math:`e`, as the areas of cells or the lengths of times: a number
            or a tensor that is broadcast to observations.

    Raises:
        ValueError: If the exposure is not positive, or doesn't fit the map.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Identity
        >>> Poisson(Identity(2))(torch.zeros(2)).log_prob(torch.tensor([0.0, 2.0]))
        tensor(-2.6931)
    """

    def __init__(self, map: Map, exposure: Tensor | float = 1.0) -> None:
        super().__init__(map)
        self.exposure = positive("exposure", exposure, map)

    def law(self, h: Tensor) -> Any:
        return dist.Poisson(self.exposure.to(h) * h.exp())


class NegativeBinomial(MapLikelihood):
    r"""Counts that vary more than those of Poisson, of mean :math:`\mu = e \, \exp h(x)` and
    variance :math:`\mu + \mu^2 / k`.

    .. math:: g = \frac{k \, (y - \mu)}{k + \mu} \qquad W = \frac{k \, \mu}{k + \mu}

    Arguments:
        map: The map :math:`h`, to logarithms of means.
        dispersion: The number :math:`k`, Poisson's law if it is large: a number or a tensor that
            is broadcast to observations.
        exposure: The exposure :math:`e`, likewise.

    Raises:
        ValueError: If a parameter is not positive, or doesn't fit the map.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Identity
        >>> NegativeBinomial(Identity(2), 5.0)(torch.zeros(2)).variance
        tensor([1.2000, 1.2000])
    """

    def __init__(
        self, map: Map, dispersion: Tensor | float, exposure: Tensor | float = 1.0
    ) -> None:
        super().__init__(map)
        self.dispersion = positive("dispersion", dispersion, map)
        self.exposure = positive("exposure", exposure, map)

    def law(self, h: Tensor) -> Any:
        k = self.dispersion.to(h)
        return dist.NegativeBinomial(k, logits=h + (self.exposure.to(h) / k).log())


class Bernoulli(MapLikelihood):
    r"""Events, 1 with probability :math:`p = 1 / (1 + \exp(-h(x)))`, else 0.

    .. math:: g = y - p \qquad W = p \, (1 - p)

    Arguments:
        map: The map :math:`h`, to the logits of probabilities.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Identity
        >>> Bernoulli(Identity(2))(torch.zeros(2)).log_prob(torch.tensor([0.0, 1.0]))
        tensor(-1.3863)
    """

    def law(self, h: Tensor) -> Any:
        return dist.Bernoulli(logits=h)
