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
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import xarray as xr
from pydantic import BeforeValidator
from torch import Tensor

from .catalogue import Catalogue
from .errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Source",
    "open_dataset",
    "parse_time",
    "read_states",
    "select_period",
    "select_times",
    "shipped_sample",
]

# What coordinates are called elsewhere, in stores of the Climate Data Store among others.
ALIASES = {
    "lat": "latitude",
    "lon": "longitude",
    "valid_time": "time",
    "pressure_level": "level",
    "isobaricInhPa": "level",
}

CACHES = ("simplecache::", "filecache::", "blockcache::")  # of fsspec, in front of another URL


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
        dataset = xr.open_zarr(_store(str(path)), chunks=None) if zarr else xr.open_dataset(path)
    except ImportError as error:
        raise UserError(f"{path} needs a package that is not installed: {error}") from None
    except (OSError, ValueError, KeyError, RuntimeError) as error:
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


def _store(path: str) -> Any:
    r"""What zarr reads a path or a URL from."""
    if not path.startswith(CACHES):
        return path
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]
    from fsspec.implementations.asyn_wrapper import (  # type: ignore[import-untyped]
        AsyncFileSystemWrapper,
    )
    from zarr.storage import FsspecStore

    # A cache tells zarr that it is asynchronous wherever the system behind it is, and then awaits
    # that in a loop which is not its own ("Timeout context manager should be used inside a task").
    cache, inside = url_to_fs(path)
    return FsspecStore(AsyncFileSystemWrapper(cache, asynchronous=True), True, inside)


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
        UserError: If either is no time, or no state lies in the period.
    """
    for text in (start, stop):
        if text is not None:
            parse_time(text)
    selected = dataset.sel(time=slice(start, stop))
    if selected.sizes["time"] == 0:
        period = f"{f' from {start}' if start else ''}{f' to {stop}' if stop else ''}"
        raise UserError(f"no state{period}: {_span(dataset)}")
    return selected


def select_times(
    dataset: xr.Dataset, start: str, count: int, step: np.timedelta64 | None = None
) -> xr.Dataset:
    r"""The states at regular times.

    Arguments:
        dataset: The dataset, whose states may be closer than these.
        start: The first time.
        count: The number of times.
        step: How far they are apart; as states of the dataset are by default.

    Raises:
        UserError: If the dataset has no state at one of them.
    """
    first, own = parse_time(start), dataset.time.values.astype("datetime64[ns]")
    if first not in own:
        near = own[np.abs(own - first).argmin()]
        raise UserError(
            f"no state from {start} on: {_span(dataset)}, and the nearest is at {_minute(near)}"
        )
    begin = int(np.searchsorted(own, first))
    wanted = own[begin:][:count] if step is None else first + np.arange(count) * step
    if len(wanted) < count or wanted[-1] > own[-1]:
        got = int(np.isin(wanted, own).sum())
        raise UserError(
            f"expected {count} states from {start} on, got {got}: the dataset ends at "
            f"{_minute(own[-1])}; take an earlier start or fewer states"
        )
    absent = wanted[~np.isin(wanted, own)]
    if len(absent):
        raise UserError(
            f"the dataset lacks {len(absent)} of {count} states from {start} on, the first at "
            f"{_minute(absent[0])}: states of the model are {step} apart; fill the gap"
        )
    return dataset.isel(time=np.searchsorted(own, wanted))


def parse_time(text: str) -> np.datetime64:
    r"""The time that a text names.

    Raises:
        UserError: If it names none.

    Example:
        >>> parse_time("2004-07-01T06")
        np.datetime64('2004-07-01T06:00:00.000000000')
    """
    time: np.datetime64 | None = None
    with suppress(ValueError):
        time = np.datetime64(text, "ns")
    if time is None or np.isnat(time):
        raise UserError(f"expected a time such as 2004-07-01T00, got {text!r}")
    return time


def _minute(time: np.datetime64) -> str:
    return str(np.datetime_as_string(time, unit="m"))


def _span(dataset: xr.Dataset) -> str:
    first, last = (_minute(dataset.time.values[i]) for i in (0, -1))
    return f"the dataset goes from {first} to {last}"


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
        UserError: If a state can't be read, or holds values that are not finite and may not.
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
        try:
            values = torch.from_numpy(array.to_numpy().astype("float32"))
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{variable} can't be read ({reason}): copy the data again") from None
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
