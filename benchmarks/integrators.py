r"""Errors of integrators against calls of the denoiser, ours beside those of azula.

The prior is Gaussian and the denoiser exact, so that a deterministic sampler is an affine map of
its first state, and the law of its samples is known without sampling: unit vectors go through it.
The error is the distance of Wasserstein between this law and the right one, that of noisy data at
the last time, relative to the standard deviation of the data. Samplers start from the right law.

    python benchmarks/integrators.py

azula 0.11 is compared where it is installed, on the same denoiser and schedule, from and to the
same times. It spaces times equally; ours are given the same, and equal steps of the logarithm of
the ratio of noise to signal.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from appa_prob.operators import Dense
from appa_prob.samplers import (
    DDIM,
    AdamsBashforth,
    DPMSolver,
    Euler,
    GaussianDenoiser,
    Heun,
    Integrator,
    Schedule,
    VESchedule,
    VPSchedule,
    ratio_times,
)
from appa_prob.samplers.testing import diffused

SIZE, CALLS = 32, (8, 16, 32, 64, 128)
LAST = 0.01
Sampler = Callable[[Tensor], Tensor]


def main() -> None:
    r"""Prints a table for each schedule."""
    for schedule in (VESchedule(1e-2, 1e2), VPSchedule(1e-2)):
        d = denoiser(schedule)
        print(f"\n{schedule}, {SIZE} dimensions\n{'':26}" + "".join(f"{n:>10}" for n in CALLS))
        rows = {**ours(d), **azulas(d)}
        for name, make in rows.items():
            errors = [error(make(n), d) for n in CALLS]
            print(f"{name:26}" + "".join(f"{e:10.1e}" for e in errors), flush=True)


def denoiser(schedule: Schedule) -> GaussianDenoiser:
    r"""The denoiser of a random Gaussian whose variances are from 1 to 1e-3."""
    g = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=g, dtype=torch.float64)).Q
    V = Q * torch.logspace(0, -3, SIZE, dtype=torch.float64) @ Q.mT
    mean = torch.randn(SIZE, generator=g, dtype=torch.float64)
    return GaussianDenoiser(mean, Dense((V + V.mT) / 2, symmetric=True), schedule)


def ours(d: GaussianDenoiser) -> dict[str, Callable[[int], Sampler]]:
    r"""Our samplers by the number of calls, with equal times and with equal steps of the ratio."""
    makers: dict[str, Callable[[Sequence[float]], Integrator]] = {
        "Euler": Euler,
        "Heun": Heun,
        "DDIM": DDIM,
        "DPMSolver": DPMSolver,
        **{f"AdamsBashforth {k}": adams_bashforth(k) for k in (2, 3, 4)},
    }
    rows = {}
    for grid in ("equal", "ratio"):
        for name, make in makers.items():
            rows[f"{name}, {grid}"] = row(d, make, grid, 2 if name == "Heun" else 1)
    return rows


def row(
    d: GaussianDenoiser,
    make: Callable[[Sequence[float]], Integrator],
    grid: str,
    per_step: int,
) -> Callable[[int], Sampler]:
    r"""A sampler by its number of calls, of which it takes some per step."""

    def sampler(calls: int) -> Sampler:
        integrator = make(times(d.schedule, calls // per_step, grid))
        return lambda x: integrator(d, x)

    return sampler


def adams_bashforth(points: int) -> Callable[[Sequence[float]], Integrator]:
    r"""The maker of a method of an order."""
    return lambda times: AdamsBashforth(times, points=points)


def times(schedule: Schedule, steps: int, grid: str) -> Sequence[float]:
    r"""Times from 1 to that of the last ratio, by the name of their grid."""
    if grid == "ratio":
        return ratio_times(schedule, steps, last=LAST)
    return tuple(torch.linspace(1.0, last(schedule), steps + 1, dtype=torch.float64).tolist())


def last(schedule: Schedule) -> float:
    r"""The time at which samplers stop."""
    return float(schedule.time(torch.tensor(LAST, dtype=torch.float64)).clamp_min(0.0))


def azulas(d: GaussianDenoiser) -> dict[str, Callable[[int], Sampler]]:
    r"""The samplers of azula by the number of calls, if it is installed."""
    if importlib.util.find_spec("azula") is None:
        return {}
    denoise, sample = (importlib.import_module(f"azula.{name}") for name in ("denoise", "sample"))

    class Exact(denoise.Denoiser):  # type: ignore[misc, name-defined]
        schedule = staticmethod(d.schedule)

        def forward(self, x_t: Tensor, t: Tensor, **context: Any) -> Any:
            return denoise.DiracPosterior(d(x_t, t))

    def theirs(name: str, per_step: int = 1, **options: Any) -> Callable[[int], Sampler]:
        sampler: Any = getattr(sample, name)
        common = {"stop": last(d.schedule), "silent": True, "dtype": torch.float64}
        return lambda calls: sampler(Exact(), steps=calls // per_step, **common, **options)

    return {
        "azula Euler": theirs("EulerSampler"),
        "azula Heun": theirs("HeunSampler", 2),
        "azula DDIM": theirs("DDIMSampler"),
        **{f"azula zAB {k}": theirs("zABSampler", order=k) for k in (2, 3)},
        **{f"azula vAB {k}": theirs("vABSampler", order=k) for k in (2, 3)},
        **{f"azula zEAB {k}": theirs("zEABSampler", order=k) for k in (2, 3)},
        **{f"azula xEAB {k}": theirs("xEABSampler", order=k) for k in (2, 3)},
        **{f"azula REAB {k}": theirs("REABSampler", order=k) for k in (2, 3)},
    }


def error(sampler: Sampler, d: GaussianDenoiser) -> float:
    r"""The relative distance of Wasserstein between the law of a sampler and the right one."""
    V, schedule = d.covariance.to_dense(), d.schedule
    first, end = (diffused(d.mean, V, schedule, t) for t in (1.0, last(schedule)))
    root = torch.linalg.cholesky(first[1])
    starts = torch.cat((torch.zeros(1, SIZE).to(V), root.mT)) + first[0]
    x = sampler(starts)
    mean, columns = x[0], x[1:] - x[0]
    return float((distance(mean, columns.mT @ columns, *end) / V.trace()).sqrt())


def distance(m: Tensor, V: Tensor, n: Tensor, W: Tensor) -> Tensor:
    r"""The squared distance of Wasserstein between two Gaussians."""
    values, Q = torch.linalg.eigh(W)
    root = Q * values.clamp_min(0).sqrt() @ Q.mT
    cross = torch.linalg.eigvalsh(root @ V @ root).clamp_min(0).sqrt().sum()
    squared: Tensor = (m - n).square().sum() + V.trace() + W.trace() - 2 * cross
    return squared.clamp_min(0)


if __name__ == "__main__":
    main()
