"""Gaussian sites with linear means: read once, with the structure that a likelihood of the same
operator has."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from appa_prob import DiffusionPrior, condition, row_structure
from appa_prob.likelihoods import GaussianLikelihood, Missing
from appa_prob.operators import (
    BlockDiagonal,
    Coarsen,
    Dense,
    Diagonal,
    Gather,
    Isotropic,
    Jacobian,
    Mask,
    Operator,
    Stack,
    Stationary,
)
from appa_prob.program import Program
from appa_prob.samplers import MMPS, DPMSolver, GaussianDenoiser, VESchedule
from appa_prob.samplers import GaussianLikelihood as Explicit

N = 6
G = torch.Generator().manual_seed(0)
PLACE = torch.cartesian_prod(torch.arange(float(N)), torch.arange(float(N))).double()
V = torch.exp(-torch.cdist(PLACE, PLACE).square() / 8) + 1e-2 * torch.eye(N * N).double()
COVARIANCE = Dense(V, (N, N), (N, N), symmetric=True)
A = torch.randn(5, N * N, generator=G).double()
BLUR = Coarsen(2, (N, N))
CORRELATED = Stationary.of(lambda r: torch.exp(-r), 5, dtype=torch.float64)
EVERY = torch.arange(N * N).reshape(N, N)[::2, ::3].flatten()
KEPT = torch.tensor([True, False, True, True, False, True])


def prior(level: float = 0.0, steps: int = 16, size: float = 1.0) -> DiffusionPrior:
    covariance = COVARIANCE if size == 1 else Isotropic(torch.tensor(size).double() ** 2, (N, N))
    denoiser = GaussianDenoiser(
        torch.full((N, N), level).double(), covariance, VESchedule(1e-2 * size, 1e2 * size)
    )
    return DiffusionPrior(denoiser, DPMSolver(steps), dtype=torch.float64)


def field() -> Tensor:
    x: Tensor = pyro.sample("x", prior())
    return x


def sliced(y: Tensor) -> None:
    pyro.sample("y", dist.Normal(field()[..., ::2, ::3].flatten(-2), 0.3).to_event(1), obs=y)


def indexed(y: Tensor) -> None:
    """Written for one state."""
    pyro.sample("y", dist.Normal(field()[::2, ::3].flatten(), 0.3).to_event(1), obs=y)


def masked(y: Tensor) -> None:
    x, seen = field()[..., ::2, ::3].flatten(-2), poutine.mask(mask=KEPT)  # type: ignore[call-overload]
    with pyro.plate("data", 6), seen:
        pyro.sample("y", dist.Normal(x, 0.3), obs=y)


def projected(y: Tensor) -> None:
    noise = torch.linspace(0.1, 0.5, 5).double()
    mean = 1.0 + field().flatten(-2) @ A.mT
    pyro.sample("y", dist.Normal(mean, noise).to_event(1), obs=y)


def blurred(y: Tensor) -> None:
    pyro.sample("y", GaussianLikelihood(BLUR, 0.3)(field()), obs=y)


def gappy(y: Tensor) -> None:
    y = y.flatten().index_fill(0, torch.tensor([1, 4]), torch.nan).reshape(3, 3)
    pyro.sample("y", Missing(GaussianLikelihood(BLUR, 0.3))(field()), obs=y)


def correlated(y: Tensor) -> None:
    pyro.sample("y", GaussianLikelihood(Dense(A, (N, N)), CORRELATED)(field()), obs=y)


def two(y: Tensor) -> None:
    x = field()
    pyro.sample("y", dist.Normal(x[..., ::2, ::3].flatten(-2), 0.3).to_event(1), obs=y)
    pyro.sample("z", GaussianLikelihood(BLUR, 0.5)(x), obs=torch.ones(3, 3).double())


Y5, Y6 = torch.randn(5, generator=G).double(), torch.randn(6, generator=G).double()
Y9 = torch.randn(3, 3, generator=G).double()
PICK = Gather(EVERY, (N, N))
SEEN9 = Gather(torch.tensor([0, 2, 3, 5, 6, 7, 8]), (3, 3))
CASES = {
    "a slice": (sliced, Y6, Explicit(PICK, Y6, 0.09)),
    "one state": (indexed, Y6, Explicit(PICK, Y6, 0.09)),
    "a mask": (masked, Y6, Explicit(Gather(EVERY[KEPT], (N, N)), Y6[KEPT], 0.09)),
    "a matrix": (
        projected,
        Y5,
        Explicit(Dense(A, (N, N)), Y5 - 1, torch.linspace(0.1, 0.5, 5).double().square()),
    ),
    "an operator": (blurred, Y9, Explicit(BLUR, Y9, 0.09)),
    "with gaps": (gappy, Y9, Explicit(SEEN9 @ BLUR, SEEN9(Y9), 0.09)),
    "correlated errors": (correlated, Y5, Explicit(Dense(A, (N, N)), Y5, CORRELATED)),
    "two instruments": (
        two,
        Y6,
        Explicit(
            Stack([PICK, BLUR]),
            torch.cat((Y6, torch.ones(9).double())),
            BlockDiagonal([Isotropic(0.09, 6), Isotropic(0.25, 9)]),
        ),
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Callable[[Tensor], None], Tensor, Explicit]:
    return CASES[request.param]


def assert_same(program: Program, explicit: Explicit) -> None:
    """Linearisations, and what guidance makes of them, to 1e-6 and better."""
    likelihood = program.likelihood
    assert likelihood.linear
    x = torch.randn(2, 3, N, N, generator=torch.Generator().manual_seed(1)).double()
    (residual, H, R), (residual_, H_, R_) = likelihood.linearize(x), explicit.linearize(x)
    torch.testing.assert_close(residual, residual_.flatten(2), rtol=1e-9, atol=1e-9)
    for found, expected in ((H, H_), (R, R_)):
        dense = found.to_dense()
        same = expected.to_dense().to(dense).expand_as(dense)
        torch.testing.assert_close(dense, same, rtol=1e-7, atol=1e-8)
    t = torch.tensor(0.5).double()
    ours, theirs = MMPS(program.prior, likelihood), MMPS(program.prior, explicit)
    torch.testing.assert_close(ours(x, t), theirs(x, t), rtol=1e-6, atol=1e-6)


def test_they_are_the_likelihood_of_their_operator(
    case: tuple[Callable[[Tensor], None], Tensor, Explicit],
) -> None:
    model, y, explicit = case
    assert_same(Program(model, (y,)), explicit)


def test_operators_too_large_for_a_matrix_are_graphs_of_one_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(row_structure, "LARGEST", 0)
    model, y, explicit = CASES["a matrix"]
    program = Program(model, (y,))
    assert_same(program, explicit)
    x = torch.zeros(4, N, N).double()
    H = program.likelihood.linearize(x)[1]
    assert isinstance(H, Jacobian)
    assert program.likelihood.linearize(x + 1)[1] is H


def structure(model: Callable[[Tensor], None], y: Tensor) -> tuple[Operator, Operator]:
    _, H, R = Program(model, (y,)).likelihood.linearize(torch.zeros(N, N).double())
    return H, R


def test_they_keep_the_structure_of_the_operator_and_of_the_errors() -> None:
    H, R = structure(sliced, Y6)
    assert isinstance(H, Mask) and torch.equal(H.indices, EVERY)
    assert isinstance(R, Isotropic)
    H, R = structure(projected, Y5)
    assert isinstance(H, Dense) and isinstance(R, Diagonal)
    H, R = structure(correlated, Y5)
    assert R is CORRELATED
    H, _ = structure(two, Y6)
    assert isinstance(H, Stack) and isinstance(H.blocks[0], Mask)
    assert not isinstance(H.blocks[1], Dense) and "Coarsen" in repr(H.blocks[1])


@pytest.mark.parametrize("model", [sliced, indexed, projected])
def test_programs_are_not_run_again_for_each_step(model: Callable[[Tensor], None]) -> None:
    """As many runs for 4 steps as for 16: a few to read the program, and one for the samples."""
    y, runs = (Y5 if model is projected else Y6), list[int]()

    def counted(y: Tensor) -> None:
        runs.append(0)
        model(y)

    counts = []
    for steps in (4, 16):
        runs.clear()
        condition(counted, y, num_samples=3, integrator=DPMSolver(steps))
        counts.append(len(runs))
    assert counts[0] == counts[1] < 30, counts


def test_an_operator_is_found_once_for_all_values_of_what_is_held() -> None:
    def model(y: Tensor) -> None:
        s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
        pyro.sample("y", dist.Normal(field().flatten(-2) @ A.mT, s).to_event(1), obs=y)

    first = Program(model, (Y5,), values={"s": torch.tensor(0.5).double()})
    x = torch.zeros(N, N).double()
    _, H, R = first.likelihood.linearize(x)
    second = first.at({"s": torch.tensor(2.0).double()})
    _, again, wider = second.likelihood.linearize(x)
    assert again is H
    torch.testing.assert_close(wider.to_dense(), 16 * R.to_dense())


def bent(y: Tensor) -> None:
    """Linear up to 5000, near and far from 0."""
    x = pyro.sample("x", prior(5000.0, size=1000.0))
    seen = torch.where(x < 5000, x, 2500 + 0.5 * x)
    pyro.sample("y", dist.Normal(seen, 10.0).to_event(2), obs=y)


def test_programs_that_are_not_linear_where_samples_are_are_sampled_as_such() -> None:
    """An instrument that sees half of what is above 5000: 6000 is seen as 5500."""
    y = torch.full((N, N), 5500.0).double()
    y[:3] = 4000.0
    program = Program(bent, (y,))
    assert program.likelihood.linear
    pyro.set_rng_seed(0)
    x = condition(bent, y, num_samples=16)["x"]
    assert float((x[:, :3] - 4000).abs().mean()) < 20
    assert float((x[:, 3:] - 6000).abs().mean()) < 40
    likelihood = program.likelihood
    assert not likelihood.holds(x) and not likelihood.linear


def test_means_that_are_not_linear_are_told_apart() -> None:
    def model(y: Tensor, bend: float) -> None:
        x = field().flatten(-2)
        mean = x @ A.mT + bend * x[..., :5].square()
        pyro.sample("y", dist.Normal(mean, 0.1).to_event(1), obs=y)

    assert Program(model, (Y5, 0.0)).likelihood.linear
    assert not Program(model, (Y5, 1e-4)).likelihood.linear
