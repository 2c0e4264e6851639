r"""A step of MMPS against that of azula: same network, same solver and iterations, same result.

    python benchmarks/mmps.py
    python benchmarks/mmps.py --only pixels

Each row is one guided denoising in one thread. Both libraries take turns in one process, and the
ratio is the median, over rounds, of our time over that of azula right after. The bound is what
cannot be saved: one evaluation of the denoiser and one product with its Jacobian an iteration;
for latents also one evaluation of the decoder, an adjoint product with its Jacobian an iteration
and a forward product an iteration, but the last of CG. All are timed in the same rounds. The
difference is that of the two updates, relative to the larger of them.

The networks are those of azula with random weights: a U-Net on 2 x 32 x 32 pixels, a transformer
on 256 tokens, and the transformer in front of a convolutional decoder to 2 x 128 x 128 pixels. The
decoder costs about as much as the transformer, or, heavy, 3.5 times as much, as that of Appa does.
5% of the pixels are observed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Annotated, Literal

import torch
import typer
from azula.denoise import KarrasDenoiser
from azula.guidance.mmps import MMPSDenoiser
from azula.linalg.covariance import IsotropicCovariance
from azula.nn.dit import DiT
from azula.nn.unet import UNet, UNetBlock
from azula.noise import VESchedule
from torch import Tensor, nn

from appa_prob.operators import CG, GMRES, Gather, Nonlinear
from appa_prob.samplers import MMPS, AzulaDenoiser, GaussianLikelihood, LatentPosterior

VARIANCE = 0.1**2
Method = Literal["gmres", "cg"]


class TimedUNet(nn.Module):
    """The U-Net of azula, modulated by the noise level."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, 64))
        self.body = UNet(2, 2, hid_channels=(32, 64, 96), hid_blocks=(2, 2, 2), mod_features=64)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        output: Tensor = self.body(x, self.embed(c.expand(len(x))[:, None]))
        return output


class TimedDiT(nn.Module):
    """The transformer of azula on tokens, modulated by the noise level."""

    def __init__(self, tokens: int = 256, channels: int = 8) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, 64))
        self.body = DiT(
            channels, channels, mod_features=64, hid_channels=192, hid_blocks=4, attention_heads=4
        )
        self.register_buffer("place", torch.arange(tokens)[:, None] / tokens)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        output: Tensor = self.body(x, self.embed(c.expand(len(x))[:, None]), pos=self.place)
        return output


class Decoder(nn.Module):
    """A convolutional decoder of 16 x 16 tokens to 2 x 128 x 128 pixels, of residual blocks."""

    def __init__(self, width: int, channels: int = 8) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        for wide in (width, width // 2, width // 4):
            up = nn.Conv2d(wide, 2 * wide, 3, padding=1)
            layers += [UNetBlock(wide, kernel_size=3, padding=1), up, nn.PixelShuffle(2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width // 8, 2, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        pixels: Tensor = self.layers(z.mT.reshape(len(z), -1, 16, 16))
        return pixels


@dataclass
class Case:
    """A denoiser, a decoder if states are latents, and an observation."""

    name: str
    denoiser: KarrasDenoiser
    shape: tuple[int, ...]
    decoder: Decoder | None
    places: Tensor
    y: Tensor
    x_t: Tensor
    t: Tensor

    def ours(self, method: Method, k: int) -> Callable[[], Tensor]:
        """A step of ours."""
        prior = AzulaDenoiser(self.denoiser, self.shape)
        options = {"rtol": 0.0, "max_iterations": k, "on_failure": "ignore"}
        solver = GMRES(**options) if method == "gmres" else CG(**options)  # type: ignore[arg-type]
        pixels = self.shape if self.decoder is None else (2, 128, 128)
        likelihood = GaussianLikelihood(Gather(self.places, pixels), self.y, VARIANCE)
        if self.decoder is None:
            return partial(MMPS(prior, likelihood, solver), self.x_t, self.t)
        decoder = Nonlinear(self.decoder, self.shape, pixels)
        guided = LatentPosterior(prior, decoder, likelihood, partial(MMPS, solver=solver))
        return partial(guided, self.x_t, self.t)

    def azula(self, method: Method, k: int) -> Callable[[], Tensor]:
        """The same step by azula."""

        def observe(x: Tensor) -> Tensor:
            return (x if self.decoder is None else self.decoder(x)).flatten(1)[:, self.places]

        covariance = IsotropicCovariance(torch.tensor(VARIANCE))
        guided = MMPSDenoiser(
            self.denoiser, self.y, observe, covariance, solver=method, iterations=k
        )

        def step() -> Tensor:
            mean: Tensor = guided(self.x_t, self.t).mean
            return mean

        return step

    def bound(self, method: Method, k: int) -> Callable[[], tuple[float, Tensor]]:
        """What times the parts that no step can do without, and sums them."""

        def time_parts() -> tuple[float, Tensor]:
            with torch.enable_grad():
                x = self.x_t.detach().requires_grad_()
                forward, mean = clock(lambda: self.denoiser(x, self.t).mean)
            back, _ = clock(lambda: torch.autograd.grad(mean, x, mean.detach())[0])
            total = forward + k * back
            if self.decoder is not None:
                decoder = self.decoder
                with torch.enable_grad():
                    z = mean.detach().requires_grad_()
                    forward, pixels = clock(lambda: decoder(z))
                back, _ = clock(lambda: torch.autograd.grad(pixels, z, pixels.detach())[0])
                total += forward + k * back + (k - (method == "cg")) * forward
            return total, mean.detach()

        return time_parts


def clock(function: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """How long a call takes, in seconds of the processor, and what it returns."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def cases() -> Iterator[Case]:
    """The settings."""
    torch.manual_seed(0)
    unet, dit, light, heavy = TimedUNet(), TimedDiT(), Decoder(128), Decoder(288)
    for batch in (1, 8):
        for name, network, shape, decoder in (
            ("U-Net, pixels", unet, (2, 32, 32), None),
            ("DiT, pixels", dit, (256, 8), None),
            ("DiT, latents", dit, (256, 8), light),
            ("DiT, heavy latents", dit, (256, 8), heavy),
        ):
            size = 2048 if decoder is None else 2 * 128 * 128
            places = torch.randperm(size)[: size // 20].sort().values
            denoiser = KarrasDenoiser(network, VESchedule()).eval().requires_grad_(False)
            y = torch.randn(batch, len(places))
            t = torch.tensor(0.6)
            x_t = denoiser.schedule(t)[1] * torch.randn(batch, *shape)
            part = None if decoder is None else decoder.requires_grad_(False)
            yield Case(f"{name}, batch {batch}", denoiser, shape, part, places, y, x_t, t)


def compare(case: Case, method: Method, k: int, rounds: int) -> None:
    """Prints one row."""
    ours, theirs = case.ours(method, k), case.azula(method, k)
    bound = case.bound(method, k)
    with torch.no_grad():
        mean = case.denoiser(case.x_t, case.t).mean
        a, b = ours() - mean, theirs() - mean
        bound()
    error = float((a - b).norm() / b.norm())
    ratios, multiples, times = [], [], []
    for _ in range(rounds):
        (mine, _), (his, _), (least, _) = clock(ours), clock(theirs), bound()
        times.append(mine)
        ratios.append(mine / his)
        multiples.append(mine / least)
    typer.echo(
        f"{case.name:28s} {method:6s} {k:2d} {1e3 * median(times):9.1f} {median(ratios):8.2f} "
        f"{median(multiples):8.2f} {error:10.1e}"
    )


def main(
    only: Annotated[str, typer.Option(help="Only the settings whose name holds this.")] = "",
    rounds: Annotated[int, typer.Option(help="The number of rounds.")] = 7,
) -> None:
    """Prints one row for each setting, method and number of iterations."""
    torch.set_num_threads(1)
    typer.echo(
        f"{'setting':28s} {'solver':6s} {'k':>2s} {'ours, ms':>9s} {'/ azula':>8s} "
        f"{'/ bound':>8s} {'difference':>10s}"
    )
    for case in cases():
        if only not in case.name:
            continue
        for method in ("gmres", "cg") if case.decoder is not None else ("gmres",):
            for k in (1, 2, 4, 8):
                compare(case, method, k, rounds)


if __name__ == "__main__":
    typer.run(main)
