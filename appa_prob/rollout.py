r"""Trajectories of any length, block by block.

.. math:: p(z_{1:L}) \approx p(z_{1:W}) \prod_j p(z_{s_j + K + 1 : s_j + W} \mid
    z_{s_j + 1 : s_j + K})

Each block is a trajectory of the denoiser whose first :math:`K` states, the overlap, are known
from the block before. If the law of trajectories is stationary and each block is drawn exactly,
then all states have the same law, and no boundary can be told from the interior.

A block depends on the seed, on its number and on the states that it overlaps, and on nothing else:
what is stopped goes on bit for bit, and a longer trajectory begins as a shorter one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from torch import Tensor

from appa_prob.samplers import DPMSolverSDE

from .errors import UserError
from .generators import state_generators
from .known_past import know_past
from .mesh import Mesh, clip
from .reanalysis import SamplerConfig, noise_times

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .appa import Appa

__all__ = [
    "Block",
    "Rollout",
    "RolloutConfig",
    "check_known",
    "decode_states",
    "state_times",
]


class RolloutConfig(BaseModel):
    r"""How trajectories go on.

    Attributes:
        overlap: The number of states of a block that the block before knows already; by default
            half a window.
        block: The number of states of a block; by default those of a window of the denoiser.
        error: The standard deviation of the errors of known latents, which have unit variance.
        residual: Whether what the autoencoder loses is drawn and added to decoded states.
    """

    model_config = ConfigDict(extra="forbid")

    overlap: PositiveInt | None = None
    block: PositiveInt | None = None
    error: PositiveFloat = 0.02
    residual: bool = True


@dataclass(frozen=True, eq=False)
class Block:
    r"""New states of a trajectory, of which a rank holds the members and states that it drew.

    Arguments:
        number: The number of the block.
        first: The index of the first of its new states.
        stop: The index behind the last of them.
        own: Which of them this rank holds, counted from the first.
        states: These in physical units, with shape :math:`(M, n, C, H, W)`.
        past: The last latents of all members, which the next block overlaps, with shape
            :math:`(M, K, c, h, w)`.
        error: The smooth part of the error of the autoencoder at the last state, of all members,
            with shape :math:`(M, C, H, W)`, if what it loses is drawn.
    """

    number: int
    first: int
    stop: int
    own: range
    states: Tensor
    past: Tensor
    error: Tensor | None = None

    @property
    def memory(self) -> dict[str, Tensor]:
        r"""What the next block depends on."""
        memory = {"past": self.past, "number": torch.tensor(self.number + 1)}
        return memory if self.error is None else memory | {"error": self.error}


class Rollout:
    r"""The blocks of a trajectory.

    Arguments:
        appa: The model.
        start: The time of the first state, known ones included.
        length: The number of states, known ones included.
        members: The number of members.
        rollout: How trajectories go on.
        sampler: How to sample a block.
        seed: What all that is random depends on.
        mesh: Which members and states this rank draws; by default all.

    Raises:
        UserError: If blocks are shorter than the window of the model or overlap wholly, or if
            there are fewer members or windows than ranks to share them.
    """

    def __init__(
        self,
        appa: Appa,
        start: np.datetime64,
        length: int,
        *,
        members: int,
        rollout: RolloutConfig | None = None,
        sampler: SamplerConfig | None = None,
        seed: int = 0,
        mesh: Mesh | None = None,
    ) -> None:
        self.config = rollout or RolloutConfig()
        self.sampler = sampler or SamplerConfig()
        self.block = self.config.block or appa.window
        self.overlap = self.config.overlap or appa.window // 2
        if self.block < appa.window:
            raise UserError(
                f"expected blocks of at least {appa.window} states, the window of the model, got "
                f"{self.block}"
            )
        check_known(appa, self.overlap)
        self.appa, self.start, self.length = appa, start, length
        self.members, self.seed, self.mesh = members, seed, mesh or Mesh()
        self.mine = self.mesh.members(members)
        self.piece = self.mesh.piece(appa, self.block, self.sampler.stride)

    @property
    def fresh(self) -> int:
        r"""The number of new states of a block after the first."""
        return self.block - self.overlap

    def times(self, first: int, count: int) -> NDArray[np.datetime64]:
        r"""The times of some states."""
        return state_times(self.start, count, self.appa.step, first)

    def blocks(
        self,
        past: Tensor | None = None,
        *,
        first: int = 0,
        number: int = 0,
        error: Tensor | None = None,
    ) -> Iterator[Block]:
        r"""Draws the blocks, one after the other.

        Arguments:
            past: The latents before the first new state, with shape :math:`(M, K, c, h, w)` or
                :math:`(1, K, c, h, w)`; by default none is known.
            first: The index of the first new state.
            number: The number of the first block.
            error: The smooth part of the error of the autoencoder at the state before the first
                new one, with shape :math:`(M, C, H, W)`; by default it is not known.
        """
        while first < self.length:
            block = self._draw(past, first, number, error)
            yield block
            past, first, number, error = block.past, block.stop, number + 1, block.error

    @torch.no_grad()
    def _draw(self, past: Tensor | None, first: int, number: int, error: Tensor | None) -> Block:
        count = 0 if past is None else past.shape[1]
        times = self.times(first - count, self.block)
        generators = state_generators(
            self.seed, number, self.mine, self.piece, self.appa.error.device
        )
        if past is not None:
            past = past.expand(self.members, *past.shape[1:])[self.mine.start : self.mine.stop]
        size = self.sampler.batch or len(self.mine)
        z = torch.cat(
            [
                self._sample(
                    None if past is None else past[i : i + size], times, generators[i : i + size]
                )
                for i in range(0, len(self.mine), size)
            ]
        )
        stop = min(self.block, count + self.length - first)
        new, last = (
            clip(self.piece, *part)
            for part in ((count, stop), (self.block - self.overlap, self.block))
        )
        at = slice(new.start - self.piece.start, new.stop - self.piece.start)
        own = range(new.start - count, new.stop - count)
        states, error = decode_states(
            self.appa,
            z[:, at],
            times[new.start : new.stop],
            [g[at] for g in generators] if self.config.residual else None,
            None if error is None else error[self.mine.start : self.mine.stop],
            mesh=self.mesh,
            first=own.start == 0 and len(own) > 0,
        )
        if error is not None:
            error = self.mesh.last(error, self.members)
        tail = z[:, last.start - self.piece.start : last.stop - self.piece.start].clone()
        shifted = range(
            last.start - self.block + self.overlap, last.stop - self.block + self.overlap
        )
        known = self.mesh.assemble(tail, (self.members, self.overlap), self.mine, shifted)
        return Block(number, first, first + stop - count, own, states, known, error)

    def _sample(
        self,
        past: Tensor | None,
        times: NDArray[np.datetime64],
        generators: Sequence[Sequence[torch.Generator]],
    ) -> Tensor:
        """The latents of a block of some members, known ones included."""
        precision = None if self.sampler.precision == "float32" else torch.bfloat16
        denoiser = self.appa.trajectory_denoiser(
            times,
            self.sampler.stride,
            precision,
            self.mesh.group,
            self.sampler.windows_at_once,
        )
        if past is not None:
            past = past[:, :0] if self.mesh.column else past  # it lies in the first piece
            denoiser = know_past(self.appa, denoiser, past, self.config.error, self.sampler)
        integrator = DPMSolverSDE(noise_times(self.appa, self.sampler))
        noise = integrator.noise(denoiser, (len(generators),), generator=generators)
        z = integrator(denoiser, noise, generator=generators)
        return z if past is None else torch.cat((past, z[:, past.shape[1] :]), dim=1)


@torch.no_grad()
def decode_states(
    appa: Appa,
    z: Tensor,
    times: NDArray[np.datetime64],
    generators: Sequence[Sequence[torch.Generator]] | None = None,
    error: Tensor | None = None,
    *,
    mesh: Mesh | None = None,
    first: bool = True,
) -> tuple[Tensor, Tensor | None]:
    r"""Decodes latents to states in physical units.

    Arguments:
        appa: The model.
        z: The latents, with shape :math:`(M, L, c, h, w)`.
        times: Their times.
        generators: A source of random numbers for each state of each member, to draw what the
            autoencoder loses; by default that is left out.
        error: The smooth part of what was lost at the state before, with shape
            :math:`(M, C, H, W)`, see :class:`ReconstructionError`; by default it is not known.
        mesh: The place of this rank among those that hold pieces of the trajectories.
        first: Whether the piece of this rank is the first one.

    Returns:
        The states, with shape :math:`(M, L, C, H, W)`, and the smooth part of what is lost at the
        last one, if it is drawn.
    """
    states, smooth = [], []
    for i, member in enumerate(z):
        x = appa.decode(member) if len(member) else z.new_zeros(0, *appa.autoencoder.state_shape)
        if generators is not None:
            before = None if error is None else error[i]
            lost, before = appa.reconstruction.sample(
                len(x), generators[i], before, mesh=mesh, first=first
            )
            x = x + lost
            smooth.append(before)
        states.append(appa.statistics.restore(x, times) if len(x) else x)
    return torch.stack(states), torch.stack(smooth) if smooth else None


def state_times(
    start: np.datetime64, count: int, step: np.timedelta64, first: int = 0
) -> NDArray[np.datetime64]:
    r"""The times of states, in nanoseconds, :attr:`Appa.step` apart."""
    times: NDArray[np.datetime64] = start + np.arange(first, first + count) * step
    return times.astype("datetime64[ns]")


def check_known(appa: Appa, states: int) -> None:
    r"""Checks a number of known states.

    Raises:
        UserError: If it leaves no new state in a window.
    """
    if not states < appa.window:
        raise UserError(
            f"expected fewer known states than the {appa.window} of a window of the model, got "
            f"{states}"
        )
