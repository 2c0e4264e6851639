r"""Sources of random numbers, one for each state of each member.

What is drawn for a state depends on the seed, the number of the block, the member and the place of
the state in the block: neither on what is drawn beside it nor on which rank draws it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["noise_by_state", "state_generators", "time_generators"]


def state_generators(
    seed: int,
    number: int,
    members: Iterable[int],
    states: Iterable[int],
    device: torch.device | str = "cpu",
) -> list[list[torch.Generator]]:
    r"""A source of random numbers for each state of each member.

    Arguments:
        seed: What all that is random depends on.
        number: The number of a block.
        members: The members.
        states: The states of the block.
        device: The device of what is drawn.

    Returns:
        The sources, a list for each member.

    Example:
        >>> (a, b), (c, d) = state_generators(0, 3, range(2), range(5, 7))
        >>> len({g.initial_seed() for g in (a, b, c, d)})
        4
        >>> state_generators(0, 3, [1], [6])[0][0].initial_seed() == d.initial_seed()
        True
    """
    places = list(states)
    return [
        [_generator(seed, (number, member, place), device) for place in places]
        for member in members
    ]


def time_generators(seed: int, times: NDArray[np.datetime64]) -> list[torch.Generator]:
    r"""A source of random numbers for each of some times.

    Arguments:
        seed: What all that is random depends on.
        times: The times.

    Example:
        >>> times = np.array(["2004-01-01T00", "2004-01-01T06"], dtype="datetime64[ns]")
        >>> first, second = time_generators(0, times)
        >>> time_generators(0, times[1:])[0].initial_seed() == second.initial_seed()
        True
    """
    # Spawn keys are not negative; times before 1970 are.
    seconds = times.astype("datetime64[s]").astype(np.int64).astype(np.uint64)
    return [_generator(seed, (int(second),), "cpu") for second in seconds]


def noise_by_state(
    time: NDArray[np.int64], generators: Sequence[torch.Generator], like: Tensor
) -> Tensor:
    r"""White noise for observations, those of a state from its own source.

    Arguments:
        time: The index of the state of each, with shape :math:`(n)`.
        generators: The sources, one for each state.
        like: A tensor of the type that is wanted.

    Returns:
        The noise, with shape :math:`(n)`.

    Example:
        >>> sources = [torch.Generator().manual_seed(i) for i in range(2)]
        >>> noise_by_state(np.array([0, 1, 0]), sources, torch.zeros(())).shape
        torch.Size([3])
    """
    noise = like.new_empty(len(time))
    order = np.argsort(time, kind="stable")
    bounds = np.searchsorted(time[order], np.arange(len(generators) + 1))
    for i, generator in enumerate(generators):
        here = torch.as_tensor(order[bounds[i] : bounds[i + 1]], device=like.device)
        drawn = torch.randn(here.shape, generator=generator, device=like.device)
        noise[here] = drawn.to(like)
    return noise


def _generator(seed: int, key: tuple[int, ...], device: torch.device | str) -> torch.Generator:
    words = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(words[0]) >> 1)
