r"""Guidance by a trained network, at matched accuracy: how little it takes to be as good as azula.

    python benchmarks/matched.py

The prior is the denoiser that ships with the package, trained on three days of weather in latent
space. A trajectory is drawn from it, 5% of its latents are observed with errors of standard
deviation 0.1, and two members are sampled given these, in 16 steps of DPM-Solver++ from the same
noise. Rows are methods: azula's MMPS with GMRES at several numbers of iterations, ours at the
most of these, ours preconditioned by the Gaussian prior of the denoiser, to a tolerance rather
than a number of iterations, and that below noise of level 6, with the covariance of that prior and
no derivative of the network above.

The errors, relative to the spread of the prior, are those of the members and of their mean where
nothing was observed; the misfit is that to the observations, relative to their errors, 1 at best.
Times are those of the processor in one thread; the ratio is to the time of azula at the most
iterations on the same trajectory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import mean, median
from typing import Annotated

import numpy as np
import torch
import typer
from azula.denoise import Denoiser as AzulaBase
from azula.denoise import DiracPosterior
from azula.guidance.mmps import MMPSDenoiser
from azula.linalg.covariance import IsotropicCovariance
from torch import Tensor

from appa_prob.appa import Appa
from appa_prob.operators import CG, GMRES, Gather, Solver
from appa_prob.samplers import (
    JFPS,
    MMPS,
    AzulaDenoiser,
    Denoiser,
    DPMSolver,
    GaussianDenoiser,
    GaussianLikelihood,
    Switched,
)

NOISE, SHARE, MOST, LEVEL = 0.1, 20, 8, 6.0


class Foreign(AzulaBase):  # type: ignore[misc]
    """A denoiser of ours, for azula."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule

    def forward(self, x_t: Tensor, t: Tensor) -> DiracPosterior:
        return DiracPosterior(mean=self.denoiser(x_t, t))


def azula(prior: Denoiser, likelihood: GaussianLikelihood, k: int) -> Denoiser:
    """The guidance of azula."""
    covariance = IsotropicCovariance(torch.tensor(NOISE**2))
    guided = MMPSDenoiser(
        Foreign(prior), likelihood.y, likelihood.map, covariance, solver="gmres", iterations=k
    )
    return AzulaDenoiser(guided, prior.event_shape)


def methods(
    prior: Denoiser, climate: GaussianDenoiser, likelihood: GaussianLikelihood
) -> dict[str, Denoiser]:
    """The rows."""
    inner = CG(rtol=0.2, max_iterations=10, on_failure="ignore", verify=False)
    few = GMRES(
        rtol=0.1, max_iterations=4, on_failure="ignore", preconditioner=climate.surrogate(inner)
    )
    many: Solver = GMRES(rtol=0.0, max_iterations=MOST, on_failure="ignore")
    cheap = CG(rtol=0.02, max_iterations=20, on_failure="ignore", verify=False)
    preconditioned = MMPS(prior, likelihood, few)
    free = JFPS(prior, likelihood, climate.covariance, cheap)
    rows = {f"azula, {k} iterations": azula(prior, likelihood, k) for k in (MOST, 1, 2, 4)}
    rows[f"ours, {MOST} iterations"] = MMPS(prior, likelihood, many)
    rows["ours, preconditioned"] = preconditioned
    rows["ours, preconditioned, switched"] = Switched(free, preconditioned, level=LEVEL)
    return rows


def timed(function: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """How long a call takes, in seconds of the processor, and what it returns."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def main(
    seeds: Annotated[int, typer.Option(help="The number of trajectories.")] = 2,
    steps: Annotated[int, typer.Option(help="The number of steps.")] = 16,
    members: Annotated[int, typer.Option(help="The number of members.")] = 2,
    only: Annotated[str, typer.Option(help="Only the methods whose name holds this.")] = "",
) -> None:
    """Prints one row for each method."""
    torch.set_num_threads(1)
    appa = Appa.from_pretrained("appa-small")
    start = np.datetime64("2001-01-01T00", "ns")
    prior = appa.trajectory_denoiser(start + appa.step * np.arange(appa.window))
    sampler, found = DPMSolver(steps), dict[str, list[tuple[float, float, float, float]]]()
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        whole = DPMSolver(24)
        z = whole(prior, whole.noise(prior, generator=generator), generator=generator)
        order = torch.randperm(z.numel(), generator=generator)
        seen, hidden = order[: z.numel() // SHARE].sort().values, order[z.numel() // SHARE :]
        H = Gather(seen, prior.event_shape)
        y = H(z) + NOISE * torch.randn(H.out_shape, generator=generator)
        likelihood = GaussianLikelihood(H, y, NOISE**2)
        noise = sampler.noise(prior, (members,), generator=generator)
        truth = z.flatten()[hidden]
        for name, posterior in methods(prior, appa.denoiser.prior, likelihood).items():
            if only not in name:
                continue
            seconds, x = timed(partial(sampler, posterior, noise))
            error = x.flatten(1)[:, hidden] - truth
            misfit = float((H(x) - y).square().mean().sqrt()) / NOISE
            rms = float(error.square().mean().sqrt()), float(error.mean(0).square().mean().sqrt())
            found.setdefault(name, []).append((seconds, *rms, misfit))
    first = next(iter(found.values()))
    typer.echo(
        f"{'method':32s} {'s':>6s} {'ratio':>6s} {'member':>7s} {'mean':>7s} {'misfit':>7s}"
    )
    for name, rows in found.items():
        ratio = median(a[0] / b[0] for a, b in zip(rows, first, strict=True))
        seconds, member, average, misfit = (mean(column) for column in zip(*rows, strict=True))
        typer.echo(
            f"{name:32s} {seconds:6.1f} {ratio:6.2f} {member:7.4f} {average:7.4f} {misfit:7.3f}"
        )


if __name__ == "__main__":
    typer.run(main)
