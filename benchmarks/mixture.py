r"""Methods of posterior sampling on mixtures of 25 Gaussians, whose posteriors are known exactly.

    python -m benchmarks.mixture                      # the problems of seed 27
    python -m benchmarks.mixture --law equal --size 80

The problems are those of ``benchmarks/mixture_problems.py``. Every method gets the exact denoiser
and returns 1,000 samples. Calls are evaluations of the denoiser and products with its Jacobian,
per sample. Where azula is installed its own guidance is run beside ours, in the same process, with
the same schedule and steps.

The published DPS takes steps of a length that does not depend on the noise, so that its strength
depends on the number of steps; ``DPS as published`` is that loop. Its samples end near the origin
whatever was observed, so that its score is about the distance of the posterior from the origin.
Our :class:`DPS` is a denoiser, whose gradient is scaled by the noise as Tweedie's formula has it:
it is another method at the same :math:`\zeta`.

Figures and what they mean are in ``docs/accuracy.md``.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import torch
import typer
from torch import Tensor

from appa_prob.operators import GMRES, Cholesky, Isotropic
from appa_prob.samplers import (
    DAPS,
    DCPS,
    DDNM,
    DDPM,
    DDRM,
    DPS,
    JFPS,
    MGDM,
    MMPS,
    SDA,
    TDS,
    TMPD,
    DenseCovariance,
    DiffPIR,
    Guidance,
    Integrator,
    MixtureDenoiser,
    PiGDM,
    RePaint,
    VPSchedule,
    placed_times,
)
from benchmarks.mixture_problems import SCHEDULE, Problem, Slices, make

PRESERVING = VPSchedule(1e-3)
COVARIANCE_STEPS = 20
WIDEST = 80  # dimensions, beyond which there is no place for a covariance of each particle
KEPT = torch.cat((torch.ones(1), 1 - torch.linspace(0.02, 1e-4, 999))).double().cumprod(0)
PUBLISHED = {  # max-sliced W2, least and largest of the repeats that are published
    (1, 8): {"DDRM": "26.9-33.1", "DPS": "23.1-29.2", "MCGDiff 128": "4.70-5.82"},
    (2, 8): {"DDRM": "11.7-15.6", "DPS": "16.5-20.4", "MCGDiff 128": "3.78-4.66"},
    (4, 8): {"DDRM": "0.43-0.61", "DPS": "11.0-14.1", "MCGDiff 128": "0.14-0.20"},
}


Row = tuple[str, float, Callable[[Problem, torch.Generator], Tensor]]


def ours(steps: int, runs: int, particles: int, m: int, n: int) -> Iterator[Row]:
    """The methods of the library: name, calls per sample and sampler."""

    def guided(
        method: Callable[[Problem], Guidance],
    ) -> Callable[[Problem, torch.Generator], Tensor]:
        def sample(p: Problem, generator: torch.Generator) -> Tensor:
            sampler, posterior = DDPM(steps), method(p)
            noise = sampler.noise(posterior, (1000,), generator=generator, dtype=torch.float64)
            return sampler(posterior, noise, generator=generator)

        return sample

    def alone(make_sampler: Callable[[Problem], Integrator]) -> Callable[..., Tensor]:
        def sample(p: Problem, generator: torch.Generator) -> Tensor:
            sampler = make_sampler(p)
            noise = sampler.noise(p.prior, (1000,), generator=generator, dtype=torch.float64)
            return sampler(p.prior, noise, generator=generator)

        return sample

    def solver(k: int) -> GMRES:
        return GMRES(rtol=1e-10, max_iterations=k, on_failure="ignore")

    def twisted(p: Problem, generator: torch.Generator) -> Tensor:
        sampler = TDS(steps, likelihood=p.likelihood)
        shape = (runs, particles)
        noise = sampler.noise(p.prior, shape, generator=generator, dtype=torch.float64)
        return sampler.particles(p.prior, noise, generator=generator).sample(1000, generator)

    def wide(p: Problem, generator: torch.Generator) -> Tensor:
        prior = DenseCovariance(p.prior)
        posterior = DenseCovariance(MMPS(prior, p.likelihood, Cholesky()))
        options: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
        times = placed_times(posterior, COVARIANCE_STEPS, **options)
        sampler = TDS(times, likelihood=p.likelihood, covariance=True)
        noise = sampler.noise(p.prior, (runs, particles), **options)
        found = sampler.particles(p.prior, noise, generator=generator, offspring=4)
        return found.sample(1000, generator)

    share = runs * particles / 1000
    calls = (1 + n) * (share * COVARIANCE_STEPS + 16 * 28 / 1000)
    if n <= WIDEST:
        yield f"TDS with covariances, {runs} x {particles} particles", calls, wide
    yield f"TDS, {runs} x {particles} particles", share * steps * (1 + m), twisted
    methods: dict[str, tuple[int, Callable[[Problem], Guidance]]] = {
        "MMPS, solved": (1 + m, lambda p: MMPS(p.prior, p.likelihood, solver(m))),
        "MMPS, 1 iteration": (2, lambda p: MMPS(p.prior, p.likelihood, solver(1))),
        "TMPD": (3, lambda p: TMPD(p.prior, p.likelihood)),
        "PiGDM": (2, lambda p: PiGDM(p.prior, p.likelihood)),
        "SDA": (2, lambda p: SDA(p.prior, p.likelihood, gamma=1.0)),
        "DPS, zeta 1": (2, lambda p: DPS(p.prior, p.likelihood)),
        "JFPS, variance 129": (
            1,
            lambda p: JFPS(p.prior, p.likelihood, Isotropic(129.0, p.A.shape[1])),
        ),
        "DiffPIR": (1, lambda p: DiffPIR(p.prior, p.likelihood)),
    }
    methods["DDNM"] = 1, lambda p: DDNM(p.prior, p.likelihood)
    for name, (calls, method) in methods.items():
        yield name, calls * steps, guided(method)
    samplers: dict[str, tuple[float, Callable[[Problem], Integrator]]] = {
        "DAPS": (1, lambda p: DAPS(steps, likelihood=p.likelihood)),
        "MGDM, 32 steps": (
            32 / steps * ahead(m, 8),
            lambda p: MGDM(32, likelihood=p.likelihood),
        ),
        "MGDM, 32 steps of 10 sweeps": (
            320 / steps * ahead(m, 8),
            lambda p: MGDM(32, likelihood=p.likelihood, sweeps=10, share=0.25),
        ),
        "DCPS, 64 steps": (
            96 / steps * ahead(m, 1),
            lambda p: DCPS(64, likelihood=p.likelihood),
        ),
        "DDRM, 20 steps": (20 / steps, lambda p: DDRM(20, likelihood=p.likelihood)),
        "RePaint, 3 rewinds": (4, lambda p: RePaint(steps, likelihood=p.likelihood, rewinds=3)),
    }
    for name, (share, sampler) in samplers.items():
        yield name, share * steps, alone(sampler)
    yield "DDRM as published", 99, published_ddrm
    yield "DPS as published", 2 * 99, published_dps


def ahead(m: int, evaluations: int, moves: int = 2) -> int:
    """The calls, at most, of a draw from a Gaussian times the likelihood of what lies ahead: the
    map and its Jacobian, systems of m unknowns for the mean and each deviation, and moves."""
    return evaluations + 1 + (2 + moves) * (2 * m + 2) + moves + 1


def preserving(p: Problem) -> MixtureDenoiser:
    """The prior with a schedule that preserves variance."""
    law = p.prior
    return MixtureDenoiser(law.log_weights.exp(), law.means, law.covariances, PRESERVING)


def published_ddrm(p: Problem, generator: torch.Generator) -> Tensor:
    """DDRM at the 99 times of the public benchmark, with its stochasticity."""
    kept = KEPT[torch.linspace(0, 1000, 100).long()[1:-1]].flip(0)
    times = PRESERVING.time(((1 - kept) / kept).sqrt()).clamp_max(1.0)
    sampler = DDRM((*times.tolist(), 0.0), likelihood=p.likelihood, eta=1.0, eta_observed=1.0)
    prior = preserving(p)
    noise = sampler.noise(prior, (1000,), generator=generator, dtype=torch.float64)
    return sampler(prior, noise, generator=generator)


def published_dps(p: Problem, generator: torch.Generator) -> Tensor:
    r"""DPS as the public benchmark runs it, with 100 times and :math:`\eta = 0.6`.

    .. math:: x_s = \mathbb{E}[x_s \mid x_t, \hat{x}]
        - \zeta \nabla_{x_t} \|y - A \hat{x}\|^2 / \|y - A \hat{x}\| + \eta \, \tau \, z

    with the slip of that benchmark, :math:`\alpha_t` for :math:`\alpha_s` in front of
    :math:`\hat{x}`.
    """
    schedule, n, prior = PRESERVING, p.A.shape[1], preserving(p)
    places = torch.linspace(0, 999, 100).long()
    x = torch.randn(1000, n, generator=generator, dtype=torch.float64)
    for i in range(len(places) - 1, 0, -1):
        a_t, a_s = KEPT[places[i]], KEPT[places[i - 1]]
        t = schedule.time(((1 - a_t) / a_t).sqrt())
        posterior = prior.posterior(x, t)
        residual, H, _ = p.likelihood.linearize(posterior.mean)
        unit = residual / residual.norm(dim=-1, keepdim=True)
        pull = posterior.covariance(H.adjoint(unit)) * a_t.sqrt() / (1 - a_t)
        mean = x * a_t.sqrt() * (1 - a_s) / (1 - a_t)
        mean = mean + posterior.mean * a_t.sqrt() * (1 - a_t / a_s) / (1 - a_t)
        tau = ((1 - a_s) / (1 - a_t) * (1 - a_t / a_s)).sqrt()
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = mean + 2 * pull + 0.6 * tau * noise
    return x


def azula(steps: int, m: int, *, samples: int = 1000, variance: float = 129.0) -> Iterator[Row]:
    """The guidance of azula, with its own sampler; the variance is that of states, for JFPS."""
    if importlib.util.find_spec("azula") is None:
        typer.echo("azula is not installed: its rows are left out (pip install azula==0.11.1)")
        return
    parts = {
        name: importlib.import_module(f"azula.{name}")
        for name in ("denoise", "noise", "sample", "linalg.covariance", "guidance.mmps")
    }
    for name in ("tmpd", "dps", "pgdm", "diffpir", "jfps"):
        parts[name] = importlib.import_module(f"azula.guidance.{name}")
    schedule = parts["noise"].VESchedule(SCHEDULE.sigma_min, SCHEDULE.sigma_max)
    isotropic = parts["linalg.covariance"].IsotropicCovariance

    def prior(p: Problem) -> Any:
        class Exact(parts["denoise"].Denoiser):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.exact, self.schedule = p.prior, schedule

            def forward(self, x_t: Tensor, t: Tensor) -> Any:
                return parts["denoise"].DiracPosterior(mean=self.exact(x_t, t))

        return Exact()

    def run(make_sampler: Callable[[Problem], Any]) -> Callable[..., Tensor]:
        def sample(p: Problem, generator: torch.Generator) -> Tensor:
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            sampler = make_sampler(p)
            x = torch.randn(samples, p.A.shape[1], dtype=torch.float64)
            x_0: Tensor = sampler(x * math.hypot(1.0, SCHEDULE.sigma_max))
            return x_0

        return sample

    def ddpm(module: str, name: str, **options: Any) -> Callable[[Problem], Any]:
        def make_sampler(p: Problem) -> Any:
            more = {k: v(p) if callable(v) else v for k, v in options.items()}
            guided = getattr(parts[module], name)(
                prior(p), p.likelihood.y, p.likelihood.map, **more
            )
            return parts["sample"].DDPMSampler(guided, steps=steps, silent=True)

        return make_sampler

    def noise(p: Problem) -> Any:
        return isotropic(torch.tensor(p.std**2).double())

    def wide(p: Problem) -> Any:
        return isotropic(torch.tensor(variance).double())

    for k in sorted({1, m}, reverse=True):
        made = ddpm("guidance.mmps", "MMPSDenoiser", cov_y=noise, iterations=k)
        yield f"azula MMPS, {k} iterations", steps * (2 + k), run(made)
    made = ddpm("tmpd", "TMPDenoiser", var_y=lambda p: p.std**2)
    yield "azula TMPD", 3 * steps, run(made)
    made = ddpm("jfps", "JFPSDenoiser", cov_y=noise, cov_x=wide, iterations=m)
    yield "azula JFPS", steps, run(made)
    made = ddpm("diffpir", "DiffPIRDenoiser", var_y=lambda p: p.std**2, iterations=m)
    yield "azula DiffPIR", steps, run(made)

    def dps(p: Problem) -> Any:
        # Its norm is that of the whole batch: this zeta undoes that.
        zeta = 0.1 * math.sqrt(samples)
        y, map = p.likelihood.y, p.likelihood.map
        return parts["dps"].DPSSampler(prior(p), y, map, zeta, steps=steps, silent=True)

    def pgdm(p: Problem) -> Any:
        y, map, inverse = p.likelihood.y, p.likelihood.map, torch.linalg.pinv(p.A)
        options = {"eta": 1.0, "steps": steps, "silent": True}
        return parts["pgdm"].PGDMSampler(prior(p), y, map, lambda r: r @ inverse.mT, **options)

    yield "azula DPS, zeta 0.1 sqrt(B)", 2 * steps, run(dps)
    yield "azula PiGDM", 2 * steps, run(pgdm)


def exact(p: Problem, generator: torch.Generator) -> Tensor:
    """Independent draws from the posterior: the noise floor."""
    return p.prior.law.condition(p.likelihood).sample((1000,), generator)


def main(
    law: Annotated[str, typer.Option(help="The law of problems: random or equal.")] = "random",
    size: Annotated[int, typer.Option(help="The number of dimensions.")] = 8,
    problems: Annotated[int, typer.Option(help="Problems, of the equal law.")] = 20,
    repeats: Annotated[int, typer.Option(help="Repeats, of the random law.")] = 5,
    steps: Annotated[int, typer.Option(help="The number of steps.")] = 200,
    runs: Annotated[int, typer.Option(help="The number of runs of TDS.")] = 4,
    particles: Annotated[int, typer.Option(help="The number of particles of a run.")] = 1000,
    only: Annotated[
        str, typer.Option(help="Only the methods whose name begins with one of these, by commas.")
    ] = "",
    observed: Annotated[int, typer.Option(help="The number of observations; 0 for all.")] = 0,
    published: Annotated[
        bool, typer.Option(help="Components of the random law as torch 2.0 to 2.4 draw them.")
    ] = True,
) -> None:
    """Prints a table for each number of observations: 1, 2 and 4."""
    if law not in ("random", "equal"):
        raise typer.BadParameter(f"expected random or equal, got {law}")
    kind: Literal["random", "equal"] = "random" if law == "random" else "equal"
    for m in (observed,) if observed else (1, 2, 4):
        count = repeats if law == "random" else problems
        seeds = [27 if law == "random" else i for i in range(count)]
        table = [make(kind, m, size, seed, published=published) for seed in seeds]
        compared = [Slices.of(kind, p.reference, i) for i, p in enumerate(table)]
        typer.echo(f"\nd_y = {m}, d = {size}, {law} law, {count} repeats or problems")
        for name, figure in (PUBLISHED.get((m, size), {}) if law == "random" else {}).items():
            typer.echo(f"  {name + ' (published)':44s} {'':>9s} {figure:>16s}")
        rows: list[Row] = [("exact posterior", 0, exact), *ours(steps, runs, particles, m, size)]
        for name, calls, sample in (*rows, *azula(steps, m)):
            if not name.startswith(tuple(only.split(","))):
                continue
            generator, start = torch.Generator().manual_seed(0), time.process_time()
            found = []
            for p, slices in zip(table, compared, strict=True):
                found.append(slices.score(sample(p, generator)))
            seconds = (time.process_time() - start) / count
            typer.echo(f"  {name:44s} {calls:9.0f} {_summary(found)} {seconds:8.1f} s")


def _summary(found: list[float]) -> str:
    values = torch.tensor(found)
    error = 1.96 * values.std() / math.sqrt(len(found)) if len(found) > 1 else torch.nan
    return (
        f"mean {values.mean():6.2f} +- {error:4.2f}  median {values.median():6.2f} "
        f"({values.min():.2f}-{values.max():.2f})"
    )


if __name__ == "__main__":
    typer.run(main)
