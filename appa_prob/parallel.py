r"""Training and sampling on several ranks, as `torchrun` starts them.

Without it there is one rank, and nothing here does anything.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

__all__ = ["Replica", "Strategy", "mean_over_ranks", "own_device", "process_group"]

Strategy = Literal["ddp", "fsdp"]


@contextmanager
def process_group() -> Iterator[torch.device]:
    r"""Joins the process group that `torchrun` describes, if it started this process.

    Yields:
        The device of this rank.
    """
    device = own_device()
    if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        yield device
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def own_device() -> torch.device:
    r"""The device of this rank: a GPU if there are any, else the CPU.

    Example:
        >>> own_device().type in ("cpu", "cuda")
        True
    """
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def rank() -> int:
    r"""The number of this rank."""
    return dist.get_rank() if dist.is_initialized() else 0


def ranks() -> int:
    r"""The number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean_over_ranks(x: Tensor) -> Tensor:
    r"""The mean of a tensor over all ranks."""
    if ranks() == 1:
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / ranks()


def sum_over_ranks(x: Tensor) -> Tensor:
    r"""The sum of a tensor over all ranks, on the device of the tensor."""
    if ranks() == 1:
        return x
    total = x.clone()
    dist.all_reduce(total)
    return total


def agree(decision: bool) -> bool:
    r"""What the first rank decides."""
    if ranks() == 1:
        return decision
    chosen = torch.tensor(float(decision if rank() == 0 else False))
    dist.broadcast(chosen, 0)
    return bool(chosen)


def share(count: int) -> range:
    r"""Which of some items are the part of this rank.

    Example:
        >>> share(16)
        range(0, 16)
    """
    return range(rank() * count // ranks(), (rank() + 1) * count // ranks())


def full_tensor(x: Tensor) -> Tensor:
    r"""A tensor whose parts may lie on several ranks, as a whole on each of them."""
    return x.full_tensor() if isinstance(x, DTensor) else x


class Replica:
    r"""A module in training, and its loss, on all ranks.

    With `"ddp"` each rank holds the whole module, and gradients are averaged
    (:class:`~torch.nn.parallel.DistributedDataParallel`); with `"fsdp"` each rank holds a part of
    every weight, gradient and moment
    (:func:`~torch.distributed.fsdp.fully_shard`, block by block).

    Arguments:
        module: The module; it is changed in place.
        loss: Its loss, `loss(module, ...)`.
        strategy: How ranks share the work.
        recompute: Whether the activations inside blocks are computed again in the backward pass
            rather than kept.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[..., Tensor],
        strategy: Strategy = "ddp",
        *,
        recompute: bool = False,
    ) -> None:
        if recompute:
            for block in blocks(module):
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        self.sharded = shards(strategy)
        if self.sharded:
            shard(module)
        self.module = module
        self.loss: nn.Module = _Loss(module, loss)
        if dist.is_initialized() and not self.sharded:
            self.loss = DistributedDataParallel(self.loss)

    def backward(self, *arguments: object, share: float, last: bool) -> Tensor:
        r"""Adds the gradient of the loss of a micro-batch.

        Arguments:
            arguments: What the loss depends on beside the module.
            share: The share of this micro-batch in the loss of this rank.
            last: Whether it is the last one of a step, after which ranks exchange gradients.

        Returns:
            Its part of the loss.
        """
        if self.sharded:
            self.module.set_requires_gradient_sync(last)  # type: ignore[operator]
        waiting = isinstance(self.loss, DistributedDataParallel) and not last
        with self.loss.no_sync() if waiting else nullcontext():  # type: ignore[operator]
            loss: Tensor = share * self.loss(*arguments)
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def shards(strategy: Strategy) -> bool:
    r"""Whether a strategy spreads weights over the ranks that there are."""
    return strategy == "fsdp" and dist.is_initialized()


def shard(module: nn.Module) -> None:
    r"""Spreads the weights of a module over all ranks, in place."""
    from torch.distributed.fsdp import fully_shard

    for block in blocks(module):
        fully_shard(block)
    # By default those outside blocks would stay whole after a pass that no backward one follows.
    fully_shard(module, reshard_after_forward=True)


def gather(module: nn.Module, like: nn.Module) -> nn.Module:
    r"""A copy of a module with whole weights.

    Arguments:
        module: The module, whose weights may be spread over ranks.
        like: The same module with whole weights, whichever.
    """
    whole = copy.deepcopy(like)
    whole.load_state_dict({k: full_tensor(v) for k, v in module.state_dict().items()})
    return whole


class _Loss(nn.Module):
    # What averages gradients over ranks wants a module whose output is the loss.
    def __init__(self, module: nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module, self.function = module, loss

    def forward(self, *arguments: object) -> Tensor:
        return self.function(self.module, *arguments)


def blocks(module: nn.Module) -> list[nn.Module]:
    lists = [m for m in module.modules() if isinstance(m, nn.ModuleList)]
    return [block for some in lists for block in some if any(True for _ in block.parameters())]
