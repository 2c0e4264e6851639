"""Stores of states that grow while a run goes on, and that a killed run goes on with.

While a run lasts, all that it wrote lies in a hidden folder beside the output: the states so far,
and what the next ones depend on. The states get the name of the output once all are there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xarray as xr
import zarr
from torch import Tensor

from .errors import UserError
from .files import load_tensors, refuse_existing, replacing, save_tensors
from .mesh import Mesh
from .parallel import sum_over_ranks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .appa import Appa

__all__ = ["StateStore", "digest"]

STATES, PROGRESS = "states.zarr", "progress.safetensors"
DRAWN, BEGUN = "drawn", "begun."


class StateStore:
    r"""A zarr store of states, written part by part.

    A part, some states of all members or all states of some, counts once its states and what comes
    after depends on are on disk. A run that is stopped at any moment, by whatever signal, is gone
    on with by the same call.

    Arguments:
        output: The zarr store to write.
        appa: The model, for the coordinates and the metadata.
        times: The times of all states.
        members: The number of members.
        parts: Numbers of states of parts; where parts of other sizes begin or end in between,
            they would have to share chunks.
        attributes: The attributes of the dataset, which also tell one run from another.
        overwrite: Whether an output that exists may be replaced, once the run is complete.
        mesh: Which members and states this rank writes; all do all of this together. By default
            there is one.

    Raises:
        UserError: If the output exists, or another run has begun to write it.
    """

    def __init__(
        self,
        output: Path,
        appa: Appa,
        times: NDArray[np.datetime64],
        members: int,
        *,
        parts: tuple[int, ...],
        attributes: Mapping[str, Any],
        overwrite: bool = False,
        mesh: Mesh | None = None,
    ) -> None:
        output = Path(output)
        refuse_existing(output, overwrite=overwrite)
        self.output, self.overwrite, self.appa, self.times = output, overwrite, appa, times
        self.partial = output.with_name(f".{output.name}.partial")
        self.attributes, self.mesh = dict(attributes), mesh or Mesh()
        self.mine = self.mesh.members(members)
        # Ranks that share a trajectory don't share chunks.
        chunk = 1 if self.mesh.windows > 1 else min(gcd(*parts), len(times))
        self.mesh.first(lambda: self._begin(members, chunk))
        memory, found = load_tensors(self.partial / PROGRESS)
        if found["attributes"] != json.loads(json.dumps(self.attributes)):
            raise UserError(
                f"{self.partial} holds another run, that was stopped: go on with its "
                "configuration, seed and model, or remove it"
            )
        done = found["done"]
        assert isinstance(done, int)
        self.done = done
        self.drawn = memory.pop(DRAWN, torch.zeros(members, dtype=torch.bool))
        self.begun = {k.removeprefix(BEGUN): x for k, x in memory.items() if k.startswith(BEGUN)}
        self.memory = {k: x for k, x in memory.items() if not k.startswith(BEGUN)}

    def _begin(self, members: int, chunk: int) -> None:
        """Makes the store, unless it has been begun."""
        if self.partial.exists() and not (self.partial / STATES).exists():
            shutil.rmtree(self.partial)  # what a run that was complete had no time to remove
        if not self.partial.exists():
            with replacing(self.partial, overwrite=False) as temporary:
                temporary.mkdir()
                self._create(temporary / STATES, members, chunk)
                self._save(temporary, 0, {})

    def append(
        self, states: Tensor, memory: Mapping[str, Tensor], length: int, own: range
    ) -> None:
        r"""Writes the next states.

        Arguments:
            states: Those that this rank holds, in physical units, with shape
                :math:`(M, n, C, H, W)`.
            memory: What the states after them depend on.
            length: The number of next states, on all ranks together.
            own: Which of them this rank holds.
        """
        self._write(states, self.mine, range(self.done + own.start, self.done + own.stop))
        self.mesh.together()
        self.done, self.memory = self.done + length, dict(memory)
        self.mesh.first(lambda: self._save(self.partial, self.done, memory))

    @property
    def left(self) -> list[int]:
        r"""The members of the next states that :meth:`append_members` has not written yet."""
        return (~self.drawn).nonzero().flatten().tolist()

    def append_members(
        self,
        numbers: Sequence[int],
        states: Iterable[Tensor],
        own: range,
        length: int,
        memory: Callable[[], Mapping[str, Tensor]],
    ) -> None:
        r"""Writes the next states of some members. Once those of all are written, these are done.

        Arguments:
            numbers: The members that this rank has, or has a part of.
            states: The states of each that this rank holds, in physical units, with shape
                :math:`(n, C, H, W)`.
            own: Which these are.
            length: The number of next states, on all ranks together.
            memory: Gives, once the states were taken, what the states after them depend on, as far
                as members are drawn.
        """
        for number, part in zip(numbers, states, strict=True):
            self._write(part.unsqueeze(0), range(number, number + 1), own)
        self.mesh.together()
        new = torch.zeros(self.drawn.shape)
        new[list(numbers)] = 1.0
        self.drawn = self.drawn | (sum_over_ranks(new) > 0)
        self.begun = dict(memory())
        if self.drawn.all():
            self.done, self.memory, self.begun = self.done + length, self.begun, {}
            self.drawn = torch.zeros_like(self.drawn)
        begun = {BEGUN + name: tensor for name, tensor in self.begun.items()}
        kept = {DRAWN: self.drawn, **self.memory, **begun}
        self.mesh.first(lambda: self._save(self.partial, self.done, kept))

    def open(self) -> xr.Dataset:
        r"""Opens what is written so far."""
        dataset: xr.Dataset = xr.open_zarr(self.partial / STATES, chunks=None)
        return dataset

    def _write(self, states: Tensor, members: range, own: range) -> None:
        """Writes a rectangle; ranks of a row do so together."""
        dataset = self.appa.dataset(states, self.times[own.start : own.stop])
        group = zarr.open_group(self.partial / STATES, mode="r+")
        arrays = {str(name): group[str(name)] for name in dataset.data_vars}
        whole = all(isinstance(a, zarr.Array) and a.chunks[1] == 1 for a in arrays.values())
        # One after the other where a run that has been begun by other ranks has them share chunks.
        for turn in [self.mesh.column] if whole else range(self.mesh.windows):
            if turn == self.mesh.column and len(own):
                for name, array in arrays.items():
                    assert isinstance(array, zarr.Array)
                    place = (slice(members.start, members.stop), slice(own.start, own.stop))
                    array[place] = dataset[name].values
            self.mesh.together_in_row()

    def finish(self, attributes: Mapping[str, Any] | None = None) -> xr.Dataset:
        r"""Gives the store its name, and opens it.

        Arguments:
            attributes: More attributes, which the states told.
        """
        self.mesh.first(lambda: self._finish(attributes or {}))
        dataset: xr.Dataset = xr.open_zarr(self.output, chunks=None)
        return dataset

    def _finish(self, attributes: Mapping[str, Any]) -> None:
        if attributes:
            group = zarr.open_group(self.partial / STATES, mode="r+")
            group.attrs.update(attributes)
            zarr.consolidate_metadata(group.store)
        if self.output.exists():
            self.output.rename(self.partial / "replaced")
        (self.partial / STATES).rename(self.output)
        shutil.rmtree(self.partial)

    def _create(self, path: Path, members: int, chunk: int) -> None:
        first = self.appa.dataset(
            torch.zeros(1, 1, *self.appa.autoencoder.state_shape), self.times[:1]
        )
        coords = {**first.coords, "member": range(members), "time": self.times}
        empty = xr.Dataset(coords=coords, attrs=self.attributes)
        for axis in ("member", "time"):
            empty[axis].attrs = first[axis].attrs
        empty.to_zarr(path, zarr_format=2, consolidated=False)
        group = zarr.open_group(path, mode="r+")
        for name, array in first.data_vars.items():
            shape = (members, len(self.times), *array.shape[2:])
            group.create_array(
                str(name),
                shape=shape,
                chunks=(1, chunk, *array.shape[2:]),
                dtype="float32",
                fill_value=float("nan"),
                attributes={**array.attrs, "_ARRAY_DIMENSIONS": [str(d) for d in array.dims]},
            )
        zarr.consolidate_metadata(group.store)

    def _save(self, folder: Path, done: int, memory: Mapping[str, Tensor]) -> None:
        save_tensors(folder / PROGRESS, memory, {"done": done, "attributes": self.attributes})


def digest(*tensors: Tensor) -> str:
    r"""A short name of the values of tensors, to tell whether they are the same again.

    Example:
        >>> digest(torch.ones(2)) == digest(torch.ones(2)), digest(torch.ones(2)) == digest()
        (True, False)
    """
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
