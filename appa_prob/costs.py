r"""What tasks cost, from models without memory: operations and bytes of every kind of step.

Passes through the networks run on the meta device, where tensors have shapes and no values. Their
products are counted, and the bytes that are alive at once. Scores of attention are left out of
these, since fused kernels never keep them; what kernels need as workspace comes on top.

A step of a guided sampler is composed of such passes: with :math:`F` a pass and :math:`B` one
back, with respect to the input alone, through the network of the denoiser (:math:`n`) and through
the decoder (:math:`d`) of each of :math:`S` observed states, :math:`k` iterations of MMPS take

.. math:: F_n + S F_d + k \, (B_n + S B_d + S F_d)

where the last term is a forward product, which costs a pass of the decoder. Decoders are run one
state after another, so that their intermediate results are alive for one state only.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from .model_config import ModelConfig

__all__ = ["Cost", "Passes", "count_parameters", "measure", "passes", "task_costs"]

# Weights, two moments of the optimiser and a running mean, in single precision.
TRAINED = 16


@dataclass(frozen=True)
class Cost:
    r"""The cost of a pass or of a step.

    Arguments:
        flops: The floating point operations, a multiplication and an addition being two.
        memory: The bytes that are alive at once.
    """

    flops: float
    memory: float

    def then(self, *others: Cost) -> Cost:
        r"""The cost of this and others, one after another."""
        every = (self, *others)
        return Cost(sum(c.flops for c in every), max(c.memory for c in every))

    def times(self, n: float) -> Cost:
        r"""The cost of this `n` times, one after another."""
        return Cost(n * self.flops, self.memory)

    def beside(self, memory: float) -> Cost:
        r"""The cost with bytes that are there all the time."""
        return Cost(self.flops, self.memory + memory)


@dataclass(frozen=True)
class Passes:
    r"""The costs of a pass, one that keeps what a pass back needs, and the pass back.

    Arguments:
        forward: The pass without gradients.
        kept: The pass that keeps its intermediate results.
        back: The pass back, with these results.
    """

    forward: Cost
    kept: Cost
    back: Cost


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the bytes of tensors that are alive, but for scores of attention."""

    def __init__(self, tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tokens, self.now, self.peak = tokens, 0, 0
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, Tensor):  # what was there before is not counted
                self.seen.add(x.untyped_storage())
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.shape[-2:] != (self.tokens, self.tokens):
                self._add(x.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage not in self.seen:
            self.seen.add(storage)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, storage.nbytes())

    def _remove(self, size: int) -> None:
        self.now -= size


def measure(function: Callable[[], object], tokens: int = -1) -> Cost:
    r"""Runs a function on the meta device and counts.

    Arguments:
        function: The function.
        tokens: The number of tokens whose attention to each other is left out of the memory.

    Example:
        >>> x = torch.empty(8, 8, device="meta")
        >>> measure(lambda: (x @ x) @ x)
        Cost(flops=2048, memory=512)
    """
    with FlopCounterMode(display=False) as counter, _Alive(tokens) as alive:
        result = function()
        del result
    return Cost(counter.get_total_flops(), alive.peak)


def passes(function: Callable[[Tensor], Tensor], x: Tensor, tokens: int = -1) -> Passes:
    r"""Measures the passes through a function, with respect to its input.

    Arguments:
        function: The function.
        x: The input, on the meta device.
        tokens: As for :func:`measure`.

    Example:
        >>> w = torch.empty(8, 8, device="meta")
        >>> found = passes(lambda x: x @ w, torch.empty(4, 8, device="meta"))
        >>> found.forward.flops, found.back.flops
        (512, 512)
    """

    def back() -> Tensor:
        leaf = x.requires_grad_()
        y = function(leaf.view_as(leaf))  # hooks of the counter can't be on leaves
        return torch.autograd.grad(y, leaf, torch.empty_like(y))[0]

    with torch.no_grad():
        forward = measure(lambda: function(x), tokens)
    both = measure(back, tokens)
    kept = Cost(forward.flops, both.memory)
    return Passes(forward, kept, Cost(both.flops - forward.flops, both.memory))


def training(module: nn.Module, function: Callable[[], Tensor], tokens: int = -1) -> Cost:
    r"""The cost of a step of training on one example, with AdamW and a running mean.

    Arguments:
        module: What is trained.
        function: The pass.
        tokens: As for :func:`measure`.
    """
    parameters = [p.requires_grad_() for p in module.parameters()]

    def step() -> tuple[Tensor, ...]:
        y = function()
        return torch.autograd.grad(y, parameters, torch.empty_like(y), allow_unused=True)

    cost = measure(step, tokens).beside(TRAINED * count_parameters(module))
    module.requires_grad_(False)
    return cost


def count_parameters(module: nn.Module | None) -> int:
    r"""The number of parameters of a module, 0 if there is none.

    Example:
        >>> count_parameters(nn.Linear(3, 2))
        8
    """
    return 0 if module is None else sum(p.numel() for p in module.parameters())


def task_costs(config: ModelConfig, iterations: int = 3) -> dict[str, Cost]:
    r"""The costs of tasks, in single precision.

    Arguments:
        config: The sizes of the model.
        iterations: The number :math:`k` of iterations of MMPS.

    Returns:
        The cost of each task by a text that says what of.

    Example:
        >>> sizes = {"latent_channels": 2, "widths": (4,), "blocks": (1,)}
        >>> tiny = ModelConfig(channels=3, grid=(8, 16), autoencoder=sizes)
        >>> list(task_costs(tiny))
        ['train autoencoder, a state', 'encode, a state', 'decode, a state']
    """
    autoencoder, network = config.build()
    autoencoder.requires_grad_(False)
    state, latent = (
        torch.empty(1, *shape, device="meta")
        for shape in (autoencoder.state_shape, autoencoder.latent_shape)
    )
    weights = 4 * count_parameters(autoencoder)
    encode = passes(autoencoder.encode, state)
    decode = passes(autoencoder.decode, latent)
    costs = {
        "train autoencoder, a state": training(autoencoder, lambda: autoencoder(state)[0]),
        "encode, a state": encode.forward.beside(weights),
        "decode, a state": decode.forward.beside(weights),
    }
    if network is None:
        return costs
    assert config.denoiser is not None
    length, tokens = config.denoiser.window, len(network.coordinates)
    x = torch.empty(1, length, *autoencoder.latent_shape, device="meta")
    date, level = torch.empty(length, 4, device="meta"), torch.empty(1, device="meta")
    network.requires_grad_(False)

    def denoise(x: Tensor) -> Tensor:
        y: Tensor = network(x, level, date=date)
        return y

    window = passes(denoise, x, tokens)
    own = 4 * count_parameters(network)
    # What the pass through the network keeps is alive while decoders run.
    iteration = window.back.then(decode.back.then(decode.forward).times(length))
    guided = window.kept.then(decode.kept.times(length), iteration.times(iterations))
    together = window.kept.memory + decode.kept.memory
    return costs | {
        "train denoiser, a window": training(network, lambda: denoise(x), tokens),
        "sample, a window a step": window.forward.beside(own),
        "forecast, a window a step": window.kept.then(window.back.times(iterations)).beside(own),
        "reanalyse, a window a step": Cost(guided.flops, together).beside(own + weights),
    }
