r"""What a training tells of itself: figures of its loss, its speed and its memory."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from .errors import UserError

__all__ = ["Journal", "Meter", "Tracker", "peak_memory"]

Tracker = Literal["tensorboard", "wandb"]


class _Log(Protocol):
    def log(self, figures: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class Journal:
    r"""Writes figures to `metrics.jsonl`, a line for each validation, and to trackers, if any.

    Arguments:
        folder: The folder of the training.
        trackers: `tensorboard` writes files to the subfolder `tensorboard`; `wandb` starts a run
            of Weights & Biases, as its environment variables say (`WANDB_MODE=offline` keeps it in
            the subfolder `wandb`).
        config: The configuration, which trackers are told.

    Raises:
        UserError: If a tracker is not installed.
    """

    def __init__(
        self, folder: Path, trackers: tuple[Tracker, ...], config: Mapping[str, Any]
    ) -> None:
        self.path = folder / "metrics.jsonl"
        self.trackers: list[_Log] = []
        for name in trackers:
            try:
                kind = _TensorBoard if name == "tensorboard" else _WandB
                self.trackers.append(kind(folder, config))
            except ImportError:
                raise UserError(f"{name} is not installed: pip install {name}") from None

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        r"""Writes a line, and tells trackers."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        self.track(step, figures)

    def track(self, step: int, figures: Mapping[str, float]) -> None:
        r"""Tells trackers only."""
        for tracker in self.trackers:
            tracker.log(figures, step)

    def close(self) -> None:
        r"""Ends what trackers began."""
        for tracker in self.trackers:
            tracker.close()

    def forget(self, step: int) -> None:
        r"""Drops the lines after a step, from which the training goes on."""
        if self.path.exists():
            lines = self.path.read_text().splitlines()
            whole = (line for line in lines if line.endswith("}"))
            kept = [line for line in whole if json.loads(line)["step"] <= step]
            self.path.write_text("".join(line + "\n" for line in kept))


class Meter:
    r"""Measures the speed of steps, on this rank.

    Example:
        >>> meter = Meter(items=8)
        >>> meter.waited()
        >>> meter.stepped()
        >>> sorted(meter.figures())
        ['memory_gib', 'samples_per_second', 'step_seconds', 'wait_share']
    """

    def __init__(self, items: int) -> None:
        self.items = items
        self.steps, self.wait, self.busy = 0, 0.0, 0.0
        self.last = time.monotonic()

    def resume(self) -> None:
        r"""Starts the clock, after what is no part of a step."""
        self.last = time.monotonic()

    def waited(self) -> None:
        r"""Marks the end of waiting for data."""
        now = time.monotonic()
        self.wait, self.last = self.wait + now - self.last, now

    def stepped(self) -> None:
        r"""Marks the end of a step."""
        now = time.monotonic()
        self.busy, self.last, self.steps = self.busy + now - self.last, now, self.steps + 1

    def figures(self) -> dict[str, float]:
        r"""The speed since it was last asked for: samples of all ranks a second, seconds a step,
        and the share of them spent waiting for data; and the largest memory so far in GiB.
        """
        total, steps = max(self.wait + self.busy, 1e-9), max(self.steps, 1)
        figures = {
            "samples_per_second": self.steps * self.items / total,
            "step_seconds": total / steps,
            "wait_share": self.wait / total,
            "memory_gib": peak_memory(),
        }
        self.steps, self.wait, self.busy = 0, 0.0, 0.0
        return figures


def peak_memory() -> float:
    r"""The largest memory so far in GiB, of the device or else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    # In KiB, as Linux has it; macOS counts bytes.
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class _TensorBoard:
    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))
        self.writer.add_text("config", json.dumps(config))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class _WandB:
    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import wandb

        # One training is one run, however often it is stopped.
        self.run = wandb.init(
            dir=str(folder),
            name=folder.name,
            id=_name(folder),
            resume="allow",
            config=dict(config),
        )

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.run.log(dict(figures), step=step)

    def close(self) -> None:
        self.run.finish()


def _name(folder: Path) -> str:
    file = folder / "wandb.json"
    if not file.exists():
        file.write_text(json.dumps({"id": f"{folder.name}-{time.time_ns():x}"}))
    return str(json.loads(file.read_text())["id"])
