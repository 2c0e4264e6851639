"""Stores of states that grow while a run goes on, and that a killed run goes on with.

While a run lasts, all that it wrote lies in a hidden folder beside the output: the states so far,
and what the next ones depend on. The states get the name of the output once all are there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xarray as xr
import zarr
from torch import Tensor

from .errors import UserError
from .files import load_tensors, refuse_existing, replacing, save_tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .appa import Appa

__all__ = ["StateStore", "digest"]

STATES, PROGRESS = "states.zarr", "progress.safetensors"


class StateStore:
    r"""A zarr store of states, written part by part.

    A part counts once its states and what comes after depends on are on disk. A run that is
    stopped at any moment, by whatever signal, is gone on with by the same call.

    Arguments:
        output: The zarr store to write.
        appa: The model, for the coordinates and the metadata.
        times: The times of all states.
        members: The number of members.
        parts: Numbers of states of parts; where parts of other sizes begin or end in between,
            they would have to share chunks.
        attributes: The attributes of the dataset, which also tell one run from another.
        overwrite: Whether an output that exists may be replaced, once the run is complete.

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
    ) -> None:
        output = Path(output)
        refuse_existing(output, overwrite=overwrite)
        self.output, self.overwrite, self.appa, self.times = output, overwrite, appa, times
        self.partial = output.with_name(f".{output.name}.partial")
        self.attributes = dict(attributes)
        if self.partial.exists() and not (self.partial / STATES).exists():
            shutil.rmtree(self.partial)  # what a run that was complete had no time to remove
        if not self.partial.exists():
            with replacing(self.partial, overwrite=False) as temporary:
                temporary.mkdir()
                self._create(temporary / STATES, members, min(gcd(*parts), len(times)))
                self._save(temporary, 0, {})
        self.memory, found = load_tensors(self.partial / PROGRESS)
        if found["attributes"] != json.loads(json.dumps(self.attributes)):
            raise UserError(
                f"{self.partial} holds another run, that was stopped: go on with its "
                "configuration, seed and model, or remove it"
            )
        done = found["done"]
        assert isinstance(done, int)
        self.done = done

    def append(self, states: Tensor, memory: Mapping[str, Tensor]) -> None:
        r"""Writes the next states.

        Arguments:
            states: The states in physical units, with shape :math:`(M, n, C, H, W)`.
            memory: What the states after them depend on.
        """
        stop = self.done + states.shape[1]
        dataset = self.appa.dataset(states, self.times[self.done : stop])
        group = zarr.open_group(self.partial / STATES, mode="r+")
        for name in dataset.data_vars:
            array = group[str(name)]
            assert isinstance(array, zarr.Array)
            array[:, self.done : stop] = dataset[name].values
        self._save(self.partial, stop, memory)
        self.done, self.memory = stop, dict(memory)

    def finish(self) -> xr.Dataset:
        r"""Gives the store its name, and opens it."""
        if self.output.exists():
            self.output.rename(self.partial / "replaced")
        (self.partial / STATES).rename(self.output)
        shutil.rmtree(self.partial)
        dataset: xr.Dataset = xr.open_zarr(self.output, chunks=None)
        return dataset

    def _create(self, path: Path, members: int, chunk: int) -> None:
        first = self.appa.dataset(torch.zeros(1, 1, *self.appa.error.shape), self.times[:1])
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
