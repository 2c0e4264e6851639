"""The peak memory of runs of several lengths, in one process each.

    python benchmarks/streaming_memory.py sample
    python benchmarks/streaming_memory.py filter reanalyse

All are to need the same whatever their length. A reanalysis holds a block of its trajectory,
but neither the truth nor the states of more than one member. A cycle of a filter has twelve new
states.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from appa_prob.dataset import open_dataset, shipped_sample

LENGTHS = (64, 256, 1024)

RUN = """
import resource, sys
from pathlib import Path
from appa_prob.experiment import ReanalysisConfig, run_reanalysis
from appa_prob.filtering import FilterConfig, run_filter
from appa_prob.sample import SampleConfig, run_sample

task, states, data, output = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
start = {"start": "2004-01-01T00", "members": 2}
one = {
    "network": "stations",
    "variables": ["temperature", "surface_pressure"],
    "error": {"temperature": "1 K", "surface_pressure": "1 hPa"},
}
seen = start | {"data": data, "networks": [one]}
small = {"steps": 1, "iterations": 1}
pieces = small | {"batch": 1, "windows_at_once": 1, "states_at_once": 1}
if task == "sample":
    run_sample(SampleConfig(**start, states=states, sampler=small), output, progress=False)
elif task == "filter":
    cycles = (states - 12) // 12 + 1
    filtering = FilterConfig(**seen, cycles=cycles, every=12, sampler=small)
    run_filter(filtering, output, progress=False)
else:
    config = ReanalysisConfig(**seen, states=states, baselines=None, sampler=pieces)
    run_reanalysis(config, output, progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak(task: str, states: int, data: Path, folder: Path) -> int:
    """The peak resident memory, in MiB, of a process that draws some states."""
    output = folder / f"{task}-{states}.zarr"
    command = [sys.executable, "-c", RUN, task, str(states), str(data), str(output)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def lengthened(folder: Path, states: int) -> Path:
    """The states that ship with the package, again and again."""
    path = folder / "truth.zarr"
    short = open_dataset(shipped_sample(Path("sample"))).load()
    dataset = short.isel(time=np.arange(states) % short.sizes["time"])
    times = np.datetime64("2004-01-01T00", "ns") + np.arange(states) * np.timedelta64(6, "h")
    dataset = dataset.drop_encoding().assign_coords(time=times)
    chunks = {name: {"chunks": (1, *x.shape[1:])} for name, x in dataset.data_vars.items()}
    dataset.to_zarr(path, zarr_format=2, encoding=chunks)
    return path


def main(
    tasks: Annotated[list[str], typer.Argument(help="sample, filter or reanalyse.")],
    length: Annotated[list[int] | None, typer.Option(help="A number of states.")] = None,
) -> None:
    """Prints the peak memory of each task by length."""
    lengths = tuple(length or LENGTHS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = lengthened(folder, max(lengths))
        for task in tasks:
            for states in lengths:
                typer.echo(f"{task}, {states:5d} states: {peak(task, states, data, folder)} MiB")


if __name__ == "__main__":
    typer.run(main)
