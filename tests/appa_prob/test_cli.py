"""The command line, on a tiny world: the job, and every bad input."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from typer.testing import CliRunner

from appa_prob.cli import app

Config = dict[str, Any]
EXAMPLES = Path(__file__).parents[2] / "examples"


def write(folder: Path, config: Config) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def run(folder: Path, config: Config, *options: str) -> tuple[int, str]:
    output = folder / "out.zarr"
    arguments = ["reanalyse", str(write(folder, config)), "-o", str(output), "--quiet", *options]
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def refused(folder: Path, config: Config, *messages: str, options: tuple[str, ...] = ()) -> None:
    code, text = run(folder, config, *options)
    assert code == 2, text
    assert text.startswith("error: ") and text.count("\n") == 1, text
    for message in messages:
        assert message in text
    assert [p.name for p in folder.iterdir()] == ["config.yaml"], "something was left behind"


def test_the_job_writes_an_ensemble_scores_and_a_figure(
    tmp_path: Path, experiment: Config
) -> None:
    code, text = run(tmp_path, experiment, "--seed", "3")
    assert code == 0
    dataset = xr.open_zarr(tmp_path / "out.zarr", chunks=None)
    assert dataset.temperature.dims == ("member", "time", "level", "latitude", "longitude")
    assert dataset.surface_pressure.dims == ("member", "time", "latitude", "longitude")
    assert dataset.sizes["member"] == 3 and dataset.sizes["time"] == 6
    assert dataset.temperature.attrs["units"] == "K" and dataset.attrs["seed"] == 3
    assert dataset.attrs["Conventions"].startswith("CF-")
    assert abs(float(dataset.temperature.mean()) - 280) < 5
    assert abs(float(dataset.surface_pressure.mean()) - 1e5) < 500
    table = pd.read_csv(tmp_path / "out.csv")
    assert (table["crps"] > 0).all() and len(table) == 2 * 5
    assert "Scores at unobserved points" in text and "surface_pressure" in text
    assert (tmp_path / "out.png").stat().st_size > 10_000


def test_the_job_is_repeatable_bit_for_bit(tmp_path: Path, experiment: Config) -> None:
    found = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).mkdir()
        assert run(tmp_path / name, experiment, "--seed", seed)[0] == 0
        opened = xr.open_zarr(tmp_path / name / "out.zarr", chunks=None)
        found.append(opened.temperature.values)
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_members_do_not_depend_on_how_many_are_sampled_at_once(
    tmp_path: Path, experiment: Config
) -> None:
    found = []
    pieces = {"windows_at_once": 1, "states_at_once": 2}
    for i, some in enumerate(({"batch": 1}, {"batch": 2}, {"batch": 3}, pieces)):
        folder = tmp_path / str(i)
        folder.mkdir()
        sampler = experiment["sampler"] | some
        assert run(folder, experiment | {"sampler": sampler})[0] == 0
        opened = xr.open_zarr(folder / "out.zarr", chunks=None)
        found.append(opened.temperature.values)
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-2)


def test_two_ranks_sample_the_members_of_one(
    tmp_path: Path,
    experiment: Config,
    ranks: Callable[[int, list[str]], list[subprocess.Popen[bytes]]],
) -> None:
    assert run(tmp_path, experiment)[0] == 0
    command = [sys.executable, "-c", "from appa_prob.cli import main; main()", "reanalyse"]
    command += [str(tmp_path / "config.yaml"), "--threads", "1", "-q", "-o"]
    processes = ranks(2, [*command, str(tmp_path / "two.zarr")])
    assert [process.wait(240) for process in processes] == [0, 0]
    one, two = (xr.open_zarr(tmp_path / f"{n}.zarr", chunks=None).load() for n in ("out", "two"))
    xr.testing.assert_allclose(one, two, atol=1e-3)
    assert (tmp_path / "two.csv").exists()


def test_the_default_job_runs_at_its_real_size(tmp_path: Path) -> None:
    # Fewer members, states and steps than README's command, but its grid, networks and baselines.
    config = yaml.safe_load((EXAMPLES / "reanalysis.yaml").read_text())
    config |= {"members": 2, "states": 12, "baselines": {"every": 12}}
    config["sampler"] |= {"steps": 2, "iterations": 1}
    code, text = run(tmp_path, config)
    assert code == 0, text
    table = pd.read_csv(tmp_path / "out.csv").query("points == 'all points'")
    crps = table.pivot_table("crps", ["variable", "level"], "method", dropna=False, sort=False)
    crps = crps.dropna(how="all")
    assert len(crps) == 21
    assert (crps["OI"] < crps["climatology"]).all()
    assert (crps["appa"] < crps["climatology"]).mean() > 0.5


def test_observations_pull_the_ensemble_to_the_truth(tmp_path: Path, experiment: Config) -> None:
    def error(deviation: str) -> float:
        folder = tmp_path / deviation.replace(" ", "")
        folder.mkdir()
        experiment["networks"][0]["error"]["temperature"] = deviation
        assert run(folder, experiment)[0] == 0
        table = pd.read_csv(folder / "out.csv").query("variable == 'temperature'")
        return float(table["rmse"].iloc[0])

    assert error("0.1 K") < 0.8 * error("100 K")


def test_an_output_that_exists_is_kept_unless_it_may_be_replaced(
    tmp_path: Path, experiment: Config
) -> None:
    (tmp_path / "out.zarr").mkdir()
    (tmp_path / "out.zarr" / "precious").write_text("mine")
    code, text = run(tmp_path, experiment)
    assert code == 2 and "--overwrite" in text
    assert (tmp_path / "out.zarr" / "precious").read_text() == "mine"
    assert run(tmp_path, experiment, "--overwrite")[0] == 0
    assert not (tmp_path / "out.zarr" / "precious").exists()


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({"networks": []}, ["expected at least one network"]),
        ({"networks": [{"network": "buoys"}]}, ['unknown network "buoys"', "stations"]),
        ({"start": "2033-01-01"}, ["no state from 2033-01-01", "the dataset goes from"]),
        ({"states": 3}, ["at least 4 states", "window"]),
        ({"states": 999}, ["expected 999 states", "the dataset ends at"]),
        ({"members": 1}, ["members", "greater than or equal to 2"]),
        ({"model": "appa-large"}, ["there is no model 'appa-large'"]),
        ({"data": "nowhere.zarr"}, ["nowhere.zarr does not exist"]),
        ({"sampler": {"steps": 0}}, ["sampler.steps"]),
        ({"figure": {"variable": "temperatur"}}, ['did you mean "temperature"']),
        ({"figure": {"variable": "temperature", "level": 0.3}}, ["no level 0.3"]),
        ({"figure": {"variable": "surface_pressure", "state": 6}}, ["figure.state"]),
        ({"colour": "red"}, ['unknown key "colour"', "There are: model, data, start"]),
        ({"membres": 3}, ['unknown key "membres"; did you mean "members"?']),
        ({"members": "none"}, ["members: input should be a valid integer", "got 'none'"]),
        ({"start": "yesterday"}, ["expected a time such as 2004-07-01T00, got 'yesterday'"]),
        ({"start": "2003-07-03T01"}, ["no state from 2003-07-03T01", "nearest", "03T00:00"]),
        ({"sampler": {"sigma_min": 100}}, ["sampler: expected sigma_max above", "and 100"]),
    ],
)
def test_bad_configurations_are_refused(
    change: Config, messages: list[str], tmp_path: Path, experiment: Config
) -> None:
    refused(tmp_path, experiment | change, *messages)


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({"variables": ["temperatur"], "error": {"temperatur": "1 K"}}, ['"temperature"']),
        ({"error": {"temperature": "1 hPa", "surface_pressure": "1 hPa"}}, ["hPa", "K"]),
        ({"error": {"temperature": "-1 K", "surface_pressure": "1 hPa"}}, ["-1"]),
        ({"error": {"temperature": "1 K"}}, ["surface_pressure has no error"]),
        ({"levels": [0.1]}, ["no level 0.1"]),
        ({"times": [3]}, ["observes at none of the 6 times"]),
    ],
)
def test_bad_networks_are_refused(
    change: Config, messages: list[str], tmp_path: Path, experiment: Config
) -> None:
    experiment["networks"][0] |= change
    refused(tmp_path, experiment, *messages)


def test_data_that_are_broken_are_refused(
    tmp_path: Path, experiment: Config, world: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = tmp_path_factory.mktemp("broken") / "world.zarr"
    shutil.copytree(world, store)
    for chunk in (store / "temperature").glob("[0-9]*"):
        chunk.write_bytes(chunk.read_bytes()[:100])
    refused(tmp_path, experiment | {"data": str(store)}, "temperature can't be read", "copy")


def test_states_between_those_of_the_model_are_left_out_and_gaps_refused(
    tmp_path: Path, experiment: Config, world: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    experiment |= {"start": "2003-07-03"}
    whole = xr.open_zarr(world, chunks=None).load().drop_encoding()
    folder = tmp_path_factory.mktemp("steps")
    hours = whole.time + np.timedelta64(1, "h")
    whole.drop_isel(time=131).to_zarr(folder / "gap.zarr", zarr_format=2)
    both = xr.concat([whole, whole.assign_coords(time=hours)], "time").sortby("time")
    both.to_zarr(folder / "dense.zarr", zarr_format=2)
    refused(tmp_path, experiment | {"data": str(folder / "gap.zarr")}, "lacks 1 of 6", "T18:00")
    states = []
    for data in (world, folder / "dense.zarr"):
        code, text = run(tmp_path, experiment | {"data": str(data)}, "--overwrite")
        assert code == 0, text
        states.append(xr.open_zarr(tmp_path / "out.zarr", chunks=None).load())
    assert np.array_equal(states[0].time, states[1].time)
    assert np.array_equal(states[0].temperature, states[1].temperature)


def test_values_that_are_not_finite_are_refused_or_masked(
    tmp_path: Path, experiment: Config, world: Path
) -> None:
    dataset = xr.open_zarr(world, chunks=None).load()
    dataset.temperature[130, 0, 3, :] = np.nan
    dataset.surface_pressure[131, 2, 2] = np.inf
    broken = tmp_path / "broken.zarr"
    dataset.drop_encoding().to_zarr(broken, zarr_format=2)
    experiment |= {"data": str(broken)}
    code, text = run(tmp_path, experiment)
    assert code == 2 and "not finite" in text
    code, text = run(tmp_path, experiment | {"missing": "mask"})
    assert code == 0, text
    count = int(text.split(" masked out")[0].rsplit(" ", 1)[1])
    opened = xr.open_zarr(tmp_path / "out.zarr", chunks=None)
    assert count > 0 and opened.attrs["masked_observations"] == count
    assert np.isfinite(opened.temperature.values).all()


def test_another_grid_is_refused(tmp_path: Path, experiment: Config, world: Path) -> None:
    dataset = xr.open_zarr(world, chunks=None).load()
    for name, other in (
        ("shifted", dataset.assign_coords(longitude=dataset.longitude + 5.0)),
        ("coarse", dataset.isel(longitude=slice(None, None, 2))),
    ):
        folder = tmp_path / name
        folder.mkdir()
        path = tmp_path / f"{name}.zarr"
        other.drop_encoding().to_zarr(path, zarr_format=2)
        refused(folder, experiment | {"data": str(path)}, "longitude", "of the model")


def test_other_units_are_refused(tmp_path: Path, experiment: Config, world: Path) -> None:
    dataset = xr.open_zarr(world, chunks=None).load().drop_encoding()
    dataset.surface_pressure.attrs["units"] = "hPa"
    dataset.to_zarr(tmp_path / "hpa.zarr", zarr_format=2)
    folder = tmp_path / "run"
    folder.mkdir()
    refused(folder, experiment | {"data": str(tmp_path / "hpa.zarr")}, "hPa", "expected Pa")


def test_truncated_weights_are_refused(
    tmp_path: Path, experiment: Config, tiny_model: Path
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    weights = copy / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    folder = tmp_path / "run"
    folder.mkdir()
    refused(folder, experiment | {"model": str(copy)}, "truncated")


def test_no_yaml_and_no_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: [1,")
    for path in ("config.yaml", "absent.yaml"):
        result = CliRunner().invoke(app, ["reanalyse", str(tmp_path / path), "-o", "x.zarr"])
        assert result.exit_code == 2 and result.output.startswith("error: ")


def test_an_interrupt_ends_with_130_and_can_be_gone_on_with(
    tmp_path: Path, experiment: Config
) -> None:
    experiment |= {"sampler": {"steps": 100_000}, "states": 6}
    path, log = write(tmp_path, experiment), tmp_path / "log"
    # Interrupts are ignored where tests run in the background.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{heed}; from appa_prob.cli import main; main()"]
    command += ["reanalyse", str(path), "-o", str(tmp_path / "out.zarr"), "--threads", "1"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file, stdout=file, env={**os.environ})
        deadline = time.monotonic() + 120
        while "sampling" not in log.read_text() and time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, log.read_text()
    assert "interrupted" in log.read_text() and "Traceback" not in log.read_text()
    found = sorted(p.name for p in tmp_path.iterdir())
    assert found == [".out.zarr.partial", "config.yaml", "log"]


def test_excerpts_hold_the_states_that_were_asked_for(tmp_path: Path, world: Path) -> None:
    arguments = ["excerpt", str(world), "--start", "2003-06-02T06", "--states", "5"]
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "part.zarr")])
    assert result.exit_code == 0, result.output
    part = xr.open_zarr(tmp_path / "part.zarr", chunks=None)
    whole = xr.open_zarr(world, chunks=None)
    xr.testing.assert_allclose(part.load(), whole.isel(time=slice(5, 10)).load())
    again = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "part.zarr")])
    assert again.exit_code == 2 and "--overwrite" in again.output
