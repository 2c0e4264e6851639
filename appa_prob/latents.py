r"""Latents of datasets: encoded once, to a store, or at the start of a training.

While a store is written it lies in a hidden folder beside the output, with a mark for each chunk
that is whole. Ranks write every so-manieth chunk; those of a run that was stopped are left out by
the next one, however many ranks it has.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
import zarr
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor
from tqdm import tqdm

from .autoencoder import Autoencoder
from .dataset import Source, select_period
from .errors import UserError
from .files import load_tensors, refuse_existing, replacing
from .parallel import agree, rank, ranks
from .states import SMALL, Period, StandardisedStates
from .statistics import Statistics
from .stream import digest
from .train_autoencoder import AutoencoderConfig, open_states

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "EncodeConfig",
    "Latents",
    "encode_dataset",
    "load_autoencoder",
    "open_encoder",
    "open_latents",
]

STORE = "latents.zarr"


class EncodeConfig(BaseModel):
    r"""What to encode.

    Attributes:
        data: The path or the URL of the dataset.
        autoencoder: The folder of a trained autoencoder.
        period: The period; by default all of the dataset.
        chunk: The number of latents of a chunk of the store: about those of a window, which reads
            one or two chunks then.
    """

    model_config = ConfigDict(extra="forbid")

    data: Source
    autoencoder: Path
    period: Period = Period()
    chunk: PositiveInt = 24


def load_autoencoder(folder: Path) -> tuple[Autoencoder, Statistics]:
    r"""Loads what :func:`~appa_prob.train_autoencoder.train_autoencoder` wrote."""
    tensors, metadata = load_tensors(Path(folder) / "autoencoder.safetensors")
    fitted, _ = load_tensors(Path(folder) / "statistics.safetensors")
    statistics = Statistics(**fitted)
    config = AutoencoderConfig.model_validate(metadata["config"])
    channels, rows, columns = statistics.coefficients.shape[1:]
    autoencoder = Autoencoder(
        channels, (rows, columns), config.latent_channels, config.widths, config.blocks
    )
    autoencoder.load_state_dict(tensors)
    return autoencoder.eval().requires_grad_(False), statistics


class Latents:
    r"""The latents of a period in a store of :func:`encode_dataset`, read as they are asked for.

    Arguments:
        source: The path or the URL of the store.
        period: The period.

    Raises:
        UserError: If the store can't be read, or has no latent in the period.
    """

    def __init__(self, source: Path | str, period: Period) -> None:
        self.source, self.period = source, period
        self._store: xr.DataArray | None = None
        store = self._open()
        self.times: NDArray[np.datetime64] = store.time.values
        self.encoder = str(store.attrs.get("encoder", ""))
        self.shape = tuple(int(size) for size in store.shape[1:])

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, part: slice) -> Tensor:
        r"""Reads a part, with shape :math:`(n, c, h, w)`."""
        return torch.as_tensor(self._open()[part].to_numpy())

    def parts(self, size: int = 256) -> Iterator[Tensor]:
        r"""Goes through the latents in order."""
        return (self[first : first + size] for first in range(0, len(self), size))

    def _open(self) -> xr.DataArray:
        if self._store is None:
            try:
                dataset = xr.open_zarr(str(self.source), chunks=None)
                store = dataset["latents"]
            except (OSError, KeyError, ValueError) as error:
                reason = " ".join(str(error).split())
                raise UserError(f"{self.source} is no store of latents: {reason}") from None
            store = store.assign_attrs(dataset.attrs)
            period = select_period(store.to_dataset(), self.period.start, self.period.stop)
            self._store = period["latents"]
        return self._store

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_store": None}  # other processes open it themselves


def fingerprint(autoencoder: Autoencoder, statistics: Statistics) -> str:
    r"""A short name of an autoencoder: of its weights and of the climatology it goes with."""
    state = autoencoder.state_dict() | statistics.state_dict()
    return digest(*(state[name] for name in sorted(state)))


def open_latents(source: Path | str, folder: Path, period: Period) -> Tensor | Latents:
    r"""The latents of a period in a store, in memory if they take less than 1 GiB.

    Arguments:
        source: The store.
        folder: The folder of the autoencoder that they have to be of.
        period: The period.

    Raises:
        UserError: If they are of another autoencoder, or as :class:`Latents`.
    """
    latents = Latents(source, period)
    expected = fingerprint(*load_autoencoder(folder))
    if latents.encoder != expected:
        raise UserError(
            f"{source} holds latents of another autoencoder ({latents.encoder or 'unknown'}) than "
            f"{folder} ({expected}): encode the data with this one"
        )
    return latents if 4 * len(latents) * int(np.prod(latents.shape)) >= SMALL else latents[:]


def open_encoder(
    folder: Path, data: Path | str, period: Period
) -> tuple[Autoencoder, StandardisedStates]:
    r"""An autoencoder, and the states of a period, standardised for it."""
    autoencoder, statistics = load_autoencoder(folder)
    _, metadata = load_tensors(Path(folder) / "autoencoder.safetensors")
    config = AutoencoderConfig.model_validate(metadata["config"])
    states = StandardisedStates(open_states(config, period, data), statistics, cache=False)
    return autoencoder, states


@torch.no_grad()
def encode_dataset(
    config: EncodeConfig,
    output: Path,
    *,
    overwrite: bool = False,
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> None:
    r"""Encodes a dataset to a zarr store, chunk by chunk; a run that was stopped goes on.

    Its array `latents` has the dimensions `time, channel, row, column`. The attribute `encoder`
    names the weights that made it.

    Arguments:
        config: What to encode.
        output: The store to write.
        overwrite: Whether it may be replaced, once the new one is whole.
        progress: Whether to show a progress bar.
        device: The device to encode on.

    Raises:
        UserError: If the data or the autoencoder can't be used, the output exists, or another run
            has begun to write it.
    """
    refuse_existing(output, overwrite=overwrite)
    autoencoder, states = open_encoder(config.autoencoder, config.data, config.period)
    attributes = {
        "encoder": fingerprint(autoencoder, states.statistics),
        "config": config.model_dump_json(),
    }
    partial = output.with_name(f".{output.name}.partial")
    if rank() == 0:
        _begin(partial, states, tuple(autoencoder.latent_shape), config.chunk, attributes)
    agree(True)  # which others wait for
    group = zarr.open_group(partial / STORE, mode="r+")
    if dict(group.attrs) != attributes:
        raise UserError(
            f"{partial} holds another run, that was stopped: go on with its configuration and "
            "autoencoder, or remove it"
        )
    array = group["latents"]
    assert isinstance(array, zarr.Array)
    autoencoder = autoencoder.to(device)
    chunks = range(rank(), -(-len(states) // config.chunk), ranks())
    for number in tqdm(chunks, disable=not progress or rank() > 0, unit="chunk"):
        mark = partial / f"done-{number}"
        if mark.exists():
            continue
        first, stop = number * config.chunk, min((number + 1) * config.chunk, len(states))
        z = [autoencoder.encode(x.to(device)) for x in states.parts(range(first, stop), 16)]
        array[first:stop] = torch.cat(z).cpu().numpy()
        mark.touch()
    agree(True)
    if rank() == 0:
        zarr.consolidate_metadata(group.store)
        if output.exists():
            output.rename(partial / "replaced")
        (partial / STORE).rename(output)
        shutil.rmtree(partial)


def _begin(
    partial: Path,
    states: StandardisedStates,
    shape: tuple[int, ...],
    chunk: int,
    attributes: dict[str, str],
) -> None:
    if partial.exists() and not (partial / STORE).exists():
        shutil.rmtree(partial)  # what a run that was complete had no time to remove
    if partial.exists():
        return
    with replacing(partial, overwrite=False) as temporary:
        temporary.mkdir()
        times = xr.Dataset(coords={"time": states.times}, attrs=attributes)
        times.to_zarr(temporary / STORE, zarr_format=2, consolidated=False)
        group = zarr.open_group(temporary / STORE, mode="r+")
        group.create_array(
            "latents",
            shape=(len(states), *shape),
            chunks=(chunk, *shape),
            dtype="float32",
            fill_value=float("nan"),
            attributes={"_ARRAY_DIMENSIONS": ["time", "channel", "row", "column"]},
        )
