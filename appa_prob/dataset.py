r"""Reading datasets of atmospheric states: zarr or netCDF, lazily through xarray.

Zarr stores may lie on disk or, by a URL of `fsspec` as `gs://bucket/store.zarr`, anywhere else.
Stores as WeatherBench 2 and ARCO-ERA5 have them are read as they are: dimensions in any order,
latitudes from the north or from the south, levels in hPa; what does not vary in time, as the
land-sea mask, is no state.

References:
    | WeatherBench 2: A Benchmark for the Next Generation of Data-Driven Global Weather Models
    (Rasp et al., 2024)
    | https://arxiv.org/abs/2308.15560
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import xarray as xr
from pydantic import BeforeValidator
from torch import Tensor

from .catalogue import Catalogue
from .errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Source", "open_dataset", "read_states", "select_period", "shipped_sample"]

# What coordinates are called elsewhere, in stores of the Climate Data Store among others.
ALIASES = {
    "lat": "latitude",
    "lon": "longitude",
    "valid_time": "time",
    "pressure_level": "level",
    "isobaricInhPa": "level",
}


def _source(value: object) -> object:
    return Path(value) if isinstance(value, str) and "://" not in value else value


Source = Annotated[Path | str, BeforeValidator(_source)]
"""The path of a dataset, or its URL, as text: paths would lose a slash of it."""


def open_dataset(path: str | Path) -> xr.Dataset:
    r"""Opens a dataset of states, lazily.

    Arguments:
        path: A zarr store, a netCDF file, or the URL of a zarr store, with coordinates `time`,
            `latitude`, `longitude` and, for variables on levels, `level`; dimensions in any order.
            The usual other names of these, as `lat` and `pressure_level`, will do.

    Raises:
        UserError: If the path does not exist, can't be read, or lacks a coordinate.
    """
    remote = "://" in str(path)
    if not remote and not Path(path).exists():
        raise UserError(f"{path} does not exist: expected a zarr store or a netCDF file")
    try:
        zarr = remote or Path(path).is_dir()
        dataset = xr.open_zarr(str(path), chunks=None) if zarr else xr.open_dataset(path)
    except ImportError as error:
        raise UserError(f"{path} needs a package that is not installed: {error}") from None
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} can't be read as zarr or netCDF: {reason}") from None
    names = set(map(str, dataset.variables)) | set(map(str, dataset.dims))
    dataset = dataset.rename(
        {k: v for k, v in ALIASES.items() if k in names and v not in dataset.dims}
    )
    missing = [name for name in ("time", "latitude", "longitude") if name not in dataset.coords]
    if missing:
        raise UserError(
            f"{path} lacks the coordinates {', '.join(missing)}; it has "
            f"{', '.join(map(str, dataset.coords))}"
        )
    return dataset


def shipped_sample(path: Path | str) -> Path | str:
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
    dataset: xr.Dataset, catalogue: Catalogue, *, allow_missing: bool | Sequence[str] = False
) -> tuple[Tensor, NDArray[np.datetime64]]:
    r"""Reads states into memory, in the order of a catalogue.

    Arguments:
        dataset: The dataset.
        catalogue: The channels, that is, pairs of a variable and a level.
        allow_missing: Whether values may be absent or infinite, or the variables whose values may.

    Returns:
        The states in physical units, with shape :math:`(L, C, H, W)`, float32, and their times.

    Raises:
        UserError: If a state holds values that are not finite and may not.
    """
    shape = [dataset.sizes[name] for name in ("time", "latitude", "longitude")]
    states = torch.empty(shape[0], len(catalogue.channels), *shape[1:])
    bad = torch.zeros(shape[0], dtype=torch.bool)
    holes = catalogue.variables if allow_missing is True else allow_missing or ()
    for variable in catalogue.variables:
        array = dataset[variable].transpose("time", ..., "latitude", "longitude")
        levels = catalogue.levels(variable)
        if levels:
            array = array.sel(level=list(levels))
        values = torch.from_numpy(array.to_numpy().astype("float32"))
        first = catalogue.index(variable, levels[0] if levels else None)
        states[:, first : first + max(len(levels), 1)] = values if levels else values.unsqueeze(1)
        if variable not in holes:
            bad |= ~torch.isfinite(values).flatten(1).all(1)
    if bad.any():
        first_bad = dataset.time.values[int(bad.nonzero()[0])]
        raise UserError(
            f"{int(bad.sum())} of {len(states)} states hold values that are not finite, the first "
            f"at {np.datetime_as_string(first_bad, unit='m')}: mend or drop them"
        )
    return states, dataset.time.values
