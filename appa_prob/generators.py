r"""Sources of random numbers, one for each state of each member.

What is drawn for a state depends on the seed, the number of the block, the member and the place of
the state in the block: neither on what is drawn beside it nor on which rank draws it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

__all__ = ["state_generators"]


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


def _generator(seed: int, key: tuple[int, ...], device: torch.device | str) -> torch.Generator:
    words = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(words[0]) >> 1)
