r"""In which order items are trained on, and reading them ahead of time.

The order is a function of the seed and the number of the epoch, and the items of a step of the
number of the step as well: a training that goes on needs to know no more than its step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

__all__ = ["Items", "Steps", "epoch_order", "read_ahead", "step_seed"]


class Items(Protocol):
    r"""What is trained on: `items[indices]` gives some of them, a tensor or several, stacked."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor, /) -> Any: ...


def epoch_order(items: int, generator: torch.Generator, block: int = 1, pool: int = 1) -> Tensor:
    r"""The order of the items of an epoch.

    It is random, but where items are read in blocks: then these are in random order, and the items
    of `pool` of them at a time are mixed, so that no more blocks need be in memory.

    Arguments:
        items: The number of items.
        generator: The source of what is random.
        block: The number of items of a block.
        pool: The number of blocks that are mixed.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> order = epoch_order(12, generator, block=3, pool=2)
        >>> sorted({int(i) // 3 for i in order[:6]}), len(set(order.tolist()))
        ([0, 1], 12)
    """
    if block == 1:
        return torch.randperm(items, generator=generator)
    parts = torch.split(torch.arange(items), block)
    blocks = torch.randperm(len(parts), generator=generator).tolist()
    order = []
    for first in range(0, len(blocks), pool):
        mixed = torch.cat([parts[number] for number in blocks[first : first + pool]])
        order.append(mixed[torch.randperm(len(mixed), generator=generator)])
    return torch.cat(order)


@dataclass(frozen=True)
class Steps:
    r"""The indices of the items of each step, from one step on to the last.

    Arguments:
        items: The number of items.
        batch: The number of items of a step.
        first: The first step.
        last: The step before which to end.
        seed: What the order depends on, with the number of the epoch.
        block: The number of items of a block, see :func:`epoch_order`.
        pool: The number of blocks that are mixed.

    Example:
        >>> whole, rest = (list(Steps(10, 4, first, 5, seed=0)) for first in (0, 3))
        >>> len(whole), all(torch.equal(a, b) for a, b in zip(whole[3:], rest, strict=True))
        (5, True)
    """

    items: int
    batch: int
    first: int
    last: int
    seed: int
    block: int = 1
    pool: int = 1

    def __iter__(self) -> Iterator[Tensor]:
        per_epoch = max(self.items // self.batch, 1)
        epoch, order = -1, torch.empty(0)
        for step in range(self.first, self.last):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                generator = torch.Generator().manual_seed(step_seed(self.seed, 0, epoch))
                order = epoch_order(self.items, generator, self.block, self.pool)
            start = (step % per_epoch) * self.batch
            yield order[start : start + self.batch]


def step_seed(seed: int, stream: int, index: int) -> int:
    r"""The seed of what is random in a step or an epoch, from that of all of the training.

    Arguments:
        seed: The seed of the training.
        stream: What is random: 0 for orders, 1 for what batches draw, 2 for modules themselves.
        index: The number of the step or of the epoch.
    """
    # Of a seed the generators of CPUs take no more than 32 bits: these depend on all three.
    return int(np.random.SeedSequence((seed, stream, index)).generate_state(1)[0])


def read_ahead(
    items: Items, steps: Iterable[Tensor], rows: slice, *, workers: int, ahead: int
) -> Iterator[tuple[Tensor, Any]]:
    r"""Reads the items of steps, in other processes, before they are needed.

    Arguments:
        items: The items; processes get copies of it.
        steps: The indices of the items of each step.
        rows: Which of the items of a step to read: those of this rank.
        workers: The number of processes; with 0, items are read here, when they are needed.
        ahead: The number of steps that each process is ahead.

    Returns:
        For each step all of its indices, and the items that were read.
    """
    options: dict[str, Any] = {}
    if workers:
        # Forks would share the threads and the connections of what reads remote stores.
        options = {"prefetch_factor": ahead, "multiprocessing_context": "spawn"}
    return iter(
        DataLoader(
            _Rows(items, rows),
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            collate_fn=_as_they_are,
            pin_memory=torch.cuda.is_available(),
            **options,
        )
    )


def _as_they_are(item: Any) -> Any:
    return item  # where the default makes lists of tuples


class _Rows(Dataset[Any]):
    def __init__(self, items: Items, rows: slice) -> None:
        self.items, self.rows = items, rows

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Any]:
        return indices, self.items[indices[self.rows]]
