r"""Verification of runs and of baselines against one truth.

All methods are scored at the same times. The baselines are the seasonal climatology of the model
(a Gaussian at each point), persistence of the truth at the start for forecasts, and optimal
interpolation of the same observations for reanalyses of declared networks.
"""

from __future__ import annotations

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
from .declaration import parse_networks
from .errors import UserError, unknown
from .files import replacing
from .grid import Grid
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
Interpolation = Callable[[int, xr.Dataset], tuple[xr.Dataset, xr.Dataset]]


@dataclass(frozen=True, eq=False)
class Evaluation:
    r"""What :func:`evaluate` found: datasets whose variables are those of the states.

    Attributes:
        scores: The scores, with dimensions `method, score, region` and, maybe, `lead_time`,
            `level`.
        ranks: For each run its rank histogram, with dimension `rank`.
        reliability: For each run the shares of :func:`~appa_prob.reliability.reliability`, if
            there is a climatology.
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
        arrays = []
        for name, array in self.scores.data_vars.items():
            table = array.rename("value").to_dataframe().reset_index()
            arrays.append(table.assign(variable=str(name)))
        table = pd.concat(arrays, ignore_index=True).dropna(subset="value")
        if "lead_time" in table:
            table["lead_time"] = pd.to_timedelta(table["lead_time"]).dt.total_seconds() / 3600.0
            table = table.rename(columns={"lead_time": "lead_hours"})
        keys = ["method", "region", "variable", "level", "lead_hours", "score"]
        return table[[key for key in keys if key in table] + ["value"]]

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
        r"""Writes `scores.csv`, `balance.csv` and the figures to a folder.

        Arguments:
            folder: The folder.
            level: The level of the figures; by default the one in the middle.
            overwrite: Whether the folder may be replaced.
        """
        from .evaluation_figures import draw_evaluation

        with replacing(folder, overwrite=overwrite) as temporary:
            temporary.mkdir()
            self.table().to_csv(temporary / "scores.csv", index=False, float_format="%.6g")
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
        variables: The variables; by default all.
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
    appa = None if model is None else Appa.from_pretrained(model)
    collected: dict[str, _Collector] = {}
    total = sum(len(chosen(run, every)) for run in runs)
    with tqdm(total=total, disable=not progress, desc="evaluation", unit="state") as bar:
        for run in runs:
            interpolation = None if appa is None else _interpolation(run, truth, appa, eofs, every)
            for state in pair(run, truth, variables, every):
                _collect(collected, run, state, appa, interpolation, regions)
                bar.update()
    return _evaluation(collected)


class _Collector:
    r"""The parts of one method, time by time."""

    def __init__(self, members: int | None) -> None:
        self.members = members
        self.parts: dict[str, list[xr.Dataset]] = {}
        self.times: set[np.datetime64] = set()

    def add(self, kind: str, part: xr.Dataset) -> None:
        self.parts.setdefault(kind, []).append(part)

    def mean(self, kind: str) -> xr.Dataset:
        parts = self.parts[kind]
        try:
            return xr.concat(parts, "time", join="exact").mean("time", skipna=False)
        except ValueError:
            raise UserError(
                "runs of one name differ in lead times or levels: give them different names"
            ) from None


def _collect(
    collected: dict[str, _Collector],
    run: Run,
    state: State,
    appa: Appa | None,
    interpolation: Interpolation | None,
    regions: Sequence[Region],
) -> None:
    own = collected.setdefault(run.name, _Collector(run.members))
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
        own.add("ranks", rank_histogram(ensemble, state.truth))
        if normal is not None:
            own.add("reliability", reliability(ensemble, state.truth, normal[0] + normal[1]))
    spectrum = power_spectrum(ensemble)
    own.add("spectra", spectrum.mean("member") if run.members is not None else spectrum)
    _add_balance(own, ensemble)
    _once(collected, TRUTH, state, lambda c: _describe_truth(c, state.truth))
    if normal is not None:
        gaussian = score_gaussian_forecast(*normal, state.truth, regions=regions)
        _once(collected, "climatology", state, lambda c: c.add("scores", gaussian))
    if state.start is not None:
        kept = score(state.start + 0 * state.truth, state.truth, regions=regions, climatology=mean)
        _once(collected, "persistence", state, lambda c: c.add("scores", kept))
    if interpolation is not None:
        found = interpolation(state.index, state.truth)
        oi = score_gaussian_forecast(*found, state.truth, regions=regions)
        _once(collected, "OI", state, lambda c: c.add("scores", oi))


def _once(
    collected: dict[str, _Collector], name: str, state: State, add: Callable[[_Collector], None]
) -> None:
    r"""Adds a time to a method unless another run of the same times has done so."""
    collector = collected.setdefault(name, _Collector(None))
    if state.time not in collector.times:
        collector.times.add(state.time)
        add(collector)


def _describe_truth(collector: _Collector, truth: xr.Dataset) -> None:
    collector.add("spectra", power_spectrum(truth))
    _add_balance(collector, truth)


def _add_balance(collector: _Collector, states: xr.Dataset) -> None:
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


def _evaluation(collected: dict[str, _Collector]) -> Evaluation:
    def gather(kind: str) -> dict[str, xr.Dataset]:
        return {name: c.mean(kind) for name, c in collected.items() if kind in c.parts}

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
        states={name: len(collected[name].parts["scores"]) for name in scores},
    )
