"""Parameters and initial states of flows, by the programs of the example.

The posterior is shown to be calibrated by importance sampling, which is exact here, and NUTS to
agree with it. The example itself counts what intervals cover, for as many flows as asked:
python examples/navier_stokes_parameters.py coverage.png --flows 20
Of 20 exact intervals of 90%, 18 or more hold the truth in 68% of such runs, and 15 or less in 4%.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor

from appa_prob.kolmogorov import KolmogorovFlow
from appa_prob.operators import Coarsen
from appa_prob.samplers.testing import sbc
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


def test_the_posterior_of_the_parameters_is_calibrated(small: ModuleType) -> None:
    """Ranks of the truth among 19 draws from each of 120 posteriors are uniform: intervals from
    the 2nd to the 18th hold 90%. A right program fails once in 10^4 seeds, at p < 10^-4 of a
    chi-square test; one whose errors are half of what they are does at all of them."""
    pyro.set_rng_seed(0)
    trials = 120
    start = small.climate().sample((trials,))

    def calibrate(noise: float) -> float:
        def prior(n: int, g: torch.Generator) -> Tensor:
            nodes = poutine.trace(small.program).get_trace(start).nodes
            return torch.stack([nodes[name]["value"].log() for name in small.PRIORS], -1)

        def observe(z: Tensor, g: torch.Generator) -> Tensor:
            values = dict(zip(small.PRIORS, z.exp().unbind(-1), strict=True))
            held = poutine.condition(small.program, values)
            nodes: Any = poutine.trace(held).get_trace(start).nodes
            y: Tensor = nodes["y"]["value"]
            return y

        def draw(y: Tensor, draws: int, g: torch.Generator) -> Tensor:
            z, weights = small.importance(start, y, 200, noise)
            assert float((1 / weights.square().sum(0)).median()) > 100
            index = torch.multinomial(weights.mT, draws, replacement=True).mT
            drawn: Tensor = z.gather(0, index[..., None].expand(draws, trials, 3))
            return drawn

        return sbc(prior, observe, draw, trials=trials, draws=19).pvalue(bins=5)

    assert calibrate(small.NOISE) > 1e-4
    assert calibrate(small.NOISE / 2) < 1e-6


def test_nuts_agrees_with_importance_sampling(small: ModuleType) -> None:
    """Means within 5 standard errors of the effective draws, both ways, for 24 parameters: a right
    sampler fails once in 10^4 seeds. Standard deviations within what they vary by, likewise on
    average."""
    start, y, truth = problem(small, 8)
    found = small.infer(start, y, steps=60, warmup=25, samples=50)
    assert {name: v.shape for name, v in found.items()} == dict.fromkeys(truth, (2, 50, 8))
    z, weights = small.importance(start, y, 1000)
    weights = weights[..., None]
    mean = (weights * z).sum(0)
    spread = (weights * (z - mean).square()).sum(0).sqrt()
    exact = 1 / weights.square().sum(0)
    assert float(exact.min()) > 200
    chains = torch.stack([v.log() for v in found.values()], -1)
    n = torch.stack([small.effective(v) for v in found.values()], -1)
    error = spread * (1 / n + 1 / exact).sqrt()
    gap = (chains.mean((0, 1)) - mean) / error
    assert float(gap.abs().max()) < 5, gap
    ratio = chains.flatten(0, 1).std(0) / spread
    assert abs(float(ratio.mean()) - 1) < 0.12, ratio


def test_intervals_hold_what_they_say(example: ModuleType) -> None:
    """Of 4000 laws, 30 independent draws each, intervals of quantiles hold 84%; ours 90%, within 5
    standard errors."""
    draws, truth = torch.randn(2, 15, 4000), {"x": torch.randn(4000)}
    example.effective = lambda samples: torch.full((4000,), 30.0)  # type: ignore[attr-defined]
    assert abs(example.covered(truth, {"x": draws})["x"] - 3600) < 5 * 19
    ends = draws.flatten(0, 1).quantile(torch.tensor([0.05, 0.95]), dim=0)
    naive = int(((ends[0] <= truth["x"]) & (truth["x"] <= ends[1])).sum())
    assert naive < 3600 - 8 * 19


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
    wide = torch.linspace(0.5, 2.0, 22).reshape(11, 2).mT[..., None]
    found = {name: value * wide for name, value in truth.items()}
    assert example.covered(truth, found) == dict.fromkeys(truth, 3)
    fields = dict(zip("abcd", start[[0, 1, 2, 0]], strict=True))
    example.draw(tmp_path / "flows.png", truth, found, {"initial vorticity": start[0], **fields})
    assert (tmp_path / "flows.png").stat().st_size > 10_000
