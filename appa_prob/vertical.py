r"""Interpolation between levels: what a report between two levels of a state sees of these.

.. math:: y = (1 - a) \, x_l + a \, x_{l+1} \qquad
    a = \frac{\ln p - \ln p_l}{\ln p_{l+1} - \ln p_l}

at the level :math:`p` between the neighbours :math:`p_l` and :math:`p_{l+1}`. Temperatures,
heights and winds are closer to linear in the logarithm of pressure, about the height, than in
pressure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from .errors import UserError

if TYPE_CHECKING:
    from .catalogue import Catalogue

__all__ = ["Vertical", "see_level"]

Vertical = Literal["exact", "log-pressure"]
Mixture: TypeAlias = tuple[tuple[int, ...], tuple[float, ...]]


def see_level(
    catalogue: Catalogue, variable: str, level: float | None, vertical: Vertical = "exact"
) -> Mixture:
    r"""The channels that make the value of a variable at a level, and their weights.

    Arguments:
        catalogue: The channels that there are.
        variable: The variable.
        level: The level, a pressure or sigma; `None` if the variable has none.
        vertical: Whether levels between those of the catalogue are refused (`exact`) or
            interpolated (`log-pressure`).

    Returns:
        The positions of one or two channels in the catalogue, and their weights.

    Raises:
        UserError: If the variable isn't there, or the level neither is there nor may be
            interpolated; levels beyond the first and the last never are.

    Example:
        >>> from appa_prob.catalogue import Catalogue, Channel
        >>> catalogue = Catalogue(tuple(Channel("t", p, "K") for p in (1000.0, 250.0)))
        >>> see_level(catalogue, "t", 500.0, "log-pressure")
        ((1, 0), (0.5, 0.5))
        >>> see_level(catalogue, "t", 250.0)
        ((1,), (1.0,))
    """
    try:
        return (catalogue.index(variable, level),), (1.0,)
    except UserError as error:
        levels = sorted(catalogue.levels(variable))
        if level is None or not levels:
            raise
        if not levels[0] < level < levels[-1]:
            raise UserError(f"{error}; levels beyond these are not extrapolated") from None
        if vertical == "exact":
            raise UserError(f"{error}; `vertical: log-pressure` interpolates") from None
    above = int(np.searchsorted(levels, level))
    if levels[above - 1] <= 0:
        raise UserError(f"expected levels above 0 for `vertical: log-pressure`, got {levels[0]:g}")
    low, here, high = np.log([levels[above - 1], level, levels[above]])
    share = float((here - low) / (high - low))
    pair = catalogue.index(variable, levels[above - 1]), catalogue.index(variable, levels[above])
    return pair, (1 - share, share)
