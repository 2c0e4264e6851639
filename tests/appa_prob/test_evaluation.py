"""Runs beside the truth: exact scores of simple runs, baselines, files and figures, bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from typer.testing import CliRunner

from appa_prob.baselines import EofConfig, train_eofs
from appa_prob.cli import app
from appa_prob.dataset import open_dataset
from appa_prob.errors import UserError
from appa_prob.evaluation import evaluate
from appa_prob.experiment import ReanalysisConfig, run_reanalysis
from appa_prob.figure import colours
from appa_prob.regions import average, select_regions
from appa_prob.runs import Run, open_run, pair
from appa_prob.states import Period

STEP = np.timedelta64(6, "h")


def forecasts(world: Path, starts: int = 3, leads: int = 4) -> xr.Dataset:
    """Two members, 1 and 3 above the truth, from several starts."""
    truth = open_dataset(world).load()
    parts = [
        truth.isel(time=slice(i + 1, i + 1 + leads))
        .assign_coords(time=np.arange(1, leads + 1) * STEP)
        .rename(time="prediction_timedelta")
        for i in range(starts)
    ]
    one = xr.concat(parts, xr.Variable("time", truth.time.values[:starts]))
    return xr.concat([one + 1.0, one + 3.0], xr.Variable("number", [0, 1]))


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_scores_of_a_biased_forecast_and_of_persistence_are_exact(
    world: Path, tmp_path: Path
) -> None:
    forecasts(world).to_zarr(tmp_path / "f.zarr", zarr_format=2)
    run, truth = open_run(tmp_path / "f.zarr"), open_dataset(world)
    assert run.members == 2 and run.leads is not None and len(run.leads) == 4
    found = evaluate([run], truth, regions=select_regions(["globe", "tropics"]))
    scores = found.scores["temperature"]
    own = scores.sel({"method": "f"})
    for name, value in {"bias": 2.0, "rmse": 2.0, "crps": 1.0, "spread": np.sqrt(2)}.items():
        np.testing.assert_allclose(own.sel(score=name), value, rtol=1e-6)
    np.testing.assert_allclose(own.sel(score="spread_skill"), np.sqrt(3 / 2 * 2) / 2, rtol=1e-6)
    # Persistence, by hand: from each start to each lead time.
    t = truth["temperature"].load()
    kept = scores.sel({"method": "persistence", "score": "rmse", "region": "globe"})
    for lead in range(4):
        errors = [average((t[i + 1 + lead] - t[i]) ** 2) for i in range(3)]
        expected = np.sqrt(sum(errors) / 3)
        np.testing.assert_allclose(kept.isel(lead_time=lead), expected, rtol=1e-5)
    # The truth lies below both members, always.
    np.testing.assert_allclose(found.ranks["f"]["temperature"].isel(rank=0), 1.0)
    spectra = found.spectra["f"]["temperature"], found.spectra["truth"]["temperature"]
    ours, theirs = (s.isel(degree=slice(1, None)) for s in spectra)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert found.states == {"f": 3, "persistence": 3}


def test_forecasts_of_one_start_each_are_joined_by_their_name(world: Path, tmp_path: Path) -> None:
    whole = forecasts(world).rename(number="member", prediction_timedelta="lead_time")
    for i in range(3):
        part = whole.isel(time=i)
        times = (part.time + part.lead_time).values
        part = part.drop_vars("time").rename(lead_time="time").assign_coords(time=times)
        part.attrs["config"] = '{"initial": "state", "known": 1}'
        part.to_zarr(tmp_path / f"{i}.zarr", zarr_format=2)
    parts = [open_run(tmp_path / f"{i}.zarr", "f") for i in range(3)]
    truth = open_dataset(world)
    found, expected = evaluate(parts, truth), evaluate([Run("f", whole)], truth)
    xr.testing.assert_allclose(found.scores, expected.scores)


def test_baselines_have_the_lead_times_of_all_runs(world: Path) -> None:
    whole = forecasts(world).rename(number="member", prediction_timedelta="lead_time")
    truth, short = open_dataset(world), whole.isel(lead_time=slice(2), time=slice(2))
    expected = evaluate([Run("long", whole)], truth)
    for runs in ([whole, short], [short, whole]):
        names = ["long", "short"] if runs[0] is whole else ["short", "long"]
        found = evaluate([Run(n, x) for n, x in zip(names, runs, strict=True)], truth)
        assert found.scores["method"].values.tolist() == [*names, "persistence"]
        assert found.states == {"long": 3, "short": 2, "persistence": 3}
        for name in ("long", "persistence"):
            own = found.scores.sel({"method": name})
            xr.testing.assert_allclose(own, expected.scores.sel({"method": name}))
        xr.testing.assert_allclose(found.spectra["truth"], expected.spectra["truth"])
        left = found.scores["temperature"].sel({"method": "short", "score": "rmse"})
        assert bool((left.isnull().sum("lead_time") == 2).all())
    analysis = whole.isel(lead_time=0, drop=True)
    with pytest.raises(UserError, match="evaluate each kind by itself"):
        evaluate([Run("long", whole), Run("analysis", analysis)], truth)
    for taken in ("persistence", "OI of long"):
        with pytest.raises(UserError, match="as a baseline is: rename it"):
            evaluate([Run(taken, whole)], truth)
    few = evaluate([Run("few", short[["temperature"]]), Run("long", whole)], truth)
    xr.testing.assert_allclose(
        few.scores.sel({"method": "persistence"}),
        expected.scores[["temperature"]].sel({"method": "persistence"}),
    )
    with pytest.raises(UserError, match="runs differ in levels"):
        evaluate([Run("low", short.isel(level=[0])), Run("long", whole)], truth)


def test_ranks_are_those_of_each_region(world: Path) -> None:
    run = forecasts(world).rename(number="member", prediction_timedelta="lead_time")
    south = (run.latitude < 0).astype(float)
    found = evaluate(
        [Run("f", run - 10.0 * south)],
        open_dataset(world),
        regions=select_regions(["northern-hemisphere", "southern-hemisphere"]),
    )
    ranks = found.ranks["f"]["temperature"]
    np.testing.assert_allclose(ranks.sel(region="northern-hemisphere").isel(rank=0), 1.0)
    np.testing.assert_allclose(ranks.sel(region="southern-hemisphere").isel(rank=2), 1.0)


def test_a_reanalysis_has_the_scores_of_its_own_report(
    world: Path, tiny_model: Path, experiment: dict[str, Any], tmp_path: Path
) -> None:
    eofs = tmp_path / "eofs.safetensors"
    period = Period(start="2003-06-01", stop="2003-06-30")
    train_eofs(EofConfig(data=world, model=str(tiny_model), train=period, rank=8, degree=3), eofs)
    config = ReanalysisConfig.model_validate(
        experiment
        | {"baselines": {"eofs": eofs, "every": 3}, "figure": None, "quality_control": 2.0}
    )
    result = run_reanalysis(config, tmp_path / "r.zarr", seed=2, progress=False)
    assert result is not None
    report = result.report
    assert report is not None and 0 < report.rejected < report.observations / 4
    truth = open_dataset(world)
    found = evaluate([open_run(tmp_path / "r.zarr")], truth, every=3, eofs=eofs)
    assert found.states == {"r": 2, "climatology": 2, "OI": 2}
    names = {"appa": "r", "OI": "OI", "climatology": "climatology"}
    for key, row in report.table.loc["all points"].iterrows():
        assert isinstance(key, tuple)
        method, variable, level = key
        scores = found.scores[variable].sel({"method": names[method]}).isel(region=0)
        if not np.isnan(level):
            scores = scores.sel(level=level)
        for name in ("rmse", "crps", "spread_skill"):
            assert float(scores.sel(score=name)) == pytest.approx(row[name], rel=2e-3)
    assert set(found.reliability) == {"r"} and "acc" in found.scores.score
    # Of other observations optimal interpolation is another; of the same ones it is the same.
    same, other = open_run(tmp_path / "r.zarr", "same"), open_run(tmp_path / "r.zarr", "other")
    other.dataset.attrs["seed"] = 3
    both = evaluate([open_run(tmp_path / "r.zarr"), same, other], truth, every=3, eofs=eofs)
    methods = ["r", "same", "other", "climatology", "OI", "OI of other"]
    assert both.scores["method"].values.tolist() == methods
    rmse = both.scores["temperature"].sel(score="rmse")
    first, second = (rmse.sel({"method": name}) for name in ("OI", "OI of other"))
    alone = found.scores["temperature"].sel({"method": "OI", "score": "rmse"})
    np.testing.assert_allclose(first, alone)
    assert not np.allclose(first, second, rtol=1e-3)


def test_the_command_writes_tables_and_figures(world: Path, tmp_path: Path) -> None:
    path, output = tmp_path / "f.zarr", tmp_path / "scores"
    forecasts(world).to_zarr(path, zarr_format=2)
    common = ["--truth", str(world), "-o", str(output), "--quiet"]
    code, text = invoke("evaluate", str(path), f"again={path}", *common, "--region", "tropics")
    assert code == 0 and "Scores over the tropics, 24 hours ahead" in text
    figures = ["crps.png", "ranks.png", "rmse.png", "spectra.png", "spread_skill.png"]
    tables = ["balance.csv", "ranks.csv", "scores.csv", "spectra.csv"]
    assert {p.name for p in output.iterdir()} == {*figures, *tables}
    ranks = pd.read_csv(output / "ranks.csv")
    assert set(ranks.region) == {"tropics"} and set(ranks["rank"]) == {0, 1, 2}
    np.testing.assert_allclose(ranks.query("rank == 0").value, 1.0)
    assert {"method", "level", "lead_hours", "degree"} <= set(pd.read_csv(output / "spectra.csv"))
    table = pd.read_csv(output / "scores.csv")
    assert set(table.method) == {"f", "again", "persistence"}
    assert set(table.lead_hours) == {6.0, 12.0, 18.0, 24.0}
    one = table.query("method == 'again' and score == 'bias' and variable == 'temperature'")
    np.testing.assert_allclose(one.value, 2.0, rtol=1e-5)
    assert invoke("evaluate", str(path), *common)[0] == 2


def test_the_command_draws_maps(world: Path, tmp_path: Path) -> None:
    path, image = tmp_path / "f.zarr", tmp_path / "map.png"
    forecasts(world).to_zarr(path, zarr_format=2)
    options = ["-o", str(image), "--variable", "temperature", "--truth", str(world)]
    assert invoke("plot", str(path), *options, "--level", "0.5", "--lead", "1") == (0, "")
    assert image.stat().st_size > 10_000
    assert "exists" in invoke("plot", str(path), *options)[1]
    for extra, message in {
        ("--level", "0.3"): "temperature has no level 0.3; there are: 0.95, 0.5",
        ("--time", "1999-01-01"): "has no state at 1999-01-01; the nearest is at 2003-06-01T00:00",
        ("--time", "soon"): '"soon" is no time',
        ("--lead", "9"): "expected a lead time from 0 to 3, got 9",
        ("--variable", "tmp"): 'unknown variable "tmp"',
    }.items():
        code, text = invoke("plot", str(path), *options, "--overwrite", *extra)
        assert code == 2 and text.startswith("error: ") and text.count("\n") == 1
        assert message in text


def test_zero_is_in_the_middle_of_the_colours_of_winds_only() -> None:
    wind, humidity = np.linspace(-20.0, 60.0, 401), np.linspace(-0.1, 10.0, 401)
    found = colours(wind)
    assert found["vmin"] == pytest.approx(-59.6) and found["vmax"] == pytest.approx(59.6)
    found = colours(humidity)
    assert found["vmin"] == pytest.approx(-0.0495) and found["vmax"] == pytest.approx(9.9495)


def test_the_command_draws_networks(experiment: dict[str, Any], tmp_path: Path) -> None:
    config, image = tmp_path / "config.yaml", tmp_path / "network.png"
    config.write_text(yaml.safe_dump(experiment))
    code, text = invoke("network", str(config), "--figure", str(image), "--state", "1")
    assert code == 0 and "observations a time, 6 times" in text and "0.5 K" in text
    assert image.stat().st_size > 10_000
    assert invoke("network", str(config), "--state", "6")[0] == 2


def test_variables_that_no_station_observes_are_counted_as_none(
    experiment: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "two.csv").write_text(
        "id,latitude,longitude,variables\nA,45,10,temperature\nB,-45,200,temperature\n"
    )
    network = {
        "network": "stations",
        "file": str(tmp_path / "two.csv"),
        "variables": ["temperature", "surface_pressure"],
        "error": {"temperature": "1 K", "surface_pressure": "1 hPa"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(experiment | {"networks": [network]}))
    code, text = invoke("network", str(tmp_path / "config.yaml"))
    assert code == 0 and "2 observations a time" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.assign_coords(latitude=x.latitude + 1.0), "expected latitude 0 at -78.75"),
        (lambda x: x.assign_coords(level=[0.95, 0.4]), "run has the level 0.4, which the truth"),
        (lambda x: x[["temperature"]].rename(temperature="other"), "no variable in common"),
        (
            lambda x: x.assign_coords(time=x.time + STEP / 2),
            "which the truth lacks: take",
        ),
    ],
)
def test_runs_that_do_not_fit_the_truth_are_refused(
    world: Path, change: Any, message: str
) -> None:
    truth = open_dataset(world).isel(time=slice(4)).load()
    with pytest.raises(UserError, match=message):
        list(pair(Run("run", change(truth)), truth))


def test_units_must_agree(world: Path) -> None:
    truth = open_dataset(world).isel(time=slice(2)).load()
    run = truth.copy(deep=True)
    run["temperature"].attrs["units"] = "degC"
    with pytest.raises(UserError, match="temperature is in degC in run and in K in the truth"):
        list(pair(Run("run", run), truth))
