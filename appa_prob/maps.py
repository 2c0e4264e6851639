r"""Maps of a run: its mean, its spread and its members, beside the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .errors import UserError, unknown
from .figure import draw_fields
from .runs import Run, pair

__all__ = ["plot_run"]


def plot_run(
    run: Run,
    path: Path,
    *,
    variable: str,
    level: float | None = None,
    time: str | None = None,
    lead: int | None = None,
    truth: xr.Dataset | None = None,
    members: int = 2,
) -> None:
    r"""Draws one variable of a run, at one time and level, and saves the figure.

    Arguments:
        run: The run.
        path: The image file to write.
        variable: The variable.
        level: The level; by default the first.
        time: The time, or that of the start of a forecast; by default the first.
        lead: For a forecast the index of the lead time; by default the last.
        truth: The truth, if it shall be shown.
        members: How many members to show beside mean and spread.

    Raises:
        UserError: If the run lacks the variable, the level or the time.
    """
    known = [str(name) for name in run.dataset.data_vars]
    if variable not in known:
        raise unknown("variable", variable, known)
    one = Run(run.name, _at_time(run, time)[[variable]])
    if truth is None:
        forecast, actual = one.dataset.isel(time=0).load(), None
        valid = forecast["time"].values
        valid = valid if one.leads is None else valid + one.leads
    else:
        state = next(pair(one, truth, (variable,)))
        forecast, actual, valid = state.forecast, state.truth, state.valid
    field = _select(forecast[variable], level, lead)
    when = np.atleast_1d(valid)[-1 if lead is None else lead] if one.leads is not None else valid
    fields: dict[str, xr.DataArray] = {}
    if actual is not None:
        fields["truth"] = _select(actual[variable], level, lead)
    spread = None
    if "member" in field.dims:
        size = field.sizes["member"]
        fields[f"mean of {size} members"] = field.mean("member")
        for i in range(min(members, size)):
            fields[f"member {i + 1}"] = field.isel(member=i)
        spread = field.std("member", ddof=1) if size > 1 else None
    else:
        fields[run.name] = field
    name = str(field.attrs.get("long_name", variable))
    place = f" at level {float(field['level']):g}" if "level" in field.coords else ""
    stamp = _minute(when)
    if one.leads is not None:
        start = one.dataset["time"].values[0]
        stamp += f" ({(when - start) / np.timedelta64(1, 'h'):g} hours after {_minute(start)})"
    draw_fields(
        fields,
        path,
        title=f"{run.name}: {name}{place}, {stamp}",
        label=name,
        units=str(field.attrs.get("units", "")),
        spread=spread,
    )


def _minute(time: Any) -> str:
    return str(np.datetime_as_string(time, unit="m")).replace("T", " ")


def _at_time(run: Run, time: str | None) -> xr.Dataset:
    if time is None:
        return run.dataset.isel(time=[0])
    times = run.dataset["time"].values
    try:
        wanted = np.datetime64(time)
    except ValueError:
        raise UserError(f'"{time}" is no time: expected one as 2004-07-01T06') from None
    near = int(np.abs(times - wanted).argmin())
    if times[near] != wanted:
        nearest = np.datetime_as_string(times[near], unit="m")
        raise UserError(f"{run.name} has no state at {time}; the nearest is at {nearest}")
    return run.dataset.isel(time=[near])


def _select(field: xr.DataArray, level: float | None, lead: int | None) -> xr.DataArray:
    if "lead_time" in field.dims:
        size = field.sizes["lead_time"]
        if lead is not None and not -size <= lead < size:
            raise UserError(f"expected a lead time from 0 to {size - 1}, got {lead}")
        field = field.isel(lead_time=-1 if lead is None else lead)
    if "level" not in field.dims:
        return field
    levels = field["level"].values
    if level is None:
        return field.isel(level=0)
    near = int(np.abs(levels - level).argmin())
    if not np.isclose(levels[near], level, rtol=1e-5):
        listed = ", ".join(f"{x:g}" for x in levels)
        raise UserError(f"{field.name} has no level {level:g}; there are: {listed}")
    return field.isel(level=near)
