r"""What a turbulent flow was, from a coarse and noisy look at what became of it.

    python examples/navier_stokes_start.py start.png

The initial state of Kolmogorov flow, of which averages of the velocity are seen two units of time
later, by a Pyro program with a diffusion prior. There are two of these, which differ in one line:
a Gaussian with the mean and the covariance of such flows, and a denoiser trained on them (see
`flow_prior.py`, whose weights are beside it). Both are guided through the simulator, and scored
against the truth, and against draws from the climate.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import pyro
import torch
import typer
from flow_prior import (  # type: ignore[import-not-found]
    FLOW,
    PARAMETERS,
    WEIGHTS,
    N,
    load,
    states,
)
from torch import Tensor

from appa_prob import DiffusionPrior, condition
from appa_prob.likelihoods import GaussianLikelihood
from appa_prob.operators import GMRES, Coarsen, Reshape
from appa_prob.samplers import Denoiser, DPMSolver, IteratedMMPS
from appa_prob.simulator import StepSimulator

SIMULATOR = StepSimulator(FLOW, (N, N), steps=8, every=8, parameters=PARAMETERS)
VELOCITY = FLOW.velocity((1,))
# What is seen: averages over blocks of 4 x 4.
SEEN = Coarsen(4, VELOCITY.out_shape) @ VELOCITY @ SIMULATOR @ Reshape((1, N, N), (N, N))
LIKELIHOOD = GaussianLikelihood(SEEN, 0.2)
GUIDANCE = partial(
    IteratedMMPS, iterations=2, solver=GMRES(rtol=1e-2, max_iterations=8, on_failure="ignore")
)


def program(y: Tensor, denoiser: Denoiser, steps: int = 24) -> None:
    """The initial state, and what is seen of it."""
    x = pyro.sample("x", DiffusionPrior(denoiser, DPMSolver(steps)))
    pyro.sample("y", LIKELIHOOD(x), obs=y)


def infer(y: Tensor, denoiser: Denoiser, members: int, steps: int = 24) -> Tensor:
    """Samples initial states of flows, with shape (members, flows, 1, n, n)."""
    found = [
        condition(program, one, denoiser, steps, num_samples=members, guidance=GUIDANCE)["x"]
        for one in y
    ]
    return torch.stack(found, 1)


def scores(members: Tensor, truth: Tensor) -> dict[str, float]:
    """The error of the mean, the spread over it (1 if samples are as uncertain as they say), and
    the continuous ranked probability score, each as for independent draws."""
    m = len(members)
    error = (members.mean(0) - truth).square().mean()
    spread = members.var(0).mean() * (1 + 1 / m)
    pairs = (members[:, None] - members).abs().mean() * m / (m - 1)
    crps = (members - truth).abs().mean() - pairs / 2
    return {
        "RMSE": float(error.sqrt()),
        "spread/skill": float((spread / error).sqrt()),
        "CRPS": float(crps),
    }


def draw(path: Path, truth: Tensor, found: dict[str, Tensor]) -> None:
    """The truth and the mean and a member of each, of the first flow."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * (1 + 2 * len(found)), 2.9), layout="constrained")
    fields = {"truth": truth[0, 0]}
    for name, members in found.items():
        fields |= {f"{name}: mean": members.mean(0)[0, 0], "a member": members[0, 0, 0]}
        fields[f"{name}: member"] = fields.pop("a member")
    limit = float(truth[0].abs().max())
    axes = figure.subplots(1, len(fields))
    for one, (title, field) in zip(axes, fields.items(), strict=True):
        one.imshow(field.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower")
        one.set(title=title, xticks=[], yticks=[])
    figure.savefig(path, dpi=110)


def main(
    picture: Annotated[Path, typer.Argument(help="The image to write.")],
    flows: Annotated[int, typer.Option(help="The number of flows.")] = 8,
    members: Annotated[int, typer.Option(help="The number of samples of each.")] = 8,
    seed: Annotated[int, typer.Option(help="The seed.")] = 1000,
    weights: Annotated[Path, typer.Option(help="The weights of the denoiser.")] = WEIGHTS,
) -> None:
    """Draws flows and what is seen of them, samples their initial states, and scores these."""
    pyro.set_rng_seed(seed)
    g = torch.Generator().manual_seed(seed)
    truth, climate = (states(n, 1, g)[:, None] for n in (flows, members * flows))
    y = LIKELIHOOD(truth).sample()
    gaussian, trained = load(weights)
    found = {"Gaussian": infer(y, gaussian, members), "trained": infer(y, trained, members)}
    drawn = {"climate": climate.reshape(members, flows, 1, N, N), **found}
    for name, samples in drawn.items():
        print(f"{name}:", ", ".join(f"{k} {v:.2f}" for k, v in scores(samples, truth).items()))
    draw(picture, truth, found)


if __name__ == "__main__":
    typer.run(main)
