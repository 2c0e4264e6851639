r"""The training loop that the autoencoder and the denoiser share.

All that is random is drawn from the seed and the number of the step, so a training that was killed
goes on from its last checkpoint as if nothing had happened.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from .errors import UserError
from .files import load_tensors, save_tensors

__all__ = ["Trainer", "TrainingConfig"]

Objective = Callable[[nn.Module, Tensor, torch.Generator], Tensor]
Validation = Callable[[nn.Module], dict[str, float]]


class TrainingConfig(BaseModel):
    r"""How to train.

    AdamW with a warm-up, a cosine decay to zero and an exponential moving average of the weights.

    Attributes:
        steps: The number of steps.
        batch_size: The number of items of a step.
        learning_rate: The largest learning rate.
        warmup: The number of steps until it is reached.
        weight_decay: The decoupled weight decay.
        clip: The largest norm of a gradient.
        ema_decay: The decay of the moving average.
        precision: `float32`, or `bfloat16` for automatic mixed precision.
        seed: What all that is random depends on.
        validate_every: The number of steps between two validations.
        checkpoint_minutes: The minutes between two checkpoints.
    """

    model_config = ConfigDict(extra="forbid")

    steps: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    warmup: int = 200
    weight_decay: float = 0.0
    clip: PositiveFloat = 1.0
    ema_decay: float = 0.999
    precision: str = "float32"
    seed: int = 0
    validate_every: PositiveInt = 500
    checkpoint_minutes: PositiveFloat = 3.0


class Trainer:
    r"""Trains a module, with checkpoints and exact resume.

    Arguments:
        module: The module to train.
        objective: The loss of some items, `objective(module, indices, generator)`.
        validation: The figures of the averaged module, `validation(module)`.
        items: The number of items to train on.
        config: How to train.
        folder: Where `checkpoint.safetensors` and `metrics.jsonl` are written.
    """

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        validation: Validation,
        items: int,
        config: TrainingConfig,
        folder: Path,
    ) -> None:
        self.module, self.objective, self.validation = module, objective, validation
        self.items, self.config, self.folder = items, config, Path(folder)
        average = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(module, multi_avg_fn=average)
        self.optimizer = torch.optim.AdamW(
            module.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(0.9, 0.99),
        )
        self.step = 0
        self.checkpoint = self.folder / "checkpoint.safetensors"
        self.metrics = self.folder / "metrics.jsonl"

    def run(self, *, progress: bool = True) -> nn.Module:
        r"""Trains from the last checkpoint, or from the start, to the last step.

        Arguments:
            progress: Whether to show a progress bar.

        Returns:
            The averaged module.

        Raises:
            UserError: As :meth:`load`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self.load()
        saved = time.monotonic()
        bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            disable=not progress,
            unit="step",
            mininterval=1.0,
        )
        running = torch.zeros(())
        with bar:
            for indices, generator in self._batches():
                loss = self.advance(indices, generator)
                running += loss
                bar.update()
                if self.step % 50 == 0:
                    bar.set_postfix(loss=f"{running.item() / 50:.4f}")
                    running.zero_()
                if self.step % self.config.validate_every == 0 or self.step == self.config.steps:
                    self._validate(loss.item())
                if time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                    self.save()
                    saved = time.monotonic()
        self.save()
        return self.average.module

    def advance(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        r"""Takes one step and returns its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._schedule()
        # What modules draw themselves, as dropout does, depends on the step as well.
        torch.manual_seed(_seed(self.config.seed, 1, self.step) + 2**39)
        device = next(self.module.parameters()).device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            loss = self.objective(self.module, indices, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip)
        self.optimizer.step()
        self.average.update_parameters(self.module)
        self.step += 1
        return loss.detach()

    def save(self) -> None:
        r"""Writes the checkpoint.

        It holds the weights, the averaged weights, the state of the optimizer and the step.
        """
        tensors = {f"module/{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"average/{k}": v for k, v in self.average.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{k}": v for k, v in state.items()}
        save_tensors(
            self.checkpoint, tensors, {"step": self.step, "config": self.config.model_dump()}
        )

    def load(self) -> None:
        r"""Reads the checkpoint.

        Raises:
            UserError: If the checkpoint is truncated, or belongs to a training with another
                configuration or another module.
        """
        tensors, metadata = load_tensors(self.checkpoint)
        if metadata.get("config") != self.config.model_dump():
            raise self._refusal("training configuration")
        try:
            self.module.load_state_dict(_under("module", tensors))
            self.average.load_state_dict(_under("average", tensors))
        except RuntimeError:  # names or shapes of weights differ
            raise self._refusal("module") from None
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _under("optimizer", tensors).items():
            index, name = key.split("/")
            state.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.step = int(metadata["step"])  # type: ignore[call-overload]
        self._forget_metrics()

    def _refusal(self, what: str) -> UserError:
        return UserError(
            f"{self.checkpoint} was written with another {what}: "
            "take the same configuration to go on, or another output folder to start anew"
        )

    def _batches(self) -> Iterator[tuple[Tensor, torch.Generator]]:
        batch, seed = self.config.batch_size, self.config.seed
        per_epoch = max(self.items // batch, 1)
        epoch, order = -1, torch.empty(0)
        while self.step < self.config.steps:
            if self.step // per_epoch != epoch:
                epoch = self.step // per_epoch
                order = torch.randperm(self.items, generator=_generator(seed, 0, epoch))
            start = (self.step % per_epoch) * batch
            yield order[start : start + batch], _generator(seed, 1, self.step)

    def _schedule(self) -> float:
        warmup = min(1.0, (self.step + 1) / max(self.config.warmup, 1))
        return warmup * 0.5 * (1 + math.cos(math.pi * self.step / self.config.steps))

    def _validate(self, loss: float) -> None:
        average = self.average.module
        average.eval()
        with torch.no_grad():
            figures = self.validation(average)
        with self.metrics.open("a") as file:
            file.write(json.dumps({"step": self.step, "loss": loss, **figures}) + "\n")
        tqdm.write(f"step {self.step}: " + ", ".join(f"{k} {v:.4f}" for k, v in figures.items()))

    def _forget_metrics(self) -> None:
        if self.metrics.exists():
            lines = self.metrics.read_text().splitlines()
            kept = [
                line
                for line in lines
                if line.endswith("}") and json.loads(line)["step"] <= self.step
            ]
            self.metrics.write_text("".join(line + "\n" for line in kept))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {
        k.removeprefix(prefix + "/"): v for k, v in tensors.items() if k.startswith(prefix + "/")
    }


def _generator(seed: int, stream: int, index: int) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(seed, stream, index))


def _seed(seed: int, stream: int, index: int) -> int:
    return (seed * 2 + stream) * 2**40 + index
