"""The training loop: resume is exact, also after SIGKILL; bad checkpoints are refused.

Run as a script, this file trains the toy slowly, to be killed: `python test_training.py FOLDER`.
"""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import appa_prob
from appa_prob.errors import UserError
from appa_prob.files import load_tensors, save_tensors
from appa_prob.journal import Journal
from appa_prob.loading import step_seed
from appa_prob.optimizers import OptimizerConfig, Optimizers
from appa_prob.training import Batch, Trainer, TrainingConfig

STEPS = 400


def config(**changes: object) -> TrainingConfig:
    settings: dict[str, object] = {
        "steps": STEPS,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "warmup": 20,
        "weight_decay": 0.01,
        "ema_decay": 0.9,
        "validate_every": 40,
        "checkpoint_minutes": 0.1 / 60,
    }
    return TrainingConfig.model_validate(settings | changes)


class Toy(nn.Module):
    """A small network of blocks."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        shapes = ((3, hidden), (hidden, hidden), (hidden, 3))
        self.blocks = nn.ModuleList(nn.Sequential(nn.SiLU(), nn.Linear(*s)) for s in shapes)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def toy(folder: Path, pause: float = 0.0, hidden: int = 8, **changes: object) -> Trainer:
    """A trainer of a small network whose loss is random, with some seconds' rest each step."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = Toy(hidden)
    data = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        time.sleep(pause)
        x = batch.items
        loss: Tensor = (model(x + batch.draw(torch.randn, 3)) - x).square().mean()
        return loss

    def validate(model: nn.Module) -> dict[str, float]:
        return {"loss_held": float((model(data) - data).square().mean())}

    return Trainer(module, objective, validate, data, config(**changes), folder)


def file(trainer: Trainer) -> Path:
    """The checkpoint of one rank."""
    return trainer.checkpoint.with_suffix(".safetensors")


def weights(trainer: Trainer) -> dict[str, Tensor]:
    """All that a training leaves behind."""
    return load_tensors(file(trainer))[0]


def metrics(trainer: Trainer) -> Path:
    return trainer.folder / "metrics.jsonl"


def lines(trainer: Trainer) -> list[dict[str, float]]:
    """The lines of the metrics, without what is measured by the clock."""
    measured = ("samples_per_second", "step_seconds", "wait_share", "memory_gib")
    found = [json.loads(line) for line in metrics(trainer).read_text().splitlines()]
    assert all(line.pop(name) >= 0 for line in found for name in measured)
    return found


def assert_same(first: Trainer, second: Trainer) -> None:
    expected, actual = weights(first), weights(second)
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name
    assert lines(first) == lines(second)


def kill_in_the_middle(folder: Path, options: dict[str, object]) -> int:
    """Trains in another process, kills it after two checkpoints; returns the step of the last."""
    checkpoint = folder / "checkpoint.safetensors"
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(appa_prob.__file__).parents[1]),
    }
    command = [sys.executable, __file__, str(folder), json.dumps(options)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    seen: set[int] = set()
    deadline = time.monotonic() + 300  # for machines that are busy
    while len(seen) < 2 and process.poll() is None and time.monotonic() < deadline:
        if checkpoint.exists():
            seen.add(checkpoint.stat().st_mtime_ns)
        time.sleep(0.005)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the training ended before it could be killed"
    return int(str(load_tensors(checkpoint)[1]["step"]))


@pytest.mark.parametrize("options", [{}, {"optimizer": "muon", "workers": 1}])
def test_resume_after_sigkill_is_exact(tmp_path: Path, options: dict[str, object]) -> None:
    whole = toy(tmp_path / "whole", **options | {"workers": 0})  # type: ignore[arg-type]
    whole.run(progress=False)
    step = kill_in_the_middle(tmp_path / "killed", options)
    assert 0 < step < STEPS
    resumed = toy(tmp_path / "killed", **options)  # type: ignore[arg-type]
    resumed.run(progress=False)
    assert resumed.step == STEPS
    assert_same(whole, resumed)
    assert [line["step"] for line in lines(resumed)] == [*range(40, STEPS + 1, 40)]


@pytest.mark.parametrize("steps", [1, 47, 48])
def test_resume_is_exact_at_any_step(tmp_path: Path, steps: int) -> None:
    whole = toy(tmp_path / "whole", steps=60, validate_every=7)
    whole.run(progress=False)
    stopped = toy(tmp_path / "stopped", steps=60, validate_every=7)
    stopped.folder.mkdir()
    journal = Journal(stopped.folder, (), {})
    for indices, items in stopped._batches():
        stopped.advance(indices, items)
        if stopped.step % 7 == 0:
            loss = next(line["loss"] for line in lines(whole) if line["step"] == stopped.step)
            stopped._validate(loss, journal)
        if stopped.step == steps:
            break
    stopped.save()
    with metrics(stopped).open("a") as file:  # beyond the checkpoint, and torn
        file.write('{"step": 59, "loss": 0.0}\n{"step": 60, "lo')
    resumed = toy(tmp_path / "stopped", steps=60, validate_every=7)
    resumed.run(progress=False)
    assert_same(whole, resumed)


def test_training_learns_and_returns_the_average(tmp_path: Path) -> None:
    trainer = toy(tmp_path)
    average = trainer.run(progress=False)
    losses = [line["loss_held"] for line in lines(trainer)]
    assert losses[-1] < 0.7 * losses[0]
    stored = weights(trainer)
    for name, tensor in average.state_dict().items():
        assert torch.equal(stored[f"average/module.{name}"], tensor)
        assert not torch.equal(stored[f"module/{name}"], tensor)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = toy(tmp_path, steps=20, validate_every=20)
    expected = first.run(progress=False).state_dict()
    again = toy(tmp_path, steps=20, validate_every=20)
    actual = again.run(progress=False).state_dict()
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())
    assert len(metrics(again).read_text().splitlines()) == 1


def test_what_is_random_depends_on_seed_stream_and_step() -> None:
    # Generators of CPUs drop all but 32 bits of a seed.
    drawn = {
        torch.rand((), generator=torch.Generator().manual_seed(step_seed(*key))).item()
        for key in itertools.product((0, 1, 2), repeat=3)
    }
    assert len(drawn) == 27


def test_each_epoch_takes_each_item_once_at_most(tmp_path: Path) -> None:
    trainer = toy(tmp_path, steps=36)
    batches = [indices for indices, _ in trainer._batches()]
    for epoch in (batches[:12], batches[12:24], batches[24:]):
        drawn = torch.cat(epoch)
        assert len(drawn) == len(set(drawn.tolist())) == 48
    assert not torch.equal(torch.cat(batches[:12]), torch.cat(batches[12:24]))


def test_learning_rate_warms_up_and_decays(tmp_path: Path) -> None:
    trainer = toy(tmp_path, steps=100, warmup=10)
    rates = []
    for trainer.step in range(101):
        rates.append(trainer._schedule())
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) < 1.0 and rates[9] > 0.95 and rates.index(max(rates)) == 9
    assert rates[50] == pytest.approx(0.5) and rates[100] == pytest.approx(0.0)


def test_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    trainer = toy(tmp_path, steps=5)
    trainer.run(progress=False)
    content = file(trainer).read_bytes()
    for size in (0, 5, 100, len(content) - 1):
        file(trainer).write_bytes(content[:size])
        with pytest.raises(UserError, match=r"checkpoint\.safetensors is truncated"):
            toy(tmp_path, steps=5).run(progress=False)


@pytest.mark.parametrize("change", [{"steps": 6}, {"learning_rate": 1e-3}, {"seed": 1}])
def test_another_configuration_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    toy(tmp_path, steps=5).run(progress=False)
    with pytest.raises(UserError, match="another training configuration"):
        toy(tmp_path, **({"steps": 5} | change)).run(progress=False)


def test_what_does_not_matter_may_change(tmp_path: Path) -> None:
    toy(tmp_path, steps=5).run(progress=False)
    toy(tmp_path, steps=5, checkpoint_minutes=9, ahead=3).run(progress=False)


def test_other_data_are_refused(tmp_path: Path) -> None:
    trainer = toy(tmp_path, steps=5)
    trainer.run(progress=False)
    again = toy(tmp_path, steps=5)
    again.items = torch.zeros(51, 3)
    with pytest.raises(UserError, match="another dataset"):
        again.run(progress=False)


def test_muon_is_for_matrices_in_blocks() -> None:
    with pytest.raises(UserError, match="this module has none: take adamw"):
        Optimizers(nn.Linear(3, 3), OptimizerConfig(name="muon"), 0.0)


def test_muon_orthogonalises_what_it_changes(tmp_path: Path) -> None:
    trainer = toy(tmp_path, steps=400, hidden=24, optimizer="muon", weight_decay=0.0)
    before = {k: v.clone() for k, v in trainer.module.state_dict().items()}
    indices, items = next(iter(trainer._batches()))
    trainer.advance(indices, items)
    change = trainer.module.state_dict()["blocks.1.1.weight"] - before["blocks.1.1.weight"]
    values = torch.linalg.svdvals(change) / (0.2 * 24**0.5 * trainer.rate)
    # The gradient of 4 items has rank 4; Newton-Schulz brings singular values near 1.
    assert values[:4].min() > 0.6 and values.max() < 1.4 and values[6:].max() < 0.4
    bias = trainer.module.state_dict()["blocks.1.1.bias"] - before["blocks.1.1.bias"]
    assert torch.allclose(bias.abs(), torch.full_like(bias, trainer.rate), rtol=1e-3)


def test_metrics_tell_of_speed_gradients_and_rates(tmp_path: Path) -> None:
    trainer = toy(tmp_path, steps=8, validate_every=4, warmup=4, pause=0.02)
    trainer.run(progress=False)
    first, second = (json.loads(line) for line in metrics(trainer).read_text().splitlines())
    assert first["step_seconds"] > 0.02 and 0 <= first["wait_share"] < 0.5
    assert first["samples_per_second"] == pytest.approx(4 / first["step_seconds"])
    assert first["gradient_norm"] > 0 and first["memory_gib"] > 0.05
    assert first["learning_rate"] == pytest.approx(1e-2 * trainer_schedule(3, 8))
    assert second["learning_rate"] == pytest.approx(1e-2 * trainer_schedule(7, 8))


def trainer_schedule(step: int, steps: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def test_trackers_that_are_not_installed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="wandb is not installed: pip install wandb"):
        toy(tmp_path, steps=2, trackers=("wandb",)).run(progress=False)


def test_tensorboard_has_the_figures(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    toy(tmp_path, steps=60, validate_every=30, trackers=("tensorboard",)).run(progress=False)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "gradient_norm", "samples_per_second"):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(x["step"], pytest.approx(x[name], rel=1e-6)) for x in lines]


def test_a_training_that_goes_on_is_the_same_run_of_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[dict[str, Any]] = []
    logged: list[int] = []

    class Run:
        def log(self, figures: dict[str, float], step: int) -> None:
            logged.append(step)

        def finish(self) -> None:
            logged.append(0)

    def init(**options: Any) -> Run:
        runs.append(options)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for _ in range(2):
        toy(tmp_path, steps=6, validate_every=3, trackers=("wandb",)).run(progress=False)
    assert len(runs) == 2 and runs[0]["id"] == runs[1]["id"] and logged == [3, 6, 0, 0]
    assert runs[0]["config"]["steps"] == 6


def test_wandb_keeps_runs_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for _ in range(2):
        toy(tmp_path, steps=6, validate_every=3, trackers=("wandb",)).run(progress=False)
    runs = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(runs) == 2 and len({run.name for run in runs}) == 1


def test_another_module_is_refused(tmp_path: Path) -> None:
    toy(tmp_path, steps=5).run(progress=False)
    with pytest.raises(UserError, match="another module") as caught:
        toy(tmp_path, steps=5, hidden=9).run(progress=False)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "checkpoint.safetensors", {"x": torch.zeros(1)}, {})
    with pytest.raises(UserError, match="another training configuration"):
        toy(tmp_path).run(progress=False)


if __name__ == "__main__":
    toy(Path(sys.argv[1]), pause=0.01, **json.loads(sys.argv[2])).run(progress=False)
