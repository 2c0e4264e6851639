r"""Quality control: observations that a background makes too unlikely are left out.

.. math:: |y - \overline{H x_b}|^2 \le k^2 \, (r^2 + s^2)

with :math:`s^2` the variance of the background at the observation. That of a small ensemble may be
low by chance: it counts as no less than its mean over the observations of the same channel.

References:
    | Data Assimilation Quality Control (Lorenc and Hammon, 1988)
    | https://doi.org/10.1002/qj.49711448012
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import xarray as xr
from pydantic import BaseModel, BeforeValidator, ConfigDict, PositiveFloat
from torch import Tensor

from .dataset import Source, open_dataset
from .errors import UserError
from .observations import Observations
from .parallel import rank
from .report import ensemble_fields
from .statistics import Statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .appa import Appa

__all__ = [
    "Control",
    "QualityControl",
    "control",
    "doubtful",
    "doubtful_by_climatology",
    "log_refused",
    "member_moments",
]


class QualityControl(BaseModel):
    r"""What is left out.

    Attributes:
        limit: How many standard deviations observations may be off the background.
        background: A dataset of members on the grid of the model with all times, as forecasts,
            filters and free runs write them; by default the climatology.
    """

    model_config = ConfigDict(extra="forbid")

    limit: PositiveFloat
    background: Source | None = None


Control = Annotated[
    QualityControl, BeforeValidator(lambda x: {"limit": x} if isinstance(x, int | float) else x)
]
"""A limit, or all keys."""


def control(
    appa: Appa, observations: Observations, times: NDArray[np.datetime64], quality: QualityControl
) -> Observations:
    r"""Leaves out what is doubtful, and counts it.

    Arguments:
        appa: The model.
        observations: The observations of a trajectory.
        times: The times of its states.
        quality: What is doubtful.

    Raises:
        UserError: If the background can't be read, lacks a time, or is no ensemble on the grid of
            the model.
    """
    if quality.background is None:
        doubts = doubtful_by_climatology(
            observations, appa.statistics, appa.variability, times, quality.limit
        )
    else:
        dataset = _open(appa, quality.background, times)
        doubts = np.zeros(len(observations), dtype=bool)
        for i in range(len(times)):
            here = observations.time == i
            state = torch.as_tensor(ensemble_fields(appa, dataset, i).values)
            own = observations.at(i)
            moments = member_moments(own.operator(state), len(state))
            doubts[here] = doubtful(own, *moments, quality.limit)
    rejected = observations.rejected + int(doubts.sum())
    return replace(observations.select(~doubts), rejected=rejected)


def doubtful_by_climatology(
    observations: Observations,
    statistics: Statistics,
    variability: Tensor,
    times: NDArray[np.datetime64],
    limit: float,
) -> NDArray[np.bool_]:
    r"""Which observations are too far off the climatology.

    For observations of means the bound is on the safe side: their variance is at most the mean of
    variances.

    Arguments:
        observations: The observations of a trajectory.
        statistics: The climatology.
        variability: The standard deviation of standardised states about it, with shape
            :math:`(C, H, W)`.
        times: The times of the states.
        limit: The limit :math:`k`, in standard deviations.
    """
    y, variance = observations.standardised(statistics, times, variability)
    # What is not finite is masked elsewhere.
    found: NDArray[np.bool_] = (y.square() > limit**2 * variance).cpu().numpy()
    return found


def log_refused(count: int, whole: int, where: str = "") -> None:
    r"""Tells how many observations were refused, if any."""
    if count and rank() == 0:
        logging.getLogger(__name__).warning(
            "%s%d of %d observations refused by quality control", where, count, whole
        )


def member_moments(
    seen: Tensor, members: int, total: Callable[[Tensor], Tensor] = lambda x: x
) -> tuple[Tensor, Tensor]:
    r"""The mean of members and the variance of one more about it, at observations.

    Arguments:
        seen: What this rank has of the members at each observation, in physical units, with shape
            :math:`(m, n)`; NaN where other ranks have it.
        members: The number :math:`M` of all members.
        total: What adds up tensors over ranks, if these have parts of the members.

    Returns:
        The mean and :math:`(1 + 1 / M) \, s^2`, both with shape :math:`(n)`.
    """
    seen = seen.double().cpu()
    mean = total(seen.nansum(0)) / members
    squares = total((seen - mean).square().nansum(0))
    return mean, squares / (members - 1) * (1 + 1 / members)


def doubtful(
    observations: Observations, mean: Tensor, variance: Tensor, limit: float
) -> NDArray[np.bool_]:
    r"""Which observations are too far off a background.

    Arguments:
        observations: The observations.
        mean: The mean of the background at each, in physical units, with shape :math:`(n)`.
        variance: Its variance, with shape :math:`(n)`.
        limit: The limit :math:`k`, in standard deviations.
    """
    channel, spread = observations.channel, variance.numpy()
    usual = np.bincount(channel, spread) / np.bincount(channel).clip(1)
    spread = np.maximum(spread, usual[channel]) if len(channel) else spread
    off = (observations.values - observations.biases).double() - mean
    bound = limit**2 * (observations.errors.double().square() + torch.as_tensor(spread))
    # What is not finite is masked elsewhere.
    found: NDArray[np.bool_] = (off.square() > bound).numpy()
    return found


def _open(appa: Appa, source: Path | str, times: NDArray[np.datetime64]) -> xr.Dataset:
    dataset = open_dataset(source)
    if dataset.sizes.get("member", 1) < 2:
        raise UserError(
            f"{source} has no members: expected an ensemble, whose spread tells how far off "
            "observations may be"
        )
    appa.grid.check(dataset.latitude.values, dataset.longitude.values)
    appa.catalogue.check(dataset.isel(member=0))
    lacking = times[~np.isin(times, dataset.time.values)]
    if len(lacking):
        raise UserError(
            f"{source} lacks {len(lacking)} of {len(times)} times, the first "
            f"{np.datetime_as_string(lacking[0], unit='m')}: take another background"
        )
    return dataset.sel(time=times).transpose("member", "time", ...)
