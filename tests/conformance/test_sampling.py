"""Schedules, samplers, solvers, guidance and windows agree with the published ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from appa_prob.operators import GMRES, Dense, InnovationCovariance, Map, Nonlinear, Slice
from appa_prob.point_masks import PointMask, compile_masks
from appa_prob.published_parts import SCHEDULES
from appa_prob.samplers import (
    DDIM,
    DDPM,
    MMPS,
    Denoiser,
    EDMSchedule,
    GaussianLikelihood,
    Integrator,
    LinearMultistep,
    LogLogitSchedule,
    PiGDM,
    PredictorCorrector,
    RewindDDIM,
    WindowedDenoiser,
)
from appa_prob.samplers.linear_multistep import multistep_weights

if TYPE_CHECKING:
    from tests.conformance.conftest import Fixtures, Published

SCHEDULE = EDMSchedule(0.0, 1e3, rho=1.0)  # whose time is the noise level, over 1000
# The error in single precision of the published code itself, where noise begins at 1000.
LOOSE = 3e-4


def solver(iterations: int) -> GMRES:
    return GMRES(rtol=0.0, max_iterations=iterations, on_failure="ignore")


class Dated(Denoiser):
    """A denoiser of windows with dates of their own, one for each member."""

    def __init__(self, denoiser: Denoiser, date: Tensor) -> None:
        super().__init__(denoiser.event_shape, denoiser.schedule)
        self.denoiser, self.date = denoiser, date

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        mean: Tensor = self.denoiser(x_t, t, date=self.date)
        return mean


def dated(
    published: Fixtures, date: Tensor, dtype: torch.dtype, schedule: str | None = None
) -> Denoiser:
    d = published.denoiser("vidit_p211", dtype, schedule or "rectified")
    if schedule is None:
        d.schedule = d.prior.schedule = SCHEDULE
    return Dated(d, published.features(date, dtype))


def sample(sampler: Integrator, d: Denoiser, x_1: Tensor, noise: Tensor | None = None) -> Tensor:
    """The last state, with the noise that was drawn then; all of it is used."""
    draws: Iterator[Tensor] = iter(() if noise is None else noise)
    with torch.no_grad():
        *_, last = sampler.run(
            d, sampler.init(d, x_1), lambda x: next(draws).reshape(x.shape).to(x)
        )
    assert next(draws, None) is None
    return last.x_t


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("limits", [(0.001, 1000), (0.02, 80)])
def test_schedules(
    published: Fixtures, name: str, limits: tuple[float, float], dtype: torch.dtype
) -> None:
    fixture = published("schedules")
    key = f"{name}_{limits[0]}_{limits[1]}"
    double = dtype == torch.float64
    expected = fixture[f"{key}_f64" if double else f"{key}_f32"]
    t = torch.linspace(0.0, 1.0, 11, dtype=dtype)
    sigma = SCHEDULES[name](*limits).sigma(t)
    # Where the published rectified schedule cancels, ours is the one that is right.
    tolerance = 1e-10 if double else 2e-5
    torch.testing.assert_close(sigma, expected, rtol=tolerance, atol=0.0)


def test_other_schedules(published: Fixtures) -> None:
    fixture = published("schedules")
    t = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
    sigma = LogLogitSchedule(1e-3, 1e3, spread=1.5, exact=False).sigma(t)
    torch.testing.assert_close(sigma, fixture["loglogit_spread1.5_f64"], rtol=1e-10, atol=0.0)
    for name, schedule in SCHEDULES.items():
        for flag, last in (("", 1.0), ("_bf16flag", 1 - 1 / 256)):
            sigma = schedule(1e-3, 1e3).sigma(torch.tensor([last]))
            key = f"{name}_0.001_1000_tmax{flag}_f32"
            torch.testing.assert_close(sigma, fixture[key], rtol=2e-5, atol=0.0)


def test_multistep_weights(published: Fixtures) -> None:
    fixture = published("adams_bashforth")
    sigma = fixture["sigma"]
    keys = [key for key in fixture.tensors if key.startswith("ab_")]
    assert len(keys) == 26
    for key in keys:
        order, i = (int(part[-1]) for part in key.removeprefix("ab_").split("_"))
        # The newest node first, in ours.
        weights = multistep_weights(sigma[i - order : i].flip(0), sigma[i]).flip(0)
        torch.testing.assert_close(weights, fixture[key], rtol=1e-10, atol=0.0)


SAMPLERS = {
    "ddim": DDIM(8),
    "lms1": LinearMultistep(8, points=1),
    "lms2": LinearMultistep(8, points=2),
    "lms3": LinearMultistep(8, points=3),
    "ddpm": DDPM(8),
    "pc": PredictorCorrector(8, corrections=2, delta=0.1, correct_first=True),
    "rewind_jump": RewindDDIM(8, ahead=3),
    "rewind_small": RewindDDIM(8, ahead=3, jump=False),
}


@pytest.mark.parametrize("name", [*SAMPLERS, "ddim_loglinear", "ddim_loglogit"])
def test_samplers(published: Fixtures, name: str, dtype: torch.dtype) -> None:
    fixture = published("samplers")
    schedule = name.split("_")[1] if "log" in name else "rectified"
    d = dated(published, fixture["date"], dtype, schedule)
    x_1 = published.windows(fixture["z1"].to(dtype), d.event_shape)
    noise = fixture.tensors.get(f"noise_{name}")
    if noise is not None:
        noise = published.windows(noise, d.event_shape)
    start = float(d.schedule.sigma(torch.tensor(1.0, dtype=torch.float64)))
    found = sample(SAMPLERS[name.split("_log")[0]], d, start * x_1, noise)
    fixture.check(published.flat(found), f"x0_{name}", absolute=LOOSE)


def test_gmres(published: Fixtures, dtype: torch.dtype) -> None:
    fixture = published("gmres")
    A, b = fixture["A"].to(dtype), fixture["b"].to(dtype)
    for n in (1, 2, 3, 4, 8, 12):
        fixture.check(solver(n)(Dense(A), b).value, f"x_{n}")
    if dtype == torch.float32:
        found = solver(3)(Dense(A), b, fixture["x_init"]).value
        fixture.check(found, "x_from_x_init_3")
    else:
        for n in (1, 2, 4):
            fixture.check(solver(n)(Dense(fixture["A_spd"].double()), b).value, f"x_spd_{n}")


def noisy(fixture: Published, published: Fixtures, d: Denoiser, sigma: Tensor) -> Tensor:
    """The noisy state at a noise level."""
    x, eps = (published.windows(fixture[k].to(sigma), d.event_shape) for k in ("x_true", "eps"))
    return x + sigma.reshape(-1, 1, 1, 1, 1) * eps


def dense(fixture: Published, published: Fixtures, d: Denoiser, dtype: torch.dtype) -> Dense:
    W = published.windows(fixture["W"].to(dtype), d.event_shape)
    return Dense(W.flatten(1), d.event_shape)


def test_mmps_with_a_matrix(published: Fixtures, dtype: torch.dtype) -> None:
    fixture = published("mmps_dense")
    d = dated(published, fixture["date"], dtype)
    A = dense(fixture, published, d, dtype)
    likelihood = GaussianLikelihood(A, fixture["y"].to(dtype), fixture["var_y"].to(dtype))
    for i, sigma in enumerate(fixture["sigmas"].to(dtype)):
        t, x_t = sigma / 1e3, noisy(fixture, published, d, sigma)
        prior = d.posterior(x_t, t)
        residual, H, R = likelihood.linearize(prior.mean)
        S = InnovationCovariance(H, prior.covariance, R)
        for n in (1, 2, 4):
            fixture.check(solver(n)(S, residual).value.squeeze(0), f"v_s{i}_n{n}")
            guided = MMPS(d, likelihood, solver(n), bounded=False)
            fixture.check(published.flat(guided(x_t, t)), f"mmps_s{i}_n{n}")
        if dtype == torch.float32:
            fixture.check(published.flat(prior.mean), f"denoised_s{i}")
            fixture.check(residual.squeeze(0), f"rhs_s{i}")
            simpler = PiGDM(d, likelihood, solver=solver(2), bounded=False)
            fixture.check(published.flat(simpler(x_t, t)), f"mmps_s{i}_n2_notweedie")


def test_mmps_of_some_states(published: Fixtures, dtype: torch.dtype) -> None:
    fixture = published("mmps_slice")
    d = dated(published, fixture["date"], dtype)
    part = (2, *d.event_shape[1:])
    y, variance = (published.windows(fixture[k].to(dtype), part) for k in ("y", "var_y"))
    likelihood = GaussianLikelihood(
        Slice(d.event_shape, (1, 0, 0, 0), (3, *part[1:])), y, variance
    )
    for i, sigma in enumerate(fixture["sigmas"].to(dtype)):
        for n in (1, 2, 4):
            guided = MMPS(d, likelihood, solver(n), bounded=False)
            found = guided(noisy(fixture, published, d, sigma), sigma / 1e3)
            fixture.check(published.flat(found), f"mmps_s{i}_n{n}")


def test_mmps_of_a_batch(published: Fixtures, dtype: torch.dtype) -> None:
    fixture = published("mmps_batch")
    d = dated(published, fixture["date"], dtype)
    A, sigma = dense(fixture, published, d, dtype), fixture["sigma"].to(dtype).squeeze(-1)
    likelihood = GaussianLikelihood(A, fixture["y"].to(dtype), 0.04)
    guided = MMPS(d, likelihood, solver(3), bounded=False)
    found = guided(noisy(fixture, published, d, sigma), sigma / 1e3)
    fixture.check(published.flat(found), "mmps_n3")


class Marked(Denoiser):
    """Adds a number of its own, and one for each member, to a window."""

    def __init__(self, window: int, first: int, count: int) -> None:
        super().__init__((window, 2), SCHEDULE)
        self.first, self.count = first, count

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        rows = self.count * torch.arange(len(x_t)) + self.first
        return x_t + 1000.0 * rows.reshape(-1, 1, 1)


CASES = [(2, 10, 2), (1, 6, 1), (3, 10, 1), (4, 12, 1)]
OVERLAPS = {"symmetrical": "centre", "causal": "causal", "average": "mean"}


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("overlap", OVERLAPS)
def test_windows(published: Fixtures, case: int, overlap: str, dtype: torch.dtype) -> None:
    fixture = published("trajectory")
    stride, length, members = CASES[case]
    key, name = f"case{case}_{overlap}", OVERLAPS[overlap]
    count = (length - 4) // stride + 1
    long = WindowedDenoiser(
        [Marked(4, n, count) for n in range(count)],
        length=length,
        stride=stride,
        overlap=name,  # type: ignore[arg-type]
    )
    numbers = torch.arange(members * length * 2.0).reshape(members, length, 2)
    fold = long(numbers, torch.tensor(0.5)).flatten(1)
    torch.testing.assert_close(fold, fixture[f"case{case}_fold_{overlap}"], rtol=1e-6, atol=1e-3)

    suffix = "_f64" if dtype == torch.float64 else ""
    if key + suffix not in fixture.tensors:
        return
    d = published.denoiser("vidit_p211", dtype)
    d.schedule = d.prior.schedule = SCHEDULE
    x = fixture[f"case{case}_x"].to(dtype)
    t = torch.tensor(1.3).to(dtype) / 1e3
    for x_t, date, member in zip(x, fixture[f"case{case}_date"], range(members), strict=True):
        long = WindowedDenoiser(
            d,
            length=length,
            stride=stride,
            overlap=name,  # type: ignore[arg-type]
            context={"date": published.features(date, dtype)},
        )
        found = published.flat(long(published.windows(x_t, long.event_shape), t))
        part = {key + suffix: fixture[key + suffix][member]}
        type(fixture)("trajectory", part, {}).check(found, key)


@pytest.mark.parametrize("name", ["lms", "ddim"])
def test_sampling_of_trajectories(published: Fixtures, name: str, dtype: torch.dtype) -> None:
    fixture = published("trajectory_sampling")
    d = published.denoiser("vidit_p211", dtype)
    date = published.features(fixture["date"][0], dtype)
    long = WindowedDenoiser(d, length=10, stride=2, overlap="centre", context={"date": date})
    x_1 = 1e3 * published.windows(fixture["z1"].to(dtype), long.event_shape)
    sampler = {"lms": LinearMultistep(4), "ddim": DDIM(4)}[name]
    fixture.check(published.flat(sample(sampler, long, x_1)), f"x0_{name}", absolute=LOOSE)


def test_reanalysis(published: Fixtures, dtype: torch.dtype) -> None:
    """The whole chain: windows of guided denoisers, through decoder and masks."""
    fixture = published("reanalysis_mini")
    length, stride, count, assimilated = 8, 2, 3, 7
    d = published.denoiser("vidit_p211", dtype)
    autoencoder = published.autoencoder("cae_a", dtype)
    autoencoder.standardise(fixture["latent_mean"].to(dtype), fixture["latent_std"].to(dtype))
    date = published.features(fixture["date"][0], dtype)

    def likelihood(n: int) -> GaussianLikelihood:
        first = n * stride
        seen = min(4, assimilated - first)
        window, *latent = d.event_shape
        states = (seen, *autoencoder.state_shape)
        decode: Map = Nonlinear(autoencoder.decode, (seen, *latent), states)
        if seen < window:
            decode = decode @ Slice(d.event_shape, 0, (seen, *latent))
        stations = PointMask(
            [fixture["stations"]] * seen, fixture["stations_var"].nonzero()[:, 0].tolist(), 0.01
        )
        satellite = PointMask(
            [fixture[f"sat_{first + i}"] for i in range(seen)],
            fixture["satellite_var"].nonzero()[:, 0].tolist(),
            0.05,
        )
        H, variances = compile_masks([stations, satellite], states)
        torch.testing.assert_close(variances.float(), fixture[f"cov_y_{n}"])
        # The published variances are those of the file, in single precision.
        return GaussianLikelihood(
            H @ decode, fixture[f"y_{n}"].to(dtype), fixture[f"cov_y_{n}"].to(dtype)
        )

    guided: list[Denoiser] = []
    x = published.windows(fixture["x_blanket"].to(dtype), d.event_shape)
    sigma = torch.tensor(0.8).to(dtype)
    for n in range(count):
        observed = likelihood(n)
        fixture.check(observed.map(x).squeeze(0), f"A_blanket{n}")
        window = date[n * stride : n * stride + 4].unsqueeze(0)
        guided.append(MMPS(Dated(d, window), observed, solver(2), bounded=False))
        at = guided[n](x, d.schedule.time(sigma.double()).to(dtype))
        fixture.check(published.flat(at), f"mmps_blanket{n}")

    long = WindowedDenoiser(guided, length=length, stride=stride, overlap="centre")
    sampler = PredictorCorrector(4, corrections=1, delta=0.1, correct_first=True)
    x_1 = 1e3 * published.windows(fixture["z1"].to(dtype), long.event_shape)
    noise = published.windows(fixture["noise"], long.event_shape)
    fixture.check(published.flat(sample(sampler, long, x_1, noise)), "x0", absolute=LOOSE)
