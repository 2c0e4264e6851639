r"""Reliability of the probabilities that an ensemble gives to an event.

The event is that a variable exceeds a threshold; its probability :math:`p` is the share of
members that do. Where it is :math:`p`, the event should be seen with the frequency :math:`p`. With
:math:`n_p` the share of cases with probability :math:`p`, :math:`o_p` the frequency of the event
in these, and :math:`\bar{o}` that in all, Brier's score is

.. math:: \overline{(p - o)^2} = \sum_p n_p (p - o_p)^2 - \sum_p n_p (o_p - \bar{o})^2
    + \bar{o} (1 - \bar{o})

the reliability (less is better), less the resolution (more is better), plus the uncertainty.

References:
    | A New Vector Partition of the Probability Score (Murphy, 1973)
    | https://doi.org/10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from .regions import GLOBE, SPACE, Field, Region

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.floating]

__all__ = ["brier_score", "decompose_brier", "reliability"]


def reliability(
    forecast: Field, truth: Field, threshold: Field | float, region: Region = GLOBE
) -> Field:
    r"""How often each probability is given, and how often the event follows.

    Arguments:
        forecast: The ensemble, with dimensions `member, latitude, longitude` and any others.
        truth: The truth.
        threshold: What is to be exceeded, a number or a field.
        region: The region.

    Returns:
        Shares of area along new dimensions `share` (`cases`, those with that probability, and
        `events`, those of them in which the event occurs) and `probability` (:math:`0, 1 / M,
        \dots, 1`), in place of these three. They may be averaged over times; frequencies are
        `events / cases`.

    Example:
        >>> rows, columns = ("latitude", [-45.0, 45.0]), ("longitude", [0.0, 180.0])
        >>> truth = xr.DataArray([[0.0, 0.0], [2.0, 0.0]], [rows, columns])
        >>> ensemble = xr.DataArray([-1.0, 1.0], dims="member") + truth
        >>> reliability(ensemble, truth, 0.5).sel(share="events").values
        array([0.  , 0.  , 0.25])
    """
    weights = region.weights(forecast)
    known = truth.notnull() & forecast.notnull().all("member")
    shares: Field = xr.apply_ufunc(
        _shares,
        forecast > threshold,
        truth > threshold,
        known * (weights / weights.sum()),
        input_core_dims=[["member", *SPACE], SPACE, SPACE],
        output_core_dims=[["share", "probability"]],
        vectorize=True,
    )
    members = forecast.sizes["member"]
    return shares.assign_coords(
        share=["cases", "events"], probability=np.arange(members + 1) / members
    )


def brier_score(shares: Field) -> Field:
    r"""Brier's score of the probabilities, less than 1, less is better.

    Arguments:
        shares: What :func:`reliability` found, maybe averaged.
    """
    cases, events, p = _parts(shares)
    found: Field = (p**2 * cases - 2 * p * events + events).sum("probability")
    return found


def decompose_brier(shares: Field) -> Field:
    r"""Murphy's parts of Brier's score.

    Arguments:
        shares: What :func:`reliability` found, maybe averaged, of cases that sum to 1.

    Returns:
        The parts, along a new dimension `part`: `reliability`, `resolution` and `uncertainty`.
    """
    cases, events, p = _parts(shares)
    frequency = (events / cases).where(cases > 0, 0.0)
    base = events.sum("probability")
    parts = {
        "reliability": (cases * (p - frequency) ** 2).sum("probability"),
        "resolution": (cases * (frequency - base) ** 2).sum("probability"),
        "uncertainty": base * (1 - base),
    }
    joined: Field = xr.concat(list(parts.values()), dim=xr.Variable("part", list(parts)))
    return joined


def _parts(shares: Field) -> tuple[Field, Field, xr.DataArray]:
    cases, events = (shares.sel(share=name, drop=True) for name in ("cases", "events"))
    return cases, events, shares["probability"]


def _shares(above: Array, event: Array, weights: Array) -> Array:
    count, weights = above.sum(0).ravel(), weights.ravel()
    both = (weights, weights * event.ravel())
    return np.stack([np.bincount(count, x, len(above) + 1) for x in both])
