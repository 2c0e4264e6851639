r"""Quality control of a filter, against forecasts from the cycle before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .mesh import Mesh
from .observations import Observations
from .parallel import sum_over_ranks
from .quality import doubtful, doubtful_by_climatology, log_refused, member_moments
from .rollout import Rollout, RolloutConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .appa import Appa
    from .filtering import FilterConfig

__all__ = ["FilterControl"]

BLOCKS = 2**20  # numbers of blocks of forecasts begin here, far from those of cycles


class FilterControl:
    r"""What each cycle refuses.

    The new observations of a cycle are compared with a forecast of their states, which the members
    of the cycle before are carried on to; those of the first cycle with the climatology. What was
    refused once is refused in all windows that it lies in.

    Arguments:
        appa: The model.
        times: The times of all states.
        config: The cycles.
        limit: How many standard deviations observations may be off.
        seed: What all that is random depends on.
        mesh: Which members and states this rank draws.
    """

    def __init__(
        self,
        appa: Appa,
        times: NDArray[np.datetime64],
        config: FilterConfig,
        limit: float,
        seed: int,
        mesh: Mesh,
    ) -> None:
        self.appa, self.times, self.config = appa, times, config
        self.limit, self.seed, self.mesh = limit, seed, mesh
        self.states, self.known = config.states or appa.window, appa.window // 2

    def __call__(
        self, cycle: int, seen: Observations, memory: Mapping[str, Tensor]
    ) -> tuple[NDArray[np.bool_], dict[str, Tensor]]:
        r"""What a cycle refuses.

        Arguments:
            cycle: The number of the cycle.
            seen: The observations of its window.
            memory: What the cycle before it left, with its last latents as `tail`.

        Returns:
            Which observations are refused, and what the next cycle has to know of that.
        """
        doubts = np.zeros(len(seen), dtype=bool)
        fresh = np.ones(len(seen), dtype=bool)
        start = cycle * self.config.every
        if cycle == 0:
            window = self.times[start : start + self.states]
            own = self.appa.statistics, self.appa.variability
            doubts = doubtful_by_climatology(seen, *own, window, self.limit)
        else:
            fresh = seen.time >= self.states - self.config.every
            doubts[~fresh] = memory["doubts"].cpu().numpy()
            if fresh.any():
                doubts[fresh] = self._off_forecast(cycle, seen.select(fresh), memory["tail"])
        count = int(doubts[fresh].sum())
        log_refused(count, int(fresh.sum()), f"cycle {cycle + 1}: ")
        counts = memory.get("rejected_observations", torch.zeros(0, dtype=torch.int64))
        return doubts, {
            "doubts": torch.as_tensor(doubts[seen.time >= self.config.every]),
            "rejected_observations": torch.cat((counts.cpu(), torch.tensor([count]))),
        }

    def _off_forecast(self, cycle: int, seen: Observations, tail: Tensor) -> NDArray[np.bool_]:
        every, members = self.config.every, self.config.members
        start = cycle * every
        begin = start + self.states - every - self.known  # the first state that is known
        rollout = Rollout(
            self.appa,
            self.times[begin],
            self.known + every,
            members=members,
            # As long as the windows of cycles, which ranks can share.
            rollout=RolloutConfig(overlap=self.known, block=self.states),
            sampler=self.config.sampler,
            seed=self.seed,
            mesh=self.mesh,
        )
        found = torch.full((len(rollout.mine), len(seen)), torch.nan)
        blocks = -(-every // rollout.fresh)
        number = BLOCKS + cycle * blocks
        for block in rollout.blocks(tail, first=self.known, number=number):
            first = begin + block.first - start + block.own.start
            stop = first + len(block.own)
            if stop <= 0 or not len(block.own):
                continue
            skipped = max(-first, 0)  # states between two windows
            first += skipped
            here = torch.as_tensor((seen.time >= first) & (seen.time < stop))
            states = block.states[:, skipped:].cpu()
            found[:, here] = seen.within(first, stop).operator(states)
        moments = member_moments(found, members, sum_over_ranks)
        return doubtful(seen, *moments, self.limit)
