r"""Scores of reanalyses over many windows of a period, and of their baselines.

    python benchmarks/reanalysis_scores.py examples/reanalysis.yaml nature_run.zarr

By default 8 windows spread over the test period, from 2004-03-01 on. Every window is scored for
itself; windows that are done are kept in the output folder, so that an interrupted run goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer

from appa_prob.appa import Appa
from appa_prob.cli import read_config
from appa_prob.dataset import open_dataset, select_period
from appa_prob.experiment import BaselineConfig, ReanalysisConfig, load_truth
from appa_prob.observe import observe
from appa_prob.reanalysis_blocks import reanalyse
from appa_prob.report import Report, average_scores, report_scores

KEYS = ["points", "method", "variable", "level"]


def score_window(config: ReanalysisConfig, appa: Appa, seed: int, baselines: bool) -> pd.DataFrame:
    """The table of scores of one window."""
    truth, times = load_truth(config, appa)
    assert truth is not None, "scores need data"
    generator = torch.Generator().manual_seed(seed)
    observations = observe(
        config.networks, truth, times, appa.catalogue, appa.grid, generator=generator
    )
    members = reanalyse(
        appa,
        observations,
        times,
        members=config.members,
        sampler=config.sampler,
        blocks=config.blocks,
        seed=seed,
        progress=True,
    )
    every = config.baselines.every if config.baselines else 1
    report = report_scores(
        appa,
        appa.dataset(members, times),
        truth,
        times,
        observations,
        baselines=baselines,
        every=every,
        progress=True,
    )
    return report.table


def main(
    config: Annotated[Path, typer.Argument(help="A configuration of a reanalysis.")],
    data: Annotated[Path, typer.Argument(help="The nature run.")],
    output: Annotated[Path, typer.Option(help="The folder for tables.")] = Path("runs/scores"),
    start: Annotated[str, typer.Option(help="The first day of the period.")] = "2004-03-01",
    stop: Annotated[str | None, typer.Option(help="The last day of the period.")] = None,
    windows: Annotated[int, typer.Option(help="The number of windows.")] = 8,
    baselines: Annotated[bool, typer.Option(help="Whether to score the baselines.")] = True,
    every: Annotated[int, typer.Option(help="Every how many states to score.")] = 6,
    threads: Annotated[int | None, typer.Option(help="The number of CPU threads.")] = None,
) -> None:
    """Scores reanalyses of windows that are spread over a period."""
    if threads:
        torch.set_num_threads(threads)
    base = read_config(ReanalysisConfig, config)
    appa = Appa.from_pretrained(base.model)
    times = select_period(open_dataset(data), start, stop).time.values
    starts = np.linspace(0, len(times) - base.states, windows).astype(int)
    output.mkdir(parents=True, exist_ok=True)
    tables = []
    for seed, first in enumerate(starts):
        name = np.datetime_as_string(times[first], unit="h")
        path = output / f"{name}.csv"
        if not path.exists():
            scored = BaselineConfig(every=every)
            window = base.model_copy(update={"data": data, "start": name, "baselines": scored})
            table = score_window(window, appa, seed, baselines)
            Report(table, 0, 0).save(path)
        tables.append(pd.read_csv(path).set_index(KEYS))
    table = average_scores(tables)
    typer.echo(str(Report(table, len(tables) * len(range(every // 2, base.states, every)), 0)))
    if baselines:
        typer.echo(ratios(table))


def ratios(table: pd.DataFrame) -> str:
    """The CRPS of the ensemble over those of the baselines."""
    crps = table["crps"].unstack("method", sort=False)
    lines = pd.DataFrame(
        {
            "CRPS / OI": crps["appa"] / crps["OI"],
            "CRPS / climatology": crps["appa"] / crps["climatology"],
            "spread/skill": table["spread_skill"].unstack("method", sort=False)["appa"],
        }
    )
    text: str = lines.to_string(float_format=lambda x: f"{x:.3f}")
    return text


if __name__ == "__main__":
    typer.run(main)
