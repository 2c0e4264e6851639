r"""Verification of runs and of baselines against one truth.

Runs are scored at their own times, baselines at the times and lead times of all runs: compare runs
of the same times. The baselines are the seasonal climatology of the model (a Gaussian at each
point), persistence of the truth at the start for forecasts, and optimal interpolation of the same
observations for reanalyses of declared networks: `OI`, and `OI of NAME` for runs that observed
something else than the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr
from pydantic import TypeAdapter
from tqdm import tqdm

from .appa import Appa
from .balance import geostrophic_imbalance, hydrostatic_imbalance
from .baselines import OptimalInterpolation, climatology, shipped_eofs
from .collector import Collector
from .declaration import parse_networks
from .errors import UserError, unknown
from .files import replacing
from .grid import Grid
from .network import Every
from .observer import Observer
from .quality import Control
from .ranks import rank_histogram
from .regions import GLOBE, Region
from .reliability import reliability
from .runs import Run, State, chosen, made_with, pair, same_levels
from .spectra import power_spectrum
from .truth import Truth
from .verification import score, score_gaussian_forecast, summarise

__all__ = ["Evaluation", "evaluate"]

TRUTH = "truth"
RESERVED = (TRUTH, "climatology", "persistence", "OI")
OBSERVED = ("networks", "missing", "quality_control")
Interpolation = Callable[[int, xr.Dataset], tuple[xr.Dataset, xr.Dataset]]


@dataclass(frozen=True, eq=False)
class Evaluation:
    r"""What :func:`evaluate` found: datasets whose variables are those of the states.

    Attributes:
        scores: The scores, with dimensions `method, score, region` and, maybe, `lead_time`,
            `level`.
        ranks: For each run its rank histograms, with dimensions `region` and `rank`.
        reliability: For each run the shares of :func:`~appa_prob.reliability.reliability`, with a
            dimension `region`, if there is a climatology.
        spectra: For each run and the truth its mean spectrum, with dimension `degree`.
        balance: For each run and the truth its departures from balance, as far as it has the
            variables: `geostrophic` and `hydrostatic`.
        states: The number of times of each method.
    """

    scores: xr.Dataset
    ranks: dict[str, xr.Dataset]
    reliability: dict[str, xr.Dataset]
    spectra: dict[str, xr.Dataset]
    balance: dict[str, xr.Dataset]
    states: dict[str, int]

    def table(self) -> pd.DataFrame:
        r"""All scores, one a row, with columns for method, region, variable, level and so on."""
        return _table({"": self.scores}, "score")

    def details(self) -> dict[str, pd.DataFrame]:
        r"""The tables of `ranks`, `reliability` and `spectra`, as far as there are any."""
        parts = {
            "ranks": (self.ranks, ("rank",)),
            "reliability": (self.reliability, ("share", "probability")),
            "spectra": (self.spectra, ("degree",)),
        }
        return {name: _table(found, *keys) for name, (found, keys) in parts.items() if found}

    def balances(self) -> pd.DataFrame:
        r"""The departures from balance, a row for each method and level."""
        rows = []
        for method, found in self.balance.items():
            for name, array in found.data_vars.items():
                others = [d for d in array.dims if d != "level"]
                mean = array.mean(others).rename("value").to_dataframe().reset_index()
                rows.append(mean.assign(method=method, balance=str(name)))
        if not rows:
            return pd.DataFrame(columns=["method", "balance", "level", "value"])
        return pd.concat(rows, ignore_index=True).dropna(subset="value")[
            ["method", "balance", "level", "value"]
        ]

    def save(self, folder: Path, *, level: float | None = None, overwrite: bool = False) -> None:
        r"""Writes the tables and the figures to a folder.

        The tables are `scores.csv`, `balance.csv` and those of :meth:`details`.

        Arguments:
            folder: The folder.
            level: The level of the figures; by default the one in the middle.
            overwrite: Whether the folder may be replaced.
        """
        from .evaluation_figures import draw_evaluation

        with replacing(folder, overwrite=overwrite) as temporary:
            temporary.mkdir()
            self.table().to_csv(temporary / "scores.csv", index=False, float_format="%.6g")
            for name, table in self.details().items():
                table.to_csv(temporary / f"{name}.csv", index=False, float_format="%.6g")
            self.balances().to_csv(temporary / "balance.csv", index=False, float_format="%.6g")
            draw_evaluation(self, temporary, level)

    def __str__(self) -> str:
        table = self.table()
        lines = []
        leads = table["lead_hours"].unique() if "lead_hours" in table else [None]
        shown = [leads[i] for i in sorted({0, len(leads) // 2, len(leads) - 1})]
        region = str(self.scores["region"].values[0])
        for lead in shown:
            part = table[table["region"] == region]
            if lead is not None:
                part = part[part["lead_hours"] == lead]
            part = part[part["score"].isin(["rmse", "crps", "spread_skill"])]
            index = ["variable", *(["level"] if "level" in part else [])]
            wide = part.pivot_table(
                index=index,
                columns=["score", "method"],
                values="value",
                sort=False,
                dropna=False,
            )
            wide = wide.dropna(how="all").dropna(axis="columns", how="all")
            when = "" if lead is None else f", {lead:g} hours ahead"
            text = wide.to_string(float_format=lambda x: f"{x:.3g}", na_rep="-")
            lines += [f"Scores over the {region}{when}", text, ""]
        counts = ", ".join(f"{name} {count}" for name, count in self.states.items())
        return "\n".join([*lines, f"Times scored: {counts}"])


def _table(found: dict[str, xr.Dataset], *keys: str) -> pd.DataFrame:
    r"""All numbers of datasets by method, one a row."""
    arrays = []
    for method, dataset in found.items():
        for name, array in dataset.data_vars.items():
            table = array.rename("value").to_dataframe().reset_index()
            table = table.assign(variable=str(name))
            arrays.append(table.assign(method=method) if method else table)
    table = pd.concat(arrays, ignore_index=True).dropna(subset="value")
    if "lead_time" in table:
        table["lead_time"] = pd.to_timedelta(table["lead_time"]).dt.total_seconds() / 3600.0
        table = table.rename(columns={"lead_time": "lead_hours"})
    columns = ["method", "region", "variable", "level", "lead_hours", *keys]
    return table[[key for key in columns if key in table] + ["value"]]


def evaluate(
    runs: Sequence[Run],
    truth: xr.Dataset,
    *,
    model: str | None = None,
    regions: Sequence[Region] = (GLOBE,),
    variables: tuple[str, ...] | None = None,
    every: int = 1,
    eofs: Path | None = None,
    progress: bool = False,
) -> Evaluation:
    r"""Scores runs, and the baselines that there are for them.

    Arguments:
        runs: The runs. Several of one name are one method, such as forecasts from several starts.
        truth: The truth.
        model: The model whose climatology counts, by name or folder; by default that which the
            first run was made with, if its attributes tell. Without, there is no climatology.
        regions: The regions of the scores.
        variables: The variables; by default those that all runs and the truth have.
        every: Every how many times are scored.
        eofs: The EOFs of optimal interpolation; by default those that ship with the package.
        progress: Whether to show a progress bar.

    Raises:
        UserError: If a run, the truth and the model don't fit together, or the numbers of members
            or the lead times of runs of one name differ.
    """
    if not runs:
        raise UserError("expected one or more runs, got none")
    model = model or next(
        (c["model"] for c in (made_with(run.dataset) for run in runs) if "model" in c), None
    )
    if len({run.leads is None for run in runs}) > 1:
        raise UserError("expected forecasts, or no forecasts: evaluate each kind by itself")
    if variables is None:
        known = [set(run.dataset.data_vars) for run in runs]
        both = [str(name) for name in truth.data_vars if all(name in x for x in known)]
        variables = tuple(both) or None
    for run in runs:
        if run.name in RESERVED or run.name.startswith("OI of "):
            raise UserError(
                f'a run is called "{run.name}", as a baseline is: rename it, or its file'
            )
    appa = None if model is None else Appa.from_pretrained(model)
    collected: dict[str, Collector] = {}
    names: dict[str, str] = {}  # of optimal interpolations, by what is observed
    total = sum(len(chosen(run, every)) for run in runs)
    with tqdm(total=total, disable=not progress, desc="evaluation", unit="state") as bar:
        for run in runs:
            found = None if appa is None else _interpolation(run, truth, appa, eofs, every)
            observed = json.dumps([made_with(run.dataset).get(k) for k in OBSERVED])
            observed += str(run.dataset.attrs.get("seed"))
            first = "OI" if not names else f"OI of {run.name}"
            interpolation = found and (names.setdefault(observed, first), found)
            for state in pair(run, truth, variables, every):
                _collect(collected, run, state, appa, interpolation, regions)
                bar.update()
    return _evaluation(collected)


def _collect(
    collected: dict[str, Collector],
    run: Run,
    state: State,
    appa: Appa | None,
    interpolation: tuple[str, Interpolation] | None,
    regions: Sequence[Region],
) -> None:
    own = collected.setdefault(run.name, Collector(run.members))
    if own.members != run.members:
        raise UserError(
            f"runs called {run.name} have {own.members} and {run.members} members: give them "
            "different names"
        )
    normal = None if appa is None else _climatology(appa, state)
    mean = None if normal is None else normal[0]
    scores = score(state.forecast, state.truth, regions=regions, climatology=mean)
    own.add("scores", scores)
    ensemble = state.forecast
    if run.members is not None and run.members > 1:
        ranks = [rank_histogram(ensemble, state.truth, region) for region in regions]
        own.add("ranks", _by_region(ranks, regions))
        if normal is not None:
            event = normal[0] + normal[1]
            shares = [reliability(ensemble, state.truth, event, region) for region in regions]
            own.add("reliability", _by_region(shares, regions))
    spectrum = power_spectrum(ensemble)
    own.add("spectra", spectrum.mean("member") if run.members is not None else spectrum)
    _add_balance(own, ensemble)

    def shared(name: str) -> tuple[Collector, xr.Dataset | None]:
        collector = collected.setdefault(name, Collector(None))
        return collector, collector.new(state)

    collector, truth = shared(TRUTH)
    if truth is not None:
        collector.add("spectra", power_spectrum(truth))
        _add_balance(collector, truth)
    if normal is not None:
        collector, truth = shared("climatology")
        if truth is not None:
            centre, width = (_at(x, truth) for x in normal)
            found = score_gaussian_forecast(centre, width, truth, regions=regions)
            collector.add("scores", found)
    if state.start is not None:
        collector, truth = shared("persistence")
        if truth is not None:
            kept, usual = state.start + 0 * truth, None if mean is None else _at(mean, truth)
            collector.add("scores", score(kept, truth, regions=regions, climatology=usual))
    if interpolation is not None:
        name, interpolate = interpolation
        collector, truth = shared(name)
        if truth is not None:
            found = score_gaussian_forecast(
                *interpolate(state.index, truth), truth, regions=regions
            )
            collector.add("scores", found)


def _at(states: xr.Dataset, truth: xr.Dataset) -> xr.Dataset:
    r"""States at the lead times of a truth."""
    return states.sel(lead_time=truth["lead_time"]) if "lead_time" in truth.dims else states


def _by_region(parts: Sequence[xr.Dataset], regions: Sequence[Region]) -> xr.Dataset:
    return xr.concat(parts, dim=xr.Variable("region", [region.name for region in regions]))


def _add_balance(collector: Collector, states: xr.Dataset) -> None:
    found = {}
    for name, measure in (
        ("geostrophic", geostrophic_imbalance),
        ("hydrostatic", hydrostatic_imbalance),
    ):
        try:
            found[name] = measure(states)
        except UserError:  # not all states have these variables
            continue
    if found:
        mean = xr.Dataset(found)
        collector.add("balance", mean.mean("member") if "member" in mean.dims else mean)


def _climatology(appa: Appa, state: State) -> tuple[xr.Dataset, xr.Dataset]:
    r"""The means and the standard deviations of the climatology at the times of a state."""
    times = np.atleast_1d(state.valid)
    mean, std = climatology(appa, times)
    found = [appa.dataset(x.expand(1, len(times), *x.shape[-3:]), times) for x in (mean, std)]
    mean_states, std_states = (_like(x.isel(member=0, drop=True), state.truth) for x in found)
    return mean_states, std_states


def _like(states: xr.Dataset, truth: xr.Dataset) -> xr.Dataset:
    r"""The states of a model with the variables and, to the last bit, the coordinates of others.

    Raises:
        UserError: If the model lacks a variable or a level, or has another grid.
    """
    for name in truth.data_vars:
        if name not in states:
            raise unknown("variable of the model", str(name), map(str, states.data_vars))
    states = states[list(truth.data_vars)]
    Grid(states["latitude"].values, states["longitude"].values).check(
        truth["latitude"].values, truth["longitude"].values
    )
    if "level" in truth.dims:
        states = same_levels(states, truth, "the truth", "the model")
    if "lead_time" in truth.dims:
        states = states.rename(time="lead_time")
    else:
        states = states.isel(time=0, drop=True)
    return states.assign_coords({name: truth[name] for name in truth.dims})


def _interpolation(
    run: Run, truth: xr.Dataset, appa: Appa, eofs: Path | None, every: int
) -> Interpolation | None:
    r"""Optimal interpolation of the observations of a reanalysis, which are drawn again."""
    config, attributes = made_with(run.dataset), run.dataset.attrs
    if run.leads is not None or "networks" not in config or "seed" not in attributes:
        return None
    appa.catalogue.check(truth)
    missing: Literal["refuse", "mask"] = "mask" if config.get("missing") == "mask" else "refuse"
    here = truth.sel(time=run.dataset["time"].values)
    states = Truth(here, appa.catalogue, missing)
    times = states.times
    networks = parse_networks({"networks": config["networks"]}, Path())
    if "cycles" in config and any(isinstance(network.times, Every) for network in networks):
        return None  # which counts from the first window on, before the first estimate
    seed = int(attributes["seed"])
    quality = config.get("quality_control")
    if "cycles" in config:  # filters compared with their own forecasts
        quality = None
    own = None if quality is None else TypeAdapter(Control).validate_python(quality)
    observations = Observer(appa, networks, states, times, seed, missing, quality=own)
    found = OptimalInterpolation(
        appa, shipped_eofs(appa, eofs), observations, times, chosen(run, every)
    )

    def interpolate(index: int, like: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
        time = times[index : index + 1]
        parts = [appa.dataset(x[None, None], time).isel(member=0, drop=True) for x in found(index)]
        mean, std = (_like(x, like) for x in parts)
        return mean, std

    return interpolate


def _evaluation(collected: dict[str, Collector]) -> Evaluation:
    def gather(kind: str) -> dict[str, xr.Dataset]:
        return {name: c.mean(kind) for name, c in collected.items() if kind in c.parts}

    # Runs first, then the baselines.
    collected = dict(sorted(collected.items(), key=lambda item: bool(item[1].seen)))
    scores = {name: summarise(x, collected[name].members) for name, x in gather("scores").items()}
    for found in scores.values():
        found.attrs.clear()
    return Evaluation(
        scores=xr.concat(
            list(scores.values()),
            dim=xr.Variable("method", list(scores)),
            join="outer",
        ),
        ranks=gather("ranks"),
        reliability=gather("reliability"),
        spectra=gather("spectra"),
        balance=gather("balance"),
        states={name: collected[name].times for name in scores},
    )
