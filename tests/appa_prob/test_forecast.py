"""Forecasts and filtering of the tiny world, whose waves travel at a known speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from typer.testing import CliRunner

from appa_prob import experiment as experiment_module
from appa_prob import run as run_module
from appa_prob import truth as truth_module
from appa_prob.appa import Appa
from appa_prob.cli import app, read_config
from appa_prob.errors import UserError
from appa_prob.experiment import ReanalysisConfig, load_truth, run_reanalysis
from appa_prob.filtering import FilterConfig, check_overlap, run_filter
from appa_prob.forecast import ForecastConfig, run_forecast
from appa_prob.observe import observe_truth
from appa_prob.reanalysis_blocks import reanalyse
from appa_prob.sample import SampleConfig
from appa_prob.stream import StateStore
from appa_prob.truth import Truth

Config = dict[str, Any]


@pytest.fixture
def forecast(world: Path, tiny_model: Path) -> Config:
    """A forecast of 8 states from 2 known ones."""
    return {
        "model": str(tiny_model),
        "data": str(world),
        "start": "2003-07-03T00",
        "known": 2,
        "states": 8,
        "members": 4,
        "rollout": {"overlap": 2},
        "sampler": {"steps": 6, "iterations": 2},
    }


@pytest.fixture
def observed(forecast: Config, experiment: Config) -> Config:
    """The same from observations of 6 states."""
    networks = experiment["networks"][:1]
    return forecast | {"initial": "observations", "known": 6, "networks": networks}


@pytest.fixture
def cycles(experiment: Config) -> Config:
    """Five cycles, of 2 new states each, whose windows know 2 states of the cycle before."""
    kept = {k: experiment[k] for k in ("model", "data", "start", "members", "networks")}
    change = {"cycles": 5, "every": 2, "states": 4, "overlap": 2, "sampler": {"steps": 6}}
    return kept | change | {"networks": experiment["networks"][:1]}


def forecasted(config: Config, output: Path | None = None) -> xr.Dataset:
    return run_forecast(ForecastConfig.model_validate(config), output, progress=False)


def filtered(config: Config, output: Path | None = None) -> xr.Dataset:
    return run_filter(FilterConfig.model_validate(config), output, progress=False)


def error(found: xr.Dataset, world: Path) -> float:
    """The error of the mean of the ensemble over that of the mean in time."""
    truth = xr.open_zarr(world, chunks=None).temperature
    truth = truth.transpose("time", "level", "latitude", "longitude")
    gap = found.temperature.mean("member") - truth.sel(time=found.time)
    return float(gap.std() / (truth - truth.mean("time")).std())


@pytest.mark.parametrize("together", [False, True])
def test_waves_are_forecast(forecast: Config, world: Path, together: bool) -> None:
    found = forecasted(forecast | {"together": together})
    assert found.sizes["time"] == 8 and found.sizes["member"] == 4
    assert found.time.values[0] == np.datetime64("2003-07-03T12")
    assert error(found.isel(time=slice(3)), world) < 0.8


@pytest.mark.parametrize("together", [False, True])
def test_waves_are_forecast_from_observations(
    observed: Config, world: Path, together: bool
) -> None:
    found = forecasted(observed | {"together": together, "states": 3})
    assert found.time.values[0] == np.datetime64("2003-07-04T12")
    assert error(found, world) < 0.8


def test_the_present_is_filtered(cycles: Config, world: Path) -> None:
    found = filtered(cycles)
    hours = (found.time.values - np.datetime64("2003-07-03T00")) / np.timedelta64(1, "h")
    assert hours.tolist() == [18, 30, 42, 54, 66]
    vague = cycles["networks"][0] | {
        "error": {"temperature": "100 K", "surface_pressure": "1000 hPa"}
    }
    assert error(found, world) < 0.8 * error(filtered(cycles | {"networks": [vague]}), world)
    forgetful = filtered(cycles | {"overlap": 0})
    same = [found.isel(time=[i]).equals(forgetful.isel(time=[i])) for i in range(5)]
    assert same == [True, False, False, False, False]


def test_a_filter_reads_no_more_than_a_window(
    cycles: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    class Reader(Truth):
        def __getitem__(self, states: slice) -> torch.Tensor:
            read.append(range(states.start, states.stop))
            return super().__getitem__(states)

    monkeypatch.setattr(truth_module, "Truth", Reader)
    filtered(cycles | {"cycles": 3, "sampler": {"steps": 2}})
    assert {(r.start, r.stop) for r in read} == {(0, 4), (2, 6), (4, 8)}


def test_a_reanalysis_goes_on_with_the_members_that_are_left(
    tmp_path: Path, experiment: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = {"steps": 4, "iterations": 1, "batch": 1}
    config = ReanalysisConfig.model_validate(experiment | {"sampler": sampler})
    drawn: list[int] = []

    class Failing(StateStore):
        def append_members(self, numbers: Sequence[int], *arguments: Any) -> None:
            super().append_members(numbers, *arguments)
            drawn.extend(numbers)
            if len(drawn) < 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(experiment_module, "StateStore", Failing)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_reanalysis(config, tmp_path / "out.zarr", progress=False)
    with pytest.raises(UserError, match="holds another run, that was stopped"):
        run_reanalysis(config, tmp_path / "out.zarr", seed=1, progress=False)
    found = run_reanalysis(config, tmp_path / "out.zarr", progress=False)
    assert drawn == [0, 1, 2]
    monkeypatch.undo()
    whole = run_reanalysis(config, tmp_path / "whole.zarr", progress=False)
    assert found is not None and whole is not None
    xr.testing.assert_identical(found.dataset.load(), whole.dataset.load())
    assert (tmp_path / "out.csv").read_text() == (tmp_path / "whole.csv").read_text()


@pytest.mark.parametrize("task", ["forecast", "observed", "cycles"])
def test_what_is_interrupted_goes_on(
    task: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, go = request.getfixturevalue(task), filtered if task == "cycles" else forecasted

    class Failing(StateStore):
        def append(self, *arguments: Any) -> None:
            super().append(*arguments)
            raise KeyboardInterrupt

    output = tmp_path / "out.zarr"
    monkeypatch.setattr(run_module, "StateStore", Failing)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            go(config, output)
    monkeypatch.undo()
    xr.testing.assert_identical(go(config, output).load(), go(config))


def test_examples_are_valid() -> None:
    examples = Path(__file__).parents[2] / "examples"
    forecast = read_config(ForecastConfig, examples / "forecast.yaml")
    observed = read_config(ForecastConfig, examples / "forecast_from_observations.yaml")
    cycles = read_config(FilterConfig, examples / "filter.yaml")
    free = read_config(SampleConfig, examples / "sample.yaml")
    for config, length in ((forecast, 24), (observed, observed.known or 24), (cycles, 24)):
        appa = Appa.from_pretrained(config.model)
        assert config.data is not None
        Truth.open(appa, config.data, config.start, length)
    check_overlap(appa, cycles.states or appa.window, cycles.overlap, cycles.every)
    assert (cycles.states or appa.window) + (cycles.cycles - 1) * cycles.every <= 24
    assert (forecast.known or 1) + forecast.states <= 24 and free.states == 720


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("forecast", {"known": 4}, "fewer known states than the 4"),
        ("forecast", {"initial": "observations"}, "networks are given if, and only if"),
        ("forecast", {"start": "2033-01-01"}, "no state from 2033-01-01"),
        ("forecast", {"states": 0}, "states"),
        ("observed", {"known": 3}, "known: expected at least 4 observed states"),
        ("observed", {"networks": []}, "expected at least one network"),
        ("cycles", {"overlap": 3}, "multiple of the 2 between two cycles"),
        ("cycles", {"states": 3, "overlap": 1}, "expected at least 4 states"),
        ("cycles", {"cycles": 500}, "the dataset ends at"),
        ("cycles", {"colour": "red"}, "colour"),
    ],
)
def test_bad_configurations_are_refused(
    task: str, change: Config, message: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(request.getfixturevalue(task) | change))
    command = "filter" if task == "cycles" else "forecast"
    arguments = [command, str(path), "-o", str(tmp_path / "out.zarr"), "--quiet"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    text = result.output
    assert text.startswith("error: ") and text.count("\n") == 1 and message in text, text
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]


def test_reanalyses_run_where_the_model_is(experiment: Config, device: torch.device) -> None:
    """What is observed stays in main memory, and follows the model when it is used."""
    config = ReanalysisConfig.model_validate(experiment)
    appa = Appa.from_pretrained(config.model, device)
    truth, times = load_truth(config, appa)
    assert truth is not None
    observations = observe_truth(appa, config.networks, truth, times, 0)
    members = reanalyse(appa, observations, times, members=4, sampler=config.sampler)
    assert members.device == appa.error.device
    usual = appa.statistics.climatology(times).cpu() - truth
    error = (members.mean(0).cpu() - truth).square().mean((0, 2, 3))
    assert error[0] < 0.5 * usual.square().mean((0, 2, 3))[0]
