"""Integrators: seeds, progress, times, bad input."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from appa_prob.operators import Dense, Isotropic, Mask
from appa_prob.samplers import (
    DDIM,
    DDPM,
    MMPS,
    AdamsBashforth,
    AdaptiveODE,
    Denoiser,
    DPMSolver,
    DPMSolverSDE,
    Euler,
    EulerMaruyama,
    GaussianDenoiser,
    GaussianLikelihood,
    Heun,
    Integrator,
    LinearMultistep,
    PreconditionedDenoiser,
    PredictorCorrector,
    RewindDDIM,
    State,
    StochasticHeun,
    VESchedule,
    karras_times,
)

INTEGRATORS = [
    DDIM(8),
    DDIM(8, eta=0.7),
    DDPM(8),
    PredictorCorrector(8, corrections=2),
    Euler(8),
    Heun(8),
    EulerMaruyama(8),
    StochasticHeun(8),
    DPMSolver(8),
    DPMSolverSDE(8, denoise=True),
    AdamsBashforth(8, points=4),
    LinearMultistep(8),
    RewindDDIM(8),
    RewindDDIM(8, ahead=3, jump=False),
    PredictorCorrector(8, correct_first=True),
    AdaptiveODE(2, rtol=1e-4, atol=1e-4),
]


def posterior(device: torch.device) -> Denoiser:
    F = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).to(device)
    prior = GaussianDenoiser(
        torch.zeros(3, device=device), Dense(F @ F.mT, symmetric=True), VESchedule()
    )
    A = Mask(torch.tensor([True, False, True], device=device))
    return MMPS(prior, GaussianLikelihood(A, torch.tensor([1.0, 2.0], device=device), 0.1))


@pytest.mark.parametrize("integrator", INTEGRATORS, ids=str)
def test_a_batch_is_its_members_sampled_alone(
    integrator: Integrator, device: torch.device
) -> None:
    d = posterior(device)
    generators = [torch.Generator(device).manual_seed(i) for i in range(16)]
    x = integrator(d, integrator.noise(d, (16,), generator=generators), generator=generators)
    # Steps of adaptive methods are shared: a member is the same within their tolerance.
    tolerance = 1e-2 if isinstance(integrator, AdaptiveODE) else 1e-4
    for i in (0, 9, 15):
        alone = [torch.Generator(device).manual_seed(i)]
        y = integrator(d, integrator.noise(d, (1,), generator=alone), generator=alone)
        torch.testing.assert_close(y[0], x[i], rtol=tolerance, atol=tolerance)


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("integrator", INTEGRATORS, ids=str)
@pytest.mark.parametrize("members", [True, False])
def test_a_killed_run_goes_on_from_its_file_bit_for_bit(
    integrator: Integrator, members: bool, device: torch.device, tmp_path: Path
) -> None:
    path, last = tmp_path / "state.safetensors", len(integrator.times) - 1

    def generator(seed: int) -> torch.Generator | list[torch.Generator]:
        many = [torch.Generator(device).manual_seed(seed + i) for i in range(3)]
        return many if members else many[0]

    def save(state: State) -> None:
        state.save(path)
        if state.step == max(last - 3, 1):
            raise Killed

    d, g = posterior(device), generator(0)
    x_1 = integrator.noise(d, (3,), generator=g)
    whole = integrator(d, x_1, generator=g)
    g = generator(0)
    integrator.noise(d, (3,), generator=g)
    with pytest.raises(Killed):
        integrator(d, x_1, generator=g, callback=save)
    # Another process, with generators that have seen other draws.
    state, g = State.load(path, device), generator(100)
    seen = list[int]()
    x = integrator(posterior(device), state, generator=g, callback=lambda s: seen.append(s.step))
    assert torch.equal(x, whole)
    assert seen == list(range(max(last - 3, 1) + 1, last + 1))
    final = State(last, last, 0.0, x)
    assert torch.equal(integrator(d, final), x)


def test_states_of_other_runs_and_broken_files_are_refused(
    device: torch.device, tmp_path: Path
) -> None:
    d, states = posterior(device), list[State]()
    g = [torch.Generator(device).manual_seed(i) for i in range(2)]
    DDPM(8)(d, torch.randn(2, 3, device=device), generator=g, callback=states.append)
    with pytest.raises(ValueError, match="of this integrator, got one of 8 steps"):
        DDPM(9)(d, states[2], generator=g)
    with pytest.raises(ValueError, match=r"at time 0\.625"):
        DDPM([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.0])(d, states[2], generator=g)
    with pytest.raises(ValueError, match="as many generators"):
        DDPM(8)(d, states[2], generator=g[0])
    path = tmp_path / "state.safetensors"
    states[2].save(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="truncated or something else"):
        State.load(path)


class Spy(GaussianDenoiser):
    """Keeps the times and the types that it is called with."""

    def __init__(self, variance: float, schedule: VESchedule) -> None:
        super().__init__(torch.zeros(3), Isotropic(torch.tensor(variance), 3), schedule)
        self.seen: list[tuple[torch.dtype, torch.dtype]] = []

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        self.seen.append((x_t.dtype, t.dtype))
        return super().forward(x_t, t)


@pytest.mark.parametrize("integrator", INTEGRATORS, ids=str)
def test_states_keep_their_type_and_scalars_are_doubles(integrator: Integrator) -> None:
    single, double = Spy(4.0, VESchedule(1e-3, 1e3)), Spy(4.0, VESchedule(1e-3, 1e3)).double()
    noise = 1e3 * torch.randn(2, 3)
    seeds = [torch.Generator().manual_seed(0) for _ in range(2)]
    x = integrator(single, noise, generator=seeds[0])
    assert x.dtype == torch.float32 and set(single.seen) == {(torch.float32, torch.float32)}
    scalars = list[torch.dtype]()

    class Recording(VESchedule):
        def sigma(self, t: Tensor) -> Tensor:
            scalars.append(t.dtype)
            return super().sigma(t)

    recording = GaussianDenoiser(torch.zeros(3), single.covariance, Recording(1e-3, 1e3))
    integrator(recording, noise, generator=torch.Generator().manual_seed(0))
    assert torch.float64 in scalars
    if integrator.denoise or "PM" in type(integrator).__name__ or "eta=0.7" in str(integrator):
        return
    deterministic = isinstance(integrator, AdamsBashforth | Euler | Heun | DDIM)
    if deterministic and type(integrator) is not DDPM:
        y = integrator(double, noise.double())
        torch.testing.assert_close(x.double(), y, rtol=2e-6, atol=2e-6)


def test_many_steps_lose_no_digits_in_single_precision() -> None:
    """Ratios of neighbouring noise levels differ from 1 by little: in single precision the errors
    of their logarithms would add up."""
    schedule = VESchedule(1e-3, 1e3)
    d = Spy(4.0, schedule)
    noise = 1e3 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    times = karras_times(schedule, 1000)
    for integrator in (DPMSolver(times), AdamsBashforth(times, points=2)):
        x = integrator(d, noise)
        y = integrator(Spy(4.0, schedule).double(), noise.double())
        torch.testing.assert_close(x.double(), y, rtol=1e-4, atol=1e-5)


def test_networks_may_compute_in_bfloat16(device: torch.device) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.seen = nn.Linear(3, 3), set[torch.dtype]()

        def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
            y: Tensor = self.linear(x)
            self.seen.add(y.dtype)
            return y

    network = Network().to(device)
    d = PreconditionedDenoiser(
        network, VESchedule(), (3,), channels=-1, precision=torch.bfloat16
    ).to(device)
    x = DPMSolver(8)(d, 100 * torch.randn(2, 3, device=device))
    assert x.dtype == torch.float32 and network.seen == {torch.bfloat16}


@pytest.mark.parametrize("adjoint", [False, True])
def test_gradients_through_the_flow_are_those_of_its_map(adjoint: bool) -> None:
    V = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double()
    schedule = VESchedule(1e-2, 1e2)
    d = GaussianDenoiser(torch.zeros(2).double(), Dense(V, symmetric=True), schedule)
    x_1 = (100 * torch.randn(4, 2)).double().requires_grad_()
    sampler = AdaptiveODE(rtol=1e-8, atol=1e-8, adjoint=adjoint)
    x_0 = sampler(d, x_1, gradient=True)
    values, Q = torch.linalg.eigh(V)
    flow = Q * ((values + 1e-4) / (values + 1e4)).sqrt() @ Q.mT
    torch.testing.assert_close(x_0, x_1 @ flow, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(x_0[:, 0].sum(), x_1)
    torch.testing.assert_close(gradient, flow[0].expand(4, 2), rtol=1e-3, atol=1e-6)
    steps = DPMSolver(64)(d, x_1, gradient=True)
    (gradient,) = torch.autograd.grad(steps[:, 0].sum(), x_1)
    torch.testing.assert_close(gradient, flow[0].expand(4, 2), rtol=5e-2, atol=1e-4)


@pytest.mark.parametrize("integrator", INTEGRATORS, ids=str)
def test_one_seed_gives_one_sample_bit_for_bit(
    integrator: Integrator, device: torch.device
) -> None:
    def run(seed: int) -> Tensor:
        d, g = posterior(device), torch.Generator(device).manual_seed(seed)
        return integrator(d, integrator.noise(d, (4,), generator=g), generator=g)

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_times_may_be_given(device: torch.device) -> None:
    d = posterior(device)
    x_1 = 100 * torch.randn(4, 3, device=device)
    equal, given = DDIM(4), DDIM([1.0, 0.75, 0.5, 0.25, 0.0])
    torch.testing.assert_close(equal(d, x_1), given(d, x_1))
    late = DDIM([0.75, 0.0])
    scale = late.noise(d, (20000,), generator=torch.Generator(device).manual_seed(0)).std()
    assert abs(float(scale) / float(torch.tensor(1 + 10.0**2).sqrt()) - 1) < 0.02


def test_callbacks_see_every_step(
    device: torch.device, capsys: pytest.CaptureFixture[str]
) -> None:
    d, states = posterior(device), list[State]()
    x_0 = DDIM(5)(d, torch.randn(2, 3, device=device), callback=states.append, progress=True)
    assert [s.step for s in states] == [1, 2, 3, 4, 5]
    assert states[-1].t == 0.0 and states[-1].steps == 5
    assert torch.equal(states[-1].x_t, x_0)
    assert "5/5" in capsys.readouterr().err


def test_samples_need_no_graph(device: torch.device) -> None:
    x = DDIM(3)(posterior(device), torch.randn(2, 3, device=device, requires_grad=True))
    assert not x.requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DDIM(0), "at least 1 step"),
        (lambda: DDIM([1.0]), "two times"),
        (lambda: DDIM([0.5, 0.7]), "decreasing"),
        (lambda: DDIM([1.5, 0.7]), "within"),
        (lambda: DDIM(4, eta=1.5), "eta"),
        (lambda: DDIM([0.9, float("nan"), 0.1]), "decreasing"),
        (lambda: PredictorCorrector(4, delta=0.0), "delta"),
        (lambda: EulerMaruyama(4, eta=-1.0), "eta >= 0"),
        (lambda: StochasticHeun(4, churn=-1.0), "churn >= 0"),
        (lambda: StochasticHeun(4, low=2.0, high=1.0), "low < high"),
        (lambda: StochasticHeun(4, inflation=0.0), "inflation > 0"),
        (lambda: AdamsBashforth(4, points=5), "1 to 4 points"),
        (lambda: AdaptiveODE(rtol=0.0), "rtol > 0"),
        (
            lambda: DDIM(4)(posterior(torch.device("cpu")), torch.tensor([[1, float("nan"), 0]])),
            "finite",
        ),
        (lambda: DDIM(4)(posterior(torch.device("cpu")), torch.ones(4)), r"shape \(\*, 3\)"),
        (lambda: PredictorCorrector(4, corrections=-1), "corrections"),
    ],
)
def test_bad_arguments_are_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_neither_steps_nor_a_denoiser_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"the number of steps, an integer, or the times, got 3\.5"
    ):
        DDIM(3.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected a Denoiser as the prior, got Linear"):
        DDIM(3)(torch.nn.Linear(2, 2), torch.zeros(2))  # type: ignore[arg-type]


def test_a_missing_generator_and_a_diverging_denoiser_are_reported(device: torch.device) -> None:
    d = posterior(device)
    with pytest.raises(ValueError, match="a generator for each member"):
        DDPM(4)(d, torch.randn(3, 3, device=device), generator=[torch.Generator(device)])

    class Broken(GaussianDenoiser):
        def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
            return x_t / 0

    bad = Broken(torch.zeros(3, device=device), Isotropic(torch.tensor(1.0), 3), VESchedule())
    with pytest.raises(FloatingPointError, match="not finite"):
        DDIM(4)(bad, torch.randn(2, 3, device=device))
