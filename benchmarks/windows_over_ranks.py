r"""Memory, time and traffic of each rank of a reanalysis whose windows several ranks share.

    python -m benchmarks.windows_over_ranks

Each of 1, 2 and 4 ranks, processes of one thread on this machine, samples its piece of one
trajectory of `appa-small` given stations and satellites. Memory is the growth of the resident
memory in a step of the sampler, time that of the processor, and traffic what a rank sends for
an evaluation of the denoiser or a product with its Jacobian, counted where it is sent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer

from appa_prob.appa import Appa
from appa_prob.config_file import read_config
from appa_prob.dataset import parse_time
from appa_prob.experiment import ReanalysisConfig
from appa_prob.generators import state_generators
from appa_prob.mesh import Mesh, ParallelConfig
from appa_prob.observe import observe_truth
from appa_prob.parallel import process_group, rank, ranks
from appa_prob.reanalysis import SamplerConfig, assimilate, guide
from appa_prob.rollout import state_times
from benchmarks.state import resident

EXAMPLE = Path(__file__).parents[1] / "examples" / "reanalysis.yaml"
COUNTS = (1, 2, 4)


def work(states: int, at_once: int | None, folder: Path) -> None:
    """What each rank does and measures."""
    torch.set_num_threads(1)
    config, appa = read_config(ReanalysisConfig, EXAMPLE), Appa.from_pretrained("appa-small")
    times = state_times(parse_time(config.start), states, appa.step)
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(states, *appa.error.shape, generator=g) * appa.variability
    truth = appa.statistics.restore(noise, times)
    observations = observe_truth(appa, config.networks, truth, times, 0)
    iterations = config.sampler.iterations
    sampler = SamplerConfig(
        steps=1, iterations=iterations, windows_at_once=at_once, states_at_once=at_once
    )
    with process_group():
        mesh = Mesh.of(ParallelConfig(windows=ranks()))
        piece = mesh.piece(appa, states)
        generators = state_generators(0, 0, [0], piece)
        sent = counting()
        prior = guide(appa, observations, times, sampler, mesh).denoiser
        z = torch.zeros(1, *prior.event_shape)
        with torch.no_grad():
            prior(z, torch.tensor(0.5))
        evaluation = sent[0]
        reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
        reset.write_text("5")
        before, start = resident(status, "VmRSS"), time.process_time()
        assimilate(appa, observations, times, generators, sampler=sampler, mesh=mesh)
        found = {
            "states": len(piece),
            "MB": (resident(status, "VmHWM") - before) / 1e6,
            "s": time.process_time() - start,
            "kB sent": evaluation / 1e3,
        }
        (folder / f"{rank()}.json").write_text(json.dumps(found))


def counting() -> list[int]:
    """The number of bytes of states that this process has sent, kept up to date."""
    sent, batch = [0], dist.batch_isend_irecv

    def sending(operations: list[dist.P2POp]) -> Any:
        sent[0] += sum(p.tensor.nbytes for p in operations if p.op is dist.isend)
        return batch(operations)

    dist.batch_isend_irecv = sending  # type: ignore[assignment]
    return sent


def main(
    states: Annotated[int, typer.Option(help="The number of states.")] = 96,
    at_once: Annotated[
        int | None,
        typer.Option(help="The number of windows, and of states, at once; by default all."),
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Of the ranks.", hidden=True)] = None,
) -> None:
    """Prints the table."""
    if folder is not None:
        work(states, at_once, folder)
        return
    typer.echo(f"{'ranks':>5} {'rank':>5} {'states':>7} {'MB':>7} {'s':>7} {'kB sent':>8}")
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as name:
            command = [sys.executable, "-m", "benchmarks.windows_over_ranks"]
            command += ["--states", str(states), "--folder", name]
            command += [] if at_once is None else ["--at-once", str(at_once)]
            shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
            processes = [
                subprocess.Popen(command, env=os.environ | shared | {"RANK": str(i)})
                for i in range(count)
            ]
            if any(process.wait() for process in processes):
                raise SystemExit(1)
            for i in range(count):
                found = json.loads((Path(name) / f"{i}.json").read_text())
                typer.echo(
                    f"{count:5d} {i:5d} {found['states']:7d} {found['MB']:7.0f} {found['s']:7.1f} "
                    f"{found['kB sent']:8.1f}"
                )


if __name__ == "__main__":
    typer.run(main)
