r"""Regression with a Gaussian process or with a diffusion prior: one program, one line changed.

    python examples/gp_or_diffusion.py

A signal jumps between -1 and 1 at random times and is seen at a few points, with noise. Its mean
and covariance are those of a Gaussian process with a Matern kernel, which knows no more; a
diffusion prior knows the jumps. What the signal is, given the observations, is known exactly here,
by the algorithm of forward and backward messages: both are compared with it. Guidance alone gets
the odds of the two values wrong, so that particles are weighted for it.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Annotated

import gpytorch
import torch
import typer
from torch import Tensor

from appa_prob.operators import Cholesky, Gather, KernelCovariance
from appa_prob.samplers import (
    MMPS,
    TDS,
    Denoiser,
    GaussianDenoiser,
    GaussianLikelihood,
    VESchedule,
)

N, LENGTH, NOISE = 96, 24.0, 0.5  # points, correlation length, standard deviation of errors
PLACE = torch.arange(N, dtype=torch.float64)
SCHEDULE = VESchedule(1e-2, 1e2)


class Telegraph(Denoiser):
    """The exact denoiser of the signal, in the place of a network."""

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        alpha, sigma = self.scales(t)
        return mean_of_signal(2 * alpha * x_t / sigma**2)


def mean_of_signal(evidence: Tensor) -> Tensor:
    """The mean of the signal, given for each point the log odds of 1 against -1."""
    both, kept = torch.stack((evidence, evidence.flip(-1))), math.exp(-1 / LENGTH)
    messages = [torch.zeros_like(both[..., 0])]
    for i in range(N - 1):
        odds = messages[-1] + both[..., i]
        messages.append(2 * torch.atanh(kept * torch.tanh(odds / 2)))
    forth, back = torch.stack(messages, dim=-1)
    return torch.tanh((forth + evidence + back.flip(-1)) / 2)


def gaussian_process() -> Denoiser:
    """The Gaussian process with the mean and the covariance of the signal."""
    kernel = gpytorch.kernels.MaternKernel(nu=0.5).double()
    kernel.lengthscale = LENGTH
    return GaussianDenoiser(
        torch.zeros_like(PLACE), KernelCovariance(kernel, PLACE[:, None]), SCHEDULE
    )


def diffusion() -> Denoiser:
    """The diffusion prior."""
    return Telegraph((N,), SCHEDULE)


def regress(prior: Denoiser, seen: Tensor, y: Tensor, members: int) -> Tensor:
    """Samples the signal; the prior is the only thing that differs."""
    likelihood = GaussianLikelihood(Gather(seen, N), y, NOISE**2)
    sampler = TDS(64, likelihood=likelihood, guidance=partial(MMPS, solver=Cholesky()))
    return sampler(prior, sampler.noise(prior, (members,), dtype=torch.float64))


def draw(
    path: Path, found: dict[str, Tensor], truth: Tensor, exact: Tensor, seen: Tensor, y: Tensor
) -> None:
    """Samples and their means beside the truth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, (name, samples) in zip(figure.subplots(len(found), 1), found.items(), strict=True):
        axes.plot(PLACE, samples[:8].T, color="tab:blue", alpha=0.3, lw=1)
        axes.plot(PLACE, samples.mean(0), color="tab:blue", label="mean of samples")
        axes.plot(PLACE, exact, color="tab:orange", ls="--", label="exact mean")
        axes.plot(PLACE, truth, color="k", lw=1, label="truth")
        axes.plot(seen, y, "k.", label="observations")
        axes.set(title=name, ylim=(-2.2, 2.2))
    axes.legend(loc="lower right", ncols=4, fontsize=8)
    figure.savefig(path, dpi=110)


def main(
    picture: Annotated[Path, typer.Argument(help="The image to write.")] = Path(
        "gp_or_diffusion.png"
    ),
    members: Annotated[int, typer.Option(help="The number of samples.")] = 256,
    seed: Annotated[int, typer.Option(help="The seed.")] = 10,
) -> None:
    """Draws a signal and its observations, and infers it with both priors."""
    torch.manual_seed(seed)
    jumps = torch.rand(N) < (1 - math.exp(-1 / LENGTH)) / 2
    truth = (1 - 2 * (jumps.cumsum(0) % 2)).double()
    seen = torch.randperm(N)[:16].sort().values
    y = truth[seen] + NOISE * torch.randn(len(seen)).double()
    evidence = torch.zeros_like(PLACE).index_put((seen,), 2 * y / NOISE**2)
    exact = mean_of_signal(evidence)
    found = {}
    for name, prior in (
        ("Gaussian process", gaussian_process()),
        ("Diffusion prior", diffusion()),
    ):
        found[name] = regress(prior, seen, y, members)
        far = (found[name].mean(0) - exact).square().mean().sqrt()
        error = (found[name].mean(0) - truth).square().mean().sqrt()
        print(f"{name}: error of the mean {error:.2f}, distance from the exact mean {far:.2f}")
    draw(picture, found, truth, exact, seen, y)


if __name__ == "__main__":
    typer.run(main)
