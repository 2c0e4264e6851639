r"""Time and memory of observing a global state of 295 MB: stations and one hour of a swath.

    python -m benchmarks.state

Times are medians over pairs of calls in turn, in one process on one thread, beside plain indexing
of what is observed.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from appa_prob.operators import Gather, Stack, WeightedGather
from benchmarks.allocations import Call, memory
from benchmarks.operators import COLUMNS, LEVELS, ROWS, header, interpolation, report


@torch.no_grad()
def main(
    pairs: Annotated[int, typer.Option(help="The number of pairs of calls.")] = 7,
    threads: Annotated[int, typer.Option(help="The number of CPU threads.")] = 1,
) -> None:
    """Prints the table."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    observe_state(pairs)


def observe_state(pairs: int) -> None:
    """Stations and a swath of a global state, beside plain indexing of what they observe."""
    header("a state of 295 MB", f"{'ours':>10}{'beside':>10}{'ratio':>8}")
    x = torch.randn(LEVELS, ROWS, COLUMNS)
    start = time.perf_counter()
    stations, _, _ = interpolation()
    cells = ROWS * COLUMNS
    variables = torch.arange(6) * 11
    corners = (variables[:, None, None] * cells + stations.indices).flatten(0, 1)
    weights = stations.weights.repeat(6, 1)
    swath = (torch.arange(65)[:, None] * cells + swath_cells()).reshape(-1)
    A = Stack([WeightedGather(corners, weights, x.shape), Gather(swath, x.shape)])
    build = time.perf_counter() - start
    y = A(x)
    typer.echo(f"{A.out_shape.numel():,} observations, {y.nbytes / 1e6:.1f} MB")
    typer.echo(f"{'build, s':44}{build:10.2f}{'':18}  <= 2")
    flat, read = x.view(-1), torch.cat((corners[:, 0], swath))
    report("product, ms", lambda: A(x), lambda: flat[read], pairs, 3.0)
    report("adjoint, ms", lambda: A.adjoint(y), lambda: flat[read], pairs, 3.0)
    _, used = memory(lambda: A(x))
    label = "peak memory of the product, MB"
    typer.echo(f"{label:44}{used / 1e6:10.1f}{y.nbytes / 1e6:10.1f}{used / y.nbytes:8.2f}  <= 2")
    grown = resident_peak(lambda: A.adjoint(y))
    if grown is not None:
        label, share = "growth of the process in the adjoint, MB", grown / x.nbytes
        typer.echo(f"{label:44}{grown / 1e6:10.1f}{x.nbytes / 1e6:10.1f}{share:8.2f}  <= 1")


def swath_cells() -> Tensor:
    """The cells within 700 km of one hour of the track of a polar satellite."""
    t = torch.arange(0.0, 3600.0, 15.0, dtype=torch.float64)
    inclination, u = math.radians(98.7), 2 * math.pi * t / 6100
    node = -2 * math.pi * t / 86400
    track = torch.stack(
        (
            u.cos() * node.cos() - math.cos(inclination) * u.sin() * node.sin(),
            u.cos() * node.sin() + math.cos(inclination) * u.sin() * node.cos(),
            math.sin(inclination) * u.sin(),
        ),
        dim=-1,
    )
    phi = torch.linspace(90.0, -90.0, ROWS, dtype=torch.float64).deg2rad()
    lam = (torch.arange(COLUMNS, dtype=torch.float64) * 0.25).deg2rad()
    near = math.cos(700 / 6371)
    found = []
    for i in range(ROWS):  # only where the track comes near the row
        close = track[(track[:, 2].clamp(-1, 1).asin() - phi[i]).abs() < 700 / 6371]
        around = phi[i].cos() * (lam[:, None] - torch.atan2(close[:, 1], close[:, 0])).cos()
        level = (close[:, 0] ** 2 + close[:, 1] ** 2).sqrt() * around + phi[i].sin() * close[:, 2]
        found.append((level > near).any(1).nonzero()[:, 0] + i * COLUMNS)
    return torch.cat(found)


def resident_peak(function: Call) -> int | None:
    """The growth of the memory of the process while a function runs, where the system tells."""
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not reset.exists():
        return None
    function()
    reset.write_text("5")
    before = resident(status, "VmRSS")
    result = function()
    peak = resident(status, "VmHWM")
    del result
    return peak - before


def resident(status: Path, name: str) -> int:
    """A number of bytes that the system tells of the process."""
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


if __name__ == "__main__":
    typer.run(main)
