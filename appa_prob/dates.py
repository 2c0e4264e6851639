r"""The season and the hour of the day as angles.

.. math:: \alpha = 2 \pi \, \frac{t - t_\mathrm{year}}{T_\mathrm{year}} \qquad
    \beta = 2 \pi \left( \frac{h}{24} + \frac{\lambda}{360} \right)

with :math:`t_\mathrm{year}` the beginning of the year, :math:`T_\mathrm{year}` its length, leap
day included, :math:`h` the hour in UTC and :math:`\lambda` the longitude in degrees. Each is given
by its sine and cosine.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Times = NDArray[np.datetime64]

__all__ = ["calendar_features", "local_time", "to_times", "year_progress"]


def year_progress(times: Times) -> Tensor:
    r"""Sines and cosines of the season :math:`\alpha`.

    Arguments:
        times: Times, with any shape :math:`(*)`.

    Returns:
        The numbers in double precision, with shape :math:`(*, 2)`.

    Example:
        >>> year_progress(np.array(["2021-01-01", "2021-07-02T12"], dtype="datetime64[h]"))[:, 1]
        tensor([ 1., -1.], dtype=torch.float64)
    """
    years = times.astype("datetime64[Y]")
    start, end = (year.astype("datetime64[s]") for year in (years, years + 1))
    return _circle((times.astype("datetime64[s]") - start) / (end - start))


def local_time(times: Times, longitude: ArrayLike) -> Tensor:
    r"""Sines and cosines of the local hour of the day :math:`\beta`.

    Arguments:
        times: Times, with any shape :math:`(*)`.
        longitude: Longitudes in degrees, with shape :math:`(N)`.

    Returns:
        The numbers in double precision, with shape :math:`(*, N, 2)`.

    Example:
        >>> local_time(np.array(["2021-01-01T06"], dtype="datetime64[h]"), [0.0, 90.0])[0, :, 1]
        tensor([ 6.1232e-17, -1.0000e+00], dtype=torch.float64)
    """
    days = (times - times.astype("datetime64[D]")) / np.timedelta64(1, "D")
    turns = days[..., None] + np.asarray(longitude, dtype=np.float64) / 360.0
    return _circle(turns % 1.0)


def calendar_features(times: Times) -> Tensor:
    r"""What the published denoisers know of a time: season, and hour of the day in UTC.

    Arguments:
        times: Times, with shape :math:`(L)`.

    Returns:
        The two sines and cosines in double precision, with shape :math:`(L, 4)`.

    Example:
        >>> calendar_features(np.array(["2021-01-01T12"], dtype="datetime64[h]")).shape
        torch.Size([1, 4])
    """
    return torch.cat((year_progress(times), local_time(times, [0.0]).squeeze(-2)), dim=-1)


def to_times(dates: ArrayLike) -> Times:
    r"""Times from years, months, days and hours.

    Arguments:
        dates: The numbers, with shape :math:`(*, 4)`.

    Returns:
        The times, with shape :math:`(*)`.

    Example:
        >>> to_times([2020, 2, 29, 6])
        np.datetime64('2020-02-29T06','h')
    """
    year, month, day, hour = np.moveaxis(np.asarray(dates, dtype=np.int64), -1, 0)
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1)
    times: Times = days.astype("datetime64[h]") + hour
    return times


def _circle(turns: NDArray[np.float64]) -> Tensor:
    angles = torch.as_tensor(2 * math.pi * turns)
    return torch.stack((angles.sin(), angles.cos()), dim=-1)
