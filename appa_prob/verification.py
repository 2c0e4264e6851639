r"""Scores of ensembles against a truth, as xarray functions.

With :math:`M` members :math:`x_m`, their mean :math:`\bar{x}` and unbiased variance :math:`s^2`, a
truth :math:`y`, a climatology :math:`c`, and averages :math:`\overline{\,\cdot\,}` over a region,
weighted by area,

.. math::
    \mathrm{bias} &= \overline{\bar{x} - y} \qquad \mathrm{MSE} = \overline{(\bar{x} - y)^2} \\
    \mathrm{CRPS} &= \overline{\tfrac{1}{M} \textstyle\sum_m |x_m - y|
        - \tfrac{1}{2 M (M - 1)} \sum_{m, n} |x_m - x_n|} \\
    \mathrm{ES} &= \tfrac{1}{M} \textstyle\sum_m \|x_m - y\|
        - \tfrac{1}{2 M (M - 1)} \sum_{m, n} \|x_m - x_n\| \qquad \|x\|^2 = \overline{x^2} \\
    \mathrm{ACC} &= \overline{(\bar{x} - c) (y - c)} \, \Big/
        \sqrt{\overline{(\bar{x} - c)^2} \; \overline{(y - c)^2}}

CRPS and energy score are the fair ones, whose expectations do not depend on :math:`M`; MSE does,
by :math:`s^2 / M`, and the ratio of spread and skill allows for that:

.. math:: \frac{\mathrm{spread}}{\mathrm{skill}} = \sqrt{\frac{M + 1}{M}} \,
    \sqrt{\frac{\langle \overline{s^2} \rangle}{\langle \mathrm{MSE} \rangle}}

with :math:`\langle \cdot \rangle` the mean over times, before any root. These are the definitions
of WeatherBench 2, but for the factor of :math:`M`, which it leaves out: with 8 members its ratio
is 6% smaller. Functions take arrays or whole datasets, with dimensions `latitude, longitude`,
`member` for ensembles, and any others (`time`, `lead_time`, `level`), which are kept.

References:
    | WeatherBench 2: A benchmark for the next generation of data-driven global weather models
    | (Rasp et al., 2024)
    | https://arxiv.org/abs/2308.15560

    | Fair scores for ensemble forecasts (Ferro, 2014)
    | https://doi.org/10.1002/qj.2270

    | Why Should Ensemble Spread Match the RMSE of the Ensemble Mean? (Fortin et al., 2014)
    | https://doi.org/10.1175/JHM-D-14-0008.1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import scoringrules
import xarray as xr
from scipy.spatial.distance import cdist, pdist

from .regions import GLOBE, SPACE, Field, Region, average, regional_averages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.floating]

__all__ = [
    "anomaly_correlation",
    "crps",
    "energy_score",
    "gaussian_crps",
    "score",
    "score_gaussian_forecast",
    "summarise",
]


def crps(forecast: Field, truth: Field) -> Field:
    r"""The fair continuous ranked probability score of an ensemble, at each point.

    That of a single member is its absolute error.

    Arguments:
        forecast: The ensemble, with a dimension `member`.
        truth: The truth, without.

    Example:
        >>> members = xr.DataArray([0.0, 2.0], dims="member")
        >>> float(crps(members, xr.DataArray(1.0)))
        0.0
    """
    if forecast.sizes["member"] == 1:
        error: Field = abs(forecast.isel(member=0) - truth)
        return error
    found: Field = xr.apply_ufunc(
        _crps,
        truth,
        forecast,
        input_core_dims=[[], ["member"]],
    )
    return found


def _crps(truth: Array, members: Array) -> Array:
    truth = np.broadcast_to(truth, members.shape[:-1])
    # The estimator "pwm" is the fair one by sorting: its memory is linear in M.
    return np.asarray(scoringrules.crps_ensemble(truth, members, estimator="pwm"))


def gaussian_crps(mean: Field, std: Field, truth: Field) -> Field:
    r"""The continuous ranked probability score of Gaussians, at each point.

    Arguments:
        mean: The means.
        std: The standard deviations; where they are 0, the score is the absolute error.
        truth: The truth.

    Example:
        >>> one = xr.DataArray(1.0)
        >>> round(float(gaussian_crps(0 * one, one, 0 * one)), 4)
        0.2337
    """
    sure = std <= 0
    found: Field = xr.apply_ufunc(scoringrules.crps_normal, truth, mean, std.where(~sure, 1.0))
    kept: Field = found.where(~sure, abs(mean - truth))
    return kept


def energy_score(forecast: Field, truth: Field, region: Region = GLOBE) -> Field:
    r"""The fair energy score of an ensemble of fields over a region, in the units of the field.

    Arguments:
        forecast: The ensemble, with at least two members.
        truth: The truth.
        region: The region.
    """
    weights = region.weights(forecast)
    found: Field = xr.apply_ufunc(
        _energy_score,
        forecast.where(weights > 0, 0.0),
        truth.where(weights > 0, 0.0),
        np.sqrt(weights / weights.sum()),
        input_core_dims=[["member", *SPACE], SPACE, SPACE],
        vectorize=True,
    )
    return found


def _energy_score(members: Array, truth: Array, root: Array) -> float:
    r"""That of one field: scoringrules holds all differences of members at once, this does not."""
    flat, y = (members * root).reshape(len(members), -1), (truth * root).reshape(1, -1)
    return float(cdist(flat, y).mean() - pdist(flat).mean() / 2)


def anomaly_correlation(
    forecast: Field, truth: Field, climatology: Field, region: Region = GLOBE
) -> Field:
    r"""The correlation of the anomalies of the mean of an ensemble, not centred.

    Arguments:
        forecast: The ensemble, or a single forecast without `member`.
        truth: The truth.
        climatology: The climatology at the times of the truth.
        region: The region.
    """
    x, y = _mean(forecast) - climatology, truth - climatology
    norm = average(x**2, region) * average(y**2, region)
    correlation: Field = average(x * y, region) / norm**0.5
    return correlation


def score(
    forecast: Field,
    truth: Field,
    *,
    regions: Sequence[Region] = (GLOBE,),
    climatology: Field | None = None,
    joint: bool = True,
) -> Field:
    r"""All scores of an ensemble, by region and by all dimensions but space and members.

    Arguments:
        forecast: The ensemble; without a dimension `member`, a single forecast.
        truth: The truth.
        regions: The regions.
        climatology: The climatology at the times of the truth, for anomaly correlations.
        joint: Whether to score fields as a whole, by the energy score, as well.

    Returns:
        The scores along new dimensions `score` and `region`: `bias`, `mse`, `variance`, `crps`,
        `energy_score` and, with a climatology, `acc`. Those of an ensemble are absent for a single
        member. :func:`summarise` averages them over times.
    """
    if "member" not in forecast.dims:
        forecast = forecast.expand_dims("member")
    error = _mean(forecast) - truth
    absent = average(error, regions[0]) * np.nan
    several = forecast.sizes["member"] > 1
    variance = forecast.var("member", ddof=1) if several else None
    parts = _common(error, variance, crps(forecast, truth), regions)
    if joint:
        parts["energy_score"] = _by_region(
            [energy_score(forecast, truth, region) if several else absent for region in regions],
            regions,
        )
    if climatology is not None:
        parts["acc"] = _by_region(
            [anomaly_correlation(forecast, truth, climatology, region) for region in regions],
            regions,
        )
    return _stacked(parts)


def score_gaussian_forecast(
    mean: Field,
    std: Field,
    truth: Field,
    *,
    regions: Sequence[Region] = (GLOBE,),
) -> Field:
    r"""The scores of Gaussians, as :func:`score` gives them for an infinite ensemble.

    Arguments:
        mean: The means.
        std: The standard deviations.
        truth: The truth.
        regions: The regions.
    """
    error = mean - truth
    return _stacked(_common(error, std**2 + 0 * error, gaussian_crps(mean, std, truth), regions))


def summarise(scores: Field, members: int | None = None, over: Sequence[str] = ("time",)) -> Field:
    r"""Averages scores over times, then takes roots.

    Arguments:
        scores: What :func:`score` found.
        members: The number :math:`M` of members; none for Gaussians.
        over: The dimensions to average over.

    Returns:
        The scores `bias`, `rmse`, `spread`, `spread_skill`, `crps` and those others that there
        are.
    """
    mean = scores.mean([name for name in over if name in scores.dims], skipna=False)
    rmse, spread = mean.sel(score="mse") ** 0.5, mean.sel(score="variance") ** 0.5
    factor = 1.0 if members is None else np.sqrt((members + 1) / members)
    parts = {
        "bias": mean.sel(score="bias"),
        "rmse": rmse,
        "spread": spread,
        "spread_skill": factor * spread / rmse,
        "crps": mean.sel(score="crps"),
    }
    others = [str(name) for name in scores["score"].values if name in ("energy_score", "acc")]
    return _stacked(parts | {name: mean.sel(score=name) for name in others})


def _mean(forecast: Field) -> Field:
    return forecast.mean("member") if "member" in forecast.dims else forecast


def _common(
    error: Field, variance: Field | None, ranked: Field, regions: Sequence[Region]
) -> dict[str, Field]:
    mse = regional_averages(error**2, regions)
    return {
        "bias": regional_averages(error, regions),
        "mse": mse,
        "variance": mse * np.nan if variance is None else regional_averages(variance, regions),
        "crps": regional_averages(ranked, regions),
    }


def _by_region(parts: Sequence[Field], regions: Sequence[Region]) -> Field:
    return xr.concat(parts, dim=xr.Variable("region", [region.name for region in regions]))


def _stacked(parts: dict[str, Field]) -> Field:
    arrays = [part.drop_vars("score", errors="ignore") for part in parts.values()]
    stacked: Field = xr.concat(arrays, dim=xr.Variable("score", list(parts)))
    return stacked
