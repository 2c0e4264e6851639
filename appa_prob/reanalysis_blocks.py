r"""Reanalyses of any length, block by block and, in a block, some members after the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from .blocks import BlocksConfig, Span
from .generators import state_generators
from .mesh import Mesh, ParallelConfig, clip
from .parallel import rank, sum_over_ranks
from .reanalysis import SamplerConfig, assimilate, complete

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .appa import Appa
    from .observe import Observations
    from .observer import Observer

__all__ = ["Batch", "Blocks", "reanalyse"]

USUAL = BlocksConfig()


def reanalyse(
    appa: Appa,
    observations: Observations,
    times: NDArray[np.datetime64],
    *,
    members: int = 16,
    sampler: SamplerConfig | None = None,
    blocks: BlocksConfig | None = USUAL,
    seed: int = 0,
    progress: bool = False,
    parallel: ParallelConfig | None = None,
) -> Tensor:
    r"""Samples trajectories given observations, by moment matching posterior sampling through the
    decoder.

    What a state holds beside its decoded latent is drawn from the errors of the autoencoder,
    conditioned on the observations as well. If there are several ranks, each samples its part of
    the members and of their states, and all of them get all.

    Arguments:
        appa: The model.
        observations: The observations.
        times: The times of the states.
        members: The number of members.
        sampler: How to sample.
        blocks: The blocks that a long trajectory is sampled in; none for as a whole.
        seed: What all that is random depends on; a member depends on the seed and its number.
        progress: Whether to show a progress bar.
        parallel: How ranks share the work; by default each samples its part of the members.

    Returns:
        The members in physical units, with shape :math:`(M, L, C, H, W)`.

    Raises:
        UserError: If the times are too few, or not as far apart as the model was trained on, or if
            there are fewer members or windows than ranks to share them, or if the blocks don't fit
            the model.
    """
    task = Blocks(
        appa,
        observations,
        times,
        members=members,
        sampler=sampler,
        blocks=blocks,
        seed=seed,
        mesh=Mesh.of(parallel),
    )
    shape = (members, len(times), *appa.autoencoder.state_shape)
    states = appa.error.new_zeros(shape)
    for batch in task.batches(progress=progress):
        for number, own in zip(batch.numbers, batch.states(), strict=True):
            states[number, batch.own.start : batch.own.stop] = own
    return sum_over_ranks(states)


class Blocks:
    r"""The blocks of a reanalysis.

    Arguments:
        appa: The model.
        observations: The observations.
        times: The times of the states.
        members: The number of all members.
        sampler: How to sample, with `batch` members at once.
        blocks: The blocks; by default there is one.
        seed: What all that is random depends on.
        mesh: Which members and states this rank samples; by default all.

    Raises:
        UserError: If the blocks don't fit the model, or there are fewer members or windows than
            ranks to share them.
    """

    def __init__(
        self,
        appa: Appa,
        observations: Observations | Observer,
        times: NDArray[np.datetime64],
        *,
        members: int,
        sampler: SamplerConfig | None = None,
        blocks: BlocksConfig | None = None,
        seed: int = 0,
        mesh: Mesh | None = None,
    ) -> None:
        self.appa, self.observations, self.times = appa, observations, times
        self.members, self.seed = members, seed
        self.sampler, self.mesh = sampler or SamplerConfig(), mesh or Mesh()
        self.error = blocks.error if blocks else 0.0
        length = len(times)
        self.spans = blocks.spans(appa, length) if blocks else [Span(0, 0, 0, length, length)]
        self.mesh.members(members)
        for span in self.spans:
            self.piece(span)

    def piece(self, span: Span) -> range:
        r"""The states of a block that this rank samples, counted from its first."""
        return self.mesh.piece(self.appa, span.stop - span.start, self.sampler.stride)

    def known(self, span: Span) -> int:
        r"""The number of states of a block that the next one knows."""
        return self.spans[span.number + 1].known if span.number + 1 < len(self.spans) else 0

    def batches(
        self,
        *,
        done: int = 0,
        left: Sequence[int] | None = None,
        memory: Mapping[str, Tensor] | None = None,
        begun: Mapping[str, Tensor] | None = None,
        progress: bool = False,
    ) -> Iterator[Batch]:
        r"""Samples what is left; all ranks take as many batches, of which some may be empty.

        Arguments:
            done: The number of states of which all members are done.
            left: The members that are left of the next block, on all ranks; by default all.
            memory: What the next block depends on.
            begun: What the block after that depends on, of members that are done.
            progress: Whether to show a progress bar.
        """
        memory, begun, rest = memory or {}, begun or {}, range(self.members)
        spans = [span for span in self.spans if span.new > done]
        todo = [rest if left is None else left, *[rest] * (len(spans) - 1)][: len(spans)]
        steps = sum(len(self._owned(some)) for some in todo) * self.sampler.steps
        hidden = not progress or rank() > 0
        with tqdm(total=steps, disable=hidden, desc="sampling", unit="step") as bar:
            for span, some in zip(spans, todo, strict=True):
                for numbers in self._rounds(some):
                    batch = Batch(self, span, numbers, memory, begun, bar.update)
                    yield batch
                    begun = batch.memory()
                memory, begun = begun, {}

    def _owned(self, members: Sequence[int], row: int | None = None) -> list[int]:
        """Those of some members that a row of ranks samples, by default that of this rank."""
        row = self.mesh.row if row is None else row
        mine = replace(self.mesh, row=row).members(self.members)
        return [member for member in members if member in mine]

    def _rounds(self, members: Sequence[int]) -> Iterator[list[int]]:
        """The members of each batch of this rank."""
        most = max(len(self._owned(members, row)) for row in range(self.mesh.rows))
        mine, size = self._owned(members), self.sampler.batch or self.members
        for first in range(0, most, size):
            yield mine[first : first + size]


class Batch:
    r"""Some members of a block.

    Arguments:
        task: The reanalysis.
        span: The block.
        numbers: The numbers of the members, of those that this rank samples.
        memory: What the block before left.
        begun: What this block leaves of members that are done.
        advance: Called after each step with the number of members that made it.
    """

    def __init__(
        self,
        task: Blocks,
        span: Span,
        numbers: Sequence[int],
        memory: Mapping[str, Tensor],
        begun: Mapping[str, Tensor],
        advance: Callable[[int], object],
    ) -> None:
        self.task, self.span, self.numbers, self.before = task, span, list(numbers), memory
        self.begun, self.advance = begun, advance
        self.piece = task.piece(span)
        # Those that this rank gives, of those that are completed.
        start, stop = span.given.start - span.start, span.given.stop - span.start
        self.completed = clip(self.piece, start, span.stop - span.start)
        self.given = clip(self.piece, start, stop)
        self.smooth, self._memory = list[Tensor](), dict[str, Tensor]()

    @property
    def own(self) -> range:
        r"""The states that this rank gives."""
        return range(self.given.start + self.span.start, self.given.stop + self.span.start)

    @cached_property
    def latents(self) -> Tensor:
        r"""The latents, with shape :math:`(m, l, c, h, w)`."""
        task, span = self.task, self.span
        appa = task.appa
        if not self.numbers:
            return appa.error.new_zeros(0, len(self.piece), *appa.autoencoder.latent_shape)
        seen = task.observations.within(span.start, span.stop)
        past = self.before["past"][self.numbers].to(appa.error) if span.known else None
        return assimilate(
            appa,
            seen.select(seen.time >= span.known) if span.known else seen,
            task.times[span.start : span.stop],
            self.generators,
            sampler=task.sampler,
            mesh=task.mesh,
            past=past,
            error=task.error,
            advance=self.advance,
        )

    @cached_property
    def generators(self) -> list[list[torch.Generator]]:
        r"""The sources of random numbers."""
        device = self.task.appa.error.device
        return state_generators(self.task.seed, self.span.number, self.numbers, self.piece, device)

    def states(self) -> Iterator[Tensor]:
        r"""The members, one after the other, in physical units, with shape
        :math:`(l, C, H, W)`.
        """
        task, span, appa = self.task, self.span, self.task.appa
        if not self.numbers:
            return
        kept = slice(self.completed.start - self.piece.start, None)
        seen = task.observations.within(span.start, span.stop)
        seen = seen.within(self.completed.start, self.completed.stop)
        first = span.start + self.completed.start
        times = task.times[first : first + len(self.completed)]
        last, place = span.new - 1 - span.start, self.completed.start - span.known
        at = last - self.completed.start if task.known(span) and last in self.given else None
        for number, z, own in zip(self.numbers, self.latents, self.generators, strict=True):
            before = self.before["error"][number].to(appa.error) if span.known else None
            x, smooth = complete(
                appa,
                z[kept],
                seen,
                times,
                own[kept],
                task.mesh,
                before=before,
                place=place,
                at=at,
                at_once=task.sampler.states_at_once,
            )
            if smooth is not None:
                self.smooth.append(smooth)
            count = len(self.given)
            yield appa.statistics.restore(x[:count], times[:count]) if count else x[:0]

    def memory(self) -> dict[str, Tensor]:
        r"""What the next block depends on, once all states were taken: the last latents, and the
        smooth part of the error of the autoencoder at the last state; of these members, on all
        ranks, and of those before, and zeros for others.
        """
        task, span = self.task, self.span
        # In main memory: those of all members may be more than a device has.
        like, shape = task.appa.error.cpu(), task.appa.autoencoder
        known = task.known(span)
        if not known or self._memory:
            return self._memory
        first = span.new - span.start - known
        tail = clip(self.piece, first, first + known)
        past = like.new_zeros(task.members, known, *shape.latent_shape)
        latents = self.latents[:, tail.start - self.piece.start : tail.stop - self.piece.start]
        columns = torch.arange(tail.start - first, tail.stop - first)
        past[torch.tensor(self.numbers, dtype=torch.int64)[:, None], columns] = latents.to(like)
        error = like.new_zeros(task.members, *shape.state_shape)
        if self.smooth:
            error[self.numbers] = torch.stack(self.smooth).to(like)
        own = {"past": sum_over_ranks(past), "error": sum_over_ranks(error)}
        self._memory = {name: x + self.begun.get(name, 0.0) for name, x in own.items()}
        return self._memory
