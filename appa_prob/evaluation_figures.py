r"""The figures of a verification: scores by lead time or level, spread and skill, rank histograms,
spectra, reliability.

Each figure has a panel for each variable; methods have the same colours in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from .figure import save_figure, short_units

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .evaluation import Evaluation

    Panel = Callable[[Axes, str], None]

__all__ = ["draw_evaluation"]

COLOURS = {"truth": "0.1", "climatology": "0.55", "persistence": "tab:brown", "OI": "tab:purple"}
CYCLE = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:pink", "tab:cyan", "tab:olive")
COLUMNS = 3


def draw_evaluation(
    evaluation: Evaluation, folder: Path, level: float | None = None
) -> list[Path]:
    r"""Draws all figures that there is something for.

    Arguments:
        evaluation: The evaluation.
        folder: The folder to write them to, as PNG.
        level: The level of variables on levels; by default the one in the middle. Ranks and
            reliability are those of all levels.

    Returns:
        The files written.
    """
    painter = _Painter(evaluation, level)
    figures: dict[str, tuple[Panel, Sequence[str]]] = {
        "rmse": (painter.score("rmse"), painter.variables),
        "crps": (painter.score("crps"), painter.variables),
        "spread_skill": (painter.spread_skill, painter.variables if evaluation.ranks else ()),
        "ranks": (painter.ranks, painter.variables if evaluation.ranks else ()),
        "reliability": (painter.reliability, painter.variables if evaluation.reliability else ()),
        "spectra": (painter.spectra, painter.variables),
    }
    written = []
    for name, (panel, variables) in figures.items():
        if variables:
            path = folder / f"{name}.png"
            everywhere = name == "spectra" or painter.region == "globe"
            _panels(path, variables, panel, "" if everywhere else painter.region)
            written.append(path)
    return written


class _Painter:
    r"""Draws the panels."""

    def __init__(self, evaluation: Evaluation, level: float | None) -> None:
        self.evaluation = evaluation
        scores = evaluation.scores
        self.variables = [str(name) for name in scores.data_vars]
        self.region = str(scores["region"].values[0])
        self.level: float | None = None
        if "level" in scores.coords:
            levels = scores["level"].values
            middle = levels[len(levels) // 2]
            self.level = float(
                levels[np.abs(levels - (middle if level is None else level)).argmin()]
            )
        runs = [name for name in scores["method"].values if name not in COLOURS]
        self.colours = COLOURS | {str(name): CYCLE[i % len(CYCLE)] for i, name in enumerate(runs)}

    def score(self, name: str) -> Panel:
        r"""A score by lead time, or by level where there is none, in the first region."""

        def panel(axes: Axes, variable: str) -> None:
            scores = self.evaluation.scores[variable].sel(score=name).isel(region=0)
            if "lead_time" in scores.dims:
                self._by_lead(axes, self._at_level(axes, scores, variable))
            elif "level" in scores.dims:
                self._by_level(axes, scores, variable)
            else:
                self._bars(axes, scores, variable)
            along = axes.set_xlabel if _is_vertical(scores) else axes.set_ylabel
            along(name.upper() + _units(scores))

        return panel

    def spread_skill(self, axes: Axes, variable: str) -> None:
        r"""Spread against skill: each point is a level and lead time; ideal is the diagonal."""
        scores = self.evaluation.scores[variable].isel(region=0)
        highest = 0.0
        for name in self.evaluation.ranks:
            own = scores.sel({"method": name})
            skill = own.sel(score="rmse").values.ravel()
            spread = own.sel(score="spread_skill").values.ravel() * skill
            axes.plot(skill, spread, "o", ms=4, color=self.colours[name], label=name)
            highest = max(highest, np.nanmax(skill), np.nanmax(spread))
        axes.plot([0, highest], [0, highest], color="0.6", linewidth=0.8, zorder=0)
        units = _units(scores)
        axes.set(title=variable, xlabel=f"RMSE of the mean{units}")
        axes.set_ylabel(r"spread $\sqrt{(M + 1) / M}$" + units)
        axes.set(xlim=(0, 1.05 * highest), ylim=(0, 1.05 * highest), aspect="equal")
        axes.locator_params(nbins=5)
        axes.ticklabel_format(scilimits=(-3, 4))

    def ranks(self, axes: Axes, variable: str) -> None:
        r"""Frequencies of ranks relative to uniform ones."""
        for name, histograms in self.evaluation.ranks.items():
            histogram = _flat(histograms[variable].isel(region=0), "rank")
            size = len(histogram)
            edges = np.linspace(0.0, 1.0, size + 1)
            axes.stairs(size * histogram, edges, color=self.colours[name], label=name, lw=1.5)
        axes.axhline(1.0, color="0.6", linewidth=0.8, zorder=0)
        axes.set(title=variable, xlabel="rank of the truth / members", ylabel="relative frequency")
        axes.set(ylim=(0, None), xlim=(0, 1))

    def reliability(self, axes: Axes, variable: str) -> None:
        r"""Observed frequencies of the event at each forecast probability."""
        for name, shares in self.evaluation.reliability.items():
            cases, events = (
                _flat(shares[variable].isel(region=0).sel(share=x), "probability")
                for x in ("cases", "events")
            )
            seen = cases > 0
            p = shares["probability"].values
            frequency, colour = events[seen] / cases[seen], self.colours[name]
            axes.plot(p[seen], frequency, "o-", ms=3, color=colour, label=name)
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, zorder=0)
        axes.set(title=variable, xlabel="probability of > climatology + std", ylabel="frequency")
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")

    def spectra(self, axes: Axes, variable: str) -> None:
        r"""Powers by degree, but for degree 0, on logarithmic axes."""
        for name, spectra in self.evaluation.spectra.items():
            power = self._at_level(axes, spectra[variable], variable)
            others = [d for d in power.dims if d != "degree"]
            mean = power.mean(others).isel(degree=slice(1, None))
            width = 2.0 if name == "truth" else 1.2
            colour = self.colours[name]
            axes.loglog(mean["degree"].values, mean.values, color=colour, label=name, lw=width)
        units = short_units(self.evaluation.scores[variable].attrs.get("units", ""))
        axes.set(xlabel="degree of spherical harmonics")
        axes.set_ylabel(f"power (({units})²)" if units else "power")

    def _at_level(self, axes: Axes, array: xr.DataArray, variable: str) -> xr.DataArray:
        if "level" not in array.dims or self.level is None:
            axes.set_title(variable)
            return array
        axes.set_title(f"{variable} at {self.level:g}")
        return array.sel(level=self.level)

    def _by_lead(self, axes: Axes, scores: xr.DataArray) -> None:
        days = scores["lead_time"].values / np.timedelta64(1, "D")
        for name in scores["method"].values:
            line = scores.sel({"method": name})
            if bool(line.notnull().any()):
                axes.plot(days, line.values, "o-", ms=3, color=self.colours[str(name)], label=name)
        axes.set(xlabel="lead time (days)", ylim=(0, None))

    def _by_level(self, axes: Axes, scores: xr.DataArray, variable: str) -> None:
        for name in scores["method"].values:
            line = scores.sel({"method": name})
            if bool(line.notnull().any()):
                colour, levels = self.colours[str(name)], line["level"].values
                axes.plot(line.values, levels, "o-", ms=3, color=colour, label=name)
        axes.set(title=variable, ylabel="level", xlim=(0, None))
        axes.invert_yaxis()

    def _bars(self, axes: Axes, scores: xr.DataArray, variable: str) -> None:
        known = scores.dropna("method")
        names = [str(name) for name in known["method"].values]
        axes.bar(names, known.values, color=[self.colours[name] for name in names])
        axes.set(title=variable)


def _units(scores: xr.DataArray) -> str:
    units = short_units(scores.attrs.get("units", ""))
    return f" ({units})" if units else ""


def _is_vertical(scores: xr.DataArray) -> bool:
    return "level" in scores.dims and "lead_time" not in scores.dims


def _flat(array: xr.DataArray, dim: str) -> np.ndarray[tuple[int], np.dtype[np.floating]]:
    r"""The mean over all dimensions but one."""
    return np.asarray(array.mean([d for d in array.dims if d != dim]).values)


def _panels(path: Path, variables: Sequence[str], draw: Panel, title: str) -> None:
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(variables))
    rows = -(-len(variables) // columns)
    figure: Figure = Figure(figsize=(4.2 * columns, 3.4 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel()[len(variables) :]:
        axes.set_axis_off()
    for axes, variable in zip(grid.ravel(), variables, strict=False):
        draw(axes, variable)
    entries: dict[str, Any] = {}
    for axes in grid.ravel():
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside upper center",
        ncols=6,
        title=title or None,
    )
    save_figure(figure, path)
