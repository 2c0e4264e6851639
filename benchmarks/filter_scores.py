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
from appa_prob.baselines import OptimalInterpolation, climatology, shipped_eofs
from appa_prob.cli import read_config
from appa_prob.filtering import FilterConfig, run_filter
from appa_prob.observe import observe_truth
from appa_prob.report import channel_table, ensemble_fields, fields
from appa_prob.truth import Truth
from appa_prob.verification import score, score_gaussian_forecast


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
    times = dataset.time.values
    normal, deviation = climatology(appa, times)
    # What the filter observed, as it drew it.
    window = base.states or appa.window
    whole = window + (cycles - 1) * base.every
    series = Truth.open(appa, data, base.start, whole, base.missing)
    observations = observe_truth(appa, base.networks, series, series.times, 0, base.missing)
    ends = range(window - 1, whole, base.every)
    interpolate = OptimalInterpolation(appa, shipped_eofs(appa), observations, series.times, ends)
    rows = {}
    for i in range(len(times)):
        state = window - 1 + i * base.every
        actual = fields(appa, series[state : state + 1][0])
        found = channel_table(
            score(ensemble_fields(appa, dataset, i), actual, joint=False).isel(region=0),
            appa.catalogue,
            base.members,
        )
        usual, simple = (
            channel_table(
                score_gaussian_forecast(fields(appa, mean), fields(appa, std), actual).isel(
                    region=0
                ),
                appa.catalogue,
            )
            for mean, std in (
                (normal[i], deviation),
                interpolate(state),
            )
        )
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
