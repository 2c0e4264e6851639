r"""The reconstruction errors of an autoencoder, relative to the variability of each variable.

    python benchmarks/autoencoder_errors.py nature_run.zarr

.. math:: \sqrt{\frac{\overline{(D(E(x)) - x)^2}}{\overline{(x - \bar{x})^2}}}

with averages over the test period, the area of the globe and the levels of a variable, and
:math:`\bar{x}` the average over time at each point; and likewise relative to the anomalies from
the seasonal climatology.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from appa_prob.appa import Appa
from appa_prob.dataset import open_dataset, read_states, select_period


@torch.no_grad()
def main(
    data: Annotated[Path, typer.Argument(help="The nature run.")],
    model: Annotated[str, typer.Option(help="The model.")] = "appa-small",
    start: Annotated[str, typer.Option(help="The first day of the period.")] = "2004-03-01",
) -> None:
    """Prints a table, one row a variable."""
    appa = Appa.from_pretrained(model)
    x, times = read_states(select_period(open_dataset(data), start, None), appa.catalogue)
    scale = appa.statistics.scale.reshape(-1, 1, 1)
    rows = torch.as_tensor(appa.grid.weights, dtype=torch.float32).unsqueeze(-1)

    def average(square: torch.Tensor) -> torch.Tensor:
        return (square * rows).mean((0, 2, 3))

    anomalies = appa.statistics.standardise(x, times)
    parts = [appa.autoencoder(part)[0] for part in torch.split(anomalies, 64)]
    error = average((torch.cat(parts) - anomalies).square())
    climate = average(((x - x.mean(0)) / scale).square())
    seasonal = average(anomalies.square())
    table = {}
    for variable in appa.catalogue.variables:
        index = [i for i, c in enumerate(appa.catalogue.channels) if c.variable == variable]
        table[variable] = {
            "of climatology": float((error[index].sum() / climate[index].sum()).sqrt()),
            "of seasonal anomalies": float((error[index].sum() / seasonal[index].sum()).sqrt()),
            "worst level": float((error[index] / climate[index]).max().sqrt()),
        }
    typer.echo(f"compression {appa.autoencoder.compression:g}")
    typer.echo(pd.DataFrame(table).T.to_string(float_format=lambda v: f"{v:.3f}"))


if __name__ == "__main__":
    typer.run(main)
