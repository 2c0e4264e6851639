"""Training on several ranks: what is learnt is what one rank learns, and checkpoints change hands.

Run as a script, this file trains a toy: `python test_parallel.py FOLDER OPTIONS`, OPTIONS as JSON.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from appa_prob.checkpoint import load_checkpoint, read_metadata
from appa_prob.errors import UserError
from appa_prob.files import save_tensors
from appa_prob.parallel import process_group, rank
from appa_prob.training import Batch, Trainer, TrainingConfig

STEPS = 24


class Toy(nn.Module):
    """A small network of blocks."""

    def __init__(self) -> None:
        super().__init__()
        shapes = ((3, 7), (7, 7), (7, 3))
        self.blocks = nn.ModuleList(nn.Sequential(nn.SiLU(), nn.Linear(*s)) for s in shapes)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def toy(folder: Path, pause: float = 0.0, **options: object) -> Trainer:
    """A trainer of the network in double precision, whose loss is random."""
    torch.manual_seed(0)
    data = torch.randn(50, 3, generator=torch.Generator().manual_seed(1)).double()

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        time.sleep(pause)
        x = batch.items
        loss: Tensor = (model(x + batch.draw(torch.randn, 3)) - x).square().mean()
        return loss

    def validate(model: nn.Module) -> dict[str, float]:
        return {"loss_held": float((model(data) - data).square().mean())}

    settings: dict[str, object] = {
        "steps": STEPS,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "warmup": 4,
        "ema_decay": 0.9,
        "validate_every": 4,
        "checkpoint_minutes": 0.05 / 60,
    }
    config = TrainingConfig.model_validate(settings | options)
    return Trainer(Toy().double(), objective, validate, data, config, folder)


def train(folder: Path, **options: Any) -> None:
    """Trains, and writes the averaged weights as `weights.safetensors`."""
    torch.set_num_threads(1)
    with process_group():
        average = toy(folder, **options).run(progress=False)
        if rank() == 0:
            save_tensors(folder / "weights.safetensors", average.state_dict(), {})


Start = Callable[[int, list[str]], list[subprocess.Popen[bytes]]]


def command(folder: Path, **options: object) -> list[str]:
    """The command that trains in another process."""
    return [sys.executable, __file__, str(folder), json.dumps(options)]


def wait(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    assert [process.wait(300) for process in processes] == [0] * len(processes)


def metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of the metrics, without what is measured by the clock."""
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    measured = {"samples_per_second", "step_seconds", "wait_share", "memory_gib"}
    return [{k: v for k, v in line.items() if k not in measured} for line in lines]


def assert_same(first: Path, second: Path) -> None:
    """The same losses and the same averaged weights, but for the order of sums."""
    for a, b in zip(metrics(first), metrics(second), strict=True):
        assert a == pytest.approx(b, rel=1e-9)
    expected, found = (
        {k: v.clone() for k, v in Toy().double().state_dict().items()} for _ in range(2)
    )
    load_checkpoint(first / "weights", expected)
    load_checkpoint(second / "weights", found)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one rank learns."""
    folder = tmp_path_factory.mktemp("alone")
    train(folder)
    return folder


@pytest.mark.parametrize("options", [{"accumulate": 4}, {"recompute": True}])
def test_micro_batches_and_recomputation_change_nothing(
    alone: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    train(tmp_path, **options)
    assert_same(alone, tmp_path)


@pytest.fixture(scope="module")
def alone_by_muon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one rank learns with another optimizer."""
    folder = tmp_path_factory.mktemp("muon")
    train(folder, optimizer="muon")
    return folder


@pytest.mark.parametrize(
    "options", [{"strategy": "ddp", "accumulate": 2}, {"strategy": "fsdp", "recompute": True}]
)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_ranks_learn_what_one_does(
    alone: Path,
    alone_by_muon: Path,
    tmp_path: Path,
    ranks: Start,
    optimizer: str,
    options: dict[str, Any],
) -> None:
    wait(ranks(2, command(tmp_path, optimizer=optimizer, **options)))
    assert_same(alone if optimizer == "adamw" else alone_by_muon, tmp_path)


def test_optimizers_differ(alone: Path, alone_by_muon: Path) -> None:
    first, second = (metrics(folder)[-1]["loss_held"] for folder in (alone, alone_by_muon))
    assert abs(first - second) > 1e-3


def test_a_killed_training_goes_on_with_another_number_of_ranks(
    alone_by_muon: Path, tmp_path: Path, ranks: Start
) -> None:
    options = {"strategy": "fsdp", "optimizer": "muon"}
    processes = ranks(2, command(tmp_path, pause=0.1, workers=1, **options))
    deadline = time.monotonic() + 240
    while not (tmp_path / "checkpoint").exists() and time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    time.sleep(0.3)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    assert {process.wait() for process in processes} == {-signal.SIGKILL}
    metadata = read_metadata(tmp_path / "checkpoint")
    assert metadata is not None and 0 < int(str(metadata["step"])) < STEPS
    train(tmp_path, **options)
    assert_same(alone_by_muon, tmp_path)


def test_batches_that_ranks_cannot_share_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 ranks can divide into 3 micro-batches each, got 8"):
        toy(tmp_path, accumulate=3)


if __name__ == "__main__":
    train(Path(sys.argv[1]), **json.loads(sys.argv[2]))
