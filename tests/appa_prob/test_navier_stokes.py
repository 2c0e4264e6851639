"""Parameters and initial states of flows, by the programs of the example.

That intervals cover the truth is counted by the example itself, for as many flows as asked:
python examples/navier_stokes_parameters.py coverage.png --flows 20
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from appa_prob.kolmogorov import KolmogorovFlow
from appa_prob.operators import Coarsen
from appa_prob.simulator import StepSimulator

EXAMPLE = Path(__file__).parents[2] / "examples" / "navier_stokes_parameters.py"


@pytest.fixture
def example() -> Iterator[ModuleType]:
    """The example, in double precision."""
    spec = importlib.util.spec_from_file_location("navier_stokes_parameters", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield module
    torch.set_default_dtype(before)


def problem(module: ModuleType, flows: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Initial states, observations and parameters of flows."""
    pyro.set_rng_seed(0)
    start = module.climate().sample((flows,))
    nodes = poutine.trace(module.program).get_trace(start).nodes
    return start, nodes["y"]["value"], {name: nodes[name]["value"] for name in module.PRIORS}


@pytest.fixture
def small(example: ModuleType) -> ModuleType:
    """The same flows on 8 x 8 points, in longer steps."""
    flow = KolmogorovFlow(8, 0.25, wavenumber=2)
    velocity = flow.velocity((2,))
    example.N = 8  # type: ignore[attr-defined]
    example.SIMULATOR = StepSimulator(flow, (8, 8), steps=4, every=2)  # type: ignore[attr-defined]
    example.SEEN = Coarsen(2, velocity.out_shape) @ velocity  # type: ignore[attr-defined]
    return example


def test_intervals_cover_the_truth_and_are_those_of_importance_sampling(
    small: ModuleType,
) -> None:
    """Intervals of 90% hold 54 of 60 parameters on average, and hardly ever less than 45."""
    start, y, truth = problem(small, 20)
    found = small.infer(start, y, steps=80, warmup=20, samples=50)
    assert {name: v.shape for name, v in found.items()} == dict.fromkeys(truth, (50, 20))
    count = small.covered(truth, found)
    assert 45 <= sum(count.values())
    for i in range(2):
        chain = torch.stack([v.log()[:, i] for v in found.values()], -1)
        # From a wide law around the chain, weighted by the densities of the program.
        proposal = dist.MultivariateNormal(chain.mean(0), 2 * chain.T.cov())
        draws = proposal.sample((2000,))
        values = dict(zip(found, draws.exp().unbind(-1), strict=True))
        held = poutine.condition(small.program, {**values, "y": y[i].expand(2000, *y[i].shape)})
        trace = poutine.trace(held).get_trace(start[i].expand(2000, 8, 8))
        trace.compute_log_prob()
        densities = sum(trace.nodes[name]["log_prob"] for name in (*values, "y"))
        weights = (densities + draws.sum(-1) - proposal.log_prob(draws)).softmax(0)
        assert float(1 / weights.square().sum()) > 300  # what that is worth in exact draws
        mean = weights @ draws
        spread = (weights @ (draws - mean).square()).sqrt()
        assert bool(((chain.mean(0) - mean).abs() < 0.6 * spread).all())
        ratio = chain.std(0) / spread
        assert bool(((ratio > 0.6) & (ratio < 1.6)).all()), ratio


def test_initial_states_are_as_uncertain_as_their_samples_say(example: ModuleType) -> None:
    start, y, parameters = problem(example, 8)
    members = example.infer_start(parameters, y, members=8)
    error = (members.mean(0) - start).square().mean()
    spread = members.var(0).mean() * (1 + 1 / 8)
    assert 0.7 < float((error / spread).sqrt()) < 1.3
    assert float(error) < 0.8 * float(start.square().mean())
    # What was seen is what the members say, within its errors.
    seen = example.likelihood(parameters).map(members)
    misfit = (seen - y).square().mean().sqrt() / example.NOISE
    assert 0.5 < float(misfit) < 2.0


def test_the_picture(example: ModuleType, tmp_path: Path) -> None:
    start, _, truth = problem(example, 3)
    found = {name: value * torch.linspace(0.5, 2.0, 11)[:, None] for name, value in truth.items()}
    assert example.covered(truth, found) == dict.fromkeys(truth, 3)
    fields = dict(zip("abcd", start[[0, 1, 2, 0]], strict=True))
    example.draw(tmp_path / "flows.png", truth, found, {"initial vorticity": start[0], **fields})
    assert (tmp_path / "flows.png").stat().st_size > 10_000
