"""Windows of one trajectory on several processes give what they give on one."""

import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from appa_prob.operators import CG, GMRES, MINRES, Cholesky, Dense, Mask, root_product
from appa_prob.samplers import (
    DAPS,
    DDIM,
    DPS,
    MMPS,
    SDA,
    TDS,
    TMPD,
    AdaptiveODE,
    Denoiser,
    DPMSolverSDE,
    GaussianDenoiser,
    GaussianLikelihood,
    Guidance,
    Heun,
    Integrator,
    IteratedMMPS,
    PiGDM,
    PredictorCorrector,
    ShardedWindows,
    State,
    Switched,
    VESchedule,
    WindowedDenoiser,
    window_pieces,
)

LENGTH, WINDOW, STRIDE, STATE, MEMBERS = 15, 4, 2, 3, 2
SCHEDULE = VESchedule(1e-2, 10.0)


def gaussian() -> Denoiser:
    """Windows of three autoregressive processes that depend on each other."""
    lag = (torch.arange(WINDOW).unsqueeze(-1) - torch.arange(WINDOW)).abs()
    mix = torch.tensor([[1.0, 0.3, 0.0], [0.3, 1.0, -0.4], [0.0, -0.4, 1.0]])
    V = torch.kron(0.8**lag, mix).double()
    event = (WINDOW, STATE)
    return GaussianDenoiser(
        torch.full(event, 0.3).double(), Dense(V, event, event, symmetric=True), SCHEDULE
    )


class Network(Denoiser):
    """A network of windows whose Jacobian is not symmetric, and which knows the dates."""

    def __init__(self) -> None:
        super().__init__((WINDOW, STATE), SCHEDULE)
        size = WINDOW * STATE
        g = torch.Generator().manual_seed(1)
        self.first = nn.Parameter(0.3 * torch.randn(20, size, generator=g).double())
        self.second = nn.Parameter(0.3 * torch.randn(size, 20, generator=g).double())

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        x = x_t / self.scales(t)[1].square().add(1).sqrt()
        hidden = torch.tanh(x.flatten(-2) @ self.first.mT + t[..., None])
        return x / 2 + (hidden @ self.second.mT).reshape(x.shape) + context["date"]


def dates() -> dict[str, Tensor]:
    return {"date": torch.sin(torch.arange(LENGTH)).double().unsqueeze(-1)}


def trajectory(kind: str, group: bool) -> tuple[Denoiser, range]:
    """The denoiser of the whole trajectory, or of the piece of this process."""
    windows = Network() if kind == "network" else gaussian()
    context = dates() if kind == "network" else None
    if not group:
        whole = WindowedDenoiser(windows, length=LENGTH, stride=STRIDE, context=context)
        return whole, range(LENGTH)
    sharded = ShardedWindows(windows, length=LENGTH, stride=STRIDE, context=context)
    return sharded, sharded.piece


def likelihood(piece: range) -> GaussianLikelihood:
    """Observations of some states; none of the last six, and so of some process."""
    g = torch.Generator().manual_seed(2)
    seen = torch.rand(LENGTH, STATE, generator=g) < 0.4
    seen[9:] = False
    y = torch.randn(LENGTH, STATE, generator=g).double()
    states = slice(piece.start, piece.stop)
    mask = seen[states]
    return GaussianLikelihood(Mask(mask), y[states][mask], 0.1)


def twice(prior: Denoiser, y: GaussianLikelihood) -> Guidance:
    few = GMRES(rtol=0, max_iterations=2, on_failure="ignore")
    return MMPS(MMPS(prior, y, few), y, few)


Guide = Callable[[Denoiser, GaussianLikelihood], Guidance]
GUIDES: dict[str, Guide] = {
    "GMRES": lambda d, y: MMPS(d, y, GMRES(rtol=0, max_iterations=3, on_failure="ignore")),
    "GMRES, restarted": lambda d, y: MMPS(
        d, y, GMRES(rtol=1e-10, max_iterations=12, restart=4, on_failure="ignore")
    ),
    "CG": lambda d, y: MMPS(d, y, CG(rtol=0, max_iterations=3, on_failure="ignore")),
    "CG, converged": lambda d, y: MMPS(d, y, CG(rtol=1e-10, verify=True)),
    "MINRES": lambda d, y: MMPS(d, y, MINRES(rtol=0, max_iterations=3, on_failure="ignore")),
    "DPS": lambda d, y: DPS(d, y, 0.5),
    "SDA": lambda d, y: SDA(d, y, 0.3),
    "TMPD": TMPD,
    "PiGDM": PiGDM,
    "iterated": lambda d, y: IteratedMMPS(
        d, y, 2, GMRES(rtol=1e-10, max_iterations=6, on_failure="ignore")
    ),
    "twice": twice,
}
INTEGRATORS: dict[str, Integrator] = {
    "DDIM": DDIM(4, eta=1.0),
    "DPM": DPMSolverSDE(4),
    "Heun": Heun(2),
    "Langevin": PredictorCorrector(2),
}
CASES = [
    *((kind, None, integrator) for kind in ("gaussian", "network") for integrator in INTEGRATORS),
    *(
        (kind, "GMRES", integrator)
        for kind in ("gaussian", "network")
        for integrator in INTEGRATORS
    ),
    *(("network", guide, "DPM") for guide in GUIDES if guide not in ("GMRES", "CG, converged")),
    ("gaussian", "CG, converged", "DPM"),
]


def draw(kind: str, guide: str | None, name: str, group: bool) -> tuple[Tensor, Denoiser]:
    """Samples of the states that this process holds."""
    denoiser, piece = trajectory(kind, group)
    if guide is not None:
        denoiser = GUIDES[guide](denoiser, likelihood(piece))
    generators = [
        [torch.Generator().manual_seed(1000 * member + state) for state in piece]
        for member in range(MEMBERS)
    ]
    integrator = INTEGRATORS[name]
    noise = integrator.noise(denoiser, (MEMBERS,), generator=generators, dtype=torch.float64)
    return integrator(denoiser, noise, generator=generators), denoiser


def key(kind: str, guide: str | None, integrator: str) -> str:
    return f"{kind}, {guide}, {integrator}"


class Wire:
    """Counts the bytes that this process sends to others, states and sums of numbers apart."""

    def __init__(self) -> None:
        self.states = self.numbers = 0
        batch, reduce = dist.batch_isend_irecv, dist.all_reduce

        def sending(operations: list[dist.P2POp]) -> list[dist.Work]:
            self.states += sum(p.tensor.nbytes for p in operations if p.op is dist.isend)
            return batch(operations)

        def reducing(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.numbers += tensor.nbytes
            return reduce(tensor, *args, **kwargs)

        dist.batch_isend_irecv, dist.all_reduce = sending, reducing  # type: ignore[assignment]

    def count(self, function: Callable[[], object]) -> Tensor:
        self.states = self.numbers = 0
        function()
        return torch.tensor([self.states, self.numbers])


def costs(wire: Wire) -> dict[str, Tensor]:
    """Bytes sent by an evaluation, a product with the Jacobian, and a step of guidance."""
    denoiser, piece = trajectory("network", True)
    x = torch.ones(MEMBERS, len(piece), STATE).double()
    t = torch.tensor(0.5).double()
    covariance = denoiser.posterior(x, t).covariance
    guided = GUIDES["CG"](denoiser, likelihood(piece))
    return {
        "evaluation": wire.count(lambda: denoiser(x, t)),
        "product": wire.count(lambda: covariance(x)),
        "guided": wire.count(lambda: guided(x, t)),
    }


def gathered(part: Tensor, pieces: list[range]) -> Tensor | None:
    """The pieces of all processes on the first."""
    if dist.get_rank() > 0:
        dist.send(part.contiguous(), 0)
        return None
    parts = [part]
    for source, piece in list(enumerate(pieces))[1:]:
        parts.append(part.new_empty(MEMBERS, len(piece), STATE))
        dist.recv(parts[-1], source)
    return torch.cat(parts, 1)


def work(folder: Path) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank, count = dist.get_rank(), dist.get_world_size()
    pieces = window_pieces(LENGTH, WINDOW, STRIDE, count)
    found = {}
    for case in CASES:
        whole = gathered(draw(*case, group=True)[0], pieces)
        if whole is not None:
            found[key(*case)] = whole
    with pytest.raises(ValueError, match="Cholesky needs a whole matrix"):
        denoiser, piece = trajectory("gaussian", True)
        x = torch.ones(len(piece), STATE).double()
        MMPS(denoiser, likelihood(piece), Cholesky())(x, torch.tensor(0.5).double())
    broken, _ = trajectory("gaussian", True)
    assert isinstance(broken, ShardedWindows)
    if rank == count - 1:
        broken.windows.weights.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="not finite"):  # on all processes
        DDIM(2)(broken, torch.ones(len(broken.piece), STATE).double())
    save_file(costs(Wire()), folder / f"costs-{rank}.safetensors")
    if rank == 0:
        save_file(found, folder / "samples.safetensors")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two and three processes found."""
    folder = tmp_path_factory.mktemp(f"of-{request.param}")
    launch = request.getfixturevalue("ranks")
    processes = launch(request.param, [sys.executable, __file__, str(folder)])
    assert [process.wait(240) for process in processes] == [0] * request.param
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: key(*case))
def test_several_processes_sample_what_one_does(
    results: Path, case: tuple[str, str | None, str]
) -> None:
    found = load_file(results / "samples.safetensors")[key(*case)]
    expected, _ = draw(*case, group=False)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_only_halos_are_sent(results: Path) -> None:
    files = sorted(results.glob("costs-*.safetensors"))
    border = (WINDOW - STRIDE) * STATE * MEMBERS * 8  # bytes of double precision
    for rank, file in enumerate(files):
        cost = load_file(file)
        # Neighbours are given what their windows need, and what one's own say of their states.
        # The last window starts one state after the one before it, but on no border.
        borders = (rank > 0) + (rank < len(files) - 1)
        assert cost["evaluation"].tolist() == [borders * border, 0]
        assert cost["product"].tolist() == [borders * border, 0]
        # One evaluation, three products, and numbers for each member.
        states, numbers = cost["guided"].tolist()
        assert states == 4 * borders * border
        assert 0 < numbers <= 32 * MEMBERS * 8


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of this process."""
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_what_needs_whole_trajectories_refuses_pieces() -> None:
    denoiser, piece = trajectory("gaussian", True)
    y, x = likelihood(piece), torch.ones(LENGTH, STATE).double()
    wholes = (AdaptiveODE(), DAPS(4, likelihood=y), TDS(4, likelihood=y))
    for integrator in wholes:
        for some in (denoiser, MMPS(denoiser, y), Switched(denoiser, denoiser, level=1.0)):
            with pytest.raises(ValueError, match="needs whole trajectories, got a denoiser of a"):
                integrator(some, x)
    V = denoiser.posterior(x, torch.tensor(0.5).double()).covariance
    with pytest.raises(ValueError, match="expected a whole operator"):
        root_product(V, x, 2)


@pytest.mark.usefixtures("alone")
def test_sources_of_states_go_on_where_they_were() -> None:
    states: list[State] = []
    for saved in (None, 1):
        denoiser, _ = trajectory("network", True)
        sources = [[torch.Generator().manual_seed(i) for i in range(LENGTH)]]
        sampler = DPMSolverSDE(4)
        noise = sampler.noise(denoiser, (1,), generator=sources, dtype=torch.float64)
        start = noise if saved is None else states[saved]
        found = sampler(denoiser, start, generator=sources, callback=states.append)
        if saved is None:
            expected = found
    assert torch.equal(found, expected)
    with pytest.raises(ValueError, match="as many generators"):
        sampler(denoiser, states[1], generator=[sources[0][1:]])


def test_pieces_may_be_smaller_than_halos() -> None:
    pieces = window_pieces(12, 5, 1, 8)
    assert [len(piece) for piece in pieces] == [5, 1, 1, 1, 1, 1, 1, 1]
    with pytest.raises(ValueError, match="a window for each of 9 processes, got 8 windows"):
        window_pieces(12, 5, 1, 9)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
