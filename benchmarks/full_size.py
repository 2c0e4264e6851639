r"""Passes through networks of full size, run: their time and memory, beside what is counted.

    python -m benchmarks.full_size appa-1b

Weights are random, states are noise; each pass runs in a process of its own, on one thread, in
single precision. Counts are those of `appa-prob info`.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import typer
from torch import Tensor

from appa_prob.costs import task_costs
from appa_prob.model_config import read_model_config
from appa_prob.vision_transformer import VisionTransformer

PASSES = {
    "encode": "encode, a state",
    "decode": "decode, a state",
    "denoise": "sample, a window a step",
}


def run(config: str, name: str) -> None:
    """Runs a pass, and prints its time and the peak memory of the process beyond its start."""
    torch.set_num_threads(1)
    before, sizes = peak(), read_model_config(config)
    empty, _ = sizes.build()
    state, latent = empty.state_shape, empty.latent_shape
    function: Callable[..., Tensor]
    given: tuple[Tensor, ...]
    if name == "denoise":
        assert sizes.denoiser is not None
        length = sizes.denoiser.window
        network = VisionTransformer(latent[0], (latent[1], latent[2]), sizes.denoiser)
        function = partial(network, date=torch.zeros(length, 4))
        given = torch.randn(1, length, *latent), torch.ones(1)
    else:
        autoencoder, _ = sizes.model_copy(update={"denoiser": None}).build("cpu")
        function = partial(autoencoder.encode if name == "encode" else autoencoder.decode)
        given = (torch.randn(1, *(state if name == "encode" else latent)),)
    start = time.process_time()
    with torch.inference_mode():
        y = function(*given)
    cpu = time.process_time() - start
    if not bool(torch.isfinite(y).all()):
        raise FloatingPointError(f"{name}: expected finite values")
    print(f"{cpu:.1f} {(peak() - before) / 1e9:.2f} {tuple(y.shape)}")


def peak() -> int:
    """The peak resident memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(config: str = "appa-1b", only: str = "") -> None:
    """Prints a line a pass."""
    costs = task_costs(read_model_config(config))
    print(f"{'pass':10}{'TFLOPs':>9}{'counted GB':>12}{'GB':>8}{'cpu s':>9}{'GFLOP/s':>9}  output")
    for name, task in PASSES.items():
        if only in ("", name):
            code = f"from benchmarks.full_size import run; run({config!r}, {name!r})"
            command = [sys.executable, "-c", code]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            cpu, memory, shape = out.strip().split(" ", 2)
            cost = costs[task]
            print(
                f"{name:10}{cost.flops / 1e12:9.2f}{cost.memory / 1e9:12.2f}{float(memory):8.2f}"
                f"{float(cpu):9.1f}{cost.flops / 1e9 / float(cpu):9.1f}  {shape}",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
