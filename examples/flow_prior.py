r"""A denoiser of turbulent flows, trained on simulated ones: a prior of their initial states.

    python examples/flow_prior.py examples/flow_prior.safetensors

Kolmogorov flow at a Reynolds number of 40, on 16 x 16 points, is simulated from random starts
until it has forgotten them. Its states are far from Gaussian: waves of nearly fixed amplitude,
whose phases depend on each other. A Gaussian with the mean and the covariance of states is fitted
first; the network learns what that leaves. Takes about 4 minutes of one core.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from appa_prob.kolmogorov import KolmogorovFlow
from appa_prob.operators import Dense, Stationary
from appa_prob.samplers import GaussianDenoiser, PreconditionedDenoiser, VESchedule

N = 16
FLOW = KolmogorovFlow(N, 0.25, substeps=2, wavenumber=2)
PARAMETERS = {"reynolds": 40.0, "forcing": 1.0, "drag": 0.1}
SCHEDULE = VESchedule(0.03, 100.0)
LEVELS = torch.tensor([0.1, 0.3, 1.0, 3.0, 10.0])  # of noise, at which errors are printed
WEIGHTS = Path(__file__).with_suffix(".safetensors")


def states(flows: int, snapshots: int, generator: torch.Generator) -> Tensor:
    """Vorticity, with shape (flows * snapshots, n, n): 80 steps after the start, 32 apart."""
    k = torch.fft.fftfreq(N, 1 / N)
    square = k[:, None].square() + k.square()
    spectrum = square * torch.exp(-square / 2)
    x = Stationary(spectrum / spectrum.mean()).sample((flows,), generator)
    found = []
    for step in range(80 + 32 * (snapshots - 1)):
        if step >= 80 and (step - 80) % 32 == 0:
            found.append(x)
        x = FLOW(x, **PARAMETERS)
    return torch.cat([*found, x])


def moved(x: Tensor, generator: torch.Generator) -> Tensor:
    """States moved by what the forcing does not see: any way along x, half of a torus along y; a
    turn by 180 degrees about a zero of the forcing."""
    along, turn = torch.randint(N, (1,), generator=generator), torch.rand(2, generator=generator)
    x = x.roll((int(along), N // 2 * int(turn[0] < 0.5)), (-1, -2))
    return x.flip((-1, -2)).roll((1, 1), (-1, -2)) if turn[1] < 0.5 else x


class Block(nn.Module):
    """A residual block of two convolutions on the torus, told of the noise."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, padding_mode="circular")
        self.last = nn.Conv2d(width, width, 3, padding=1, padding_mode="circular")
        self.noise = nn.Linear(32, 2 * width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        scale, shift = self.noise(c)[..., None, None].chunk(2, 1)
        y: Tensor = self.last(F.silu(self.first(x) * (1 + scale) + shift))
        return x + y


class Network(nn.Module):
    """A small convolutional network on the torus."""

    def __init__(self, width: int = 32, blocks: int = 4) -> None:
        super().__init__()
        y = 2 * torch.pi * torch.arange(N) / N
        place = torch.stack(((2 * y).sin(), (2 * y).cos()))[:, :, None].expand(2, N, N)
        self.place: Tensor
        self.register_buffer("place", place.contiguous(), persistent=False)
        self.embed = nn.Sequential(nn.Linear(16, 32), nn.SiLU())
        self.first = nn.Conv2d(4, width, 3, padding=1, padding_mode="circular")
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.last = nn.Conv2d(width, 1, 3, padding=1, padding_mode="circular")
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        batch = x.shape[:-3]
        x = x.reshape(-1, *x.shape[-3:])
        c = c.expand(batch).reshape(-1, 1)
        angle = c * 2.0 ** torch.arange(8, dtype=c.dtype, device=c.device)
        c = self.embed(torch.cat((angle.sin(), angle.cos()), -1))
        x = self.first(torch.cat((x, self.place.to(x).expand(len(x), -1, -1, -1)), 1))
        for block in self.blocks:
            x = block(x, c)
        y: Tensor = self.last(F.silu(x))
        return y.reshape(*batch, 1, N, N)


def gaussian(tensors: dict[str, Tensor]) -> GaussianDenoiser:
    """The Gaussian prior of these moments."""
    shape = (1, N, N)
    covariance = Dense(tensors["covariance"], shape, shape, symmetric=True)
    return GaussianDenoiser(tensors["mean"], covariance, SCHEDULE)


def moments(x: Tensor) -> dict[str, Tensor]:
    """The mean and the covariance of states, the same wherever the flow is the same."""
    full = torch.cat([x.roll((i, j), (-1, -2)) for i in range(N) for j in (0, N // 2)])
    mean = full.mean(0)
    flat = (full - mean).flatten(1).double()
    covariance = (flat.mT @ flat / len(flat)).float() + 1e-4 * torch.eye(N * N)
    return {"mean": mean[None], "covariance": (covariance + covariance.mT) / 2}


def load(path: Path = WEIGHTS) -> tuple[GaussianDenoiser, PreconditionedDenoiser]:
    """The Gaussian prior, and the network on top of it."""
    tensors, network = load_file(path), Network()
    network.load_state_dict({name: tensors[name] for name in network.state_dict()})
    prior = gaussian(tensors)
    network.requires_grad_(False)
    return prior, PreconditionedDenoiser(network, SCHEDULE, (1, N, N), prior=prior)


def losses(d: PreconditionedDenoiser, x: Tensor, t: Tensor, g: torch.Generator) -> Tensor:
    """Squared errors over those that the Gaussian expects, with the shape of t."""
    z = torch.randn(x.shape, generator=g, dtype=x.dtype)
    x_t = x + d.schedule.sigma(t)[:, None, None, None] * z
    error: Tensor = d(x_t, t) - x
    return d.weight(t) * error.square().mean((-3, -2, -1))


def main(
    path: Annotated[Path, typer.Argument(help="The file of weights to write.")] = WEIGHTS,
    steps: Annotated[int, typer.Option(help="The number of steps of training.")] = 1000,
    flows: Annotated[int, typer.Option(help="The number of flows to train on.")] = 1000,
    seed: Annotated[int, typer.Option(help="The seed.")] = 0,
) -> None:
    """Simulates flows, and trains the denoiser on their states. Errors are those on other flows,
    over what the Gaussian expects of its own."""
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        x, test = states(flows, 4, g), states(100, 1, g)[:, None]
        tensors = moments(x)
    prior, network = gaussian(tensors), Network()
    d = PreconditionedDenoiser(network, SCHEDULE, (1, N, N), prior=prior)
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for step in range(steps):
        batch = moved(x[torch.randint(len(x), (64,), generator=g)], g)[:, None]
        loss = losses(d, batch, torch.rand(64, generator=g), g).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % 250 == 0:
            with torch.no_grad():
                t = SCHEDULE.time(LEVELS)
                errors = [float(losses(d, test, s.expand(100), g).mean()) for s in t]
            print(f"{step + 1}:", *(f"{error:.2f}" for error in errors), flush=True)
            save_file({**tensors, **network.state_dict()}, path)


if __name__ == "__main__":
    typer.run(main)
