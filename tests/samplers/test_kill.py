"""A run that is killed goes on from its last state to the very samples of one that is not."""

import signal
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from appa_prob.operators import Isotropic, Mask
from appa_prob.samplers import (
    DAPS,
    MMPS,
    TDS,
    Denoiser,
    GaussianDenoiser,
    GaussianLikelihood,
    Integrator,
    PredictorCorrector,
    State,
    VESchedule,
)

CHILD = """
import signal, sys
sys.path.insert(0, {folder!r})
import test_kill

def save(state):
    state.save({path!r})
    if state.step == 5:
        signal.raise_signal(signal.SIGKILL)

test_kill.run({name!r}, callback=save)
"""


def problem(name: str) -> tuple[Integrator, Denoiser]:
    prior = GaussianDenoiser(torch.zeros(3), Isotropic(1.0, 3), VESchedule())
    mask = torch.tensor([True, False, True])
    y = GaussianLikelihood(Mask(mask), torch.tensor([1.0, -1.0]), 0.1)
    samplers: dict[str, Integrator] = {
        "Langevin": PredictorCorrector(12),
        "TDS": TDS(12, likelihood=y),
        "DAPS": DAPS(12, likelihood=y),
    }
    return samplers[name], MMPS(prior, y) if name == "Langevin" else prior


def run(name: str, start: State | None = None, **options: object) -> Tensor:
    sampler, denoiser = problem(name)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    shape = (2, 8) if name == "TDS" else (2,)
    noise = sampler.noise(denoiser, shape, generator=generators)
    x_1 = noise if start is None else start
    return sampler(denoiser, x_1, generator=generators, **options)  # type: ignore[arg-type]


def test_killed_runs_go_on_bit_for_bit(tmp_path: Path) -> None:
    names = ["Langevin", "TDS", "DAPS"]
    children = []
    for name in names:
        code = CHILD.format(
            folder=str(Path(__file__).parent), path=str(tmp_path / name), name=name
        )
        children.append(subprocess.Popen([sys.executable, "-c", code]))
    for name, child in zip(names, children, strict=True):
        assert child.wait(timeout=300) == -signal.SIGKILL
        state = State.load(tmp_path / name)
        assert state.step == 5
        assert torch.equal(run(name, state), run(name)), name
