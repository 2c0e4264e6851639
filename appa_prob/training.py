r"""The training loop that the autoencoder and the denoiser share.

All that is random is drawn from the seed and the number of the step, so a training that was killed
goes on from its last checkpoint as if nothing had happened.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from .checkpoint import load_checkpoint, read_metadata, save_checkpoint
from .errors import UserError
from .journal import Journal, Meter, Tracker, peak_memory
from .loading import Items, Steps, read_ahead, step_seed
from .optimizers import OptimizerConfig, OptimizerOption, Optimizers
from .parallel import (
    Replica,
    Strategy,
    agree,
    full_tensor,
    gather,
    mean_over_ranks,
    rank,
    ranks,
    shard,
    shards,
)

__all__ = ["Batch", "Trainer", "TrainingConfig"]

Objective = Callable[[nn.Module, "Batch"], Tensor]
Validation = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Batch:
    r"""A part of the items of a step: the share of a rank, or a micro-batch of it.

    What is random is drawn for the whole step, and the part taken of it, so that what is learnt
    depends neither on the number of ranks nor on that of micro-batches.

    Arguments:
        step: The indices of all items of the step.
        rows: Which of them are here.
        generator: The source of what is random in the step.
        items: The items that are here, a tensor or a tuple of them.
    """

    step: Tensor
    rows: slice
    generator: torch.Generator
    items: Any = None

    @property
    def indices(self) -> Tensor:
        r"""The indices of the items that are here."""
        return self.step[self.rows]

    def draw(self, function: Callable[..., Tensor], *shape: int) -> Tensor:
        r"""Draws for all items, `function(count, *shape, generator=...)`, and takes the part."""
        whole = function(len(self.step), *shape, generator=self.generator)
        return whole[self.rows]


class TrainingConfig(BaseModel):
    r"""How to train.

    A warm-up, a cosine decay to zero and an exponential moving average of the weights.

    Attributes:
        steps: The number of steps.
        batch_size: The number of items of a step, on all ranks together.
        accumulate: The number of micro-batches that each rank divides its items into.
        strategy: How ranks share the work: `ddp`, or `fsdp` for modules too large for one device.
        recompute: Whether activations inside blocks are computed again rather than kept.
        optimizer: The optimizer, `adamw` or `muon`, or its options.
        learning_rate: The largest learning rate.
        warmup: The number of steps until it is reached.
        weight_decay: The decoupled weight decay.
        clip: The largest norm of a gradient.
        ema_decay: The decay of the moving average.
        precision: `float32`, or `bfloat16` for automatic mixed precision.
        seed: What all that is random depends on.
        validate_every: The number of steps between two validations.
        checkpoint_minutes: The minutes between two checkpoints.
        workers: The number of processes of each rank that read data ahead; with 0, data are read
            when they are needed.
        ahead: The number of steps that each of them is ahead.
        pool: The number of chunks of the store that items are mixed over, where chunks hold
            several times.
        trackers: Where figures go beside `metrics.jsonl`: `tensorboard`, `wandb`.
    """

    model_config = ConfigDict(extra="forbid")

    steps: PositiveInt
    batch_size: PositiveInt
    accumulate: PositiveInt = 1
    strategy: Strategy = "ddp"
    recompute: bool = False
    optimizer: OptimizerOption = OptimizerConfig()
    learning_rate: PositiveFloat
    warmup: int = 200
    weight_decay: float = 0.0
    clip: PositiveFloat = 1.0
    ema_decay: float = 0.999
    precision: str = "float32"
    seed: int = 0
    validate_every: PositiveInt = 500
    checkpoint_minutes: PositiveFloat = 3.0
    workers: NonNegativeInt = 0
    ahead: PositiveInt = 2
    pool: PositiveInt = 8
    trackers: tuple[Tracker, ...] = ()


# What a training may be gone on with in another way.
FREE = {"checkpoint_minutes", "workers", "ahead", "trackers"}


class Trainer:
    r"""Trains a module, with checkpoints and exact resume.

    Arguments:
        module: The module to train.
        objective: The mean loss of some items, `objective(module, batch)`.
        validation: The figures of the averaged module, `validation(module)`.
        items: What is trained on, which batches hold parts of.
        config: How to train.
        folder: Where checkpoints (a file, or a folder if there are several ranks) and
            `metrics.jsonl` are written: at each validation the loss, the learning rate, the norm
            of the gradient, the speed, the share of the time spent waiting for data, the memory.
    """

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        validation: Validation,
        items: Items,
        config: TrainingConfig,
        folder: Path,
    ) -> None:
        self.module, self.objective, self.validation = module, objective, validation
        self.items, self.config, self.folder = items, config, Path(folder)
        if config.batch_size % (ranks() * config.accumulate):
            raise UserError(
                f"expected a batch_size that {ranks()} ranks can divide into {config.accumulate} "
                f"micro-batches each, got {config.batch_size}"
            )
        self.whole = copy.deepcopy(module) if shards(config.strategy) else module
        average = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(module, multi_avg_fn=average)
        self.replica = Replica(module, objective, config.strategy, recompute=config.recompute)
        if self.replica.sharded:
            shard(self.average.module)
        self.optimizers = Optimizers(module, config.optimizer, config.weight_decay)
        self.step, self.rate, self.norm = 0, 0.0, torch.zeros(())
        self.checkpoint = self.folder / "checkpoint"
        self.meter = Meter(config.batch_size)

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
        if read_metadata(self.checkpoint) is not None:
            self.load()
        trackers = self.config.trackers if rank() == 0 else ()
        journal = Journal(self.folder, trackers, self.config.model_dump(mode="json"))
        if rank() == 0:
            journal.forget(self.step)
        saved = time.monotonic()
        bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            disable=not progress or rank() > 0,
            unit="step",
            mininterval=1.0,
        )
        running: Tensor | float = 0.0
        self.meter.resume()
        with bar:
            for indices, items in self._batches():
                self.meter.waited()
                loss = self.advance(indices, items)
                self.meter.stepped()
                running = running + loss
                bar.update()
                if self.step % 50 == 0:
                    memory = f"{peak_memory():.1f}GiB"
                    bar.set_postfix(loss=f"{float(running) / 50:.4f}", memory=memory)
                    journal.track(self.step, {"running_loss": float(running) / 50})
                    running = 0.0
                if self.step % self.config.validate_every == 0 or self.step == self.config.steps:
                    self._validate(mean_over_ranks(loss).item(), journal)
                late = time.monotonic() - saved > 60 * self.config.checkpoint_minutes
                if agree(late):
                    self.save()
                    saved = time.monotonic()
                self.meter.resume()
        journal.close()
        self.save()
        if not self.replica.sharded:
            return self.average.module
        return gather(self.average.module, self.whole)

    def advance(self, indices: Tensor, items: Any) -> Tensor:
        r"""Takes one step.

        Arguments:
            indices: The indices of the items of the step, on all ranks together.
            items: The items of this rank.

        Returns:
            The loss of the items of this rank.
        """
        # What modules draw themselves, as dropout does, depends on the step as well.
        torch.manual_seed(step_seed(self.config.seed, 2, self.step))
        device = next(self.module.parameters()).device.type
        self.optimizers.zero_grad()
        parts = self._parts(len(indices))
        losses = []
        for part in parts:
            here = slice(part.start - parts[0].start, part.stop - parts[0].start)
            generator = torch.Generator().manual_seed(step_seed(self.config.seed, 1, self.step))
            batch = Batch(indices, part, generator, _take(items, here))
            mixed = self.config.precision == "bfloat16"
            with torch.autocast(device, torch.bfloat16, enabled=mixed):
                losses.append(
                    self.replica.backward(batch, share=1 / len(parts), last=part is parts[-1])
                )
        self.norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip)
        self.rate = self.config.learning_rate * self._schedule()
        self.optimizers.step(self.rate)
        self.average.update_parameters(self.module)
        self.step += 1
        return torch.stack(losses).sum()

    def save(self) -> None:
        r"""Writes the checkpoint.

        It holds the weights, the averaged weights, the state of the optimizer and the step.
        """
        metadata = {"step": self.step, "config": self.config.model_dump(mode="json")}
        save_checkpoint(self.checkpoint, self._tensors(), metadata | self._order())

    def load(self) -> None:
        r"""Reads the checkpoint, of however many ranks.

        Raises:
            UserError: If the checkpoint is truncated, or belongs to a training with another
                configuration or another module.
        """
        metadata = read_metadata(self.checkpoint) or {}
        if _fixed(metadata.get("config")) != _fixed(self.config.model_dump(mode="json")):
            raise self._refusal("training configuration")
        order = self._order()
        if {k: metadata.get(k) for k in order} != order:
            raise self._refusal("dataset or another way of keeping it")
        self.optimizers.start()
        try:
            load_checkpoint(self.checkpoint, self._tensors())
        except ValueError:  # names or shapes of weights differ
            raise self._refusal("module") from None
        self.step = int(metadata["step"])  # type: ignore[call-overload]

    def _order(self) -> dict[str, object]:
        r"""What, beside the configuration and the step, says which items come next."""
        return {"items": len(self.items), "block": getattr(self.items, "block", 1)}

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"module/{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"average/{k}": v for k, v in self.average.state_dict().items()}
        return tensors | {f"optimizer/{k}": v for k, v in self.optimizers.tensors().items()}

    def _parts(self, items: int) -> list[slice]:
        size = max(items // (ranks() * self.config.accumulate), 1)
        first = rank() * self.config.accumulate
        return [
            slice((first + i) * size, (first + i + 1) * size)
            for i in range(self.config.accumulate)
        ]

    def _refusal(self, what: str) -> UserError:
        return UserError(
            f"{self.checkpoint} was written with another {what}: "
            "take the same configuration to go on, or another output folder to start anew"
        )

    def _batches(self) -> Iterator[tuple[Tensor, Any]]:
        config, items = self.config, len(self.items)
        block = getattr(self.items, "block", 1)
        steps = Steps(
            items, config.batch_size, self.step, config.steps, config.seed, block, config.pool
        )
        parts = self._parts(min(config.batch_size, items))
        rows = slice(parts[0].start, parts[-1].stop)
        return read_ahead(self.items, steps, rows, workers=config.workers, ahead=config.ahead)

    def _schedule(self) -> float:
        warmup = min(1.0, (self.step + 1) / max(self.config.warmup, 1))
        return warmup * 0.5 * (1 + math.cos(math.pi * self.step / self.config.steps))

    def _validate(self, loss: float, journal: Journal) -> None:
        average = self.average.module
        average.eval()
        with torch.no_grad():
            figures = self.validation(average)
        norm = float(full_tensor(self.norm))
        if rank() > 0:
            return
        state = {"loss": loss, "learning_rate": self.rate, "gradient_norm": norm}
        journal.write(self.step, state | figures | self.meter.figures())
        tqdm.write(f"step {self.step}: " + ", ".join(f"{k} {v:.4f}" for k, v in figures.items()))


def _take(items: Any, rows: slice) -> Any:
    if isinstance(items, tuple):
        return tuple(item[rows] for item in items)
    return items[rows]


def _fixed(config: Any) -> Any:
    return {k: v for k, v in config.items() if k not in FREE} if config else config
