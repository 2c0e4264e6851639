r"""The table of scores of a reanalysis and of its baselines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from .baselines import climatology, optimal_interpolation, shipped_eofs
from .files import replacing
from .scores import score_ensemble, score_gaussian

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .appa import Appa
    from .observe import Observations

__all__ = ["Report", "report_scores"]

ALL, UNOBSERVED = "all points", "unobserved points"


@dataclass(frozen=True, eq=False)
class Report:
    r"""Scores by place, method and channel.

    Arguments:
        table: The scores, with columns `rmse`, `crps`, `spread_skill` and the index `points`,
            `method`, `variable`, `level`.
        states: The number of states that were scored.
        observations: The number of observations in all.
        masked: The number of observations that were left out.
    """

    table: pd.DataFrame
    states: int
    observations: int
    masked: int = 0

    def save(self, path: Path) -> None:
        r"""Writes the table as CSV."""
        with replacing(path) as temporary:
            self.table.to_csv(temporary, float_format="%.6g")

    def __str__(self) -> str:
        masked = f", {self.masked} masked out" if self.masked else ""
        lines = [f"{self.observations} observations{masked}; {self.states} states scored"]
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
    members: Tensor,
    truth: Tensor,
    times: NDArray[np.datetime64],
    observations: Observations,
    *,
    baselines: bool = True,
    every: int = 1,
    eofs: Path | None = None,
    progress: bool = False,
) -> Report:
    r"""Scores a reanalysis, and its baselines on the same observations.

    Arguments:
        appa: The model.
        members: The members in physical units, with shape :math:`(M, L, C, H, W)`.
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
    known = np.isfinite(truth.numpy())[chosen]
    unseen = known & ~observations.observed()[chosen]
    actual = np.nan_to_num(truth.numpy()[chosen], posinf=0.0, neginf=0.0)
    arguments = (actual, appa.catalogue, appa.grid)
    sampled = members[:, chosen].numpy()
    parts = {}
    for points, where in ((ALL, known), (UNOBSERVED, unseen)):
        parts[points, "appa"] = score_ensemble(sampled, *arguments, where)
    if baselines:
        covariance = shipped_eofs(appa, eofs)
        states = tqdm(chosen, disable=not progress, desc="optimal interpolation", unit="state")
        found = [optimal_interpolation(appa, covariance, observations, times, i) for i in states]
        mean, std = (torch.stack(x).numpy() for x in zip(*found, strict=True))
        normal, deviation = (x.numpy() for x in climatology(appa, times[chosen]))
        for points, where in ((ALL, known), (UNOBSERVED, unseen)):
            parts[points, "OI"] = score_gaussian(mean, std, *arguments, where)
            parts[points, "climatology"] = score_gaussian(normal, deviation, *arguments, where)
    table = pd.concat(parts, names=["points", "method"])
    return Report(table, len(chosen), len(observations), observations.masked)


def _label(variable: str, level: float) -> str:
    return variable if np.isnan(level) else f"{variable} {level:g}"
