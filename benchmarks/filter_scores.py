r"""Scores of filtered states, cycle by cycle, beside those of climatology and of optimal
interpolation (OI) of what was observed of the present state.

    python benchmarks/filter_scores.py examples/filter.yaml nature_run.zarr --cycles 20

The table has, for each cycle, the RMSE (of the mean of members) and the CRPS over those of
climatology and of OI and the ratio of spread and skill, averaged over all channels, and the share
of channels with a lower CRPS than OI.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer

from appa_prob.appa import Appa
from appa_prob.baselines import climatology, optimal_interpolation, shipped_eofs
from appa_prob.cli import read_config
from appa_prob.dataset import open_dataset, read_states
from appa_prob.filtering import FilterConfig, run_filter
from appa_prob.observe import observe_truth
from appa_prob.scores import score_ensemble, score_gaussian
from appa_prob.truth import Truth


def main(
    config: Annotated[Path, typer.Argument(help="A configuration of a filter.")],
    data: Annotated[Path, typer.Argument(help="The nature run.")],
    output: Annotated[Path, typer.Option(help="The store for states.")] = Path("runs/filter.zarr"),
    start: Annotated[str, typer.Option(help="The first time.")] = "2004-03-01T00",
    cycles: Annotated[int, typer.Option(help="The number of cycles.")] = 20,
    threads: Annotated[int | None, typer.Option(help="The number of CPU threads.")] = None,
) -> None:
    """Scores the present state of each cycle."""
    if threads:
        torch.set_num_threads(threads)
    base = read_config(FilterConfig, config)
    base = base.model_copy(update={"data": data, "start": start, "cycles": cycles})
    dataset = run_filter(base, output)
    appa = Appa.from_pretrained(base.model)
    known = open_dataset(data).sel(time=dataset.time.values)
    truth, times = read_states(known, appa.catalogue)
    members = np.stack(
        [
            read_states(dataset.sel(member=m, drop=True), appa.catalogue)[0].numpy()
            for m in dataset.member.values
        ]
    )
    normal, deviation = (x.numpy() for x in climatology(appa, times))
    # What the filter observed, as it drew it.
    window = base.states or appa.window
    whole = window + (cycles - 1) * base.every
    series = Truth(appa, data, base.start, whole, base.missing)
    observations = observe_truth(appa, base.networks, series, series.times, 0, base.missing)
    covariance = shipped_eofs(appa)
    rows = {}
    for i in range(len(times)):
        one = slice(i, i + 1)
        shared = (truth[one].numpy(), appa.catalogue, appa.grid)
        found = score_ensemble(members[:, one], *shared)
        usual = score_gaussian(normal[one], deviation, *shared)
        state = window - 1 + i * base.every
        mean, std = optimal_interpolation(appa, covariance, observations, series.times, state)
        simple = score_gaussian(mean.numpy()[None], std.numpy()[None], *shared)
        rows[np.datetime_as_string(times[i], unit="h")] = {
            "RMSE / climatology": (found["rmse"] / usual["rmse"]).mean(),
            "CRPS / climatology": (found["crps"] / usual["crps"]).mean(),
            "RMSE / OI": (found["rmse"] / simple["rmse"]).mean(),
            "CRPS / OI": (found["crps"] / simple["crps"]).mean(),
            "beats OI": (found["crps"] < simple["crps"]).mean(),
            "spread/skill": found["spread_skill"].mean(),
        }
    table = pd.DataFrame(rows).T
    table.loc["mean"] = table.mean()
    typer.echo(table.to_string(float_format=lambda x: f"{x:.2f}"))


if __name__ == "__main__":
    typer.run(main)
