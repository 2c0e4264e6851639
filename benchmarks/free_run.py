r"""What a free run, as `appa-prob sample` writes it, looks like beside the data.

    appa-prob sample examples/sample.yaml -o half_year.zarr
    python benchmarks/free_run.py half_year.zarr nature_run.zarr

Seams: the variance of anomalies, and their correlation with those one state before, at the first
new states of blocks over those of all others. Climate: standard deviations of anomalies over those
of the data, in the whole run and in its last quarter, and mean anomalies (drift) over them.
Spectra: the power of anomalies by bands of total wavenumber over that of the data.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
import xarray as xr

from appa_prob.appa import Appa
from appa_prob.dataset import open_dataset, read_states, select_period
from appa_prob.sample import SampleConfig
from appa_prob.spectra import power_spectrum

BANDS = ((1, 4), (4, 8), (8, 14), (14, 20))


def anomalies(dataset: xr.Dataset, appa: Appa) -> np.ndarray:
    """Standardised anomalies, with shape (L, C, H, W)."""
    states, times = read_states(dataset, appa.catalogue)
    return appa.statistics.standardise(states, times).numpy()


def seams(x: np.ndarray, rows: np.ndarray, block: int, fresh: int) -> tuple[float, float]:
    """The ratios of variances and of correlations, at first new states over all others."""
    weights = (rows / rows.mean())[:, None]
    x = x - x.mean(0)
    power = (weights * x**2).mean((1, 2, 3))
    product = (weights * x[1:] * x[:-1]).mean((1, 2, 3))
    index = np.arange(len(x))
    first = (index >= block) & ((index - block) % fresh == 0)
    correlation = product / np.sqrt(power[1:] * power[:-1])
    variance = power[first].mean() / power[~first].mean()
    return float(variance), float(correlation[first[1:]].mean() / correlation[~first[1:]].mean())


def bands(x: np.ndarray, appa: Appa) -> np.ndarray:
    """The mean power of anomalies, by channel and band, with shape (C, bands)."""
    coords = {"latitude": appa.grid.latitude, "longitude": appa.grid.longitude}
    field = xr.DataArray(x, coords, dims=("time", "channel", "latitude", "longitude"))
    power = power_spectrum(field.astype("float64")).mean("time").values
    return np.stack([power[:, first:stop].sum(1) for first, stop in BANDS], axis=1)


def main(
    run: Annotated[Path, typer.Argument(help="The store that `appa-prob sample` wrote.")],
    data: Annotated[Path, typer.Argument(help="The nature run.")],
    start: Annotated[str, typer.Option(help="The first day to compare with.")] = "2003-03-01",
    stop: Annotated[str, typer.Option(help="The last day to compare with.")] = "2004-02-29",
    every: Annotated[int, typer.Option(help="Every how many states to take spectra of.")] = 4,
) -> None:
    """Compares a free run with the data."""
    dataset = xr.open_zarr(run, chunks=None)
    config = SampleConfig.model_validate(json.loads(dataset.attrs["config"]))
    appa = Appa.from_pretrained(config.model)
    torch.set_grad_enabled(False)
    actual = anomalies(select_period(open_dataset(data), start, stop), appa)
    block = config.rollout.block or appa.window
    fresh = block - (config.rollout.overlap or appa.window // 2)
    rows = appa.grid.weights
    normal = bands(actual[::every], appa)
    spread = np.sqrt(np.average((actual**2).mean((0, 3)), axis=1, weights=rows))
    for member in dataset.member.values:
        x = anomalies(dataset.sel(member=member, drop=True), appa)
        variance, correlation = seams(x, rows, block, fresh)
        typer.echo(f"member {member}: {len(x)} states, seams every {fresh} states")
        typer.echo(f"variance at seams {variance:.3f}, correlation {correlation:.3f} of the rest")
        deviation = np.sqrt(np.average((x**2).mean((0, 3)), axis=1, weights=rows))
        last = x[-len(x) // 4 :]
        late = np.sqrt(np.average((last**2).mean((0, 3)), axis=1, weights=rows))
        drift = np.average(last.mean((0, 3)), axis=1, weights=rows) / spread
        table = pd.DataFrame(
            {"std": deviation / spread, "std, last quarter": late / spread, "drift": drift},
            index=[f"{c.variable} {c.level or ''}".strip() for c in appa.catalogue.channels],
        )
        ratio = bands(x[::every], appa) / normal
        for (first, end), column in zip(BANDS, ratio.T, strict=True):
            table[f"l {first}-{end - 1}"] = column
        table.loc["mean"] = table.mean()
        typer.echo(table.to_string(float_format=lambda v: f"{v:.2f}"))


if __name__ == "__main__":
    typer.run(main)
