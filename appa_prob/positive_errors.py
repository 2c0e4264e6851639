r"""Errors that multiply."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor

from appa_prob.operators import Map

from .map_likelihood import MapLikelihood, positive

__all__ = ["LogNormal"]


class LogNormal(MapLikelihood):
    r"""Errors that multiply, :math:`y = e^{h(x)} e^{s \epsilon}` with :math:`\epsilon \sim
    \mathcal{N}(0, 1)`.

    .. math:: g = \frac{\log y - h(x)}{s^2} \qquad W = \frac{1}{s^2}

    Arguments:
        map: The map :math:`h`, to logarithms of medians; compose a map to medians with
            ``Nonlinear(torch.log, shape, shape)``.
        scale: The scale :math:`s`, a number or a tensor that is broadcast to observations.

    Raises:
        ValueError: If the scale is not positive, or doesn't fit the map.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Identity
        >>> LogNormal(Identity(2), 0.5)(torch.zeros(2)).log_prob(torch.ones(2))
        tensor(-0.4516)
    """

    def __init__(self, map: Map, scale: Tensor | float) -> None:
        super().__init__(map)
        self.scale = positive("scale", scale, map)

    def law(self, h: Tensor) -> Any:
        return dist.LogNormal(h, self.scale.to(h))
