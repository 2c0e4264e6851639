r"""The error of samples against the exact posterior, for what it costs in calls of the network.

    python -m benchmarks.accuracy --figure docs/accuracy.png

A call is an evaluation of the denoiser or a product with its Jacobian, per sample. All denoisers
are exact, so that all errors are those of methods, and none of ours makes use of what it is told
beyond the denoiser. The problems are the mixtures of ``benchmarks/mixture_problems.py``, with 1, 2
and 4 observations of 8 numbers, and a Gaussian field of 64 x 64 points, smooth over 4 points, of
which 5% are observed with errors of a tenth of its standard deviation. Errors of the field are
2-Wasserstein distances along 64 random smooth fields, relative to the standard deviation of the
posterior along these, of 64 samples. Errors of independent draws from the posterior are the floor:
that of a finite sample.

At each number of calls a method takes as many steps as fit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import matplotlib.pyplot as plt
import torch
import typer
from matplotlib.lines import Line2D
from torch import Tensor

from appa_prob.operators import GMRES, Cholesky, Gather, Stationary
from appa_prob.samplers import (
    DAPS,
    DDPM,
    MMPS,
    SDA,
    TDS,
    Conditioning,
    Denoiser,
    DenseCovariance,
    DPMSolver,
    Gaussian,
    GaussianDenoiser,
    GaussianLikelihood,
    Integrator,
    VESchedule,
    placed_times,
    ratio_times,
    sample,
)
from benchmarks.mixture import azula, exact
from benchmarks.mixture_problems import Slices, make

CALLS = (16, 32, 64, 128, 256)
SIDE, LENGTH, NOISE, MEMBERS = 64, 4.0, 0.1, 64


class Hidden(Denoiser):
    """A denoiser of vectors of which nothing else is known: its covariance is that of Tweedie."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__((denoiser.event_shape.numel(),), denoiser.schedule)
        self.denoiser = denoiser

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        mean: Tensor = self.denoiser(x_t.reshape(*x_t.shape[:-1], *self.denoiser.event_shape), t)
        return mean.reshape(x_t.shape)


@dataclass
class Problem:
    """A hidden prior, an observation, and how samples are scored."""

    prior: Denoiser
    likelihood: GaussianLikelihood
    A: Tensor
    std: float
    score: Callable[[Tensor], float]
    exact: Callable[[torch.Generator], Tensor]


@dataclass
class Panel:
    """Problems of one kind, with one number of observations."""

    name: str
    m: int
    problems: list[Problem]
    samples: int = 1000
    variance: float = 129.0


def mixtures(law: Literal["random", "equal"], m: int, seeds: list[int]) -> Panel:
    """Problems of mixtures, see ``benchmarks/mixture_problems.py``."""
    problems = []
    for seed in seeds:
        p = make(law, m, 8, seed)
        problems.append(
            Problem(
                Hidden(p.prior),
                p.likelihood,
                p.A,
                p.std,
                Slices.of(law, p.reference, seed).score,
                partial(exact, p),
            )
        )
    kind = "max-sliced W2, seed 27" if law == "random" else "sliced W1, equal weights"
    return Panel(f"mixture, {m} of 8 observed, {kind}", m, problems)


def field() -> Panel:
    """The Gaussian field."""
    torch.manual_seed(0)
    schedule, shape = VESchedule(1e-2, 100.0), (SIDE, SIDE)
    smooth = Stationary.of(
        lambda r: torch.exp(-0.5 * (r / LENGTH).square()), shape, dtype=torch.float64
    )
    V = Stationary(smooth.spectrum + 1e-3)
    prior = GaussianDenoiser(torch.zeros(shape, dtype=torch.float64), V, schedule)
    places = torch.randperm(SIDE**2)[: SIDE**2 // 20].sort().values
    H = Gather(places, shape)
    y = H(V.sample()) + NOISE * torch.randn(H.out_shape, dtype=torch.float64)
    posterior = Gaussian(prior.mean, V).condition(
        GaussianLikelihood(H, y, NOISE**2), Cholesky(), bounded=False
    )
    u = V.sample((64,))
    u = u / u.flatten(1).norm(dim=1)[:, None, None]
    mean = (u * posterior.mean).sum((1, 2))
    spread = (u * posterior.covariance(u)).sum((1, 2)).sqrt()

    def error(x: Tensor) -> float:
        along = x.flatten(1) @ u.flatten(1).mT
        gaps = torch.stack((along.mean(0) - mean, along.std(0) - spread)) / spread
        return float(gaps.square().sum(0).mean().sqrt())

    flat = GaussianLikelihood(Gather(places, SIDE**2), y, NOISE**2)
    A = torch.eye(SIDE**2, dtype=torch.float64)[places]
    draw = partial(lambda g: posterior.sample((MEMBERS,), g))
    problem = Problem(Hidden(prior), flat, A, NOISE, error, draw)
    return Panel("Gaussian field, 5% of 4,096 observed, W2", 8, [problem], MEMBERS, 1.0)


Sampler = Callable[[Problem, torch.Generator], Tensor]


def ours(panel: Panel) -> dict[str, tuple[int, Callable[[int], Sampler]]]:
    """The methods of the library: calls a step, and the sampler of a number of steps."""

    def guided(integrator: type[Integrator], k: int, steps: int) -> Sampler:
        def sample(p: Problem, generator: torch.Generator) -> Tensor:
            solver = GMRES(rtol=1e-3, max_iterations=k, on_failure="ignore")
            posterior = MMPS(p.prior, p.likelihood, solver)
            sampler = integrator(ratio_times(p.prior.schedule, steps))
            noise = sampler.noise(
                posterior, (panel.samples,), generator=generator, dtype=torch.float64
            )
            return sampler(posterior, noise, generator=generator)

        return sample

    def twisted(method: Callable[..., Conditioning], steps: int) -> Sampler:
        def sample(p: Problem, generator: torch.Generator) -> Tensor:
            times = ratio_times(p.prior.schedule, steps)
            sampler = TDS(times, likelihood=p.likelihood, guidance=method)
            shape = (1, panel.samples)
            noise = sampler.noise(p.prior, shape, generator=generator, dtype=torch.float64)
            found = sampler.particles(p.prior, noise, generator=generator)
            return found.sample(panel.samples, generator)

        return sample

    def spread(calls: int) -> Sampler:
        each, parents = 1 + 8, 640
        steps = (calls * panel.samples - 16 * 28 * each) // (parents * each)

        def sample(p: Problem, generator: torch.Generator) -> Tensor:
            guided = MMPS(DenseCovariance(p.prior), p.likelihood, Cholesky())
            times = placed_times(
                DenseCovariance(guided), steps, generator=generator, dtype=torch.float64
            )
            sampler = TDS(times, likelihood=p.likelihood, covariance=True)
            shape = (1, parents)
            noise = sampler.noise(p.prior, shape, generator=generator, dtype=torch.float64)
            found = sampler.particles(p.prior, noise, generator=generator, offspring=4)
            return found.sample(panel.samples, generator)

        return sample

    def decoupled(steps: int) -> Sampler:
        def sample(p: Problem, generator: torch.Generator) -> Tensor:
            sampler = DAPS(ratio_times(p.prior.schedule, steps), likelihood=p.likelihood)
            shape = (panel.samples,)
            noise = sampler.noise(p.prior, shape, generator=generator, dtype=torch.float64)
            return sampler(p.prior, noise, generator=generator)

        return sample

    k = min(panel.m, 7)
    rows: dict[str, tuple[int, Callable[[int], Sampler]]] = {
        "MMPS, DPM-Solver++": (1 + k, partial(guided, DPMSolver, k)),
        "MMPS, DDPM": (1 + k, partial(guided, DDPM, k)),
    }
    rows["DAPS"] = (1, decoupled)
    if panel.samples >= 1000:
        rows["TDS with covariances"] = (1, spread)
        rows["TDS by MMPS"] = (1 + panel.m, partial(twisted, MMPS))
        rows["TDS by SDA"] = (2, partial(twisted, partial(SDA, gamma=1.0)))
    return rows


def defaults(panel: Panel) -> Sampler:
    """What :func:`sample` chooses, at 64 calls a sample."""

    def draws(p: Problem, generator: torch.Generator) -> Tensor:
        found = sample(p.prior, p.likelihood, panel.samples, generator=generator)
        if not 60 <= found.calls <= 66:
            raise RuntimeError(f"expected a default of 64 calls, got {found}")
        return found.x

    return draws


def theirs(panel: Panel) -> dict[str, tuple[int, Callable[[int], Sampler]]]:
    """The methods of azula, likewise."""
    options = {"samples": panel.samples, "variance": panel.variance}

    def at(name: str, steps: int) -> Sampler:
        rows = azula(steps, panel.m, **options)  # type: ignore[arg-type]
        return next(sample for other, _, sample in rows if other == name)  # type: ignore[return-value]

    rows = azula(1, panel.m, **options)  # type: ignore[arg-type]
    return {name: (int(calls), partial(at, name)) for name, calls, _ in rows}


def measure(panel: Panel, repeats: int) -> tuple[float, dict[str, list[float]]]:
    """The floor, and the errors of all methods by the number of calls."""

    def average(sample: Sampler) -> float:
        generator, errors = torch.Generator().manual_seed(0), []
        for p in panel.problems * repeats:
            errors.append(p.score(sample(p, generator)))
        return sum(errors) / len(errors)

    table = {
        "sample(prior, likelihood)": [
            average(defaults(panel)) if n == 64 else math.nan for n in CALLS
        ]
    }
    table |= {
        name: [average(make_sampler(n // calls)) if n >= calls else math.nan for n in CALLS]
        for name, (calls, make_sampler) in (ours(panel) | theirs(panel)).items()
    }
    return average(lambda p, generator: p.exact(generator)), table


def show(panel: Panel, floor: float, table: dict[str, list[float]]) -> None:
    """Prints a table in Markdown."""
    typer.echo(f"\n{panel.name}; independent draws: {floor:.3g}\n")
    typer.echo(f"| calls | {' | '.join(map(str, CALLS))} |")
    typer.echo(f"|---|{'---|' * len(CALLS)}")
    for name, errors in table.items():
        typer.echo(f"| {name} | {' | '.join('' if e != e else f'{e:.3g}' for e in errors)} |")


def draw(results: list[tuple[Panel, float, dict[str, list[float]]]], path: Path) -> None:
    """Draws a figure: ours in colour, azula in grey, each method alike in all panels."""
    figure, axes = plt.subplots(2, 4, figsize=(15, 7.5), layout="constrained")
    lines: dict[str, Any] = {}
    for axis, (panel, floor, table) in zip(axes.flat, results, strict=False):
        for name, errors in table.items():
            label = re.sub(r", [248] iterations", ", more iterations", name)
            if label in lines:
                style = {k: getattr(lines[label], f"get_{k}")() for k in ("color", "marker")}
            elif name.startswith("azula"):
                style = {"color": "0.6", "marker": "os^vDP*X"[len(lines) % 8]}
            else:
                marker = "*" if name.startswith("sample") else "o"
                style = {"color": f"C{len(lines)}", "marker": marker}
            mine = style["color"] != "0.6"
            size = 15 if mine and style["marker"] == "*" else 6
            (line,) = axis.plot(
                CALLS, errors, linewidth=1 + mine, markersize=size, zorder=size, **style
            )
            lines.setdefault(label, line)
        axis.axhline(floor, color="k", linestyle=":")
        axis.set(xscale="log", yscale="log", xlabel="calls of the network a sample")
        axis.set_title(panel.name, size=9)
        axis.set_xticks(CALLS, [str(n) for n in CALLS])
        axis.minorticks_off()
    lines["independent draws"] = Line2D([], [], color="k", linestyle=":")
    for axis in axes.flat[len(results) :]:
        axis.axis("off")
        axis.legend(lines.values(), lines.keys(), loc="center", fontsize=9)
    figure.savefig(path, dpi=100)


def main(
    figure: Annotated[Path | None, typer.Option(help="Where to draw the figure.")] = None,
    problems: Annotated[int, typer.Option(help="Problems of equal weights.")] = 3,
    repeats: Annotated[int, typer.Option(help="Repeats of the problem of seed 27.")] = 3,
    only: Annotated[str, typer.Option(help="Only the problems whose name holds this.")] = "",
) -> None:
    """Prints a table for each problem."""
    panels: list[Callable[[], Panel]] = []
    panels += [partial(mixtures, "random", m, [27]) for m in (1, 2, 4)]
    panels += [partial(mixtures, "equal", m, list(range(problems))) for m in (1, 2, 4)]
    results = []
    for make_panel in (*panels, field):
        panel = make_panel()
        if only in panel.name:
            floor, table = measure(panel, repeats if "seed 27" in panel.name else 1)
            show(panel, floor, table)
            results.append((panel, floor, table))
    if figure is not None:
        draw(results, figure)


if __name__ == "__main__":
    typer.run(main)
