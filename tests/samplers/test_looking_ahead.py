"""MGDM and DCPS, which guide a step by what lies ahead: laws by algebra, mixtures, quadrature."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from appa_prob.operators import CG, Cholesky, Dense, Diagonal, Isotropic, Nonlinear, Operator
from appa_prob.samplers import (
    DAPS,
    DCPS,
    DDRM,
    MGDM,
    TDS,
    GaussianDenoiser,
    GaussianLikelihood,
    Integrator,
    Likelihood,
    MixtureDenoiser,
    RePaint,
    State,
    VESchedule,
    VPSchedule,
)
from appa_prob.samplers.foresight import bridge
from appa_prob.samplers.testing import affine_law

SCHEDULE = VESchedule(1e-2, 1e2)
SOLVER = CG(rtol=1e-10, max_iterations=50)
P, RHO, Y = 1.5, 0.3, 0.7
POSTERIOR = Y * P / (P + RHO), P * RHO / (P + RHO)
METHODS: dict[str, Callable[[int, Likelihood], Integrator]] = {
    "MGDM": lambda steps, y: MGDM(steps, likelihood=y, inner=3, solver=SOLVER),
    "DCPS": lambda steps, y: DCPS(steps, likelihood=y, blocks=3, solver=SOLVER),
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def scalar(schedule: VESchedule | VPSchedule = SCHEDULE) -> GaussianDenoiser:
    variance = Isotropic(torch.tensor(P).double(), 1)
    return GaussianDenoiser(torch.zeros(1).double(), variance, schedule)


def observed(y: float = Y, rho: float = RHO) -> GaussianLikelihood:
    return GaussianLikelihood(Isotropic(1.0, 1), torch.tensor([y]).double(), rho)


def conditioned(
    affine: tuple[float, float], variance: float, map: tuple[float, float], rho: float
) -> tuple[float, float, float]:
    """x = a x_t + b and a variance, given y = k x + c with errors: the new a, b and variance."""
    (a, b), (k, c) = affine, map
    gain = variance * k / (k * k * variance + rho)
    return a * (1 - gain * k), b + gain * (Y - c - k * b), variance * (1 - gain * k)


def guided_by_theory(steps: int, share: float) -> tuple[float, float]:
    """The law of MGDM in the limit of many sweeps: x_u is drawn from p(x_u | x_t) times the guess,
    whose variance lacks that of x given x_u."""
    times = [1 - i / steps for i in range(steps + 1)]
    ratios = [float(SCHEDULE.ratio(torch.tensor(t).double())) for t in times]
    mean, variance = 0.0, 1 + ratios[0] ** 2
    for r_t, r_s in pairwise(ratios):
        r_u = max(share * r_s, ratios[-1])
        a = (P + r_u**2) / (P + r_t**2)
        spread = a * (r_t**2 - r_u**2)
        a, b, spread = conditioned((a, 0.0), spread, (P / (P + r_u**2), 0.0), RHO)
        if r_u < r_s:
            w, v = bridge(r_u, r_s, r_t)
            a, b, spread = (1 - w) * a + w, (1 - w) * b, (1 - w) ** 2 * spread + v**2
        mean, variance = a * mean + b, a**2 * variance + spread
    return mean, variance


def test_many_sweeps_have_the_law_of_theory() -> None:
    expected = guided_by_theory(12, 0.5)
    gaps = []
    for sweeps in (1, 3, 9):
        sampler = MGDM(12, likelihood=observed(), sweeps=sweeps, share=0.5, moves=0, solver=SOLVER)
        gaps.append(abs(float(affine_law(sampler, scalar())[0]) - expected[0]))
    assert gaps[2] < 0.4 * gaps[1] < 0.2 * gaps[0] and gaps[2] < 0.01, gaps
    # Steps to the clean state have an error of their own in its spread.
    spreads = []
    for inner in (8, 32):
        sampler = MGDM(
            14, likelihood=observed(), sweeps=10, inner=inner, share=0.7, moves=0, solver=SOLVER
        )
        spread = float(affine_law(sampler, scalar())[1])
        spreads.append(spread / guided_by_theory(14, 0.7)[1] - 1)
    assert abs(spreads[1]) < 0.04 and abs(spreads[1]) < abs(spreads[0]), spreads


def test_the_bias_of_the_guess_falls_with_the_share() -> None:
    theory = [guided_by_theory(1024, share) for share in (0.8, 0.4, 0.2, 0.1)]
    biases = [abs(mean - POSTERIOR[0]) for mean, _ in theory]
    assert all(b < 0.45 * a for a, b in pairwise(biases[1:])), biases
    assert biases[-1] < 0.01 and abs(theory[-1][1] / POSTERIOR[1] - 1) < 0.03, theory[-1]
    found = []
    for share, sweeps in ((0.8, 2), (0.4, 6), (0.2, 16)):
        sampler = MGDM(
            24, likelihood=observed(), sweeps=sweeps, inner=4, share=share, moves=0, solver=SOLVER
        )
        found.append(abs(float(affine_law(sampler, scalar())[0]) - POSTERIOR[0]))
    assert found[2] < 0.6 * found[1] < 0.6 * found[0], found


@pytest.mark.parametrize("schedule", [SCHEDULE, VPSchedule(1e-2)], ids=["VE", "VP"])
def test_a_sweep_is_its_formula(schedule: VESchedule | VPSchedule) -> None:
    F, A, y, G = random(3, 3), random(2, 3, seed=1), random(2, seed=2), random(2, 2, seed=3)
    V, R = F @ F.mT + 0.3 * torch.eye(3).double(), G @ G.mT + 0.1 * torch.eye(2).double()
    prior = GaussianDenoiser(random(3, seed=4), Dense(V, symmetric=True), schedule)
    likelihood = GaussianLikelihood(Dense(A), y, Dense(R, symmetric=True))
    sampler = MGDM(8, likelihood=likelihood, inner=1, share=0.6, moves=0, solver=SOLVER)
    t, s = torch.tensor([0.5, 0.375]).double()
    x_t, x_0 = random(3, seed=5), random(3, seed=6)
    u = schedule.time(0.6 * schedule.ratio(s))
    (r_t, r_s, r_u), (alpha_t, alpha_s, alpha_u) = (
        [float(f(a)) for a in (t, s, u)] for f in (schedule.ratio, schedule.alpha)
    )
    w = r_u**2 / r_t**2
    m, v = alpha_u * ((1 - w) * x_0 + w * x_t / alpha_t), alpha_u * r_u * math.sqrt(1 - w)
    J = V @ torch.linalg.inv(V + r_u**2 * torch.eye(3).double()) / alpha_u
    H = A @ J
    x_u = m + v**2 * H.mT @ torch.linalg.solve(v**2 * H @ H.mT + R, y - A @ prior(m, u))
    w = (r_s**2 - r_u**2) / (r_t**2 - r_u**2)
    expected = alpha_s * ((1 - w) * x_u / alpha_u + w * x_t / alpha_t)
    memory = {"clean": x_0}
    found = sampler.step(prior, x_t, t, s, torch.zeros_like, memory)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(memory["clean"], prior(x_u, u))


def divided_by_theory(steps: int, blocks: int, corrections: int, delta: float) -> Tensor:
    """The mean and the variance of DCPS, step by step."""
    ratios = SCHEDULE.ratio(1 - torch.arange(steps + 1).double() / steps).tolist()
    starts = [i * steps // blocks for i in range(blocks + 1)]
    mean, variance = 0.0, 1 + ratios[0] ** 2

    def ahead(r: float, until: float) -> tuple[float, float]:
        w, k = until**2 / r**2, P / (P + r**2)
        return (1 - w) * k + w, 0.0

    for i in range(steps):
        r_t, r_s = ratios[i], ratios[i + 1]
        until = ratios[min(j for j in starts if j > i)]
        moves = []
        if i in starts:
            a = 1 - delta * r_t**2 / (P + r_t**2)
            moves = corrections * [(a, 2 * delta * r_t**2, ahead(r_t, until), 0.5)]
        w, v = bridge(0.0, r_s, r_t)
        moves.append(((1 - w) * P / (P + r_t**2) + w, v**2, ahead(r_s, until), 1.0))
        for slope, noise, map, power in moves:
            rho = RHO * (1 + until**2) / power
            a, b, spread = conditioned((slope, 0.0), noise, map, rho)
            mean, variance = a * mean + b, a**2 * variance + spread
    return torch.tensor([mean, variance]).double()


@pytest.mark.parametrize(("blocks", "corrections"), [(1, 0), (3, 2), (12, 1)])
def test_divided_steps_have_the_law_of_theory(blocks: int, corrections: int) -> None:
    sampler = DCPS(
        12, likelihood=observed(), blocks=blocks, corrections=corrections, moves=0, solver=SOLVER
    )
    law = torch.tensor(affine_law(sampler, scalar()))
    torch.testing.assert_close(law, divided_by_theory(12, blocks, corrections, 0.25))


def test_blocks_and_corrections_lead_to_the_posterior() -> None:
    exact = torch.tensor(POSTERIOR)
    errors = [
        float((divided_by_theory(steps, blocks, corrections, delta) / exact - 1).abs().max())
        for steps, blocks, corrections, delta in (
            (64, 1, 0, 0.25),
            (64, 8, 4, 0.25),
            (64, 64, 4, 0.25),
            (256, 256, 16, 0.1),
            (1024, 1024, 64, 0.03),
        )
    ]
    assert all(b < a for a, b in pairwise(errors)), errors
    assert errors[0] > 0.3 and errors[-1] < 0.01, errors


@pytest.mark.parametrize("schedule", [SCHEDULE, VPSchedule(1e-2)], ids=["VE", "VP"])
@pytest.mark.parametrize("method", METHODS)
def test_correlated_priors_and_errors(method: str, schedule: VESchedule | VPSchedule) -> None:
    """Means are near those of Kalman, for either schedule, in a space of several dimensions."""
    F, A, y, G = random(3, 3), random(2, 3, seed=1), random(2, seed=2), random(2, 2, seed=3)
    V, R = F @ F.mT + 0.3 * torch.eye(3).double(), G @ G.mT + 0.1 * torch.eye(2).double()
    prior = GaussianDenoiser(random(3, seed=4), Dense(V, symmetric=True), schedule)
    likelihood = GaussianLikelihood(Dense(A), y, Dense(R, symmetric=True))
    gain = V @ A.mT @ torch.linalg.inv(A @ V @ A.mT + R)
    mean, covariance = prior.mean + gain @ (y - A @ prior.mean), V - gain @ A @ V
    sampler: Integrator = MGDM(
        16, likelihood=likelihood, sweeps=4, inner=20, share=0.3, moves=0, solver=SOLVER
    )
    if method == "DCPS":
        sampler = DCPS(48, likelihood=likelihood, blocks=48, corrections=4, moves=0, solver=SOLVER)
    found, spread = affine_law(sampler, prior)
    assert (found - mean).norm() < 0.1 * (mean - prior.mean).norm(), (found, mean)
    assert (spread - covariance).norm() < 0.15 * covariance.norm(), (spread, covariance)


def mixture() -> tuple[MixtureDenoiser, GaussianLikelihood]:
    means = torch.tensor([[-3.0, 1.0], [2.0, 2.0], [4.0, -3.0]]).double()
    weights = torch.tensor([0.5, 0.3, 0.2]).double()
    variance = Isotropic(torch.tensor(0.6).double(), 2)
    d = MixtureDenoiser(weights, means, variance, VESchedule(0.02, 50.0))
    A = Dense(torch.tensor([[1.0, 0.7]]).double())
    return d, GaussianLikelihood(A, torch.tensor([1.9]).double(), 0.5)


@pytest.mark.parametrize("method", METHODS)
def test_modes_of_mixtures_and_their_weights(method: str) -> None:
    """Modes are those of the closed form; their weights with MGDM, which may move between them
    where noise is large, and only roughly with DCPS, as is said."""
    d, likelihood = mixture()
    posterior = d.law.condition(likelihood)
    sampler: Integrator = MGDM(32, likelihood=likelihood, sweeps=10, share=0.25)
    if method == "DCPS":
        sampler = DCPS(64, likelihood=likelihood)
    g = torch.Generator().manual_seed(0)
    x = sampler(d, sampler.noise(d, (600,), generator=g, dtype=torch.float64), generator=g)
    nearest = torch.cdist(x, posterior.means).argmin(-1)
    for k in (1, 2):
        own, V = x[nearest == k], posterior.covariances.to_dense().expand(3, 2, 2)[k]
        # Five standard errors, and the bias of few sweeps, inner steps and corrections.
        bound = 5 * (V.diagonal() / len(own)).sqrt() + 0.1
        assert ((own.mean(0) - posterior.means[k]).abs() < bound).all(), own.mean(0)
        spread = own.var(0) / V.diagonal() - 1
        assert (spread.abs() < 5 * math.sqrt(2 / len(own)) + 0.2).all(), spread
    gap = (torch.bincount(nearest, minlength=3) / len(x) - posterior.log_weights.exp()).abs().max()
    # Five standard errors are 0.1.
    assert gap < 0.1 if method == "MGDM" else 0.1 < gap < 0.3, gap


@pytest.mark.parametrize("method", METHODS)
def test_nonlinear_maps_by_quadrature(method: str) -> None:
    d = scalar()
    map = Nonlinear(lambda x: x + x.pow(3) / 3, 1, 1)
    likelihood = GaussianLikelihood(map, torch.tensor([0.5]).double(), 0.3)
    grid = torch.linspace(-8, 8, 4001).double()[:, None]
    weights = torch.softmax(likelihood.log_prob(grid) - grid[:, 0].square() / (2 * P), 0)
    mean = float((weights * grid[:, 0]).sum())
    variance = float((weights * (grid[:, 0] - mean).square()).sum())
    sampler: Integrator = MGDM(32, likelihood=likelihood, sweeps=4, share=0.3, moves=2)
    if method == "DCPS":
        sampler = DCPS(64, likelihood=likelihood, blocks=64)
    g = torch.Generator().manual_seed(0)
    x = sampler(d, sampler.noise(d, (4000,), generator=g, dtype=torch.float64), generator=g)
    # Five standard errors, and the bias of the guess and of few steps.
    assert abs(float(x.mean()) - mean) < 5 * math.sqrt(variance / len(x)) + 0.03
    assert abs(float(x.var()) / variance - 1) < 5 * math.sqrt(2 / len(x)) + 0.1


@pytest.mark.parametrize("method", METHODS)
def test_members_and_resumed_runs_do_not_depend_on_others(method: str) -> None:
    d, _ = mixture()
    y = random(3, 2)
    map = Nonlinear(torch.sinh, 2, 2)

    def run(y: Tensor, seeds: range, stop: int | None = None) -> Tensor:
        sampler = METHODS[method](8, GaussianLikelihood(map, y, 0.1))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = sampler.noise(d, (len(seeds),), generator=generators, dtype=torch.float64)
        kept: list[State] = []
        x = sampler(d, noise, generator=generators, callback=kept.append)
        if stop is None:
            return x
        others = [torch.Generator().manual_seed(99) for _ in seeds]
        return sampler(d, kept[stop], generator=others)

    together = run(y, range(3))
    for i in range(3):
        torch.testing.assert_close(together[i], run(y[i], range(i, i + 1))[0])
    for stop in (0, 4, 6):
        assert torch.equal(run(y, range(3), stop), together)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MGDM(8, likelihood=observed(), sweeps=0), "sweeps >= 1"),
        (lambda: MGDM(8, likelihood=observed(), share=1.0), r"share in \(0, 1\)"),
        (lambda: MGDM(8, likelihood=observed(), beta=0.0), "beta in"),
        (lambda: DCPS(8, likelihood=observed(), blocks=9), "from 1 to 8 blocks"),
        (lambda: DCPS(8, likelihood=observed(), corrections=-1), "corrections >= 0"),
        (lambda: DCPS(8, likelihood=observed(), delta=0.0), "delta and beta"),
    ],
)
def test_bad_options_are_refused(make: Callable[[], Integrator], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


WITH_LIKELIHOODS: dict[str, Callable[[Likelihood], Integrator]] = {
    "MGDM": lambda y: MGDM(2, likelihood=y, inner=2),
    "DCPS": lambda y: DCPS(2, likelihood=y, blocks=1, corrections=1),
    "DAPS": lambda y: DAPS(2, likelihood=y),
    "DDRM": lambda y: DDRM(2, likelihood=y),
    "RePaint": lambda y: RePaint(2, likelihood=y, rewinds=1),
    "TDS": lambda y: TDS(2, likelihood=y),
}


@pytest.mark.parametrize("method", WITH_LIKELIHOODS)
def test_likelihoods_of_other_states_and_types_are_refused(method: str) -> None:
    d, make = scalar(), WITH_LIKELIHOODS[method]
    other = GaussianLikelihood(Isotropic(1.0, 2), torch.ones(2).double(), 0.1)
    with pytest.raises(ValueError, match=r"expected a likelihood of states of shape \(1,\)"):
        make(other)(d, torch.ones(4, 1).double())
    with pytest.raises(ValueError, match="noise of the type of the observation"):
        make(observed())(d.float(), torch.ones(4, 1))


def test_dense_solvers_in_double_precision() -> None:
    """A matrix of double precision, times a variance that is a number."""
    likelihood = GaussianLikelihood(Dense(random(1, 2)), torch.ones(1).double(), 0.1)
    variance = Isotropic(torch.tensor(1.0).double(), 2)
    d = GaussianDenoiser(torch.zeros(2).double(), variance, SCHEDULE)
    noise = random(4, 2)
    found = [
        DAPS(8, likelihood=likelihood, solver=solver)(
            d, noise, generator=torch.Generator().manual_seed(0)
        )
        for solver in (Cholesky(), SOLVER)
    ]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("method", ["MGDM", "DCPS", "DAPS", "DDRM", "RePaint"])
def test_half_precision_states(method: str) -> None:
    A, y = Dense(random(1, 2).bfloat16()), torch.ones(1).bfloat16()
    variance = Isotropic(torch.tensor(1.0).bfloat16(), 2)
    d = GaussianDenoiser(torch.zeros(2).bfloat16(), variance, SCHEDULE)
    sampler = WITH_LIKELIHOODS[method](GaussianLikelihood(A, y, 0.1))
    x = sampler(d, sampler.noise(d, (4,), dtype=torch.bfloat16))
    assert x.dtype == torch.bfloat16 and x.shape == (4, 2)


@pytest.mark.parametrize(
    ("y", "covariance", "message"),
    [
        (torch.tensor([1, 2]), 0.1, "real floats, got torch.int64"),
        (torch.tensor([True, False]), Isotropic(1.0, 2), "real floats, got torch.bool"),
        (torch.ones(2, dtype=torch.complex64), 0.1, "real floats, got torch.complex64"),
        (torch.ones(2), Diagonal(torch.tensor([1.0, -1.0])), "variances of errors >= 0"),
        (torch.ones(2), Dense(-torch.eye(2), symmetric=True), "variances of errors >= 0"),
        (torch.ones(2), Diagonal(torch.tensor([1.0, torch.nan])), "variances of errors >= 0"),
    ],
)
def test_what_is_no_observation_and_no_variance(
    y: Tensor, covariance: Operator | float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianLikelihood(Isotropic(1.0, 2), y, covariance)
