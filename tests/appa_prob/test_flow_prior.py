"""Initial states of flows by a denoiser that was trained on such, by the scripts of the example.

Scores of whole samples take minutes: python examples/navier_stokes_start.py start.png
"""

import importlib
from pathlib import Path
from types import ModuleType

import pyro
import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example, which imports the prior from beside it."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    module: ModuleType = importlib.import_module("navier_stokes_start")
    return module


def test_the_trained_denoiser_beats_the_gaussian_on_flows_it_has_not_seen(
    example: ModuleType,
) -> None:
    """By a third of the variance where the noise is about that of the flows."""
    flow_prior = importlib.import_module("flow_prior")

    g = torch.Generator().manual_seed(77)
    x = example.states(48, 1, g)[:, None]
    assert float((x - x.mean(0)).std()) > 1.5
    gaussian, trained = example.load()
    for level, bound in ((1.0, 0.7), (3.0, 0.7)):
        t = flow_prior.SCHEDULE.time(torch.tensor(level)).float()
        x_t = x + level * torch.randn(x.shape, generator=g)
        ours, theirs = ((d(x_t, t) - x).square().mean() for d in (trained, gaussian))
        assert float(ours) < bound * float(theirs)


def test_the_prior_is_the_same_wherever_the_flow_is(example: ModuleType) -> None:
    """What states are moved by leaves the flow as it is."""
    flow_prior = importlib.import_module("flow_prior")

    g = torch.Generator().manual_seed(0)
    x = example.states(2, 1, g)
    for seed in range(4):
        moves = [torch.Generator().manual_seed(seed) for _ in range(2)]
        after = flow_prior.FLOW(flow_prior.moved(x, moves[0]), **flow_prior.PARAMETERS)
        expected = flow_prior.moved(flow_prior.FLOW(x, **flow_prior.PARAMETERS), moves[1])
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)


def test_scores_are_those_of_their_laws(example: ModuleType) -> None:
    """A truth like the members: CRPS of 1 / sqrt(pi), spread / skill of 1."""
    g = torch.Generator().manual_seed(0)
    members, truth = torch.randn(8, 20_000, generator=g), torch.randn(20_000, generator=g)
    found = example.scores(members, truth)
    assert abs(found["CRPS"] - torch.pi**-0.5) < 0.01
    assert abs(found["spread/skill"] - 1) < 0.02
    assert abs(found["RMSE"] - (9 / 8) ** 0.5) < 0.02
    assert example.scores(0.1 * members, truth)["spread/skill"] < 0.2


def test_a_program_samples_it(example: ModuleType, tmp_path: Path) -> None:
    pyro.set_rng_seed(0)
    truth = example.states(1, 1, torch.Generator().manual_seed(1))[:, None]
    y = example.LIKELIHOOD(truth).sample()
    x = example.infer(y, example.load()[1], members=2, steps=3)
    assert x.shape == (2, 1, 1, example.N, example.N)
    misfit = (example.SEEN(x) - y).square().mean().sqrt() / 0.2
    assert float(misfit) < 3
    example.draw(tmp_path / "start.png", truth, {"trained": x})
    assert (tmp_path / "start.png").stat().st_size > 5_000
