r"""Scores of an ensemble against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scoringrules

from .catalogue import Catalogue
from .grid import Grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.floating]

__all__ = ["average_scores", "score_ensemble", "score_gaussian"]


def score_ensemble(
    members: Array,
    truth: Array,
    catalogue: Catalogue,
    grid: Grid,
    where: NDArray[np.bool_] | None = None,
) -> pd.DataFrame:
    r"""Scores an ensemble, by channel, averaged over times and over the area of the sphere.

    .. math:: \mathrm{RMSE}^2 = \overline{(\bar{x} - x)^2} \qquad
        \mathrm{CRPS} = \overline{\mathbb{E}|X - x| - \tfrac{1}{2} \mathbb{E}|X - X'|} \qquad
        \frac{\mathrm{spread}}{\mathrm{skill}} = \sqrt{\frac{M + 1}{M}} \,
        \frac{\sqrt{\overline{s^2}}}{\mathrm{RMSE}}

    where :math:`\bar{x}` and :math:`s^2` are the mean and the (unbiased) variance of the
    :math:`M` members. The CRPS is the fair one, whose expectation does not depend on :math:`M`.

    References:
        | Why Should Ensemble Spread Match the RMSE of the Ensemble Mean? (Fortin et al., 2014)
        | https://doi.org/10.1175/JHM-D-14-0008.1

    Arguments:
        members: The members in physical units, with shape :math:`(M, L, C, H, W)`.
        truth: The truth, with shape :math:`(L, C, H, W)`.
        catalogue: The channels.
        grid: The grid.
        where: The points that count, with shape :math:`(L, C, H, W)`.

    Returns:
        A table with a row for each channel and columns `rmse`, `crps`, `spread_skill`.
    """
    crps = scoringrules.crps_ensemble(truth, members, m_axis=0, estimator="fair")
    size = len(members)
    rows = _average(
        (members.mean(0) - truth) ** 2,
        crps,
        (size + 1) / size * members.var(0, ddof=1),
        grid,
        where,
    )
    return _table(rows, catalogue)


def score_gaussian(
    mean: Array,
    std: Array,
    truth: Array,
    catalogue: Catalogue,
    grid: Grid,
    where: NDArray[np.bool_] | None = None,
) -> pd.DataFrame:
    r"""Scores Gaussian marginals :math:`\mathcal{N}(\mu, s^2)` as :func:`score_ensemble` does an
    infinite ensemble.

    Arguments:
        mean: The means, with shape :math:`(L, C, H, W)`.
        std: The standard deviations, with the same shape, or one that broadcasts to it.
        truth: The truth, with shape :math:`(L, C, H, W)`.
        catalogue: The channels.
        grid: The grid.
        where: The points that count, with shape :math:`(L, C, H, W)`.
    """
    # Where a prior is certain, its CRPS is the absolute error: a width of next to nothing.
    floor = 1e-6 * std.mean((-2, -1), keepdims=True) if std.ndim > 1 else 0.0
    std = np.broadcast_to(np.maximum(std, floor), truth.shape)
    crps = scoringrules.crps_normal(truth, mean, std)
    return _table(_average((mean - truth) ** 2, crps, std**2, grid, where), catalogue)


def average_scores(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    r"""The scores of several windows together: means of squared errors, of variances and of CRPS.

    Arguments:
        tables: The table of each window, with columns `rmse`, `crps`, `spread_skill`.

    Example:
        >>> one = pd.DataFrame({"rmse": [3.0], "crps": [1.0], "spread_skill": [1.0]})
        >>> two = pd.DataFrame({"rmse": [4.0], "crps": [2.0], "spread_skill": [0.5]})
        >>> average_scores([one, two]).round(3).values.tolist()
        [[3.536, 1.5, 0.721]]
    """
    moments = [
        pd.DataFrame(
            {
                "mse": t["rmse"] ** 2,
                "crps": t["crps"],
                "variance": (t["rmse"] * t["spread_skill"]) ** 2,
            }
        )
        for t in tables
    ]
    mean = sum(moments[1:], moments[0]) / len(moments)
    return pd.DataFrame(
        {
            "rmse": np.sqrt(mean["mse"]),
            "crps": mean["crps"],
            "spread_skill": np.sqrt(mean["variance"] / mean["mse"]),
        }
    )


def _average(
    square: Array, crps: Array, variance: Array, grid: Grid, where: NDArray[np.bool_] | None
) -> list[Array]:
    weights = np.broadcast_to(grid.weights[:, None], square.shape)
    if where is not None:
        weights = weights * where
    total = weights.sum((0, 2, 3))
    total = np.where(total > 0, total, np.nan)
    mse, crps, variance = ((weights * x).sum((0, 2, 3)) / total for x in (square, crps, variance))
    return [np.sqrt(mse), crps, np.sqrt(variance / mse)]


def _table(rows: list[Array], catalogue: Catalogue) -> pd.DataFrame:
    index = pd.MultiIndex.from_tuples(
        [(c.variable, c.level) for c in catalogue.channels], names=["variable", "level"]
    )
    return pd.DataFrame(
        dict(zip(("rmse", "crps", "spread_skill"), rows, strict=True)), index=index
    )
