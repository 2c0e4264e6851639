r"""Rank histograms: where the truth falls among the sorted members of an ensemble.

If truth and members are draws of one law, the rank :math:`\#\{m : x_m < y\}` of the truth is
uniform on :math:`0, \dots, M`. A histogram like a U tells of an ensemble that is too narrow, a
dome of one that is too wide, a slope of a bias.

References:
    | Interpretation of Rank Histograms for Verifying Ensemble Forecasts (Hamill, 2001)
    | https://doi.org/10.1175/1520-0493(2001)129<0550:IORHFV>2.0.CO;2
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from .regions import GLOBE, SPACE, Field, Region

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.floating]

__all__ = ["rank_histogram"]


def rank_histogram(forecast: Field, truth: Field, region: Region = GLOBE) -> Field:
    r"""The shares of area at which the truth has each rank.

    Members that equal the truth, as where nothing rains, spread its share over all the ranks that
    it could have, so that nothing is random here. Points at which the truth or a member is absent
    don't count.

    Arguments:
        forecast: The ensemble, with dimensions `member, latitude, longitude` and any others.
        truth: The truth.
        region: The region.

    Returns:
        The shares, along a new dimension `rank` in place of these three, whose sum is 1.

    Example:
        >>> rows, columns = ("latitude", [-45.0, 45.0]), ("longitude", [0.0, 180.0])
        >>> truth = xr.DataArray([[0.0, 0.0], [2.0, 0.0]], [rows, columns])
        >>> ensemble = xr.DataArray([-1.0, 1.0], dims="member") + 0 * truth
        >>> rank_histogram(ensemble, truth).values
        array([0.  , 0.75, 0.25])
    """
    found: Field = xr.apply_ufunc(
        _histogram,
        forecast,
        truth,
        region.weights(forecast),
        input_core_dims=[["member", *SPACE], SPACE, SPACE],
        output_core_dims=[["rank"]],
        vectorize=True,
    )
    return found.assign_coords(rank=np.arange(forecast.sizes["member"] + 1))


def _histogram(members: Array, truth: Array, weights: Array) -> Array:
    known = np.isfinite(truth) & np.isfinite(members).all(0) & (weights > 0)
    members, truth, weights = members[:, known], truth[known], weights[known]
    below, ties = (members < truth).sum(0), (members == truth).sum(0)
    share = weights / (ties + 1)
    # Each point adds its share to the ranks from `below` to `below + ties`: steps up and down.
    steps = np.zeros(len(members) + 2)
    np.add.at(steps, below, share)
    np.add.at(steps, below + ties + 1, -share)
    total = weights.sum()
    return steps.cumsum()[:-1] / (total if total > 0 else np.nan)
