r"""The training loop that the autoencoder and the denoiser share.

All that is random is drawn from the seed and the number of the step, so a training that was killed
goes on from its last checkpoint as if nothing had happened.
"""

import copy
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from .checkpoint import load_checkpoint, read_metadata, save_checkpoint
from .errors import UserError
from .parallel import Replica, Strategy, agree, gather, mean_over_ranks, rank, ranks, shard

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
    """

    step: Tensor
    rows: slice
    generator: torch.Generator

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

    AdamW with a warm-up, a cosine decay to zero and an exponential moving average of the weights.

    Attributes:
        steps: The number of steps.
        batch_size: The number of items of a step, on all ranks together.
        accumulate: The number of micro-batches that each rank divides its items into.
        strategy: How ranks share the work: `ddp`, or `fsdp` for modules too large for one device.
        recompute: Whether activations inside blocks are computed again rather than kept.
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
    accumulate: PositiveInt = 1
    strategy: Strategy = "ddp"
    recompute: bool = False
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
        objective: The mean loss of some items, `objective(module, batch)`.
        validation: The figures of the averaged module, `validation(module)`.
        items: The number of items to train on.
        config: How to train.
        folder: Where checkpoints (a file, or a folder if there are several ranks) and
            `metrics.jsonl` are written.
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
        if config.batch_size % (ranks() * config.accumulate):
            raise UserError(
                f"expected a batch_size that {ranks()} ranks can divide into {config.accumulate} "
                f"micro-batches each, got {config.batch_size}"
            )
        self.whole = copy.deepcopy(module) if config.strategy == "fsdp" else module
        average = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(module, multi_avg_fn=average)
        self.replica = Replica(module, objective, config.strategy, recompute=config.recompute)
        if self.replica.sharded:
            shard(self.average.module)
        self.optimizer = torch.optim.AdamW(
            module.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(0.9, 0.99),
        )
        self.step = 0
        self.checkpoint = self.folder / "checkpoint"
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
        if read_metadata(self.checkpoint) is not None:
            self.load()
        saved = time.monotonic()
        bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            disable=not progress or rank() > 0,
            unit="step",
            mininterval=1.0,
        )
        running: Tensor | float = 0.0
        with bar:
            for indices in self._batches():
                loss = self.advance(indices)
                running = running + loss
                bar.update()
                if self.step % 50 == 0:
                    bar.set_postfix(loss=f"{float(running) / 50:.4f}", memory=_memory())
                    running = 0.0
                if self.step % self.config.validate_every == 0 or self.step == self.config.steps:
                    self._validate(mean_over_ranks(loss).item())
                late = time.monotonic() - saved > 60 * self.config.checkpoint_minutes
                if agree(late):
                    self.save()
                    saved = time.monotonic()
        self.save()
        if not self.replica.sharded:
            return self.average.module
        return gather(self.average.module, self.whole)

    def advance(self, indices: Tensor) -> Tensor:
        r"""Takes one step.

        Arguments:
            indices: The items of the step, on all ranks together.

        Returns:
            The loss of the items of this rank.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._schedule()
        # What modules draw themselves, as dropout does, depends on the step as well.
        torch.manual_seed(_seed(self.config.seed, 1, self.step) + 2**39)
        device = next(self.module.parameters()).device.type
        self.optimizer.zero_grad(set_to_none=True)
        parts = self._parts(len(indices))
        losses = []
        for part in parts:
            batch = Batch(indices, part, _generator(self.config.seed, 1, self.step))
            mixed = self.config.precision == "bfloat16"
            with torch.autocast(device, torch.bfloat16, enabled=mixed):
                losses.append(
                    self.replica.backward(batch, share=1 / len(parts), last=part is parts[-1])
                )
        nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip)
        self.optimizer.step()
        self.average.update_parameters(self.module)
        self.step += 1
        return torch.stack(losses).sum()

    def save(self) -> None:
        r"""Writes the checkpoint.

        It holds the weights, the averaged weights, the state of the optimizer and the step.
        """
        metadata = {"step": self.step, "config": self.config.model_dump()}
        save_checkpoint(self.checkpoint, self._tensors(), metadata)

    def load(self) -> None:
        r"""Reads the checkpoint, of however many ranks.

        Raises:
            UserError: If the checkpoint is truncated, or belongs to a training with another
                configuration or another module.
        """
        metadata = read_metadata(self.checkpoint) or {}
        if metadata.get("config") != self.config.model_dump():
            raise self._refusal("training configuration")
        self._start_optimizer()
        try:
            load_checkpoint(self.checkpoint, self._tensors())
        except ValueError:  # names or shapes of weights differ
            raise self._refusal("module") from None
        self.step = int(metadata["step"])  # type: ignore[call-overload]
        if rank() == 0:
            self._forget_metrics()

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"module/{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"average/{k}": v for k, v in self.average.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{k}": v for k, v in state.items()}
        return tensors

    def _start_optimizer(self) -> None:
        # Its moments exist from the first step on, and one of rate 0 changes nothing else.
        if not self.optimizer.state:
            for group in self.optimizer.param_groups:
                group["lr"] = 0.0
                for parameter in group["params"]:
                    parameter.grad = torch.zeros_like(parameter)
            self.optimizer.step()

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

    def _batches(self) -> Iterator[Tensor]:
        batch, seed = self.config.batch_size, self.config.seed
        per_epoch = max(self.items // batch, 1)
        epoch, order = -1, torch.empty(0)
        while self.step < self.config.steps:
            if self.step // per_epoch != epoch:
                epoch = self.step // per_epoch
                order = torch.randperm(self.items, generator=_generator(seed, 0, epoch))
            start = (self.step % per_epoch) * batch
            yield order[start : start + batch]

    def _schedule(self) -> float:
        warmup = min(1.0, (self.step + 1) / max(self.config.warmup, 1))
        return warmup * 0.5 * (1 + math.cos(math.pi * self.step / self.config.steps))

    def _validate(self, loss: float) -> None:
        average = self.average.module
        average.eval()
        with torch.no_grad():
            figures = self.validation(average)
        if rank() > 0:
            return
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


def _memory() -> str:
    r"""The largest memory so far, of the device or else of this process."""
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f}GiB"
    # In KiB, as Linux has it; macOS counts bytes.
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit:.1f}GiB"


def _generator(seed: int, stream: int, index: int) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(seed, stream, index))


def _seed(seed: int, stream: int, index: int) -> int:
    return (seed * 2 + stream) * 2**40 + index
