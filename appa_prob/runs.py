r"""Runs to be verified: reanalyses and forecasts, state by state beside the truth at their times.

A run is a dataset with the dimensions `time`, `latitude`, `longitude` and, maybe, `member`,
`lead_time` and `level`. With lead times, `time` is that of the start; a run whose `lead_time` is a
coordinate along `time` is a forecast from a single start, as is what the command `forecast` wrote,
one step before its first state. The names of WeatherBench 2 (`prediction_timedelta`, `number`,
`realization`) are understood as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from .dataset import open_dataset
from .errors import UserError, unknown
from .grid import Grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Times = NDArray[np.datetime64]

__all__ = ["Run", "State", "chosen", "made_with", "open_run", "pair", "same_levels"]

NAMES = {"number": "member", "realization": "member", "prediction_timedelta": "lead_time"}


@dataclass(frozen=True, eq=False)
class Run:
    r"""A run.

    Arguments:
        name: What it is called.
        dataset: Its states, with dimensions `time` and those of a state.
    """

    name: str
    dataset: xr.Dataset

    @property
    def members(self) -> int | None:
        r"""The number of members; none for a run without."""
        return self.dataset.sizes.get("member")

    @property
    def leads(self) -> NDArray[np.timedelta64] | None:
        r"""The lead times; none for a reanalysis."""
        if "lead_time" not in self.dataset.dims:
            return None
        return np.asarray(self.dataset["lead_time"].values)


@dataclass(frozen=True, eq=False)
class State:
    r"""What a run says about one time (or start), and the truth.

    Arguments:
        index: The index along `time` of the run.
        time: The time, or that of the start.
        valid: The times of the states, with shape :math:`()`, or :math:`(L)` for lead times.
        forecast: The states of the run.
        truth: The truth at these times.
        start: For a forecast the truth at the start, if there is one.
    """

    index: int
    time: np.datetime64
    valid: Times
    forecast: xr.Dataset
    truth: xr.Dataset
    start: xr.Dataset | None = None


def open_run(path: Path, name: str | None = None) -> Run:
    r"""Opens a run, lazily.

    Arguments:
        path: A zarr store or a netCDF file.
        name: What it is called; by default as its file is.

    Raises:
        UserError: If it can't be read, or lacks a dimension.
    """
    dataset = open_dataset(path)
    known = {old: new for old, new in NAMES.items() if old in dataset.dims or old in dataset}
    dataset = dataset.rename(known)
    if _is_forecast(dataset):
        times = dataset["time"].values
        leads = times - times[0] + (times[1] - times[0])
        dataset = dataset.assign_coords(lead_time=("time", leads))
    lead = dataset.coords.get("lead_time")
    if lead is not None and lead.dims == ("time",):
        start = dataset["time"].values[0] - lead.values[0]
        dataset = dataset.swap_dims(time="lead_time").drop_vars("time").expand_dims(time=[start])
    for dimension in ("time", "latitude", "longitude"):
        if dimension not in dataset.dims:
            raise UserError(f"{path} lacks the dimension {dimension}: it is no run")
    return Run(name or Path(path).stem, dataset)


def made_with(dataset: xr.Dataset) -> dict[str, Any]:
    r"""The configuration that a run was made with, as its attributes tell; maybe empty."""
    try:
        found = json.loads(dataset.attrs.get("config", "{}"))
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_forecast(dataset: xr.Dataset) -> bool:
    return (
        "lead_time" not in dataset.coords
        and {"initial", "known"} <= set(made_with(dataset))
        and dataset.sizes["time"] > 1
    )


def pair(
    run: Run, truth: xr.Dataset, variables: tuple[str, ...] | None = None, every: int = 1
) -> Iterator[State]:
    r"""Goes through the states of a run, each with the truth; one at a time is in memory.

    Arguments:
        run: The run.
        truth: The truth.
        variables: The variables; by default all those that both have.
        every: Every how many times are taken, from the middle of the first such part on.

    Raises:
        UserError: If the run and the truth have no variable, level or time in common, or differ in
            grid or units.
    """
    names = _common_variables(run, truth, variables)
    truth = truth[names]
    dataset = run.dataset[names]
    Grid(truth["latitude"].values, truth["longitude"].values).check(
        dataset["latitude"].values, dataset["longitude"].values
    )
    # To the last bit, so that coordinates align.
    dataset = dataset.assign_coords(latitude=truth["latitude"], longitude=truth["longitude"])
    if "level" in dataset.dims:
        truth = same_levels(truth, dataset, run.name, "the truth")
        dataset = dataset.assign_coords(level=truth["level"])
    known = truth.indexes["time"]
    for index in chosen(run, every):
        time = dataset["time"].values[index]
        valid = np.asarray(time if run.leads is None else time + run.leads)
        missing = valid.ravel()[~np.isin(valid.ravel(), known.values)]
        if len(missing):
            raise UserError(
                f"{run.name} has a state at {np.datetime_as_string(missing[0], unit='m')}, which "
                "the truth lacks: take a longer truth, or a shorter run"
            )
        when = xr.DataArray(valid, dims=() if run.leads is None else ("lead_time",))
        actual = truth.sel(time=when).drop_vars("time")
        forecast = dataset.isel(time=index, drop=True)
        start = None
        if run.leads is not None:
            actual = actual.assign_coords(lead_time=forecast["lead_time"])
            if time in known:
                start = truth.sel(time=time, drop=True).load()
        yield State(index, time, valid, forecast.load(), actual.load(), start)


def chosen(run: Run, every: int) -> range:
    r"""The indices of every so many times, from the middle of the first such part on."""
    size = run.dataset.sizes["time"]
    return range(min(every // 2, size - 1), size, every)


def _common_variables(run: Run, truth: xr.Dataset, variables: tuple[str, ...] | None) -> list[str]:
    both = [str(name) for name in run.dataset.data_vars if name in truth.data_vars]
    if not both:
        raise UserError(
            f"{run.name} and the truth have no variable in common: "
            f"{', '.join(map(str, run.dataset.data_vars))}; {', '.join(map(str, truth.data_vars))}"
        )
    for name in variables or ():
        if name not in both:
            raise unknown("variable", name, both)
    names = list(variables) if variables else both
    for name in names:
        units = [x[name].attrs.get("units") for x in (run.dataset, truth)]
        if None not in units and units[0] != units[1]:
            raise UserError(
                f"{name} is in {units[0]} in {run.name} and in {units[1]} in the truth: convert it"
            )
    return names


def same_levels(dataset: xr.Dataset, other: xr.Dataset, other_name: str, name: str) -> xr.Dataset:
    r"""The levels of another dataset, in its order.

    Raises:
        UserError: If the dataset lacks one.
    """
    known = dataset["level"].values if "level" in dataset.dims else np.zeros(0)
    places = []
    for level in other["level"].values:
        near = np.flatnonzero(np.isclose(known, level, rtol=1e-5))
        if not len(near):
            raise UserError(f"{other_name} has the level {level:g}, which {name} lacks")
        places.append(int(near[0]))
    return dataset.isel(level=places)
