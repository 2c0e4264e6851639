r"""Reading datasets of atmospheric states: zarr or netCDF, lazily through xarray."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .catalogue import Catalogue
from .errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["open_dataset", "read_states", "select_period", "shipped_sample"]


def open_dataset(path: str | Path) -> xr.Dataset:
    r"""Opens a dataset of states, lazily.

    Arguments:
        path: A zarr store or a netCDF file with coordinates `time`, `latitude`, `longitude` and,
            for variables on
            levels, `level`; dimensions in any order.

    Raises:
        UserError: If the path does not exist, can't be read, or lacks a coordinate.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist: expected a zarr store or a netCDF file")
    try:
        dataset = xr.open_zarr(path, chunks=None) if path.is_dir() else xr.open_dataset(path)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} can't be read as zarr or netCDF: {error}") from None
    missing = [name for name in ("time", "latitude", "longitude") if name not in dataset.coords]
    if missing:
        raise UserError(
            f"{path} lacks the coordinates {', '.join(missing)}; it has "
            f"{', '.join(map(str, dataset.coords))}"
        )
    return dataset


def shipped_sample(path: Path) -> Path:
    r"""The path of the dataset that ships with the package for `sample`, else the path itself."""
    return (
        Path(str(resources.files("appa_prob") / "data" / "sample.zarr"))
        if path == Path("sample")
        else path
    )


def select_period(dataset: xr.Dataset, start: str | None, stop: str | None) -> xr.Dataset:
    r"""The states from `start` to `stop`, both included.

    Raises:
        UserError: If no state lies in the period.
    """
    selected = dataset.sel(time=slice(start, stop))
    if selected.sizes["time"] == 0:
        first, last = (np.datetime_as_string(dataset.time.values[i], unit="m") for i in (0, -1))
        raise UserError(
            f"no state from {start} to {stop}: the dataset goes from {first} to {last}"
        )
    return selected


def read_states(
    dataset: xr.Dataset, catalogue: Catalogue, *, allow_missing: bool = False
) -> tuple[Tensor, NDArray[np.datetime64]]:
    r"""Reads states into memory, in the order of a catalogue.

    Arguments:
        dataset: The dataset.
        catalogue: The channels, that is, pairs of a variable and a level.
        allow_missing: Whether values may be absent or infinite.

    Returns:
        The states in physical units, with shape :math:`(L, C, H, W)`, float32, and their times.

    Raises:
        UserError: If a state holds values that are not finite and may not.
    """
    shape = [dataset.sizes[name] for name in ("time", "latitude", "longitude")]
    states = torch.empty(shape[0], len(catalogue.channels), *shape[1:])
    for variable in catalogue.variables:
        array = dataset[variable].transpose("time", ..., "latitude", "longitude")
        levels = catalogue.levels(variable)
        if levels:
            array = array.sel(level=list(levels))
        values = torch.from_numpy(array.to_numpy().astype("float32"))
        first = catalogue.index(variable, levels[0] if levels else None)
        states[:, first : first + max(len(levels), 1)] = values if levels else values.unsqueeze(1)
    bad = ~torch.isfinite(states).flatten(1).all(1)
    if bad.any() and not allow_missing:
        first = dataset.time.values[int(bad.nonzero()[0])]
        raise UserError(
            f"{int(bad.sum())} of {len(states)} states hold values that are not finite, the first "
            f"at {np.datetime_as_string(first, unit='m')}: mend or drop them"
        )
    return states, dataset.time.values
