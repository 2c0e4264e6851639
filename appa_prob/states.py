r"""The states of a period, read from a dataset as they are asked for.

Stores keep several times in a chunk, which has to be read as a whole. Chunks are kept in memory
for a while, as many as training mixes its items over, so that each is read about once an epoch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from .catalogue import Catalogue
from .dataset import open_dataset, read_states, select_period
from .errors import UserError
from .grid import Grid
from .moments import SeasonalMoments
from .parallel import share
from .statistics import Statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Period", "StandardisedStates", "States", "streamed_statistics"]

SMALL = 2**30  # bytes of states that are kept in memory unless told otherwise


class Period(BaseModel):
    r"""A period, both ends included; an absent end means that of the dataset."""

    model_config = ConfigDict(extra="forbid")

    start: str | None = None
    stop: str | None = None


class States:
    r"""The states of a period in physical units.

    Arguments:
        source: The path or the URL of the dataset.
        period: The period.
        variables: The variables, in this order; by default all that vary in time.
        levels: The levels, in this order; by default all.
        partial: The variables that may be absent in places.
        keep: The number of chunks that are kept in memory.

    Raises:
        UserError: If the dataset can't be read, lacks a variable or a level, or has no state in
            the period.
    """

    def __init__(
        self,
        source: Path | str,
        period: Period,
        variables: Sequence[str] | None = None,
        levels: Sequence[float] | None = None,
        *,
        partial: Sequence[str] = (),
        keep: int = 16,
    ) -> None:
        self.source, self.partial, self.keep = source, tuple(partial), keep
        dataset = open_dataset(source)
        self.catalogue = Catalogue.from_dataset(dataset, variables, levels)
        self.grid = Grid(dataset.latitude.values, dataset.longitude.values)
        self.times: NDArray[np.datetime64] = select_period(
            dataset, period.start, period.stop
        ).time.values
        self.first = int(np.searchsorted(dataset.time.values, self.times[0]))
        self.block = max(_chunk(dataset[name]) for name in self.catalogue.variables)
        self._dataset: xr.Dataset | None = None
        self._chunks: OrderedDict[int, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, indices: Tensor) -> Tensor:
        r"""Reads states, with shape :math:`(n, C, H, W)`."""
        places = indices.numpy() + self.first
        if self.block == 1:
            wanted, back = np.unique(places, return_inverse=True)
            return self._read(wanted)[torch.as_tensor(back)]
        numbers = places // self.block
        found = torch.empty(len(places), *self.shape)
        for number in np.unique(numbers):
            here = np.flatnonzero(numbers == number)
            within = torch.as_tensor(places[here] - self._start(int(number)))
            found[torch.as_tensor(here)] = self._chunk(int(number))[within]
        return found

    @property
    def shape(self) -> tuple[int, int, int]:
        r"""The shape :math:`(C, H, W)` of a state."""
        return (len(self.catalogue.channels), *self.grid.shape)

    @property
    def bytes(self) -> int:
        r"""The memory that all of the states would take."""
        return 4 * len(self) * int(np.prod(self.shape))

    def parts(self, indices: range | None = None, size: int = 8) -> Iterator[Tensor]:
        r"""Goes through indices in order, in parts that don't cross chunks.

        Arguments:
            indices: Where to begin and to end; all by default.
            size: The largest number of states of a part.
        """
        indices = range(len(self)) if indices is None else indices
        start = indices.start
        while start < indices.stop:
            edge = self.block - (start + self.first) % self.block if self.block > 1 else size
            stop = min(start + min(edge, size), indices.stop)
            yield torch.arange(start, stop)
            start = stop

    def _start(self, number: int) -> int:
        return max(number * self.block, self.first)

    def _chunk(self, number: int) -> Tensor:
        if number not in self._chunks:
            stop = min((number + 1) * self.block, self.first + len(self))
            self._chunks[number] = self._read(slice(self._start(number), stop))
        self._chunks.move_to_end(number)
        while len(self._chunks) > self.keep:
            self._chunks.popitem(last=False)
        return self._chunks[number]

    def _read(self, places: slice | NDArray[np.int64]) -> Tensor:
        if self._dataset is None:
            self._dataset = open_dataset(self.source)
        chosen = self._dataset.isel(time=places)
        return read_states(chosen, self.catalogue, allow_missing=self.partial)[0]

    def forget(self) -> None:
        r"""Closes the dataset, and drops the chunks in memory, until states are asked for."""
        self._dataset, self._chunks = None, OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        # Workers open the dataset themselves, and keep chunks of their own.
        return {k: v for k, v in vars(self).items() if k not in ("_dataset", "_chunks")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.forget()


class StandardisedStates:
    r"""States, standardised, in memory if they are few.

    Arguments:
        states: The states in physical units.
        statistics: The climatology.
        cache: Whether they are kept in memory; by default if they take less than 1 GiB.
    """

    def __init__(
        self, states: States, statistics: Statistics, *, cache: bool | None = None
    ) -> None:
        self.source, self.statistics = states, statistics
        self.times = states.times
        self.memory: Tensor | None = None
        if cache if cache is not None else states.bytes < SMALL:
            whole = torch.empty(len(states), *states.shape)
            for indices in states.parts():
                whole[indices] = self[indices]
            self.memory = whole
            states.forget()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, indices: Tensor) -> Tensor:
        r"""Reads states, with shape :math:`(n, C, H, W)`."""
        if self.memory is not None:
            return self.memory[indices]
        return self.statistics.standardise(self.source[indices], self.times[indices.numpy()])

    @property
    def block(self) -> int:
        r"""The number of states that are read at once."""
        return 1 if self.memory is not None else self.source.block

    def parts(self, indices: range | None = None, size: int = 64) -> Iterator[Tensor]:
        r"""Goes through states in order, a part at a time."""
        for part in self.source.parts(indices, size):
            yield self[part]


def streamed_statistics(states: States, harmonics: int) -> Statistics:
    r"""The climatology of states that need not fit in memory, in one pass, which ranks share.

    What is absent at one time counts as absent always.

    Arguments:
        states: The states.
        harmonics: The number of harmonics of the seasonal cycle.

    Raises:
        UserError: If the times don't tell the seasons apart, or a channel has no variance.
    """
    moments = SeasonalMoments(states.shape, harmonics)
    for indices in states.parts(share(len(states))):
        moments.add(states[indices], states.times[indices.numpy()])
    weights = torch.as_tensor(states.grid.weights)
    channels = states.catalogue.channels
    partial = torch.tensor([channel.variable in states.partial for channel in channels])
    found = Statistics.from_moments(
        moments.over_ranks(), weights, partial if states.partial else None
    )
    for channel, scale in zip(channels, found.scale.tolist(), strict=True):
        if not scale > 0:
            what = "does not vary" if scale == 0 else "is absent at some time wherever one looks"
            raise UserError(
                f"{channel.variable} {what} in the period of training: leave it out, or choose "
                "another period"
            )
    return found


def _chunk(array: xr.DataArray) -> int:
    r"""The number of times in a chunk of a store; 1 if it is not chunked."""
    chunks = array.encoding.get("chunks") or array.encoding.get("chunksizes")
    return int(chunks[array.dims.index("time")]) if chunks else 1
