r"""Scores of forecasts by lead time, beside those of persistence and of climatology.

    python benchmarks/forecast_scores.py examples/forecast.yaml nature_run.zarr

Forecasts start at times spread over a period, by default the test period, from 2004-03-01 on.
Scores of starts that are done are kept in the output folder, so that an interrupted run goes on.

The table has, for each lead time, the RMSE (of the mean of members) and the CRPS over those of
averaged over all channels; the share of channels that beat persistence (by RMSE) and climatology
(by CRPS); and the ratio of spread and skill.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer

from appa_prob.appa import Appa
from appa_prob.baselines import climatology
from appa_prob.cli import read_config
from appa_prob.dataset import open_dataset, select_period
from appa_prob.forecast import ForecastConfig, run_forecast
from appa_prob.report import average_scores, channel_table, ensemble_fields, fields
from appa_prob.truth import Truth
from appa_prob.verification import score, score_gaussian_forecast

KEYS = ["lead", "method", "variable", "level"]


def score_start(config: ForecastConfig, appa: Appa, seed: int) -> pd.DataFrame:
    """The scores of one forecast and of its baselines, by lead time and channel."""
    known = config.known or (1 if config.initial == "state" else appa.window)
    assert config.data is not None, "scores need data"
    source = Truth.open(appa, config.data, config.start, known + config.states)
    truth, times = source[:], source.times
    dataset = run_forecast(config, seed=seed, progress=False)
    normal, deviation = climatology(appa, times[known:])
    last, std = fields(appa, truth[known - 1]), fields(appa, deviation)
    hours = (np.arange(config.states) + 1) * (appa.step / np.timedelta64(1, "h"))
    tables = {}
    for i, lead in enumerate(hours):
        actual, usual = fields(appa, truth[known + i]), fields(appa, normal[i])
        scores = {
            "appa": score(ensemble_fields(appa, dataset, i), actual, joint=False),
            "persistence": score(last, actual, joint=False),
            "climatology": score_gaussian_forecast(usual, std, actual),
        }
        for method, found in scores.items():
            members = config.members if method == "appa" else None
            tables[lead, method] = channel_table(found.isel(region=0), appa.catalogue, members)
    return pd.concat(tables, names=["lead", "method"])


def summarise(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """The table by lead time, of scores that are averaged over starts."""
    table = average_scores(tables).unstack("method")
    rmse, crps, ratio = table["rmse"], table["crps"], table["spread_skill"]["appa"]
    columns = {
        "RMSE / climatology": rmse["appa"] / rmse["climatology"],
        "RMSE / persistence": rmse["appa"] / rmse["persistence"],
        "CRPS / climatology": crps["appa"] / crps["climatology"],
        "CRPS / persistence": crps["appa"] / crps["persistence"],
        "spread/skill": ratio,
        "beats persistence": (rmse["appa"] < rmse["persistence"]).astype(float),
        "beats climatology": (crps["appa"] < crps["climatology"]).astype(float),
    }
    return pd.DataFrame(columns).groupby("lead").mean()


def main(
    config: Annotated[Path, typer.Argument(help="A configuration of a forecast.")],
    data: Annotated[Path, typer.Argument(help="The nature run.")],
    output: Annotated[Path, typer.Option(help="The folder for tables.")] = Path("runs/forecasts"),
    start: Annotated[str, typer.Option(help="The first day of the period.")] = "2004-03-01",
    stop: Annotated[str | None, typer.Option(help="The last day of the period.")] = None,
    starts: Annotated[int, typer.Option(help="The number of starts.")] = 8,
    threads: Annotated[int | None, typer.Option(help="The number of CPU threads.")] = None,
) -> None:
    """Scores forecasts that start at times spread over a period."""
    if threads:
        torch.set_num_threads(threads)
    base = read_config(ForecastConfig, config)
    appa = Appa.from_pretrained(base.model)
    times = select_period(open_dataset(data), start, stop).time.values
    span = base.states + (base.known or appa.window)
    output.mkdir(parents=True, exist_ok=True)
    tables = []
    for seed, first in enumerate(np.linspace(0, len(times) - span, starts).astype(int)):
        name = np.datetime_as_string(times[first], unit="h")
        path = output / f"{name}.csv"
        if not path.exists():
            one = base.model_copy(update={"data": data, "start": name})
            score_start(one, appa, seed).to_csv(path, float_format="%.6g")
        tables.append(pd.read_csv(path).set_index(KEYS))
        typer.echo(f"{len(tables)} of {starts}: {name}", err=True)
    typer.echo(summarise(tables).to_string(float_format=lambda x: f"{x:.2f}"))


if __name__ == "__main__":
    typer.run(main)
