r"""Vertical weighting functions: what a sounder sees of the levels above a point.

.. math:: y_k = \sum_l W_{kl} \, x_l \qquad W_{kl} \propto \Delta_l \exp \Big( -\tfrac{1}{2}
    \big( \tfrac{\ln p_l - \ln p_k}{w_k} \big)^2 \Big) \qquad \sum_l W_{kl} = 1

with the peak :math:`p_k`, the width :math:`w_k` in the logarithm of pressure (1 is about 7 km) and
the thickness :math:`\Delta_l` of a level in it, half-way to its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, PositiveFloat

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["WeightingFunction", "weighting_matrix"]


class WeightingFunction(BaseModel):
    r"""A weighting function.

    Attributes:
        peak: The level of its peak, in the units of levels.
        width: Its width in the logarithm of levels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    peak: PositiveFloat
    width: PositiveFloat


def weighting_matrix(
    levels: Sequence[float], functions: Sequence[WeightingFunction]
) -> NDArray[np.float64]:
    r"""The weights of levels, with shape :math:`(K, L)`, to be the matrix of a
    :class:`~appa_prob.operators.Mix`.

    Arguments:
        levels: The :math:`L` levels, sigma or pressures, in any order.
        functions: The :math:`K` weighting functions.

    Example:
        >>> function = WeightingFunction(peak=500.0, width=10.0)
        >>> weighting_matrix([250.0, 500.0, 1000.0], [function]).round(2)
        array([[0.25, 0.5 , 0.25]])
    """
    log = np.log(np.asarray(levels, dtype=np.float64))
    order = np.argsort(log)
    thickness = np.ones(len(log))
    if len(log) > 1:
        gaps = np.diff(log[order]) / 2
        thickness[order] = np.concatenate((gaps, [0.0])) + np.concatenate(([0.0], gaps))
    peaks = np.log([function.peak for function in functions])
    widths = np.array([function.width for function in functions])
    # In logarithms, so that a narrow function between two levels sees the nearer one.
    exponent = -0.5 * ((log - peaks[:, None]) / widths[:, None]) ** 2 + np.log(thickness)
    weights = np.exp(exponent - exponent.max(1, keepdims=True))
    return np.asarray(weights / weights.sum(1, keepdims=True))
