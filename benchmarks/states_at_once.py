r"""Memory of a guided step by the number of states, each as large as one of ERA5.

    python -m benchmarks.states_at_once

States of 71 x 721 x 1440 are decoded one at a time from small latents, by interpolation, as the
networks of full size take minutes here; 10,000 points of each are observed. Either what is
observed of a state is read before the next one is decoded, or all states are decoded first. Memory
is the growth of the resident memory of a process in one step of MMPS of 3 iterations.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn import functional

from appa_prob.operators import CG, Isotropic, WeightedGather
from appa_prob.operators.rowwise import Rowwise
from appa_prob.samplers import MMPS, GaussianDenoiser, GaussianLikelihood, VESchedule
from benchmarks.state import resident

STATE, LATENT, POINTS = (71, 721, 1440), (4, 46, 90), 10_000


def work(states: int, block: bool) -> None:
    """Makes a step and prints what it takes."""
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    mixture = torch.randn(STATE[0], LATENT[0], generator=g)

    def decode(z: Tensor) -> Tensor:
        fine = functional.interpolate(torch.tanh(z), STATE[1:], mode="bilinear")
        return torch.einsum("cd,ndhw->nchw", mixture, fine)

    size = torch.Size(STATE).numel()
    state = torch.arange(states).repeat_interleave(POINTS)[:, None]
    indices = state * size + torch.randint(size, (states * POINTS, 4), generator=g)
    weights = torch.full(indices.shape, 0.25)
    H = WeightedGather(indices, weights, (states, *STATE))
    observed = H if block else None
    rows = Rowwise(decode, states, LATENT, STATE, at_once=1, observed=observed)
    event = (states, *LATENT)
    prior = GaussianDenoiser(torch.zeros(event), Isotropic(1.0, event), VESchedule())
    likelihood = GaussianLikelihood(rows if block else H @ rows, torch.zeros(len(H.indices)), 0.1)
    guided = MMPS(prior, likelihood, CG(rtol=0, max_iterations=3, on_failure="ignore"))
    z = torch.randn(1, *event, generator=g)
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    reset.write_text("5")
    before, start = resident(status, "VmRSS"), time.process_time()
    with torch.no_grad():
        guided(z, torch.tensor(0.5))
    taken = time.process_time() - start
    typer.echo(f"{(resident(status, 'VmHWM') - before) / 1e9:.2f} GB, {taken:.1f} s")


def main(
    states: Annotated[list[int] | None, typer.Option(help="A number of states.")] = None,
    block: Annotated[bool | None, typer.Option(help="Of a process.", hidden=True)] = None,
) -> None:
    """Prints the table."""
    if block is not None and states:
        work(states[0], block)
        return
    for block, name in ((True, "observed block by block"), (False, "all decoded first")):
        for count in states or (2, 4, 8):
            command = [sys.executable, "-m", "benchmarks.states_at_once", "--states", str(count)]
            command += ["--block" if block else "--no-block"]
            found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            typer.echo(f"{count:3d} states, {name}: {found.strip()}")


if __name__ == "__main__":
    typer.run(main)
