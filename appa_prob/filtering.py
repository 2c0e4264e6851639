r"""Filtering: the present state given all observations so far, updated by each new batch of them.

.. math:: x_l \sim p(x_l \mid y_{1:l})

Each cycle assimilates a window that ends at the present. What was observed before that window can
come in by its first states: the mean of the cycle that ended with them counts as an observation,
with the spread of its members as its error. It was drawn given the observations until then, and
those of the other states of the window are new to it, so that none is used twice.

What a window observes is drawn, or read, when its turn comes: the errors of observations depend on
their time, so that windows that overlap agree on what they share, and nothing has to be kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import xarray as xr
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from .appa import Appa
from .dataset import Source
from .errors import UserError
from .experiment import Networks
from .filter_control import FilterControl
from .generators import state_generators
from .mesh import Mesh, ParallelConfig, clip
from .observer import Observer
from .parallel import own_device
from .reanalysis import SamplerConfig, assimilate, complete
from .rollout import check_known
from .run import Part, describe_run, draw_run
from .truth import Missing, open_truth

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FilterConfig", "filter_cycles", "run_filter"]


class FilterConfig(BaseModel):
    r"""What to filter.

    Attributes:
        model: The name of a model, or its folder.
        data: The dataset that is the truth; `sample` is the one that ships with the package; null
            if there is none, and observations come from files.
        start: The time of the first state of the first window.
        cycles: The number of cycles; each gives one estimate, at the end of its window.
        every: The number of states between two cycles, that is, of a new batch of observations.
        states: The number of states of a window; by default those of a window of the denoiser.
        overlap: The number of states of a window that an earlier cycle tells of; 0 for none: each
            cycle then forgets what was observed before its window.
        members: The number of members of the ensemble.
        networks: The observing networks, as :mod:`appa_prob.declaration` describes them.
        missing: Whether observations that are not finite are refused, or masked out.
        quality_control: How many standard deviations observations may be off a forecast from the
            cycle before, or, in the first cycle, off the climatology; those that are more are left
            out and counted. None are by default.
        sampler: How to sample.
        parallel: How ranks share the work.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = "appa-small"
    data: Source | None = Path("sample")
    start: str
    cycles: PositiveInt
    every: PositiveInt = 1
    states: PositiveInt | None = None
    overlap: NonNegativeInt = 0
    members: Annotated[int, Field(ge=2)] = 16
    networks: Networks
    missing: Missing = "refuse"
    quality_control: PositiveFloat | None = None
    sampler: SamplerConfig = SamplerConfig()
    parallel: ParallelConfig = ParallelConfig()


def run_filter(
    config: FilterConfig,
    output: Path | None = None,
    *,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> xr.Dataset:
    r"""Draws observations from a dataset, and filters the present state in cycles.

    Arguments:
        config: What to filter.
        output: The zarr store to write, cycle by cycle; a run that was killed is gone on with. By
            default all states are kept in memory.
        seed: What all that is random depends on.
        overwrite: Whether the output may be replaced.
        progress: Whether to show a progress bar.

    Returns:
        The estimates in physical units, one state for each cycle.

    Raises:
        UserError: If the configuration, the data or the model don't fit together, or the output
            exists.
    """
    appa = Appa.from_pretrained(config.model, own_device())
    mesh = Mesh.of(config.parallel)
    states = config.states or appa.window
    config = config.model_copy(update={"states": states})
    check_overlap(appa, states, config.overlap, config.every)
    length = states + (config.cycles - 1) * config.every
    truth, times = open_truth(appa, config.data, config.start, length, config.missing)
    observations = Observer(appa, config.networks, truth, times, seed, config.missing)
    first = observations.within(0, states, required=True)
    appa.trajectory_denoiser(times[:states])  # which says what is wrong with the times
    return draw_run(
        lambda done, memory: filter_cycles(
            appa, observations, times, config, seed=seed, first=done, memory=memory, mesh=mesh
        ),
        appa,
        times[states - 1 :: config.every],
        config.members,
        parts=(1,),
        attributes=describe_run(
            "filter", "States filtered in cycles", config, seed, appa, first.values
        ),
        output=output,
        overwrite=overwrite,
        progress=progress,
        label="filtering",
        mesh=mesh,
    )


def filter_cycles(
    appa: Appa,
    observations: Observer,
    times: NDArray[np.datetime64],
    config: FilterConfig,
    *,
    seed: int = 0,
    first: int = 0,
    memory: Mapping[str, Tensor] | None = None,
    mesh: Mesh | None = None,
) -> Iterator[Part]:
    r"""The estimates of the present state, cycle by cycle.

    Arguments:
        appa: The model.
        observations: Gives the observations of a window, which may be none.
        times: The times.
        config: The cycles.
        seed: What all that is random depends on.
        first: The number of the first cycle that is left.
        memory: What the cycle before it left.
        mesh: Which members and states this rank draws; by default all.
    """
    mesh = mesh or Mesh()
    states = config.states or appa.window
    lag = (states - config.overlap) // config.every
    memory = memory or {}
    kept = list(memory.get("past", []))
    limit, doubts = config.quality_control, dict[str, Tensor]()
    quality = FilterControl(appa, times, config, limit, seed, mesh) if limit else None
    mine, piece = mesh.members(config.members), mesh.piece(appa, states, config.sampler.stride)
    ends = piece.stop == states  # whether this rank draws the present state
    for cycle in range(first, config.cycles):
        start = cycle * config.every
        window, now = times[start : start + states], times[start + states - 1 : start + states]
        generators = state_generators(seed, cycle, mine, piece, appa.error.device)
        past, error = None, 1.0
        seen = observations.within(start, start + states)
        if quality is not None:
            refused, doubts = quality(cycle, seen, memory)
            seen = seen.select(~refused)
        if config.overlap and len(kept) == lag:
            past, error = _background(kept[0], len(mine))
            seen = seen.select(seen.time >= config.overlap)
        z = assimilate(
            appa,
            seen,
            window,
            generators,
            sampler=config.sampler,
            mesh=mesh,
            past=past,
            error=error,
        )
        own, whens = seen.within(piece.start, piece.stop), window[piece.start : piece.stop]
        done = [
            complete(appa, member, own, whens, g, mesh)[0]
            for member, g in zip(z, generators, strict=True)
        ]
        new = torch.stack([appa.statistics.restore(x[-1:], now) for x in done])
        if config.overlap:
            kept = [*kept, _tail(z, config.overlap, piece, states, config.members, mesh)][-lag:]
        memory = doubts | ({"past": torch.stack(kept)} if kept else {})
        if quality is not None:
            memory["tail"] = _tail(z, quality.known, piece, states, config.members, mesh)
        yield Part(new if ends else new[:, :0], memory, 1, range(0 if ends else 1, 1))


def _tail(z: Tensor, count: int, piece: range, states: int, members: int, mesh: Mesh) -> Tensor:
    """The last latents of a window, of all members."""
    last = states - count
    own = clip(piece, last, states)
    places = mesh.members(members), range(own.start - last, own.stop - last)
    return mesh.assemble(z[:, len(piece) - len(own) :], (members, count), *places)


def _background(z: Tensor, count: int) -> tuple[Tensor, float]:
    """The mean of an ensemble, for each of some members, and the deviation of its error."""
    spread = z.var(0).mean() * (1 + 1 / len(z))
    return z.mean(0, keepdim=True).expand(count, *z.shape[1:]), float(spread.sqrt())


def check_overlap(appa: Appa, states: int, overlap: int, every: int) -> None:
    r"""Checks that the first states of each window are the last ones of an earlier cycle.

    Raises:
        UserError: If they are not.
    """
    check_known(appa, overlap)
    if overlap and (overlap >= states or (states - overlap) % every):
        raise UserError(
            f"expected the {states} states of a window to be the {overlap} of the overlap and a "
            f"multiple of the {every} between two cycles: change states, overlap or every"
        )
