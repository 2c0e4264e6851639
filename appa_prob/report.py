r"""The table of scores of a reanalysis and of its baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from .baselines import OptimalInterpolation, climatology, shipped_eofs
from .catalogue import Catalogue
from .files import replacing
from .parallel import share, sum_over_ranks
from .regions import Region
from .verification import score, score_gaussian_forecast, summarise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .appa import Appa
    from .observe import Observations, Trajectory
    from .observer import Observer

__all__ = [
    "Report",
    "average_scores",
    "channel_table",
    "ensemble_fields",
    "fields",
    "report_scores",
]

PLACES = ("all points", "unobserved points")
SCORES = ("rmse", "crps", "spread_skill")
MOMENTS = ("bias", "mse", "variance", "crps")
DIMS = ("score", "region", "channel")


@dataclass(frozen=True, eq=False)
class Report:
    r"""Scores by place, method and channel.

    Arguments:
        table: The scores, with columns `rmse`, `crps`, `spread_skill` and the index `points`,
            `method`, `variable`, `level`.
        states: The number of states that were scored.
        observations: The number of observations in all.
        masked: The number of observations that were left out, as they were not finite.
        rejected: The number of those that quality control left out.
    """

    table: pd.DataFrame
    states: int
    observations: int
    masked: int = 0
    rejected: int = 0

    def save(self, path: Path) -> None:
        r"""Writes the table as CSV."""
        with replacing(path) as temporary:
            self.table.to_csv(temporary, float_format="%.6g")

    def __str__(self) -> str:
        masked = f", {self.masked} masked out" if self.masked else ""
        rejected = f", {self.rejected} refused by quality control" if self.rejected else ""
        lines = [
            f"{self.observations} observations{masked}{rejected}; {self.states} states scored"
        ]
        for points in self.table.index.unique("points"):
            part = self.table.xs(points, level="points")
            methods = list(part.index.unique("method"))
            wide = part.unstack("method", sort=False)
            columns = [(s, m) for s in ("rmse", "crps") for m in methods]
            columns += [("spread_skill", m) for m in methods if m != "climatology"]
            wide = pd.DataFrame(wide[columns]).rename(columns={"spread_skill": "spread/skill"})
            wide.index = pd.Index([_label(*key) for key in wide.index])
            text = wide.to_string(float_format=lambda x: f"{x:.3g}", na_rep="-")
            lines += ["", f"Scores at {points}", text]
        return "\n".join(lines)


def report_scores(
    appa: Appa,
    dataset: xr.Dataset,
    truth: Trajectory,
    times: NDArray[np.datetime64],
    observations: Observations | Observer,
    *,
    baselines: bool = True,
    every: int = 1,
    eofs: Path | None = None,
    progress: bool = False,
) -> Report:
    r"""Scores a reanalysis, and its baselines on the same observations, as
    :mod:`appa_prob.verification` defines them. One state after the other is in memory, and ranks
    share them.

    Arguments:
        appa: The model.
        dataset: The members in physical units, as :meth:`Appa.dataset` has them.
        truth: The truth, with shape :math:`(L, C, H, W)`; points that are not finite don't count.
        times: The times, with shape :math:`(L)`.
        observations: The observations.
        baselines: Whether to score the baselines.
        every: Which states are scored, by all methods: every such one, from the middle of the
            first such part on.
        eofs: The EOFs of optimal interpolation; by default those that ship with the package.
        progress: Whether to show a progress bar.
    """
    chosen = list(range(min(every // 2, len(times) - 1), len(times), every))
    methods = ["appa", *(["OI", "climatology"] if baselines else [])]
    size = (len(chosen), len(methods), len(MOMENTS), len(PLACES), len(appa.catalogue.channels))
    found = torch.zeros(size, dtype=torch.float64)
    mine = share(len(chosen))
    interpolate = None
    if baselines and len(mine):
        own = [chosen[k] for k in mine]
        prior = shipped_eofs(appa, eofs)
        interpolate = OptimalInterpolation(appa, prior, observations, times, own)
    for k in tqdm(mine, disable=not progress, desc="scores", unit="state"):
        i = chosen[k]
        time, now = times[i : i + 1], truth[i : i + 1][0]
        masks = _places(now, observations.at(i))
        # A place without points has no scores.
        found[k, :, :, [not mask.any() for mask in masks]] = torch.nan
        there = [r for r, mask in enumerate(masks) if mask.any()]
        regions = [Region(PLACES[r], mask=fields(appa, masks[r])) for r in there]
        actual = fields(appa, now.nan_to_num(posinf=0.0, neginf=0.0))
        scores = [score(ensemble_fields(appa, dataset, i), actual, regions=regions, joint=False)]
        if interpolate is not None:
            normal, deviation = climatology(appa, time)
            for mean, std in (
                interpolate(i),
                (normal[0], deviation),
            ):
                gaussian = (fields(appa, mean), fields(appa, std))
                scores.append(score_gaussian_forecast(*gaussian, actual, regions=regions))
        for n, one in enumerate(scores):
            found[k, n, :, there] = torch.as_tensor(one.transpose(*DIMS).values)
    dims = ("time", "method", *DIMS)
    coords = {"method": methods, "score": list(MOMENTS), "region": list(PLACES)}
    whole = xr.DataArray(sum_over_ranks(found).numpy(), coords, dims).mean("time", skipna=True)
    tables = {
        (points, method): channel_table(
            whole.sel({"method": method, "region": points}),
            appa.catalogue,
            dataset.sizes["member"] if method == "appa" else None,
        )
        for method in methods
        for points in PLACES
    }
    table = pd.concat(tables, names=["points", "method"])
    return Report(table, len(chosen), *observations.counts.values())


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


def fields(appa: Appa, x: Tensor) -> xr.DataArray:
    r"""States as the functions of :mod:`appa_prob.verification` take them, their channels apart.

    Arguments:
        appa: The model, for its grid.
        x: A state, with shape :math:`(C, H, W)`, or its members, :math:`(M, C, H, W)`.
    """
    dims = ("member", "channel", "latitude", "longitude")[4 - x.ndim :]
    coords = {"latitude": appa.grid.latitude, "longitude": appa.grid.longitude}
    return xr.DataArray(x.numpy(), coords, dims)


def channel_table(
    scores: xr.DataArray, catalogue: Catalogue, members: int | None = None
) -> pd.DataFrame:
    r"""The table of scores of :func:`fields`, with a row for each channel.

    Arguments:
        scores: What :func:`~appa_prob.verification.score` found, with dimensions `score, channel`.
        catalogue: The channels.
        members: The number of members; none for Gaussians.
    """
    index = pd.MultiIndex.from_tuples(
        [(c.variable, c.level) for c in catalogue.channels], names=["variable", "level"]
    )
    found = summarise(scores, members)
    return pd.DataFrame({name: found.sel(score=name).values for name in SCORES}, index=index)


def ensemble_fields(appa: Appa, dataset: xr.Dataset, state: int) -> xr.DataArray:
    r"""The members of one state of a dataset, as :func:`fields` has them.

    Arguments:
        appa: The model.
        dataset: The dataset, as :meth:`Appa.dataset` makes it.
        state: The index of the state.
    """
    now = dataset.isel(time=state)
    x = np.empty((dataset.sizes["member"], *appa.autoencoder.state_shape), np.float32)
    for c, channel in enumerate(appa.catalogue.channels):
        field = now[channel.variable]
        x[:, c] = field if channel.level is None else field.sel(level=channel.level)
    return fields(appa, torch.as_tensor(x))


def _places(truth: Tensor, observations: Observations) -> tuple[Tensor, Tensor]:
    """The points of a state that are known, and those of them that are not observed."""
    known = torch.isfinite(truth)
    return known, known & ~torch.as_tensor(observations.observed())


def _label(variable: str, level: float) -> str:
    return variable if np.isnan(level) else f"{variable} {level:g}"
