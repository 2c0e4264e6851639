r"""Observations with values, from files of reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, Field, field_serializer

from .errors import NothingObserved, UserError, unknown
from .network import Footprints, Network, Places
from .reports import read_reports
from .stencils import bilinear
from .thinning import thin_by_distance
from .units import converter, parse_quantity
from .vertical import see_level

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .catalogue import Catalogue
    from .grid import Grid

__all__ = ["ReportNetwork"]


def _minutes(value: object) -> float | None:
    return None if value is None else parse_quantity(value, "min", "half_window")


class ReportNetwork(Network):
    r"""Reports of a file, see :func:`appa_prob.reports.read_reports`.

    Example:
        >>> ReportNetwork(file="reports.csv", error={"temperature": "1 K"}).label
        'reports'
    """

    network: Literal["reports"] = "reports"
    file: Path = Field(description="the path of a CSV or parquet file of reports")
    variables: tuple[str, ...] = Field(default=(), description="a list of names")
    error: dict[str, str | float | list[str | float]] = Field(
        default={}, description="a number with a unit for each variable, as {temperature: 1.0 K}"
    )
    stations: Path | None = Field(default=None, description="the path of a list of stations")
    names: dict[str, str] = Field(
        default={}, description="names of variables by those of the file, as {TT: temperature}"
    )
    units: dict[str, str] = Field(
        default={}, description="the units of variables of the file, as {temperature: degC}"
    )
    half_window: Annotated[float | None, BeforeValidator(_minutes)] = Field(
        default=None, description="a duration, as 30 min"
    )

    @field_serializer("half_window")
    def _half_window_with_unit(self, value: float | None) -> str | None:
        return None if value is None else f"{value!r} min"

    def default_levels(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        r"""The lowest level, that is, the largest sigma or pressure."""
        return (max(levels),)

    def places(self, times: NDArray[np.datetime64], grid: Grid) -> Places:
        r"""Where and when there are reports that count for a time."""
        table = self._read(times)
        return Places(
            table["state"].to_numpy(), table["latitude"].to_numpy(), table["longitude"].to_numpy()
        )

    def locate(
        self,
        times: NDArray[np.datetime64],
        grid: Grid,
        catalogue: Catalogue,
        within: range | None = None,
    ) -> Footprints:
        r"""The reports as points with values, in the order of the file.

        Arguments:
            times: The times of the trajectory, with shape :math:`(L)`, increasing.
            grid: The grid.
            catalogue: The channels that there are.
            within: The states whose reports are taken; by default all.

        Raises:
            UserError: If the file can't be read; a variable, a level or a unit of it is unknown;
                an error is missing; or times are not those of states.
            NothingObserved: If there are no reports of these states.
        """
        chosen = self._chosen(times)
        try:
            asked = None if within is None else np.isin(chosen, np.asarray(within))
            table = self._read(times[chosen], asked)
            table = self._measure(table, catalogue, NothingObserved if within else UserError)
        except UserError as error:
            raise type(error)(f'network "{self.label}": {error}') from None
        if self.spacing:
            table = self._thin(table)
        channels, columns = np.unique(table["channel"].to_numpy(), return_inverse=True)
        place = table[["state", "latitude", "longitude"]].to_numpy()
        # Reports of one place and time that come one after another are those of one point.
        new = np.ones(len(table), dtype=bool)
        new[1:] = (np.diff(place, axis=0) != 0).any(1) | (np.diff(columns) <= 0)
        point, first = new.cumsum() - 1, np.flatnonzero(new)
        shape = (len(first), len(channels))
        values, errors = np.full((2, *shape), np.nan)
        seen = np.zeros(shape, dtype=bool)
        seen[point, columns] = True
        values[point, columns] = table["value"]
        errors[point, columns] = table["error"]
        sources, mixture = channels[:, None], np.ones((len(channels), 1))
        if self.vertical != "exact":
            sources = np.broadcast_to(channels[:, None], (*shape, 2)).copy()
            mixture = np.broadcast_to([1.0, 0.0], (*shape, 2)).copy()
            sources[point, columns, 1] = table["other"]
            mixture[point, columns, 0] = table["share"]
            mixture[point, columns, 1] = 1 - table["share"]
        latitude, longitude = (table[x].to_numpy()[first] for x in ("latitude", "longitude"))
        cells, weights = bilinear(latitude, longitude, grid)
        rows = self._biases(catalogue)
        return Footprints(
            self.label,
            chosen[table["state"].to_numpy()[first]],
            latitude,
            longitude,
            tuple(catalogue.channels[i] for i in channels),
            channels,
            errors,
            np.array([rows.get(catalogue.channels[i].variable, 0.0) for i in channels]),
            sources,
            mixture,
            cells,
            weights,
            seen,
            values,
        )

    def _read(
        self, times: NDArray[np.datetime64], asked: NDArray[np.bool_] | None = None
    ) -> pd.DataFrame:
        r"""The reports that count for some times, or for those of them that are asked for, with
        the index of the time as `state`."""
        asked = np.ones(len(times), dtype=bool) if asked is None else asked
        here = np.flatnonzero(asked)
        if len(times) and not len(here):
            raise NothingObserved(f"{self.file} has no reports of these states")
        window = np.timedelta64(round((self.half_window or 0.0) * 60), "s")
        between = None
        if len(here):  # and what may be nearer to the times beside
            ends = times[max(here[0] - 1, 0)], times[min(here[-1] + 1, len(times) - 1)]
            between = (ends[0] - window, ends[1] + window)
        table = read_reports(self.file, self.stations, self.names, between)
        if self.variables:
            table = table[table["variable"].isin(self.variables)].reset_index(drop=True)
        if table.empty and not asked.all():
            raise NothingObserved(f"{self.file} has no reports of these states")
        if table.empty or not len(times):
            raise UserError(
                f"{self.file} has no reports of {', '.join(self.variables) or 'anything'} for "
                f"the {len(times)} times"
            )
        found = table["time"].to_numpy().astype("datetime64[ns]")
        middles = times[:-1] + (times[1:] - times[:-1]) / 2
        state = np.searchsorted(middles, found)
        off = np.abs(found - times[state]) > window
        if off.any() and self.half_window is None:
            first = np.datetime_as_string(found[off][0], unit="m")
            raise UserError(
                f"{int(off.sum())} of {len(table)} reports are not at times of states, the first "
                f"at {first}: say how far off they may be, as in `half_window: 30 min`"
            )
        table = table.assign(state=state).loc[~off & asked[state]].reset_index(drop=True)
        if table.empty and not asked.all():
            raise NothingObserved(f"{self.file} has no reports of these states")
        return table

    def _measure(
        self, table: pd.DataFrame, catalogue: Catalogue, nothing: type[UserError] = UserError
    ) -> pd.DataFrame:
        r"""Channels, values and errors in the units of the catalogue.

        A report sees `share` of its channel and, between two levels, the rest of an`other`.
        """
        for variable in {**self.bias, **self.units}:
            catalogue.units(variable)
        for variable, given in self.error.items():
            for quantity in given if isinstance(given, list) else [given]:
                parse_quantity(quantity, catalogue.units(variable), f"error for {variable}")
        channel, other = np.zeros((2, len(table)), dtype=np.int64)
        share, kept = np.ones(len(table)), np.ones(len(table), dtype=bool)
        value, error = (
            table[name].to_numpy(dtype=np.float64).copy() for name in ("value", "error")
        )
        keys = ["variable", "level", "units"]
        group = table.groupby(keys, dropna=False, sort=False).ngroup().to_numpy()
        order = np.argsort(group, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
            variable, level, units = (table[key].iloc[rows[0]] for key in keys)
            if variable not in catalogue.variables:
                raise UserError(
                    f"{unknown('variable', variable, catalogue.variables)}: list the `variables` "
                    f'to take, or say in `names` what "{variable}" is called'
                )
            target = catalogue.units(variable)
            factor, offset = converter(
                str(units) or self.units.get(variable, target), target, f"reports of {variable}"
            )
            value[rows] = value[rows] * factor + offset
            error[rows] *= factor
            level = self._level(variable, level, catalogue)
            if level is not None and self.levels and not _among(level, self.levels):
                kept[rows] = False
                continue
            sources, weights = see_level(catalogue, variable, level, self.vertical)
            main = int(np.argmax(weights))
            channel[rows], other[rows], share[rows] = (
                sources[main],
                sources[main - 1],
                weights[main],
            )
            lacking = rows[np.isnan(error[rows])]
            if len(lacking):
                error[lacking] = self._error(variable, level, catalogue)
        bad = np.flatnonzero(~(error > 0) & kept)
        if len(bad):
            raise UserError(
                f"expected errors above 0, got {error[bad[0]]:g} for {table['variable'][bad[0]]}"
            )
        if not kept.any():
            raise nothing(f"{self.file} has no reports of `levels`")
        table = table.assign(channel=channel, other=other, share=share, value=value, error=error)
        chosen: pd.DataFrame = table.loc[kept]
        return chosen.reset_index(drop=True)

    def _level(self, variable: str, level: float, catalogue: Catalogue) -> float | None:
        levels = catalogue.levels(variable)
        if not levels:
            return None  # observed where it is, whatever is said
        return max(levels) if np.isnan(level) else level

    def _error(self, variable: str, level: float | None, catalogue: Catalogue) -> float:
        r"""The declared error; between the levels of a list that of both, interpolated."""
        units, levels = catalogue.units(variable), catalogue.levels(variable)
        if variable not in self.error:
            raise UserError(
                f"{variable} has no error: add a column `error` to {self.file}, or `error` for it "
                f"in {units}"
            )
        given: Any = self.error[variable]
        if isinstance(given, list):
            own = np.array(self.levels or levels)
            if len(given) != len(own) or level is None:
                raise UserError(
                    f"error for {variable}: expected one for each of {len(own)} levels, got "
                    f"{len(given)}"
                )
            errors = [parse_quantity(x, units, f"error for {variable}") for x in given]
            order = np.argsort(own)
            return float(np.interp(np.log(level), np.log(own[order]), np.array(errors)[order]))
        return parse_quantity(given, units, f"error for {variable}")

    def _biases(self, catalogue: Catalogue) -> dict[str, float]:
        return {
            variable: parse_quantity(
                given, catalogue.units(variable), f"bias for {variable}", signed=True
            )
            for variable, given in self.bias.items()
        }

    def _thin(self, table: pd.DataFrame) -> pd.DataFrame:
        kept = [
            rows[
                thin_by_distance(
                    table["state"].to_numpy()[rows],
                    table["latitude"].to_numpy()[rows],
                    table["longitude"].to_numpy()[rows],
                    self.spacing,
                )
            ]
            for rows in table.groupby(["channel", "other", "share"]).indices.values()
        ]
        return table.iloc[np.sort(np.concatenate(kept))].reset_index(drop=True)


def _among(level: float, levels: tuple[float, ...]) -> bool:
    return bool(np.isclose(levels, level, rtol=1e-5, atol=0.0).any())
